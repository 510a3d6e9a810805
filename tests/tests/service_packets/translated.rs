//! The packet that the pod would have sent to the endpoint itself, and the answer that the Service would have given.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, DropReason, PassReason, Slice, Verdict, decide};

use crate::setting::{BACKEND, IFINDEX, POD, ROUTER, Setting, VIP, What, address, builder, frame, same};

#[test]
fn a_packet_becomes_the_one_to_the_endpoint_and_its_answer_the_services() -> Result<()> {
    for family in [0, 1] {
        for (first, answer, next, port) in [
            (What::Tcp("syn"), What::Tcp("syn-ack"), What::Tcp("ack"), 80),
            (What::Udp, What::Udp, What::Udp, 53),
            (What::Sctp(1), What::Sctp(2), What::Sctp(0), 80),
        ] {
            // The same port, and another one.
            for target in [port, 8080] {
                let setting = Setting::new(family, true, &[(BACKEND[family], target)])?;
                let pod = setting.at(POD, 40_000)?;
                let (vip, backend) = (setting.at(VIP, port)?, setting.at(BACKEND, target)?);
                let words = format!("{first:?} family {family} target {target}");
                for what in [first, first] {
                    same(&setting.sent(&frame(pod, vip, what)?)?, &frame(pod, backend, what)?, &words);
                }
                same(&setting.received(&frame(backend, pod, answer)?)?, &frame(vip, pod, answer)?, &words);
                same(&setting.sent(&frame(pod, vip, next)?)?, &frame(pod, backend, next)?, &words);
            }
        }
    }
    Ok(())
}

#[test]
fn a_datagram_without_a_checksum_goes_without_one() -> Result<()> {
    let setting = Setting::new(0, true, &[(BACKEND[0], 8080)])?;
    let (pod, vip) = (setting.at(POD, 40_000)?, setting.at(VIP, 53)?);
    let mut bare = frame(pod, vip, What::Udp)?;
    bare[40..42].fill(0);
    let mut expected = frame(pod, setting.at(BACKEND, 8080)?, What::Udp)?;
    expected[40..42].fill(0);
    same(&setting.sent(&bare)?, &expected, "no checksum");
    Ok(())
}

#[test]
fn what_cannot_be_let_through_is_not() -> Result<()> {
    for family in [0, 1] {
        let denied = Setting::new(family, false, &[(BACKEND[family], 80)])?;
        let (pod, vip) = (denied.at(POD, 40_000)?, denied.at(VIP, 80)?);
        let syn = frame(pod, vip, What::Tcp("syn"))?;
        ensure!(denied.pass(Direction::Egress, &syn) == Err(DropReason::Policy));
        // Nobody knows where it went.
        let allowed = Setting::new(family, true, &[(BACKEND[family], 80)])?;
        let ack = frame(pod, vip, What::Tcp("ack"))?;
        ensure!(allowed.pass(Direction::Egress, &ack) == Err(DropReason::Service));
        // Somebody else's name is no way in.
        let strange = frame((address(ROUTER, family)?, 40_000), vip, What::Tcp("syn"))?;
        ensure!(allowed.pass(Direction::Egress, &strange) == Err(DropReason::Spoofed));
        // An answer without a question.
        let answer = frame((address(BACKEND, family)?, 80), pod, What::Tcp("syn-ack"))?;
        ensure!(allowed.pass(Direction::Ingress, &answer) == Err(DropReason::Policy));
        // As kube-proxy would answer.
        let empty = Setting::new(family, false, &[])?;
        let arrival = Arrival { ifindex: IFINDEX, direction: Direction::Egress, from_node: false };
        let verdict = decide(&Slice(&syn), &empty.tables, &arrival, &mut Scratch::EMPTY.clone());
        ensure!(verdict == Verdict::Pass(PassReason::NoEndpoint), "{verdict:?}");
    }
    Ok(())
}

#[test]
fn a_pod_that_calls_itself_hears_the_service() -> Result<()> {
    for family in [0, 1] {
        let setting = Setting::new(family, false, &[(POD[family], 8080)])?;
        let (client, server) = (setting.at(POD, 40_000)?, setting.at(POD, 8080)?);
        let (vip, caller) = (setting.at(VIP, 80)?, setting.at(VIP, 40_000)?);
        for (there, back) in [("syn", "syn-ack"), ("ack", "ack")] {
            let (there, back) = (What::Tcp(there), What::Tcp(back));
            let turned = |frame: &[u8]| {
                setting.pass(Direction::Egress, frame).map_err(|reason| anyhow::anyhow!("{reason:?}"))
            };
            let sent = turned(&frame(client, vip, there)?)?;
            ensure!(sent == (frame(caller, server, there)?, true), "{family} {there:?}");
            let answered = turned(&frame(server, caller, back)?)?;
            ensure!(answered == (frame(vip, client, back)?, true), "{family} {back:?}");
        }
    }
    Ok(())
}

/// An error about `quoted`, which is an IP packet behind an Ethernet header, cut after eight bytes of its transport.
fn error(from: IpAddr, to: IpAddr, quoted: &[u8]) -> Result<Vec<u8>> {
    let header = if from.is_ipv4() { 20 } else { 40 };
    let quoted = quoted.get(14..14 + header + 8).context("too short")?;
    let mut bytes = Vec::new();
    let ip = builder(from, to)?;
    if from.is_ipv4() {
        ip.icmpv4_raw(3, 3, [0; 4]).write(&mut bytes, quoted)?;
    } else {
        ip.icmpv6_raw(1, 4, [0; 4]).write(&mut bytes, quoted)?;
    }
    Ok(bytes)
}

/// The transport checksum of what is quoted is of no use to anybody, and stays as it was.
fn without_quoted_checksum(mut frame: Vec<u8>, family: usize) -> Vec<u8> {
    let header = [20, 40][family];
    let (icmp, udp) = (14 + header + 2, 14 + header + 8 + header + 6);
    for at in [icmp, udp] {
        frame[at..at + 2].fill(0);
    }
    frame
}

/// Whether an ICMP message's own checksum is right.
fn sum_is_right(frame: &[u8], family: usize) -> bool {
    let (header, mut sum) = ([20, 40][family], 0_u32);
    let message = &frame[14 + header..];
    let mut words: Vec<u8> = message.to_vec();
    if family == 1 {
        words.extend(&frame[14 + 8..14 + 40]);
        words.extend(u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
        words.extend([0, 0, 0, 58]);
    }
    for pair in words.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

#[test]
fn errors_quote_what_their_receiver_knows() -> Result<()> {
    for family in [0, 1] {
        let setting = Setting::new(family, true, &[(BACKEND[family], 8080)])?;
        let pod = setting.at(POD, 40_000)?;
        let (vip, backend) = (setting.at(VIP, 53)?, setting.at(BACKEND, 8080)?);
        let sent = setting.sent(&frame(pod, vip, What::Udp)?)?;
        // From the endpoint, and from a router on the way.
        for (from, heard) in [(backend.0, vip.0), (address(ROUTER, family)?, address(ROUTER, family)?)] {
            let passed = setting.received(&error(from, pod.0, &sent)?)?;
            let expected = error(heard, pod.0, &frame(pod, vip, What::Udp)?)?;
            ensure!(sum_is_right(&passed, family), "the message's checksum");
            let of = |frame| without_quoted_checksum(frame, family);
            ensure!(of(passed.clone()) == of(expected.clone()), "{from}\n{passed:x?}\n{expected:x?}");
        }
        // The pod has closed its socket: the answer is not wanted.
        let answer = setting.received(&frame(backend, pod, What::Udp)?)?;
        let passed = setting.sent(&error(pod.0, vip.0, &answer)?)?;
        let expected = error(pod.0, backend.0, &frame(backend, pod, What::Udp)?)?;
        ensure!(sum_is_right(&passed, family), "the message's checksum");
        let of = |frame| without_quoted_checksum(frame, family);
        ensure!(of(passed) == of(expected), "the pod's own error");
    }
    Ok(())
}

#[test]
fn two_services_with_one_endpoint_are_told_apart() -> Result<()> {
    let setting = Setting::new(0, true, &[(BACKEND[0], 8080)])?;
    let pod = setting.at(POD, 40_000)?;
    let backend = setting.at(BACKEND, 8080)?;
    setting.sent(&frame(pod, setting.at(VIP, 53)?, What::Udp)?)?;
    // By the same port of the pod nobody could tell whose the answers are.
    let second = frame(pod, setting.at(VIP, 80)?, What::Udp)?;
    ensure!(setting.pass(Direction::Egress, &second) == Err(DropReason::Service));
    // Nor of a connection that lasts; one that was ended leaves its ports.
    let (first, second_port) = (setting.at(VIP, 53)?, setting.at(VIP, 80)?);
    setting.sent(&frame(pod, first, What::Tcp("syn"))?)?;
    setting.received(&frame(backend, pod, What::Tcp("syn-ack"))?)?;
    let next = frame(pod, second_port, What::Tcp("syn"))?;
    setting.tables.advance_seconds(5);
    ensure!(setting.pass(Direction::Egress, &next) == Err(DropReason::Service));
    setting.sent(&frame(pod, first, What::Tcp("fin"))?)?;
    setting.tables.advance_seconds(3);
    same(&setting.sent(&next)?, &frame(pod, backend, What::Tcp("syn"))?, "after the end of the first");
    // By another one, and when the first is long over.
    let other = setting.at(POD, 40_001)?;
    same(
        &setting.sent(&frame(other, setting.at(VIP, 80)?, What::Udp)?)?,
        &frame(other, backend, What::Udp)?,
        "another port",
    );
    setting.tables.advance_seconds(200);
    same(&setting.sent(&second)?, &frame(pod, backend, What::Udp)?, "later");
    Ok(())
}
