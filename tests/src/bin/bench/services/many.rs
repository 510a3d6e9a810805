//! 10,000 Services with 100,000 endpoints through the real pipeline, then one endpoint after the other.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use policy_agent::compile::{Compiler, Scope};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::{enforce, enforce_changes};
use policy_agent::model::services::{Endpoint, EndpointPort, EndpointSlice, Readiness, Service, ServicePort};
use policy_agent::model::{ObjectName, Protocol, Tracked};
use policy_agent::plan::{Capacity, Planner, Table};
use serde::Serialize;
use sluice_tests::kernel::Bpffs;

use crate::median;

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const CHANGES: u32 = 1000;

#[derive(Debug, Serialize)]
pub(crate) struct Many {
    services: u32,
    endpoints: u32,
    compile_ms: f64,
    plan_and_write_ms: f64,
    writes: usize,
    change_us: f64,
    writes_of_a_change: usize,
    tables_mib: f64,
    agent_mib: f64,
}

impl Many {
    pub(crate) fn text(&self) -> String {
        format!(
            "{} Services with {} endpoints: compiled in {:.0} ms, planned and written in {:.0} ms ({} writes); the tables \
             take {:.1} MiB of the kernel, the agent {:.1} MiB more. One endpoint less or more, from the change to the \
             last of its {} writes: {:.0} µs (median of {CHANGES}).",
            self.services,
            self.endpoints,
            self.compile_ms,
            self.plan_and_write_ms,
            self.writes,
            self.tables_mib,
            self.agent_mib,
            self.writes_of_a_change,
            self.change_us
        )
    }
}

fn address(first: u8, number: u32) -> Ipv4Addr {
    let [_, a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(first, a, b, c)
}

fn slice(number: u32, endpoints: u32) -> EndpointSlice {
    let endpoint = |n| Endpoint {
        address: address(10, number * ENDPOINTS + n).into(),
        readiness: Readiness::Ready,
        node: None,
        hints: None,
    };
    EndpointSlice {
        id: ObjectName::new("ns", format!("s{number}")),
        service: Some(format!("s{number}")),
        v4: true,
        ports: [EndpointPort { name: String::new(), protocol: Protocol::Tcp, port: 8080 }].into(),
        endpoints: (0..endpoints).map(endpoint).collect(),
    }
}

fn service(number: u32) -> Service {
    Service {
        id: ObjectName::new("ns", format!("s{number}")),
        cluster_ips: vec![address(11, number).into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: [].into(),
        ports: [ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None }]
            .into(),
        affinity: None,
        internal_local: false,
    }
}

fn resident_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

pub(crate) fn run(object: &Path) -> anyhow::Result<Many> {
    eprintln!("{SERVICES} Services with {} endpoints", SERVICES * ENDPOINTS);
    let object = std::fs::read(object).with_context(|| object.display().to_string())?;
    let (pins, capacity) = (Bpffs::new("many-services"), Capacity::default());
    let mut datapath = BpfDatapath::load_object(&object, pins.path(), &capacity, AttachMode::Auto)?;
    let mut planner = Planner::new(capacity);
    let before = resident_mib()?;
    let (mut tracked, mut compiler) = (Tracked::default(), Compiler::default());
    let scope = Scope::Node { name: Some("node".to_owned()), addresses: std::collections::BTreeSet::new() };
    for number in 0..SERVICES {
        tracked.insert_service(service(number));
        tracked.insert_slice(slice(number, ENDPOINTS));
    }
    let began = Instant::now();
    let changes = tracked.take_changes();
    compiler.update(tracked.cluster(), &scope, &changes);
    let compile_ms = milliseconds(began);
    let began = Instant::now();
    let writes = enforce(&mut planner, &mut datapath, compiler.compiled(), &[])?;
    let plan_and_write_ms = milliseconds(began);
    let agent_mib = resident_mib()? - before;
    let mut changed = Vec::new();
    let mut writes_of_a_change = 0;
    for n in 0..CHANGES {
        let number = n * 7 % SERVICES;
        let began = Instant::now();
        tracked.insert_slice(slice(number, ENDPOINTS - 1 - n % 2));
        let changes = tracked.take_changes();
        let delta = compiler.update(tracked.cluster(), &scope, &changes);
        let written = enforce_changes(&mut planner, &mut datapath, compiler.compiled(), &delta, &[])?;
        changed.push(milliseconds(began) * 1e3);
        writes_of_a_change = writes_of_a_change.max(written);
    }
    let usage = planner.usage();
    let bytes = [Table::Services, Table::Backends].into_iter().map(|table| {
        let used = usage.get(&table).map_or(0, |(used, _)| *used);
        capacity.bytes_with(table, used)
    });
    Ok(Many {
        services: SERVICES,
        endpoints: SERVICES * ENDPOINTS,
        compile_ms,
        plan_and_write_ms,
        writes,
        change_us: median(changed),
        writes_of_a_change,
        tables_mib: bytes.sum::<u64>() as f64 / f64::from(1 << 20),
        agent_mib,
    })
}
