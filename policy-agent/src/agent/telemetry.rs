//! What the loop tells of itself over HTTP: that it lives, whether it is ready, and its figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::core::Core;
use crate::config::OperationOptions;
use crate::health::{Condition, Heartbeat, Readiness};
use crate::http;
use crate::metrics::{Metrics, Snapshot, SnapshotRequest};
use crate::source::cluster::WatchStats;

pub(super) struct Telemetry {
    pub(super) metrics: Metrics,
    stats: Option<Arc<WatchStats>>,
    heartbeat: Heartbeat,
    source: Condition,
    first_plan: Condition,
    staleness_limit: Duration,
    /// Since when what is known may be old.
    stale_since: Option<Instant>,
    scrapes: mpsc::Receiver<SnapshotRequest>,
    _server: http::Server,
}

impl Telemetry {
    pub(super) fn start(
        options: &OperationOptions,
        staleness_limit: Duration,
        stats: Option<Arc<WatchStats>>,
    ) -> anyhow::Result<Self> {
        let (metrics, heartbeat, readiness) = (Metrics::new(), Heartbeat::default(), Readiness::default());
        let source = readiness.condition("source", "the cluster's objects are not all known yet");
        let first_plan = readiness.condition("first-plan", "nothing is enforced yet");
        let (server, scrapes) = http::start(options, metrics.clone(), heartbeat.clone(), readiness)?;
        Ok(Self {
            metrics,
            stats,
            heartbeat,
            source,
            first_plan,
            staleness_limit,
            stale_since: None,
            scrapes,
            _server: server,
        })
    }

    /// A scrape asks.
    pub(super) async fn asked(&mut self) -> Option<SnapshotRequest> {
        self.scrapes.recv().await
    }

    pub(super) fn answer(&self, request: SnapshotRequest, core: &mut Core) {
        if let Some(stats) = &self.stats {
            self.metrics.watches(stats);
        }
        let snapshot = Snapshot {
            endpoints: core.status().endpoints.iter().map(|endpoint| endpoint.state).collect(),
            revision: core.status().generation,
            held_policies: core.held_policies().count() as u64,
            lost_events: core.lost_events(),
            tables: core.tables(),
            flows: core.flow_count().map(|count| (count.flows, count.fragments)),
            ..Snapshot::default()
        };
        request.answer(match core.totals() {
            Ok(totals) => snapshot.with_totals(&totals),
            Err(error) => {
                tracing::warn!("reading the programs' counters: {error}");
                snapshot
            }
        });
    }

    /// To be called in each turn of the loop.
    pub(super) fn beat(&mut self, core: &Core) {
        self.heartbeat.beat();
        let current = core.input.is_current();
        self.stale_since = if current { None } else { self.stale_since.or_else(|| Some(Instant::now())) };
        let stale = self.stale_since.map(|since| since.elapsed());
        self.source.set(match stale {
            _ if !core.input.has_begun() => Err("the cluster's objects are not all known yet".to_owned()),
            Some(stale) if stale > self.staleness_limit => {
                Err(format!("nothing has been heard of the cluster for {} s", stale.as_secs()))
            }
            _ => Ok(()),
        });
        // Once it was: that something went wrong later is for `status` and the metrics to tell, and no reason to stop
        // what is enforced.
        if core.status().generation > 0 && core.is_in_force() {
            self.first_plan.set(Ok(()));
        }
    }
}
