//! The cluster as a source: what its API server says of namespaces, nodes, pods, policies and Services.
//!
//! A thread of its own lists and watches (`watch` over `wire`), reads each object into the model (`decode`), and hands
//! events on; the store that they are applied to is plain data and knows no server (`live`).

mod connect;
mod decode;
mod event;
mod live;
mod report;
mod stats;
mod watch;
mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::object::Kind;
use watch::Watch;

pub use connect::{Access, ConnectError};
pub use event::{Departure, Event, Sighting, Version};
pub use live::{LiveStore, Reference};
pub use report::{Concern, Reporter};
pub use stats::{EventType, KindStats, Relist, WatchStats};
pub use watch::Timing;

/// Events that wait for the agent. A watch that finds no room waits, and the server with it.
const MOST_WAITING: usize = 4096;

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub access: Access,
    pub timing: Timing,
    /// Our node, as Events on objects name it.
    pub node: String,
}

/// The watches of a cluster; dropped, they end.
#[derive(Debug)]
pub struct ClusterSource {
    server: String,
    stats: Arc<WatchStats>,
    reporter: Reporter,
    _stop: oneshot::Sender<()>,
}

/// What the watches tell, in the order in which it came.
#[derive(Debug)]
pub struct Events(mpsc::Receiver<(Instant, Event)>);

impl ClusterSource {
    /// Begins to watch. An error is one of configuration: a server that is away is waited for.
    pub async fn start(options: Options) -> Result<(Self, Events), ConnectError> {
        let (started, when_started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        // Reading the first list of a large cluster takes seconds, in which nothing else of the agent may wait.
        let body = move || on_own_thread(options, started, stopped);
        thread::Builder::new().name("api-server".to_owned()).spawn(body).map_err(ConnectError::Thread)?;
        let Started { server, stats, reporter, events } = match when_started.await {
            Ok(result) => result?,
            Err(_) => return Err(ConnectError::Thread(std::io::Error::other("it ended"))),
        };
        Ok((Self { server, stats, reporter, _stop: stop }, Events(events)))
    }

    /// The server's address, for people.
    pub fn server(&self) -> &str {
        &self.server
    }

    pub const fn stats(&self) -> &Arc<WatchStats> {
        &self.stats
    }

    pub const fn reporter(&self) -> &Reporter {
        &self.reporter
    }
}

impl Events {
    /// All that has come, as soon as there is something, and when the first of it came. `None` if the watches have
    /// ended. Cancellation loses nothing.
    pub async fn next(&mut self) -> Option<(Instant, Vec<Event>)> {
        let mut batch = Vec::new();
        self.0.recv_many(&mut batch, MOST_WAITING).await;
        let (first, _) = batch.first()?;
        Some((*first, batch.into_iter().map(|(_, event)| event).collect()))
    }
}

struct Started {
    server: String,
    stats: Arc<WatchStats>,
    reporter: Reporter,
    events: mpsc::Receiver<(Instant, Event)>,
}

fn on_own_thread(
    options: Options,
    started: oneshot::Sender<Result<Started, ConnectError>>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(ConnectError::Thread(error)));
            return;
        }
    };
    runtime.block_on(async {
        match begin(options).await {
            Ok(begun) => {
                // Whoever started us may be gone already; then the stop comes at once.
                let _ = started.send(Ok(begun));
                let _ = stopped.await;
            }
            Err(error) => {
                let _ = started.send(Err(error));
            }
        }
    });
}

async fn begin(options: Options) -> Result<Started, ConnectError> {
    let (client, server) = connect::connect(&options.access).await?;
    let stats = Arc::new(WatchStats::default());
    let (sender, events) = mpsc::channel(MOST_WAITING);
    let pages_only = Arc::new(AtomicBool::new(false));
    for kind in Kind::ALL {
        let watch = Watch {
            client: client.clone(),
            kind,
            timing: options.timing.clone(),
            stats: Arc::clone(&stats),
            events: sender.clone(),
            pages_only: Arc::clone(&pages_only),
        };
        tokio::spawn(watch.run());
    }
    let reporter = report::start(client, options.node, Arc::clone(&stats));
    Ok(Started { server, stats, reporter, events })
}

#[cfg(test)]
mod tests;
