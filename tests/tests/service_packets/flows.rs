//! What is remembered of flows to Services, and for how long.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use policy_common::flows::FlowKey;
use policy_common::maps::{Addr6, MAY_TRANSLATE, Translation, masked_bit};
use policy_common::masquerade::{Known, Tuple};
use policy_common::packet::Aligned;
use policy_common::parse::{Ip, Scratch, protocol};
use policy_common::translation::{FOLLOWED_DATAGRAMS, flag, kind};
use policy_common::{
    Arrival, Direction, DropReason, Packet, PassReason, Slice, Tables as _, Verdict, decide,
};

use crate::setting::{BACKEND, End, IFINDEX, POD, ROUTER, Setting, VIP, What, frame, same};

fn key(setting: &Setting, kind: u8, remote: End, local_port: u16, protocol: u8) -> FlowKey {
    FlowKey {
        remote: Addr6::of(remote.0).0,
        ifindex: IFINDEX,
        remote_port: remote.1,
        local_port,
        protocol,
        family: if setting.family == 0 { 4 } else { 6 },
        tracked: kind,
        zero: 0,
    }
}

/// kube-proxy's choice for a flow from before the pod was isolated.
fn follow(setting: &Setting, pod: End, vip: End, backend: End, protocol: u8) {
    let value = Translation {
        address: Addr6::of(backend.0).0,
        port: backend.1,
        flags: flag::FOLLOWED,
        seen: setting.tables.now(),
    };
    assert!(setting.tables.put_translation(&key(setting, kind::SENT, vip, pod.1, protocol), &value));
    setting.tables.set_translates(IFINDEX, MAY_TRANSLATE);
}

/// The node's connection tracking forgets datagrams after thirty seconds, and kube-proxy chooses anew then: what was
/// followed must be over before.
#[test]
fn what_the_node_translates_ends_before_the_node_forgets_it() -> Result<()> {
    for family in [0, 1] {
        let setting = Setting::new(family, true, &[(BACKEND[family], 8080)])?;
        let (pod, vip) = (setting.at(POD, 40_000)?, setting.at(VIP, 53)?);
        // To where policy lets nothing go, and where it does.
        let (old, allowed) = (setting.at(ROUTER, 8080)?, setting.at(BACKEND, 8080)?);
        let sent = frame(pod, vip, What::Udp)?;
        follow(&setting, pod, vip, old, protocol::UDP);
        ensure!(setting.pass(Direction::Egress, &sent) == Err(DropReason::Policy));
        follow(&setting, pod, vip, allowed, protocol::UDP);
        for _ in 0..3 {
            setting.tables.advance_seconds(FOLLOWED_DATAGRAMS);
            same(&setting.sent(&sent)?, &sent, "left as it is");
        }
        setting.tables.advance_seconds(FOLLOWED_DATAGRAMS + 1);
        same(&setting.sent(&sent)?, &frame(pod, allowed, What::Udp)?, "chosen here");
    }
    Ok(())
}

/// The pod has ended its connection and opens another one by the same ports: what was chosen for the first says nothing of it.
#[test]
fn a_connection_that_was_reset_is_followed_no_more() -> Result<()> {
    let setting = Setting::new(0, true, &[(BACKEND[0], 8080)])?;
    let (pod, vip, backend) = (setting.at(POD, 40_000)?, setting.at(VIP, 80)?, setting.at(BACKEND, 8080)?);
    follow(&setting, pod, vip, backend, protocol::TCP);
    let ack = frame(pod, vip, What::Tcp("ack"))?;
    same(&setting.sent(&ack)?, &ack, "followed");
    let reset = frame(pod, vip, What::Tcp("rst"))?;
    same(&setting.sent(&reset)?, &reset, "its end");
    ensure!(setting.pass(Direction::Egress, &ack) == Err(DropReason::Service));
    Ok(())
}

#[test]
fn who_talks_without_a_pause_finds_the_endpoint_that_is_allowed() -> Result<()> {
    let mut setting = Setting::new(0, true, &[(ROUTER[0], 8080), (BACKEND[0], 8080)])?;
    let (pod, vip) = (setting.at(POD, 40_000)?, setting.at(VIP, 53)?);
    let sent = frame(pod, vip, What::Udp)?;
    let found = (0..64).find_map(|_| setting.sent(&sent).ok());
    ensure!(found == Some(frame(pod, setting.at(BACKEND, 8080)?, What::Udp)?));
    // Policy turns against it: the same socket must not stay with it.
    setting.allow(ROUTER)?;
    let found = (0..64).find_map(|_| setting.sent(&sent).ok());
    ensure!(found == Some(frame(pod, setting.at(ROUTER, 8080)?, What::Udp)?));
    Ok(())
}

/// Else kube-proxy would translate what was judged already.
#[test]
fn an_endpoint_that_is_a_service_itself_is_closed() -> Result<()> {
    for family in [0, 1] {
        let setting = Setting::new(family, true, &[(VIP[family], 53)])?;
        let sent = frame(setting.at(POD, 40_000)?, setting.at(VIP, 80)?, What::Udp)?;
        ensure!(setting.pass(Direction::Egress, &sent) == Err(DropReason::Service));
    }
    Ok(())
}

/// A client's port may be one of a Service: it is answered all the same.
#[test]
fn who_calls_from_a_services_port_is_answered() -> Result<()> {
    for family in [0, 1] {
        let setting = Setting::new(family, true, &[(BACKEND[family], 8080)])?;
        let (client, pod) = (setting.at(VIP, 80)?, setting.at(POD, 8080)?);
        // The node itself, which is allowed by its origin.
        let arrival = Arrival { ifindex: IFINDEX, direction: Direction::Ingress, from_node: true };
        for what in [What::Tcp("syn"), What::Udp] {
            let asked = frame(client, pod, what)?;
            let verdict = decide(&Slice(&asked), &setting.tables, &arrival, &mut Scratch::EMPTY.clone());
            ensure!(verdict == Verdict::Pass(PassReason::Host), "{verdict:?}");
        }
        for what in [What::Tcp("syn-ack"), What::Udp] {
            let answer = frame(pod, client, what)?;
            same(&setting.sent(&answer)?, &answer, "an answer");
        }
    }
    Ok(())
}

#[test]
fn a_clock_that_another_cpu_has_read_later_ends_nothing() -> Result<()> {
    let setting = Setting::new(0, true, &[(BACKEND[0], 8080)])?;
    let (pod, vip, backend) = (setting.at(POD, 40_000)?, setting.at(VIP, 80)?, setting.at(BACKEND, 8080)?);
    setting.sent(&frame(pod, vip, What::Tcp("syn"))?)?;
    for (kind, remote) in [(kind::SENT, vip), (kind::RECEIVED, backend)] {
        let key = key(&setting, kind, remote, pod.1, protocol::TCP);
        ensure!(setting.tables.with_translation(&key, |entry| entry.seen += 1).is_some());
    }
    let ack = What::Tcp("ack");
    same(&setting.sent(&frame(pod, vip, ack)?)?, &frame(pod, backend, ack)?, "there");
    same(&setting.received(&frame(backend, pod, ack)?)?, &frame(vip, pod, ack)?, "and back");
    Ok(())
}

/// A frame on which connection tracking hangs.
struct Masqueraded<'a>(&'a [u8], Known);

impl Packet for Masqueraded<'_> {
    fn len(&self) -> u32 {
        Slice(self.0).len()
    }

    fn ethertype(&self) -> u16 {
        Slice(self.0).ethertype()
    }

    fn vlan(&self) -> bool {
        false
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<Aligned<N>> {
        Slice(self.0).load(offset)
    }

    fn is_masqueraded(&self, ip: &Ip, known: &mut Known) -> bool {
        *known = self.1;
        known.original.src != ip.src && known.is_of(ip)
    }
}

fn tuple(from: End, to: End, protocol: u8, direction: u8) -> Tuple {
    let words = |address: IpAddr| Addr6::of(address).0.words();
    Tuple {
        src: words(from.0),
        src_port: from.1.to_be(),
        family: 0,
        dst: words(to.0),
        dst_port: to.1.to_be(),
        protocol,
        direction,
    }
}

struct Calls<'a> {
    setting: &'a Setting,
    pod: End,
    /// The node, as the pod sees its callers.
    seen: End,
}

impl Calls<'_> {
    /// What comes of a packet from there, by way of a Service.
    fn from(&self, client: End, what: What) -> Result<Verdict> {
        let vip = self.setting.at(VIP, 80)?;
        let known = Known {
            original: tuple(client, vip, what.protocol(), 0),
            reply: tuple(self.pod, self.seen, what.protocol(), 1),
        };
        let frame = frame(self.seen, self.pod, what)?;
        let arrival = Arrival { ifindex: IFINDEX, direction: Direction::Ingress, from_node: false };
        let packet = Masqueraded(&frame, known);
        Ok(decide(&packet, &self.setting.tables, &arrival, &mut Scratch::EMPTY.clone()))
    }

    fn is_answered(&self, what: What) -> Result<bool> {
        let answer = frame(self.pod, self.seen, what)?;
        match self.setting.pass(Direction::Egress, &answer) {
            Ok((sent, _)) => {
                same(&sent, &answer, "the node translates it");
                Ok(true)
            }
            Err(reason) => {
                ensure!(reason == DropReason::Policy, "{reason:?}");
                Ok(false)
            }
        }
    }
}

#[test]
fn masqueraded_packets_are_judged_by_where_they_come_from() -> Result<()> {
    for family in [0, 1] {
        for (first, answer) in [(What::Tcp("syn"), What::Tcp("syn-ack")), (What::Udp, What::Udp)] {
            // In both directions isolated: the backend's address may come in, and nothing may go out.
            let setting = Setting::letting_in(family, BACKEND)?;
            let pod = setting.at(POD, 8080)?;
            let calls = Calls { setting: &setting, pod, seen: setting.at(ROUTER, 61_000)? };
            let stranger = setting.at(VIP, 999)?;
            ensure!(calls.from(stranger, first)? == Verdict::Drop(DropReason::Policy));
            ensure!(!calls.is_answered(answer)?);
            let client = setting.at(BACKEND, 50_000)?;
            ensure!(calls.from(client, first)? == Verdict::Pass(PassReason::Policy));
            ensure!(calls.is_answered(answer)?);
            let bits = setting.tables.translates(IFINDEX);
            let bit = masked_bit(&Addr6::of(calls.seen.0).0.words());
            ensure!(bits == MAY_TRANSLATE | bit, "{bits:x}");
            // The node itself uses the port: answers are its own.
            let probe = frame(calls.seen, pod, first)?;
            let arrival = Arrival { ifindex: IFINDEX, direction: Direction::Ingress, from_node: true };
            let verdict = decide(&Slice(&probe), &setting.tables, &arrival, &mut Scratch::EMPTY.clone());
            ensure!(verdict == Verdict::Pass(PassReason::Host), "{verdict:?}");
            ensure!(calls.is_answered(answer)?);
            // And somebody else gets it.
            ensure!(calls.from(stranger, first)? == Verdict::Drop(DropReason::Policy));
        }
    }
    Ok(())
}

/// What does not look like the packet's connection is none: the packet says who sent it.
#[test]
fn what_connection_tracking_says_must_fit_the_packet() -> Result<()> {
    let setting = Setting::letting_in(0, BACKEND)?;
    let (pod, seen, client) = (setting.at(POD, 8080)?, setting.at(ROUTER, 61_000)?, setting.at(BACKEND, 5)?);
    let vip = setting.at(VIP, 80)?;
    let arrival = Arrival { ifindex: IFINDEX, direction: Direction::Ingress, from_node: false };
    let frame = frame(seen, pod, What::Udp)?;
    let verdict = |original, reply| {
        let packet = Masqueraded(&frame, Known { original, reply });
        decide(&packet, &setting.tables, &arrival, &mut Scratch::EMPTY.clone())
    };
    let (udp, tcp) = (protocol::UDP, protocol::TCP);
    let original = tuple(client, vip, udp, 0);
    ensure!(verdict(original, tuple(pod, seen, udp, 1)).is_pass());
    for reply in [
        tuple(pod, seen, udp, 0),
        tuple(pod, seen, tcp, 1),
        tuple(pod, (seen.0, 61_001), udp, 1),
        tuple((pod.0, 8081), seen, udp, 1),
        tuple(client, seen, udp, 1),
        tuple(pod, client, udp, 1),
    ] {
        ensure!(verdict(original, reply) == Verdict::Drop(DropReason::Policy), "{reply:?}");
    }
    ensure!(
        verdict(tuple(client, vip, udp, 1), tuple(pod, seen, udp, 1)) == Verdict::Drop(DropReason::Policy)
    );
    Ok(())
}

/// The pod's own address, masqueraded: only what the pod has sent is its own.
#[test]
fn a_pods_own_address_is_believed_where_the_pod_has_called() -> Result<()> {
    for family in [0, 1] {
        for (first, answer) in [(What::Tcp("syn"), What::Tcp("syn-ack")), (What::Udp, What::Udp)] {
            let setting = Setting::closed_for_ingress(family)?;
            let pod = setting.at(POD, 8080)?;
            let calls = Calls { setting: &setting, pod, seen: setting.at(ROUTER, 61_000)? };
            let own = setting.at(POD, 40_000)?;
            ensure!(calls.from(own, first)? == Verdict::Drop(DropReason::Policy), "nobody called");
            setting.sent(&frame(own, setting.at(VIP, 80)?, first)?)?;
            ensure!(calls.from(own, first)? == Verdict::Pass(PassReason::Own));
            ensure!(calls.is_answered(answer)?);
            ensure!(calls.from((own.0, 40_001), first)? == Verdict::Drop(DropReason::Policy), "another port");
        }
    }
    Ok(())
}
