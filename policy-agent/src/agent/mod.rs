//! The running agent: one loop that owns the pipeline, woken by its source, the interfaces, the network plugin and its
//! control socket.

mod cni;
mod connections;
mod control;
mod core;
mod drops;
mod errors;
mod flow_words;
mod input;
mod overlay;
mod place;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc;

pub use control::{Answer, Reply, Request, ask, ask_for};
pub use status::{EndpointState, EndpointStatus, FlowStatus, Status};

use crate::datapath::bpf::AttachMode;
use crate::endpoints::LinkWatch;
use crate::source::FolderWatch;
use crate::source::cluster::{self, ClusterSource, Event, Events};
use cni::Waiting;
use control::{Question, Server};
use core::{Core, Look};
use input::Input;

/// Where the network plugins and `ip netns` keep the pods' network namespaces.
pub const NETNS_DIR: &str = "/var/run/netns";
/// How soon to look again for pods whose interface was not found: an address may come after its namespace, and
/// nothing in the node's namespace tells.
const WAITING_RETRY: Duration = Duration::from_millis(500);
/// How soon to try again what failed.
const FAILED_RETRY: Duration = Duration::from_secs(5);

/// Where the cluster's objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
    /// An API server.
    Cluster(cluster::Options),
}

#[derive(Clone, Debug)]
pub struct Options {
    pub source: Source,
    pub node: Option<String>,
    pub bpffs: PathBuf,
    pub socket: PathBuf,
    pub attach: AttachMode,
    /// Pod interfaces that no known pod explains are closed.
    pub close_strangers: bool,
}

/// What woke the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Folder,
    Links,
}

/// Runs until SIGTERM, SIGINT or a `shutdown` request. Enforcement stays in place.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let (server, mut questions) = Server::bind(&options.socket).await?;
    let (input, mut objects) = input(&options).await?;
    let mut core = Core::start(&options, input)?;
    let mut drops = core.drops()?;
    core.follow_debug_log();
    let (wake, mut woken) = mpsc::channel(8);
    watch(&options, wake)?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut plugin = Waiting::default();

    core.input.read();
    core.reconcile(Look::AtInterfaces);
    loop {
        let retry = async {
            match core.retry_after() {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(wake) = woken.recv() => {
                let (mut folder, mut links) = (wake == Wake::Folder, wake == Wake::Links);
                while let Ok(more) = woken.try_recv() {
                    folder |= more == Wake::Folder;
                    links |= more == Wake::Links;
                }
                if folder {
                    core.input.read();
                }
                core.reconcile(if links { Look::AtInterfaces } else { Look::OnlyAtObjects });
            }
            batch = next(&mut objects) => {
                let Some(batch) = batch else { anyhow::bail!("the watches of the API server ended") };
                for problem in core.input.apply(batch) {
                    tracing::warn!("{problem}");
                }
                core.reconcile(Look::OnlyAtObjects);
            }
            Some(Question { request, answer }) = questions.recv() => match request {
                Request::Cni(request) => plugin.take(&mut core, request, answer),
                Request::Shutdown => {
                    // Who asked may have gone away: then nobody needs the answer.
                    let _ = answer.send(Answer::Agent(Reply::of(core.status())));
                    // Lets the answer leave before the socket goes.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    break;
                }
                Request::Sync => {
                    core.input.read();
                    core.reconcile(Look::AtInterfaces);
                    let _ = answer.send(Answer::Agent(Reply::of(core.status())));
                }
                Request::Status => {
                    let _ = answer.send(Answer::Agent(Reply::of(core.status())));
                }
                Request::Flows => {
                    let flows = core.flows();
                    let _ = answer.send(Answer::Agent(Reply { flows, ..Reply::of(core.status()) }));
                }
            },
            events = drops.next() => match events {
                Ok(events) => core.report(&events),
                Err(error) => tracing::warn!("reading drop events: {error}"),
            },
            () = until(core.sweep_at()) => core.sweep(),
            () = until(plugin.deadline()) => plugin.expire(&mut core),
            () = retry => core.reconcile(Look::AtInterfaces),
        }
        plugin.answer(&core);
    }
    tracing::info!("stopping; what is enforced stays enforced");
    drop(server);
    Ok(())
}

/// The watches of an API server, and what they tell. Dropped, they end.
struct Objects {
    source: ClusterSource,
    events: Events,
}

async fn input(options: &Options) -> anyhow::Result<(Input, Option<Objects>)> {
    match &options.source {
        Source::Folder(dir) => Ok((Input::folder(dir.clone()), None)),
        Source::Cluster(cluster) => {
            let (source, events) = ClusterSource::start(cluster.clone()).await?;
            tracing::info!("watching the API server {}", source.server());
            Ok((Input::cluster_api(Arc::clone(source.stats())), Some(Objects { source, events })))
        }
    }
}

async fn next(objects: &mut Option<Objects>) -> Option<Vec<Event>> {
    match objects {
        Some(objects) => objects.events.next().await,
        None => std::future::pending().await,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Each watcher has a task of its own, so that no wait of one is cut short by another.
fn watch(options: &Options, wake: mpsc::Sender<Wake>) -> anyhow::Result<()> {
    let mut links = LinkWatch::new(NETNS_DIR).context("watching interfaces")?;
    if let Source::Folder(dir) = &options.source {
        let watch = FolderWatch::new(dir);
        let mut folder = watch.with_context(|| format!("watching the folder {}", dir.display()))?;
        let to_loop = wake.clone();
        tokio::spawn(async move {
            loop {
                folder.changed().await;
                if to_loop.send(Wake::Folder).await.is_err() {
                    return;
                }
            }
        });
    }
    tokio::spawn(async move {
        loop {
            links.changed().await;
            if wake.send(Wake::Links).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
