//! Small random clusters, compiled into tables in memory once and used for many inputs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use policy_agent::compile::{Compiled, Scope, compile};
use policy_agent::datapath::enforce;
use policy_agent::datapath::memory::Memory;
use policy_agent::plan::{Capacity, LocalEndpoint, Planner};
use policy_common::Direction;
use sluice_oracle::selector::selects_or_absent;
use sluice_oracle::{Cluster, Flow, Origin, Pod, Protocol, Verdict, judge, random_cluster, random_flows};

use crate::cluster;

/// Clusters that an input can choose from: enough of them to meet every shape of policy, few enough to keep compiled.
const SETTINGS: u8 = 64;
/// Connections whose addresses are worth trying: pods, nodes, and the borders of what policies name.
const FLOWS: usize = 40;
/// Addresses with rules of their own, which the oracle's flows avoid.
const SPECIAL: [&str; 9] = [
    "0.0.0.0",
    "127.0.0.1",
    "169.254.1.1",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "ff02::1",
];

pub(super) const CAPACITY: Capacity = Capacity {
    words: 4096,
    rows: 65_536,
    endpoints: 64,
    peers: 1024,
    cidrs: 1024,
    sources: 64,
    services: 64,
    backends: 256,
    flow_sets: 65_536,
    index_blocks: 1024,
};

/// Two sets of policies over the same pods, and the tables that hold one of them at a time.
pub(super) struct Setting {
    versions: [(Cluster, Compiled); 2],
    locals: Vec<LocalEndpoint>,
    /// IPv4's under `true`; the likely ones first.
    remotes: BTreeMap<bool, Vec<IpAddr>>,
    tables: RefCell<Tables>,
}

struct Tables {
    planner: Planner,
    memory: Memory,
    version: usize,
}

/// Makes all of them, and changes each to its other policies and back.
pub(super) fn prepare() {
    for number in 0..SETTINGS {
        let setting = Setting::chosen(number);
        setting.flip();
        setting.start_afresh();
    }
}

/// One endpoint of a setting.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    setting: &'a Setting,
    local: &'a LocalEndpoint,
    pod: &'a Pod,
}

impl Setting {
    /// The setting that a byte chooses.
    pub(super) fn chosen(byte: u8) -> Rc<Self> {
        thread_local! {
            static MADE: RefCell<BTreeMap<u8, Rc<Setting>>> = const { RefCell::new(BTreeMap::new()) };
        }
        let number = byte % SETTINGS;
        MADE.with_borrow_mut(|made| {
            Rc::clone(made.entry(number).or_insert_with(|| Rc::new(Self::new(number.into()))))
        })
    }

    fn new(seed: u64) -> Self {
        let full = random_cluster(seed);
        let mut half = full.clone();
        let mut keep = false;
        half.policies.retain(|_| {
            keep = !keep;
            keep
        });
        let flows = random_flows(&full, seed, FLOWS);
        let special = SPECIAL.iter().filter_map(|address| address.parse::<IpAddr>().ok());
        let mut remotes = BTreeMap::from([(true, Vec::new()), (false, Vec::new())]);
        for address in flows.iter().flat_map(|flow| [flow.from, flow.to]).chain(special) {
            let family: &mut Vec<IpAddr> = remotes.entry(address.is_ipv4()).or_default();
            if !family.contains(&address) {
                family.push(address);
            }
        }
        let mut locals = Vec::new();
        let versions = [full, half].map(|version| {
            let read = cluster::read(&version).expect("the oracle's clusters are valid");
            let interfaces: Vec<u32> = (1..=64).collect();
            locals = cluster::place(&read, &mut BTreeMap::new(), &interfaces);
            let compiled = compile(&read, &Scope::Cluster);
            (version, compiled)
        });
        let tables = Tables {
            planner: Planner::new(CAPACITY),
            memory: Memory::new(&CAPACITY),
            version: versions.len(),
        };
        let setting = Self { versions, locals, remotes, tables: RefCell::new(tables) };
        setting.enforce(0);
        setting
    }

    /// The first policies again, and no connection remembered.
    pub(super) fn start_afresh(&self) {
        self.enforce(0);
        self.tables.borrow().memory.forget_flows();
    }

    /// Changes to the other policies.
    pub(super) fn flip(&self) {
        let other = 1 - self.tables.borrow().version;
        self.enforce(other);
    }

    fn enforce(&self, version: usize) {
        let Tables { planner, memory, version: present } = &mut *self.tables.borrow_mut();
        if *present != version {
            enforce(planner, memory, &self.versions[version].1, &self.locals)
                .expect("the tables are large enough");
            *present = version;
        }
    }

    pub(super) fn with_memory<T>(&self, work: impl FnOnce(&Memory) -> T) -> T {
        work(&self.tables.borrow().memory)
    }

    fn cluster(&self) -> &Cluster {
        &self.versions[self.tables.borrow().version].0
    }

    /// The endpoint that a byte chooses; none where the cluster has no pod with an address.
    pub(super) fn subject(&self, byte: u8) -> Option<Subject<'_>> {
        let local = self.locals.get(usize::from(byte) % self.locals.len().max(1))?;
        let (cluster, _) = &self.versions[0];
        let pod = cluster.pods.iter().find(|pod| pod.is_policed() && pod.ips == local.addresses)?;
        Some(Subject { setting: self, local, pod })
    }

    /// The remote address of a family that a byte chooses.
    pub(super) fn remote(&self, v4: bool, byte: u8) -> IpAddr {
        let all = &self.remotes[&v4];
        all[usize::from(byte) % all.len()]
    }
}

impl Subject<'_> {
    pub(super) const fn ifindex(&self) -> u32 {
        self.local.ifindex
    }

    pub(super) fn address(&self, v4: bool) -> Option<IpAddr> {
        self.pod.ips.iter().copied().find(|ip| ip.is_ipv4() == v4)
    }

    /// Whether some policy isolates the pod in some direction: each that selects it does (rows 12, 13 and 20).
    pub(super) fn is_isolated(&self) -> bool {
        self.setting.cluster().policies.iter().any(|policy| {
            policy.ns == self.pod.ns && selects_or_absent(policy.spec.pod_selector.as_ref(), &self.pod.labels)
        })
    }

    /// Whether the oracle lets the pod's side of a new connection be: `port` is its destination's.
    pub(super) fn allows(&self, direction: Direction, remote: IpAddr, protocol: Protocol, port: u16) -> bool {
        // A pod without an address in the remote's family is known to the oracle by its other one; its own address says
        // nothing about its own side of a verdict.
        let own = self.address(remote.is_ipv4()).or_else(|| self.pod.ips.first().copied());
        let own = own.expect("endpoints have addresses");
        let (from, to) = match direction {
            Direction::Egress => (own, remote),
            Direction::Ingress => (remote, own),
        };
        let judged = judge(self.setting.cluster(), &Flow { from, to, protocol, port, origin: Origin::Wire });
        let side = match direction {
            Direction::Egress => judged.egress,
            Direction::Ingress => judged.ingress,
        };
        side == Verdict::Allow
    }
}
