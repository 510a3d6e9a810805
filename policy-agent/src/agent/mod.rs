//! The running agent: one loop that owns the pipeline, woken by the folder, the interfaces and its control socket.

mod connections;
mod control;
mod core;
mod drops;
mod flow_words;
mod place;
mod status;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;

pub use control::{LogReply, Reply, Request, ask, log_level};
pub use status::{EndpointState, EndpointStatus, FlowStatus, Status};

use crate::datapath::bpf::AttachMode;
use crate::endpoints::LinkWatch;
use crate::logging::LogFilter;
use crate::source::FolderWatch;
use control::{Question, Server};
use core::Core;

/// Where the network plugins and `ip netns` keep the pods' network namespaces.
pub const NETNS_DIR: &str = "/var/run/netns";
/// How soon to look again for pods whose interface was not found: an address may come after its namespace, and
/// nothing in the node's namespace tells.
const WAITING_RETRY: Duration = Duration::from_millis(500);
/// How soon to try again what failed.
const FAILED_RETRY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct Options {
    pub manifests: PathBuf,
    pub node: Option<String>,
    pub bpffs: PathBuf,
    pub socket: PathBuf,
    pub attach: AttachMode,
}

/// What woke the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wake {
    Folder,
    Links,
}

/// Runs until SIGTERM, SIGINT or a `shutdown` request. Enforcement stays in place.
pub async fn run(options: Options, log: LogFilter) -> anyhow::Result<()> {
    let (server, mut questions) = Server::bind(&options.socket, log).await?;
    let mut core = Core::start(&options)?;
    let mut drops = core.drops()?;
    core.follow_debug_log();
    let (wake, mut woken) = mpsc::channel(8);
    watch(&options, wake)?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;

    core.read();
    core.reconcile();
    loop {
        let retry = async {
            match core.retry_after() {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let sweep = async {
            match core.sweep_at() {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(wake) = woken.recv() => {
                let mut folder = wake == Wake::Folder;
                while let Ok(more) = woken.try_recv() {
                    folder |= more == Wake::Folder;
                }
                if folder {
                    core.read();
                }
                core.reconcile();
            }
            Some(Question { request, answer }) = questions.recv() => {
                let stop = request == Request::Shutdown;
                if request == Request::Sync {
                    core.read();
                    core.reconcile();
                }
                let flows = if request == Request::Flows { core.flows() } else { Vec::new() };
                // Who asked may have gone away: then nobody needs the answer.
                let _ = answer.send(Reply { status: core.status().clone(), flows });
                if stop {
                    // Lets the answer leave before the socket goes.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    break;
                }
            }
            events = drops.next() => match events {
                Ok(events) => core.report(&events),
                Err(error) => tracing::warn!("reading drop events: {error}"),
            },
            () = sweep => core.sweep(),
            () = retry => core.reconcile(),
        }
    }
    tracing::info!("stopping; what is enforced stays enforced");
    drop(server);
    Ok(())
}

/// Each watcher has a task of its own, so that no wait of one is cut short by another.
fn watch(options: &Options, wake: mpsc::Sender<Wake>) -> anyhow::Result<()> {
    let mut folder = FolderWatch::new(&options.manifests)
        .with_context(|| format!("watching the folder {}", options.manifests.display()))?;
    let mut links = LinkWatch::new(NETNS_DIR).context("watching interfaces")?;
    let to_loop = wake.clone();
    tokio::spawn(async move {
        loop {
            folder.changed().await;
            if to_loop.send(Wake::Folder).await.is_err() {
                return;
            }
        }
    });
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
