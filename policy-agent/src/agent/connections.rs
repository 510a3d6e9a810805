//! Connections that policy must neither cut nor forget: those that began before anybody looked, and those that have
//! lost their permission.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use policy_common::Direction;
use policy_common::flows::{FlowEntry, FlowKey, FlowSeed, FlowState, Opener, Tracked};
use policy_common::maps::Addr6;
use policy_common::parse::protocol;
use policy_common::translation::kind;

use super::core::tables::FlowCount;
use crate::compile::Compiled;
use crate::datapath::bpf::{BpfDatapath, BpfError};
use crate::datapath::{Datapath as _, unwatch};
use crate::endpoints::Scan;
use crate::flows::{KnownFlow, Phase, PodNamespace, Tracking, known_flows};
use crate::model::Protocol;
use crate::model::services::{Frontend, Target};
use crate::plan::{LocalEndpoint, Op, Planner};

/// How long after a change the flow table is looked through: changes come in bursts.
const AFTER_CHANGE: Duration = Duration::from_secs(1);
/// How often it is looked through while some connection has lost its permission.
const WHILE_REVOKED: Duration = Duration::from_secs(30);

/// Which directions of an endpoint are isolated.
type Isolated = (bool, bool);

#[derive(Debug, Default)]
pub(super) struct Connections {
    /// Interfaces whose connections are in the table, with what was isolated when they were put there.
    known: BTreeMap<u32, Isolated>,
    /// Those that are being isolated.
    closing: BTreeSet<u32>,
    /// When to look through the table.
    sweep_at: Option<Instant>,
}

impl Connections {
    /// Before policy isolates a pod: puts the connections into the table that it has already. Those of a pod that no
    /// policy isolated may have left the table long ago, because nothing looked them up.
    pub(super) fn learn(
        &mut self,
        datapath: &mut BpfDatapath,
        compiled: &Compiled,
        locals: &[LocalEndpoint],
        scan: &Scan,
    ) -> Vec<String> {
        let mut isolated: BTreeMap<u32, Isolated> = locals
            .iter()
            .filter_map(|local| {
                let policy = compiled.endpoints.get(&local.pod)?;
                Some((local.ifindex, (policy.egress.is_some(), policy.ingress.is_some())))
            })
            .collect();
        let first = self.known.is_empty();
        let (mut new, mut closing) = (BTreeSet::new(), false);
        for (ifindex, now) in &isolated {
            match self.known.get(ifindex) {
                Some(before) if (!now.0 || before.0) && (!now.1 || before.1) => continue,
                Some(_) => closing = true,
                None => {}
            }
            new.insert(*ifindex);
        }
        // A pod that has just appeared has its few connections in its own sockets; the node's connection tracking can
        // be large.
        let tracking = if first || closing { Tracking::Read } else { Tracking::LeaveOut };
        let problems = Self::look(datapath, &compiled.frontends, &new, scan, tracking);
        self.closing = if closing { new.clone() } else { BTreeSet::new() };
        if !problems.is_empty() {
            // Looked for again the next time.
            isolated.retain(|ifindex, _| !new.contains(ifindex));
        }
        self.known = isolated;
        problems
    }

    /// Policy is not in force there as it was when the connections were looked for: they are when it comes.
    pub(super) fn learn_later(&mut self, interfaces: &[u32]) {
        self.known.retain(|ifindex, _| !interfaces.contains(ifindex));
    }

    /// The same for interfaces that were attached just now, and for pods that were isolated just now: a connection may
    /// have begun since the first look.
    pub(super) fn learn_again(
        &mut self,
        datapath: &mut BpfDatapath,
        compiled: &Compiled,
        attached: &BTreeSet<u32>,
        scan: &Scan,
    ) -> Vec<String> {
        let closing = std::mem::take(&mut self.closing);
        let mut problems = Self::look(datapath, &compiled.frontends, &closing, scan, Tracking::Read);
        problems.extend(Self::look(datapath, &compiled.frontends, attached, scan, Tracking::LeaveOut));
        problems
    }

    fn look(
        datapath: &mut BpfDatapath,
        frontends: &BTreeMap<Frontend, Target>,
        wanted: &BTreeSet<u32>,
        scan: &Scan,
        tracking: Tracking,
    ) -> Vec<String> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let interfaces = || scan.interfaces.values().filter(|interface| wanted.contains(&interface.ifindex));
        let at: BTreeMap<IpAddr, u32> = interfaces().map(|i| (i.address, i.ifindex)).collect();
        let listing = known_flows(&PodNamespace::of(interfaces()), &scan.own_addresses, tracking);
        for note in &listing.notes {
            tracing::debug!("{note}");
        }
        let about =
            |problem: &dyn std::fmt::Display| format!("connections that pods already have: {problem}");
        let mut problems: Vec<String> = listing.problems.iter().map(|problem| about(problem)).collect();
        let mut learned = 0;
        for flow in &listing.flows {
            let Some(ifindex) = at.get(&flow.pod) else { continue };
            let followed = follow(datapath, frontends, flow, *ifindex);
            match followed.and_then(|flow| datapath.seed(&seed(&flow, *ifindex))) {
                Ok(fresh) => learned += usize::from(fresh),
                Err(error) => {
                    problems.push(about(&error));
                    break;
                }
            }
        }
        if learned > 0 {
            tracing::info!("{learned} connections of {} pods began before they were enforced", wanted.len());
        }
        problems
    }

    /// Policy has changed.
    pub(super) fn changed(&mut self) {
        let soon = Instant::now() + AFTER_CHANGE;
        self.sweep_at = Some(self.sweep_at.map_or(soon, |at| at.min(soon)));
    }

    pub(super) const fn sweep_at(&self) -> Option<Instant> {
        self.sweep_at
    }

    /// Looks through the flow table, and ends the watch over pods all of whose connections are allowed.
    /// Returns how many live entries it has, where it was looked through.
    pub(super) fn sweep(
        &mut self,
        planner: &mut Planner,
        datapath: &mut BpfDatapath,
    ) -> Result<Option<FlowCount>, String> {
        self.sweep_at = None;
        if !planner.watches() {
            return Ok(None);
        }
        let revoked = revoked(planner, datapath);
        if !matches!(&revoked, Ok((interfaces, _)) if interfaces.is_empty()) {
            self.sweep_at = Some(Instant::now() + WHILE_REVOKED);
        }
        let (interfaces, count) =
            revoked.map_err(|error| format!("looking through the flow table: {error}"))?;
        unwatch(planner, datapath, &interfaces).map_err(|error| error.to_string())?;
        Ok(Some(count))
    }
}

/// Interfaces of pods that have connections without permission, and how many live entries there are in all.
fn revoked(planner: &Planner, datapath: &mut BpfDatapath) -> Result<(BTreeSet<u32>, FlowCount), BpfError> {
    // A packet that was judged by the policy before may still be about to note its connection.
    if let Err(error) = datapath.apply(&Op::Barrier) {
        tracing::warn!("{error}");
    }
    let (flows, _now) = datapath.flows()?;
    let revoked = flows.iter().filter(|flow| lacks_permission(planner, flow));
    Ok((revoked.map(|flow| flow.key.ifindex).collect(), FlowCount::of(&flows)))
}

fn lacks_permission(planner: &Planner, flow: &FlowEntry) -> bool {
    let key = &flow.key;
    let protocol = match key.protocol {
        protocol::TCP => Protocol::Tcp,
        protocol::SCTP => Protocol::Sctp,
        // Others have no connections: what their packets may, each may by itself.
        _ => return false,
    };
    let (direction, port) = match flow.opener {
        Opener::Pod => (Direction::Egress, key.remote_port),
        Opener::Peer => (Direction::Ingress, key.local_port),
        Opener::Node | Opener::Nobody => return false,
    };
    key.tracked == Tracked::Flow as u8
        && planner.allows(key.ifindex, direction, key.remote_address(), protocol, port) == Some(false)
}

/// A flow that the node translates (to a Service, or masqueraded): the flow to the other end that is really there, which
/// policy judges.
fn follow(
    datapath: &mut BpfDatapath,
    frontends: &BTreeMap<Frontend, Target>,
    flow: &KnownFlow,
    ifindex: u32,
) -> Result<KnownFlow, BpfError> {
    let protocol = Protocol::ALL.into_iter().find(|protocol| protocol.number() == flow.protocol);
    let (Some(through), Some(protocol)) = (flow.through, protocol) else { return Ok(*flow) };
    let (remote, family) = Addr6::of(flow.remote.ip());
    let key = FlowKey {
        remote,
        ifindex,
        remote_port: flow.remote.port(),
        local_port: flow.local_port,
        protocol: flow.protocol,
        family,
        tracked: kind::SENT,
        zero: 0,
    };
    let frontend = Frontend { address: flow.remote.ip(), port: flow.remote.port(), protocol };
    let (seconds, ends) = (seconds_left(flow), flow.state == Phase::Closing);
    let follows = if flow.opener == Opener::Peer {
        datapath.unmask(&key, through, seconds, ends)?
    } else if frontends.contains_key(&frontend) {
        datapath.follow(&key, through, seconds, ends)?;
        true
    } else {
        false
    };
    Ok(if follows { KnownFlow { remote: through, ..*flow } } else { *flow })
}

fn seconds_left(flow: &KnownFlow) -> u32 {
    flow.remaining.map_or(u32::MAX, |left| u32::try_from(left.as_secs()).unwrap_or(u32::MAX))
}

fn seed(flow: &KnownFlow, ifindex: u32) -> FlowSeed {
    let (remote, family) = Addr6::of(flow.remote.ip());
    let icmp = matches!(flow.protocol, protocol::ICMP | protocol::ICMPV6);
    let state = match flow.state {
        Phase::Opening => FlowState::Opening,
        Phase::Established => FlowState::Established,
        Phase::Closing => FlowState::Closing,
    };
    FlowSeed {
        key: FlowKey {
            remote,
            ifindex,
            // Of ICMP it tells who asks, as the engine has it.
            remote_port: if icmp { u16::from(flow.opener != Opener::Pod) } else { flow.remote.port() },
            local_port: flow.local_port,
            protocol: flow.protocol,
            family,
            tracked: Tracked::Flow as u8,
            zero: 0,
        },
        opener: flow.opener as u8,
        state: state as u8,
        zero: 0,
        seconds: seconds_left(flow),
    }
}
