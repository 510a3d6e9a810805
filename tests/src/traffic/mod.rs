//! Traffic that never stops, between pods whose policies change while it runs: what they all allow, and what they all deny.
//! It is counted packet by packet: datagrams by their numbers, TCP by the segments that the kernel had to send again, denied
//! packets by all that the receiver's kernel has seen. Nothing is judged by how long it took.

pub mod changes;
pub mod counters;
pub mod datagrams;
mod flow;
mod pace;
pub mod streams;
pub mod switch;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};

use policy_common::{Direction, DropReason};

use crate::agent_world::Lab;
use crate::packets;
use counters::Counters;
use flow::{Denied, Flows};
use streams::{Count, Pair};
use switch::Switch;

const SHOP: [&str; 2] = ["shop/near", "shop/far"];
const VAULT: [&str; 2] = ["vault/near", "vault/far"];
/// Everybody with an allowed connection, and nobody else's packets.
const ALLOWED: [&str; 3] = ["guest/client", "shop/near", "shop/far"];
/// Who may reach nobody and whom nobody may reach.
const SILENT: [&str; 3] = ["vault/near", "vault/far", "guest/intruder"];
const TCP: u16 = 80;
const UDP: u16 = 5300;
const DENIED: u16 = 9999;
/// Open to all, closed to the prisoner at his own end.
const OPEN: u16 = 7777;
/// The first port of connections that nobody may have any more.
const OLD: u16 = 8080;
const PATIENCE: Duration = Duration::from_secs(60);

/// Two nodes and the pods that [`changes::Changes`] is about.
#[must_use]
pub fn world(prefix: &str) -> WorldBuilder {
    let shop = |name, node| {
        PodSpec::new("shop", name, node).port(Some("web"), TCP, "TCP").serve_tcp(TCP).label("app", "shop")
    };
    let guest = |name: &str| PodSpec::new("guest", name, "node1").label("app", name);
    World::builder(prefix)
        .node(NodeSpec::new("node1"))
        .node(NodeSpec::new("node2"))
        .namespace("other", &[("team", "a")])
        .pod(guest("client"))
        .pod(guest("intruder"))
        .pod(guest("prisoner"))
        .pod(shop("near", "node1"))
        .pod(shop("far", "node2"))
        .pod(PodSpec::new("vault", "near", "node1").serve_tcp(TCP))
        .pod(PodSpec::new("vault", "far", "node2").serve_tcp(TCP))
        .pod(PodSpec::new("other", "one", "node1").label("app", "a"))
        .pod(PodSpec::new("other", "two", "node2").label("app", "b"))
}

fn sockets(lab: &Lab, pods: &[&str], port: u16) -> Result<Vec<SocketAddr>> {
    let both = pods.iter().map(|pod| lab.sockets(pod, port)).collect::<Result<Vec<_>>>()?;
    Ok(both.into_iter().flatten().collect())
}

/// Waits until the agents enforce what the folder says. Each change waits for an RCU grace period in the kernel, which on a
/// machine that is busy with much else has taken more than the ten seconds that one `sync` waits.
pub fn enforced(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match lab.sync() {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

/// Connections of the intruder with the vaults, opened from either side before anybody forbade them.
#[derive(Debug)]
pub struct Old(Vec<Pair>);

impl Old {
    /// To be called before [`changes::Changes::begin`].
    pub fn open(lab: &Lab) -> Result<Self> {
        let intruder = lab.world.pod("guest/intruder")?;
        let mut pairs = Vec::new();
        for (pod, port) in VAULT.into_iter().zip(OLD..) {
            let vault = lab.world.pod(pod)?;
            for address in [IpAddr::from(vault.ipv4), vault.ipv6.into()] {
                pairs.push(streams::pair(&intruder.ns, &vault.ns, address, port)?);
            }
            for address in [IpAddr::from(intruder.ipv4), intruder.ipv6.into()] {
                pairs.push(streams::pair(&vault.ns, &intruder.ns, address, port)?);
            }
        }
        Ok(Self(pairs))
    }
}

/// What went over the allowed flows, and what was tried on the denied ones.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Datagrams sent, at the shop, and back, of each flow.
    datagrams: Vec<(u64, u64, u64)>,
    conversations: Vec<Count>,
    calls: Vec<Count>,
    denied: Denied,
    /// How often it was asked whether the last change is in force.
    switched: usize,
    /// TCP segments of allowed connections.
    segments: u64,
    lasted: Duration,
}

/// Runs `work` under traffic, and judges every packet of it. What is to be enforced must be enforced already.
pub fn under_traffic(
    lab: &mut Lab,
    old: Old,
    work: impl FnOnce(&mut Lab, &Switch) -> Result<()>,
) -> Result<Traffic> {
    let switch = Switch::open(lab)?;
    let flows = Flows::open(lab, old)?;
    let count = |lab: &Lab, pods: &[&str]| {
        pods.iter().map(|pod| Counters::of(&lab.ns(pod)?)).collect::<Result<Vec<_>>>()
    };
    let (allowed, silent) = (count(lab, &ALLOWED)?, count(lab, &SILENT)?);
    let began = Instant::now();
    let over = AtomicBool::new(false);
    let mut traffic = thread::scope(|scope| -> Result<Traffic> {
        let receivers = switch.receive(scope, &over);
        let outcome = flows.run(|| work(lab, &switch));
        over.store(true, Ordering::Relaxed);
        receivers.into_iter().try_for_each(flow::join)?;
        outcome
    })?;
    traffic.lasted = began.elapsed();
    traffic.switched = switch.judge()?;
    // Printed before it is judged: whoever looks at a failure wants to see it.
    print_drops(lab);
    traffic.compare(lab, &allowed, &silent)?;
    println!("{}", traffic.summary());
    traffic.judge()?;
    Ok(traffic)
}

/// What each node's programs have dropped, and why.
fn print_drops(lab: &Lab) {
    for node in lab.world.nodes() {
        // Another layout's agent has them elsewhere.
        let Ok(counters) = packets::counters::Counters::of(node) else { continue };
        let directions = [Direction::Egress, Direction::Ingress];
        for (reason, direction) in DropReason::ALL.into_iter().flat_map(|r| directions.map(|d| (r, d))) {
            let count = counters.dropped(reason, direction).unwrap_or_default();
            if count > 0 {
                println!("{}: {count} dropped, {} {}", node.name(), direction.name(), reason.name());
            }
        }
    }
}

impl Traffic {
    fn compare(&mut self, lab: &Lab, allowed: &[Counters], silent: &[Counters]) -> Result<()> {
        let mut wrong = Vec::new();
        for (pod, before) in ALLOWED.iter().zip(allowed) {
            let now = Counters::of(&lab.ns(pod)?)?;
            let (sent, lost, no_room) =
                (now.segments_sent(before)?, now.lost_segments(before)?, now.no_room(before)?);
            self.segments += sent;
            if lost > 0 {
                wrong.push(format!("{pod}: {lost} of {sent} TCP segments were lost"));
            }
            if no_room > 0 {
                println!("{pod}: no room for {no_room} datagrams");
            }
        }
        for (pod, before) in SILENT.iter().zip(silent) {
            let received = Counters::of(&lab.ns(pod)?)?.received(before)?;
            if received > 0 {
                wrong.push(format!("{received} packets came to {pod}"));
            }
        }
        ensure!(wrong.is_empty(), "{}\n{self:#?}", wrong.join("; "));
        Ok(())
    }

    fn judge(&self) -> Result<()> {
        ensure!(self.denied.arrived == 0, "{} packets came to a denied port", self.denied.arrived);
        for (flow, (sent, there, back)) in self.datagrams.iter().enumerate() {
            ensure!(
                sent == there && sent == back,
                "flow {flow}: {sent} sent, {there} arrived, {back} came back"
            );
        }
        let enough = self.datagrams.iter().all(|(sent, ..)| *sent > 100)
            && self.conversations.iter().chain(&self.calls).all(|count| count.number > 10)
            && self.denied.datagrams > 100
            && self.denied.segments > 100
            && self.denied.knocks > 10;
        ensure!(enough, "too little was sent to tell anything: {self:?}");
        Ok(())
    }

    /// Everything that was judged.
    #[must_use]
    pub fn samples(&self) -> u64 {
        let datagrams: u64 = self.datagrams.iter().map(|(sent, ..)| 2 * sent).sum();
        datagrams + self.segments + self.denied.datagrams + self.denied.segments + self.denied.knocks
    }

    fn summary(&self) -> String {
        let total = |counts: &[Count]| counts.iter().map(|count| count.number).sum::<u64>();
        let datagrams: u64 = self.datagrams.iter().map(|(sent, ..)| sent).sum();
        let longest =
            self.conversations.iter().chain(&self.calls).map(|count| count.longest).max().unwrap_or_default();
        format!(
            "{} samples in {:.1} s, none wrong: {datagrams} datagrams of {} flows there and back, {} echoes on {} connections, \
             {} new connections ({} TCP segments, longest wait {longest:?}); denied: {} datagrams, {} segments of old \
             connections, {} new connections; {} switches as they should be",
            self.samples(),
            self.lasted.as_secs_f64(),
            self.datagrams.len(),
            total(&self.conversations),
            self.conversations.len(),
            total(&self.calls),
            self.segments,
            self.denied.datagrams,
            self.denied.segments,
            self.denied.knocks,
            self.switched,
        )
    }
}
