//! The running agent: one loop that owns the pipeline, woken by its source, the interfaces, the network plugin and its
//! control socket.

mod cni;
mod connections;
mod control;
mod core;
mod drops;
mod errors;
mod events;
mod flow_words;
mod held;
mod hooks;
mod input;
mod neighbours;
mod overlay;
mod place;
mod questions;
mod status;
mod telemetry;
mod wake;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub use control::{Answer, LogReply, Reply, Request, ask, ask_for, log_level};
pub use status::{EndpointState, EndpointStatus, FlowStatus, Status, TableStatus};

use crate::config::RunOptions;
use crate::health::BEAT_EVERY;
use crate::logging::{self, LogFilter};
use crate::source::Problem;
use crate::source::cluster::{self, Access, ClusterSource, Events};
use cni::Waiting;
use control::Server;
use core::{Core, Look};
use events::Told;
use input::{Input, MOST_PROBLEMS};
use neighbours::Watch;
use telemetry::Telemetry;
use wake::Woken;

/// How soon to look again for pods whose interface was not found: an address may come after its namespace, and
/// nothing in the node's namespace tells.
const WAITING_RETRY: Duration = Duration::from_millis(500);
/// How soon to try again what failed.
const FAILED_RETRY: Duration = Duration::from_secs(5);

/// Runs until SIGTERM, SIGINT or a `shutdown` request. Enforcement stays in place.
pub async fn run(options: RunOptions, log: LogFilter) -> anyhow::Result<()> {
    allow_descriptors();
    let (server, mut questions) = Server::bind(&options.operation.socket.socket, log).await?;
    let (input, mut objects) = input(&options).await?;
    let stats = objects.as_ref().map(|objects| Arc::clone(objects.source.stats()));
    let mut telemetry = Telemetry::start(&options.operation, options.source.staleness_limit, stats)?;
    let mut core = Core::start(&options, input, telemetry.metrics.clone())?;
    let mut drops = core.drops()?;
    core.follow_debug_log();
    let mut wakes = wake::watch(options.source.manifests.as_deref(), &options.enforcement.netns_dir)?;
    let mut plugin = Waiting::new(telemetry.metrics.clone());
    let mut told = Told::default();
    let mut neighbours = Watch::new(&options.cni.cni_conf_dir, telemetry.metrics.clone());
    let mut hooks = hooks::Watch::new(&core).context("watching filters")?;
    let plugin_entry = cni::keep_installed(&options);
    let mut stop = Stop::new()?;
    let mut beat = tokio::time::interval(BEAT_EVERY);

    tell(&core.input.read());
    core.reconcile(Look::AtInterfaces(None), None);
    loop {
        let retry = until(core.retry_after().map(|after| Instant::now() + after));
        tokio::select! {
            () = stop.wait() => break,
            Some(wake) = wakes.recv() => {
                let received = Instant::now();
                let Woken { folder, links } = Woken::gather(wake, &mut wakes);
                if folder {
                    tell(&core.input.read());
                }
                let look = links.map_or(Look::OnlyAtObjects, |seen| Look::AtInterfaces(Some(seen)));
                core.reconcile(look, folder.then_some(received));
            }
            batch = next(&mut objects) => {
                let Some((received, batch)) = batch else { anyhow::bail!("the watches of the API server ended") };
                tell(&core.input.apply(batch));
                core.reconcile(Look::OnlyAtObjects, Some(received));
            }
            Some(question) = questions.recv() => {
                if questions::answer(question, &mut questions, &mut core, &mut plugin).await {
                    // Lets the answer leave before the socket goes.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    break;
                }
            }
            events = drops.next() => match events {
                Ok(events) => core.report(&events),
                Err(error) => tracing::warn!("reading drop events: {error}"),
            },
            Some(request) = telemetry.asked() => telemetry.answer(request, &mut core),
            lost = hooks.next(&core) => core.repair(&lost),
            warnings = neighbours.next(&core) => core.set_warnings(warnings),
            () = until(core.sweep_at()) => core.sweep(),
            () = until(plugin.deadline()) => plugin.expire(&mut core),
            () = retry => core.reconcile(Look::AtInterfaces(None), None),
            _ = beat.tick() => {}
        }
        plugin.answer(&core);
        if let Some(objects) = objects.as_ref().filter(|_| options.operation.events.is_on()) {
            told.tell(&core, objects.source.reporter());
        }
        telemetry.beat(&core);
    }
    tracing::info!("stopping; what is enforced stays enforced");
    plugin_entry.abort();
    drop(server);
    Ok(())
}

/// Each side of each pod's interface has an open link, and a service's limit may be 1,024 descriptors.
fn allow_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!("raising the limit of open files: {error}");
    }
}

/// The watches of an API server, and what they tell. Dropped, they end.
struct Objects {
    source: ClusterSource,
    events: Events,
}

async fn input(options: &RunOptions) -> anyhow::Result<(Input, Option<Objects>)> {
    let options = &options.source;
    if let Some(dir) = &options.manifests {
        return Ok((Input::folder(dir.clone()), None));
    }
    // Without it every pod of the cluster would be one of this node's.
    let node = options.node.clone().context(
        "an API server tells of all nodes: --node (SLUICE_NODE, `node` in the file) has to say which this one is",
    )?;
    let kubeconfig = options.kubeconfig.clone().map(|files| files.0).unwrap_or_default();
    let (source, events) = ClusterSource::start(cluster::Options {
        access: Access { kubeconfig, context: options.context.clone() },
        node,
        ..cluster::Options::default()
    })
    .await?;
    tracing::info!("watching the API server {}", source.server());
    Ok((Input::cluster_api(Arc::clone(source.stats())), Some(Objects { source, events })))
}

async fn next(objects: &mut Option<Objects>) -> Option<(Instant, Vec<cluster::Event>)> {
    match objects {
        Some(objects) => objects.events.next().await,
        None => std::future::pending().await,
    }
}

fn tell(problems: &[Problem]) {
    problems.iter().take(MOST_PROBLEMS).for_each(logging::problem);
    if let Some(more @ 1..) = problems.len().checked_sub(MOST_PROBLEMS) {
        tracing::warn!("and {more} more problems with objects");
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Waits for SIGTERM or SIGINT.
pub async fn told_to_stop() -> anyhow::Result<()> {
    Stop::new()?.wait().await;
    Ok(())
}

struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
