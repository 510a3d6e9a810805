//! Metrics, named as dashboards of this field know them, after OpenMetrics' rules for units and suffixes.
//!
//! Whatever happens is counted where it happens, by the methods of [`Metrics`], from any thread. What only the agent's
//! loop knows comes as a [`Snapshot`] when a scrape asks for it.

mod process;
mod reference;
mod registrar;
mod scrape;
mod text;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use policy_common::maps::Counter as Packets;
use policy_common::{Direction, DropReason, PassReason};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

pub use reference::reference;
pub use scrape::{Scraper, SnapshotRequest, scraper};
pub use text::Exposition;

use crate::agent::{EndpointState, TableStatus};
use crate::datapath::bpf::Totals;
use crate::plan::{Op, Table};
use crate::source::Kind;
use crate::source::cluster::{EventType, Relist, WatchStats};
use process::Process;
use registrar::{Described, Fraction, Labelled, Registrar};

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure,
}

impl Outcome {
    pub const BOTH: [Self; 2] = [Self::Success, Self::Failure];

    const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// What the loop knows at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Packets and bytes that were dropped, since the flow table was made.
    pub drops: Vec<(DropReason, Direction, Packets)>,
    /// Those that passed.
    pub forwards: Vec<(Direction, Packets)>,
    pub endpoints: Vec<EndpointState>,
    /// `Status::generation`.
    pub revision: u64,
    pub tables: Vec<TableStatus>,
    /// Live entries of the flow table, where they were counted: flows, and datagrams in fragments.
    pub flows: Option<(u64, u64)>,
    /// Policies that are not in force for want of room.
    pub held_policies: u64,
    /// Dropped packets that were not reported, where that could be read.
    pub lost_events: Option<u64>,
}

impl Snapshot {
    /// Takes what the programs counted.
    #[must_use]
    pub fn with_totals(self, totals: &Totals) -> Self {
        let both = [Direction::Ingress, Direction::Egress];
        let drops = DropReason::ALL.iter().flat_map(|reason| {
            both.map(|direction| (*reason, direction, totals.dropped(*reason, direction)))
        });
        let forwards = both.map(|direction| {
            let sum = PASSES.iter().fold(Packets::default(), |sum, reason| {
                let counted = totals.passed(*reason, direction);
                Packets {
                    packets: sum.packets.wrapping_add(counted.packets),
                    bytes: sum.bytes.wrapping_add(counted.bytes),
                }
            });
            (direction, sum)
        });
        Self { drops: drops.collect(), forwards: forwards.to_vec(), ..self }
    }
}

const PASSES: [PassReason; 9] = [
    PassReason::Policy,
    PassReason::NotIsolated,
    PassReason::Reply,
    PassReason::Host,
    PassReason::Own,
    PassReason::Neighbour,
    PassReason::IcmpError,
    PassReason::Fragment,
    PassReason::NoEndpoint,
];

/// Every metric. The clones of one are one.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    described: Arc<[Described]>,
    process: Process,
    drop_count: Labelled<2, Counter>,
    drop_bytes: Labelled<2, Counter>,
    forward_count: Labelled<1, Counter>,
    forward_bytes: Labelled<1, Counter>,
    endpoint_state: Labelled<1, Gauge>,
    implementation_delay: Histogram,
    revision: Gauge,
    map_pressure: Labelled<1, Fraction>,
    map_capacity: Labelled<1, Gauge>,
    map_memory: Labelled<1, Gauge>,
    map_full: Labelled<1, Gauge>,
    held_policies: Gauge,
    map_ops: Labelled<3, Counter>,
    watch_events: Labelled<2, Counter>,
    watch_last_event: Labelled<1, Fraction>,
    watch_current: Labelled<1, Gauge>,
    relists: Labelled<2, Counter>,
    compile_duration: Histogram,
    plan_duration: Histogram,
    apply_duration: Histogram,
    plan_writes: Histogram,
    events_lost: Counter,
    attach_failures: Counter,
    programs_repaired: Counter,
    unprotected: Histogram,
    cni_requests: Labelled<2, Counter>,
    cni_duration: Labelled<1, Histogram>,
    flows: Gauge,
    fragments: Gauge,
    api_errors: Labelled<1, Counter>,
    kubernetes_events: Labelled<1, Counter>,
    other_engines: Labelled<1, Gauge>,
    scrape_stale: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// From half a millisecond to half a minute.
fn moments() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 17))
}

/// From one to a million.
fn amounts() -> Histogram {
    Histogram::new(exponential_buckets(1.0, 4.0, 11))
}

impl Metrics {
    pub fn new() -> Self {
        let mut all = Registrar::default();
        let r = &mut all;
        let seconds = || Some(Unit::Seconds);
        r.info("sluice_build", [("version", env!("CARGO_PKG_VERSION"))], "The agent's version");
        let metrics = Self {
            registry: Arc::default(),
            described: Arc::default(),
            drop_count: r.counters("sluice_drop_count", None, ["reason", "direction"], "Packets dropped"),
            drop_bytes: r.counters(
                "sluice_drop",
                Some(Unit::Bytes),
                ["reason", "direction"],
                "Bytes of packets dropped",
            ),
            forward_count: r.counters("sluice_forward_count", None, ["direction"], "Packets that passed"),
            forward_bytes: r.counters(
                "sluice_forward",
                Some(Unit::Bytes),
                ["direction"],
                "Bytes of packets that passed",
            ),
            endpoint_state: r.gauges(
                "sluice_endpoint_state",
                None,
                ["state"],
                "Pods of this node by state: enforcing, waiting for their interface, or failed",
            ),
            implementation_delay: r.histogram(
                "sluice_policy_implementation_delay",
                seconds(),
                "From a change's arrival to its enforcement",
                moments,
            ),
            revision: r.gauge("sluice_policy_revision", None, "Changes that were enforced since the agent started"),
            map_pressure: r.gauges(
                "sluice_bpf_map_pressure",
                None,
                ["map_name"],
                "Entries of a table in use, from 0 to 1; a change that does not fit is not enforced",
            ),
            map_capacity: r.gauges("sluice_bpf_map_capacity", None, ["map_name"], "Entries of a table"),
            map_memory: r.gauges(
                "sluice_bpf_map_memory",
                Some(Unit::Bytes),
                ["map_name"],
                "What a table takes of the kernel's memory with its entries, at the most",
            ),
            map_full: r.gauges(
                "sluice_bpf_map_full",
                None,
                ["map_name"],
                "1 while something is not in force because it does not fit into this table",
            ),
            held_policies: r.gauge(
                "sluice_policies_held_back",
                None,
                "Policies that are not in force as they were read because they do not fit: what they said before is",
            ),
            map_ops: r.counters(
                "sluice_bpf_map_ops",
                None,
                ["map_name", "operation", "outcome"],
                "Writes to a table: operation is update or delete, outcome success or failure",
            ),
            watch_events: r.counters(
                "sluice_watch_events",
                None,
                ["kind", "type"],
                "What lists and watches of the cluster told",
            ),
            watch_last_event: r.gauges(
                "sluice_watch_last_event_timestamp",
                seconds(),
                ["kind"],
                "When a watch last told anything, since 1970",
            ),
            watch_current: r.gauges(
                "sluice_watch_current",
                None,
                ["kind"],
                "Whether everything was listed and the watch is open (1)",
            ),
            relists: r.counters(
                "sluice_watch_relists",
                None,
                ["kind", "cause"],
                "Lists of everything: at the start, for a version that is gone, after a list that broke off, for want of streaming",
            ),
            compile_duration: r.histogram("sluice_compile_duration", seconds(), "Compiling all policies", moments),
            plan_duration: r.histogram("sluice_plan_duration", seconds(), "Planning the writes of one change", moments),
            apply_duration: r.histogram("sluice_apply_duration", seconds(), "Writing one change to the tables", moments),
            plan_writes: r.histogram("sluice_plan_writes", None, "Table writes of one change", amounts),
            events_lost: r.counter(
                "sluice_events_lost",
                None,
                "Dropped packets that were counted but not reported, because too many were dropped at once",
            ),
            attach_failures: r.counter(
                "sluice_endpoint_attach_failures",
                None,
                "Attempts to hang the programs on an interface that failed",
            ),
            programs_repaired: r.counter(
                "sluice_programs_repaired",
                None,
                "Times that somebody had taken off what enforces policy on an interface, and it was put back",
            ),
            unprotected: r.histogram(
                "sluice_endpoint_unprotected",
                seconds(),
                "From the moment a new pod's interface was seen to its programs being attached",
                moments,
            ),
            cni_requests: r.counters(
                "sluice_cni_requests",
                None,
                ["command", "outcome"],
                "Requests of the container runtime, by CNI command",
            ),
            cni_duration: r.histograms(
                "sluice_cni_request_duration",
                seconds(),
                ["command"],
                "Time to answer the container runtime",
                moments,
            ),
            flows: r.gauge(
                "sluice_flow_table_flows",
                None,
                "Connections in the flow table when it was last looked through",
            ),
            fragments: r.gauge(
                "sluice_flow_table_fragments",
                None,
                "Datagrams in fragments that the flow table had then",
            ),
            api_errors: r.counters(
                "sluice_api_errors",
                None,
                ["kind"],
                "Requests to the Kubernetes API that failed, by the kind of object",
            ),
            kubernetes_events: r.counters(
                "sluice_kubernetes_events",
                None,
                ["outcome"],
                "Kubernetes Events written about objects",
            ),
            other_engines: r.gauges(
                "sluice_other_policy_engine",
                None,
                ["engine"],
                "1 for each other policy engine that was found on the node",
            ),
            scrape_stale: r.gauge(
                "sluice_scrape_stale",
                None,
                "1 if the agent's loop did not answer this scrape within a second: what it alone knows is as it was before",
            ),
            process: Process::register(r),
        };
        let Registrar { registry, described } = all;
        Self { registry: registry.into(), described: described.into(), ..metrics }
    }

    /// A change arrived this long before it was enforced.
    pub fn implemented(&self, delay: Duration) {
        self.implementation_delay.observe(delay.as_secs_f64());
    }

    pub fn compiled(&self, took: Duration) {
        self.compile_duration.observe(took.as_secs_f64());
    }

    pub fn planned(&self, took: Duration) {
        self.plan_duration.observe(took.as_secs_f64());
    }

    /// A plan was carried out. All of `ops` before number `applied` were written; if there is one there, it failed.
    pub fn applied(&self, ops: &[Op], applied: usize, took: Duration) {
        self.apply_duration.observe(took.as_secs_f64());
        let mut counts: BTreeMap<_, u64> = BTreeMap::new();
        let mut writes = 0_u32;
        for (index, op) in ops.iter().enumerate().take(applied.saturating_add(1)) {
            let Some((table, operation)) = table_of(op) else { continue };
            let outcome = if index < applied { Outcome::Success } else { Outcome::Failure };
            *counts.entry([table, operation, outcome.name()]).or_default() += 1;
            writes = writes.saturating_add(1);
        }
        for (labels, count) in counts {
            self.map_ops.at(labels).inc_by(count);
        }
        self.plan_writes.observe(writes.into());
    }

    /// Takes what the watches of an API server counted.
    pub fn watches(&self, stats: &WatchStats) {
        for kind in Kind::ALL {
            let counted = stats.kind(kind);
            for event in EventType::ALL {
                set(&self.watch_events.at([kind.name(), event.name()]), counted.events(event));
            }
            for cause in Relist::ALL {
                set(&self.relists.at([kind.name(), cause.name()]), counted.relists(cause));
            }
            set(&self.api_errors.at([kind.name()]), counted.errors.load(Ordering::Relaxed));
            if let Some(seconds) = counted.last_heard() {
                self.watch_last_event.at([kind.name()]).set(seconds as f64);
            }
            self.watch_current.at([kind.name()]).set(i64::from(counted.is_current()));
        }
        set(
            &self.kubernetes_events.at([Outcome::Success.name()]),
            stats.reports_sent.load(Ordering::Relaxed),
        );
        set(
            &self.kubernetes_events.at([Outcome::Failure.name()]),
            stats.reports_lost.load(Ordering::Relaxed),
        );
    }

    pub fn attach_failed(&self) {
        self.attach_failures.inc();
    }

    pub fn repaired(&self) {
        self.programs_repaired.inc();
    }

    /// A new pod's interface was there this long without programs.
    pub fn protected_after(&self, window: Duration) {
        self.unprotected.observe(window.as_secs_f64());
    }

    /// `command` is CNI's: `ADD`, `CHECK`, `DEL`, `GC`, `STATUS`.
    pub fn cni_request(&self, command: &'static str, outcome: Outcome, took: Duration) {
        self.cni_requests.at([command, outcome.name()]).inc();
        self.cni_duration.at([command]).observe(took.as_secs_f64());
    }

    /// All other policy engines that are on the node now.
    pub fn other_engines(&self, engines: impl IntoIterator<Item = &'static str>) {
        self.other_engines.clear();
        for engine in engines {
            self.other_engines.at([engine]).set(1);
        }
    }

    fn take(&self, snapshot: &Snapshot) {
        for (reason, direction, counted) in &snapshot.drops {
            let labels = [reason.name(), word(*direction)];
            set(&self.drop_count.at(labels), counted.packets);
            set(&self.drop_bytes.at(labels), counted.bytes);
        }
        for (direction, counted) in &snapshot.forwards {
            set(&self.forward_count.at([word(*direction)]), counted.packets);
            set(&self.forward_bytes.at([word(*direction)]), counted.bytes);
        }
        for state in EndpointState::ALL {
            let count = snapshot.endpoints.iter().filter(|s| **s == state).count();
            self.endpoint_state.at([state.name()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.revision.set(whole(snapshot.revision));
        for TableStatus { table, used, capacity, bytes, full } in &snapshot.tables {
            let Some(table) = Table::from_name(table).map(Table::name) else { continue };
            self.map_capacity.at([table]).set(whole(*capacity));
            self.map_pressure.at([table]).set(share(*used, *capacity));
            self.map_memory.at([table]).set(whole(*bytes));
            self.map_full.at([table]).set((*full).into());
        }
        self.held_policies.set(whole(snapshot.held_policies));
        if let Some((flows, fragments)) = snapshot.flows {
            self.flows.set(whole(flows));
            self.fragments.set(whole(fragments));
        }
        if let Some(lost) = snapshot.lost_events {
            set(&self.events_lost, lost);
        }
    }

    /// OpenMetrics.
    fn encode(&self, stale: bool) -> String {
        self.process.refresh();
        self.scrape_stale.set(stale.into());
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            // Only a writer can fail, and a text in memory does not.
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    }
}

/// What others counted.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

const fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

#[expect(clippy::cast_precision_loss, reason = "a share of numbers far below 2^52")]
fn share(used: u64, capacity: u64) -> f64 {
    if capacity == 0 { 0.0 } else { used as f64 / capacity as f64 }
}

/// Which table an operation writes, and how.
const fn table_of(op: &Op) -> Option<(&'static str, &'static str)> {
    let (table, delete) = match op {
        Op::Word { .. } => ("bits", false),
        Op::Row { .. } => ("rows", false),
        Op::Port { .. } => ("ports", false),
        Op::Peer { class, .. } => ("peers", class.is_none()),
        Op::Cidr { class, .. } => ("cidrs", class.is_none()),
        Op::Endpoint { .. } | Op::Watch { .. } => ("endpoints", false),
        Op::Sets { .. } => ("sets", false),
        Op::Source { allowed, .. } => ("sources", !*allowed),
        Op::Slot { slot, .. } => ("slots", slot.is_none()),
        Op::Vips { .. } => ("vips", false),
        Op::Backend { .. } => ("backends", false),
        Op::Service { to, .. } => ("services", to.is_none()),
        Op::Forsake { .. } => ("translations", true),
        Op::Barrier => return None,
    };
    Some((table, if delete { "delete" } else { "update" }))
}

#[cfg(test)]
mod tests;
