//! Looks for other policy engines on the node now and then, beside the loop.

use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::core::Core;
use crate::coexistence::Neighbours;
use crate::metrics::Metrics;

/// The first look is for those that are there already; then engines are not installed every minute.
const FIRST: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(300);

pub(super) struct Watch {
    cni: std::path::PathBuf,
    metrics: Metrics,
    neighbours: Option<Neighbours>,
    looking: Option<JoinHandle<(Neighbours, Vec<String>)>>,
    due: Instant,
}

impl Watch {
    pub(super) fn new(cni: &Path, metrics: Metrics) -> Self {
        Self { cni: cni.to_owned(), metrics, neighbours: None, looking: None, due: Instant::now() + FIRST }
    }

    /// What the next look finds. Cancellation loses nothing.
    pub(super) async fn next(&mut self, core: &Core) -> Vec<String> {
        loop {
            if let Some(looking) = &mut self.looking {
                let looked = looking.await;
                self.looking = None;
                match looked {
                    Ok((neighbours, found)) => {
                        self.neighbours = Some(neighbours);
                        return found;
                    }
                    Err(error) => tracing::error!("looking for other policy engines: {error}"),
                }
            }
            sleep_until(self.due).await;
            self.due = Instant::now() + AGAIN;
            let mut neighbours = self.neighbours.take().unwrap_or_else(|| Neighbours::new(&self.cni));
            let (interfaces, ours, metrics) =
                (core.interface_names(), core.programs().clone(), self.metrics.clone());
            self.looking = Some(tokio::task::spawn_blocking(move || {
                let found = neighbours.look(&interfaces, &ours, &metrics);
                (neighbours, found)
            }));
        }
    }
}
