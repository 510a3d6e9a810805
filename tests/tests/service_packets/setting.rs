//! A pod under a policy, a Service that it calls, and what becomes of their packets.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use crc::{CRC_32_ISCSI, Crc};
use etherparse::PacketBuilder;
use policy_agent::compile::{Compiled, Scope, compile};
use policy_agent::datapath::enforce;
use policy_agent::datapath::memory::Memory;
use policy_agent::model::services::{Backend, Frontend, Target};
use policy_agent::model::{Block, Cluster, ObjectName, Peer, Pod, Policy, Protocol, Rule, Selector};
use policy_agent::plan::{Capacity, LocalEndpoint, Planner};
use policy_common::packet::SliceMut;
use policy_common::parse::{Scratch, protocol};
use policy_common::rewrite::rewrite;
use policy_common::{Arrival, Direction, DropReason, Slice, Verdict, decide};

pub(crate) const POD: [&str; 2] = ["10.244.1.2", "fd00:244:1::2"];
pub(crate) const VIP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
pub(crate) const BACKEND: [&str; 2] = ["10.244.2.9", "fd00:244:2::9"];
pub(crate) const ROUTER: [&str; 2] = ["192.0.2.1", "fd00:192::1"];
pub(crate) const IFINDEX: u32 = 7;

pub(crate) struct Setting {
    pub(crate) tables: Memory,
    pub(crate) family: usize,
    planner: Planner,
    local: LocalEndpoint,
    backends: Arc<[Backend]>,
}

pub(crate) fn address(list: [&str; 2], family: usize) -> Result<IpAddr> {
    Ok(list[family].parse()?)
}

/// The addresses, whatever the port.
fn only(list: [&str; 2]) -> Result<Vec<Rule>> {
    let blocks = list.map(|text| {
        text.parse::<IpAddr>().map(|address| Peer::Block(Block { cidr: address.into(), except: Vec::new() }))
    });
    Ok(vec![Rule { peers: Some(blocks.into_iter().collect::<Result<_, _>>()?), ports: None }])
}

impl Setting {
    /// A pod that may open connections to the endpoint's address, whatever the port, or to nobody.
    pub(crate) fn new(family: usize, allowed: bool, backends: &[(&str, u16)]) -> Result<Self> {
        let egress = if allowed { only(BACKEND)? } else { Vec::new() };
        Self::under(family, Some(Vec::new()), Some(egress), backends)
    }

    /// A pod that opens nothing, and lets in what comes from these addresses.
    pub(crate) fn letting_in(family: usize, from: [&str; 2]) -> Result<Self> {
        Self::under(family, Some(only(from)?), Some(Vec::new()), &[(BACKEND[family], 8080)])
    }

    /// A pod that opens what it likes, and lets in nobody.
    pub(crate) fn closed_for_ingress(family: usize) -> Result<Self> {
        Self::under(family, Some(Vec::new()), None, &[(BACKEND[family], 8080)])
    }

    fn under(
        family: usize,
        ingress: Option<Vec<Rule>>,
        egress: Option<Vec<Rule>>,
        backends: &[(&str, u16)],
    ) -> Result<Self> {
        let capacity = Capacity { words: 1 << 10, ..Capacity::default() };
        let addresses: Vec<IpAddr> = vec![POD[0].parse()?, POD[1].parse()?];
        let pod = ObjectName::new("ns", "pod");
        let list: Result<Vec<Backend>> =
            backends.iter().map(|(text, port)| Ok(Backend { address: text.parse()?, port: *port })).collect();
        let mut setting = Self {
            tables: Memory::new(&capacity),
            family,
            planner: Planner::new(capacity),
            local: LocalEndpoint { pod, ifindex: IFINDEX, addresses, sources: Vec::new() },
            backends: list?.into(),
        };
        setting.enforce(ingress, egress)?;
        Ok(setting)
    }

    /// From now on the pod may open connections to these addresses alone.
    pub(crate) fn allow(&mut self, list: [&str; 2]) -> Result<()> {
        self.enforce(Some(Vec::new()), Some(only(list)?))
    }

    fn enforce(&mut self, ingress: Option<Vec<Rule>>, egress: Option<Vec<Rule>>) -> Result<()> {
        let mut cluster = Cluster::default();
        cluster.pods.insert(Pod {
            id: self.local.pod.clone(),
            uid: String::new(),
            labels: Arc::default(),
            node: None,
            addresses: self.local.addresses.clone(),
            host_network: false,
            finished: false,
            terminating: false,
            created: 0,
            ports: [].into(),
            sources: Vec::new(),
        });
        let policy =
            Policy { id: ObjectName::new("ns", "policy"), subject: Selector::everything(), ingress, egress };
        cluster.policies.insert(policy.id.clone(), policy);
        let mut compiled: Compiled = compile(&cluster, &Scope::Cluster);
        for protocol in Protocol::ALL {
            for port in [53, 80] {
                let frontend = Frontend { address: address(VIP, self.family)?, port, protocol };
                compiled.frontends.insert(
                    frontend,
                    Target {
                        service: ObjectName::new("ns", "web"),
                        port_name: port.to_string(),
                        backends: Arc::clone(&self.backends),
                        affinity: None,
                        sources: [].into(),
                    },
                );
            }
        }
        enforce(&mut self.planner, &mut self.tables, &compiled, std::slice::from_ref(&self.local))?;
        Ok(())
    }

    /// The packet as it goes on, or why it does not. Whether it turns round.
    pub(crate) fn pass(&self, direction: Direction, frame: &[u8]) -> Result<(Vec<u8>, bool), DropReason> {
        let arrival = Arrival { ifindex: IFINDEX, direction, from_node: false };
        let mut scratch = Scratch::EMPTY;
        match decide(&Slice(frame), &self.tables, &arrival, &mut scratch) {
            Verdict::Drop(reason) => Err(reason),
            Verdict::Pass(_) => {
                let mut frame = frame.to_vec();
                if scratch.wire.changes != 0 && !rewrite(&mut SliceMut(&mut frame), &scratch) {
                    return Err(DropReason::Table);
                }
                Ok((frame, scratch.wire.hairpin != 0))
            }
        }
    }

    pub(crate) fn sent(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let passed = self.pass(Direction::Egress, frame).map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
        Ok(passed.0)
    }

    pub(crate) fn received(&self, frame: &[u8]) -> Result<Vec<u8>> {
        let passed = self.pass(Direction::Ingress, frame).map_err(|reason| anyhow::anyhow!("{reason:?}"))?;
        Ok(passed.0)
    }

    pub(crate) fn at(&self, list: [&str; 2], port: u16) -> Result<(IpAddr, u16)> {
        Ok((address(list, self.family)?, port))
    }
}

pub(crate) type End = (IpAddr, u16);

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Tcp(&'static str),
    Udp,
    Sctp(u8),
}

impl What {
    pub(crate) const fn protocol(self) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Sctp(_) => protocol::SCTP,
        }
    }
}

const DATA: &[u8] = b"odd data";

pub(crate) fn builder(
    from: IpAddr,
    to: IpAddr,
) -> Result<etherparse::PacketBuilderStep<etherparse::IpHeaders>> {
    let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok(ethernet.ipv4(from.octets(), to.octets(), 64)),
        (IpAddr::V6(from), IpAddr::V6(to)) => Ok(ethernet.ipv6(from.octets(), to.octets(), 64)),
        _ => anyhow::bail!("two families"),
    }
}

pub(crate) fn frame(from: End, to: End, what: What) -> Result<Vec<u8>> {
    let ip = builder(from.0, to.0)?;
    let mut bytes = Vec::new();
    match what {
        What::Tcp(flags) => {
            let tcp = ip.tcp(from.1, to.1, 1000, 64_000);
            let tcp = match flags {
                "syn" => tcp.syn(),
                "syn-ack" => tcp.syn().ack(1),
                "fin" => tcp.fin().ack(2),
                "rst" => tcp.rst(),
                _ => tcp.ack(1),
            };
            tcp.write(&mut bytes, DATA)?;
        }
        What::Udp => ip.udp(from.1, to.1).write(&mut bytes, DATA)?,
        What::Sctp(chunk) => {
            let mut sctp =
                [&from.1.to_be_bytes()[..], &to.1.to_be_bytes(), &[0, 0, 0, 9, 0, 0, 0, 0]].concat();
            sctp.extend([chunk, 0, 0, 8, 1, 2, 3, 4]);
            let sum = Crc::<u32>::new(&CRC_32_ISCSI).checksum(&sctp);
            sctp[8..12].copy_from_slice(&sum.to_le_bytes());
            ip.write(&mut bytes, etherparse::IpNumber::SCTP, &sctp)?;
        }
    }
    Ok(bytes)
}

#[track_caller]
pub(crate) fn same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found, expected, "{what}");
}
