//! Packets one after the other at one endpoint, while time passes and policy changes. Of each, a model that is no part of
//! Sluice says whether it must pass, must not, or may ([`super::model`]).

use arbitrary::{Arbitrary, Unstructured};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Slice, decide};

use super::Tally;
use super::model::{Expected, Model};
use super::setting::Setting;
use crate::packet::{Flags, Packet, Sent};

/// Longer inputs are cut: what is wrong after more packets than these is wrong after fewer.
const STEPS: usize = 64;
/// Addresses that take part, of each family.
const REMOTES: u8 = 4;

#[derive(Arbitrary, Debug)]
struct Head {
    setting: u8,
    endpoint: u8,
}

#[derive(Debug)]
enum Step {
    Packet(Sent),
    /// The other side of an earlier packet's connection sends one, with these flags where it is TCP.
    Answer {
        earlier: u8,
        flags: Flags,
    },
    /// An ICMP error about an earlier packet.
    Complain {
        earlier: u8,
    },
    /// Somebody changes the policies.
    Flip,
    Wait(Pause),
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(bytes: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        // Answers are what connection tracking is for. A change of policy costs as much as thousands of packets.
        Ok(match u8::arbitrary(bytes)? {
            0..4 => Self::Flip,
            4..36 => Self::Wait(Pause::arbitrary(bytes)?),
            36..116 => Self::Answer { earlier: u8::arbitrary(bytes)?, flags: Flags::arbitrary(bytes)? },
            116..132 => Self::Complain { earlier: u8::arbitrary(bytes)? },
            132.. => Self::Packet(Sent::arbitrary(bytes)?),
        })
    }
}

#[derive(Arbitrary, Debug)]
enum Pause {
    Seconds(u8),
    Minutes(u8),
    /// Some hours, or some days: what an idle connection may take.
    Long(u8),
}

impl Pause {
    fn seconds(&self) -> u32 {
        match *self {
            Self::Seconds(n) => u32::from(n % 64),
            Self::Minutes(n) => u32::from(n % 64) * 60,
            Self::Long(n) => u32::from(n) * 3600,
        }
    }
}

pub(super) fn run(input: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let mut bytes = Unstructured::new(input);
    let Ok(head) = Head::arbitrary(&mut bytes) else { return tally };
    let setting = Setting::chosen(head.setting);
    let Some(subject) = setting.subject(head.endpoint) else { return tally };
    setting.start_afresh();
    let own = |v4| subject.address(v4);
    let remote = |v4, choice| Some(setting.remote(v4, choice % REMOTES));
    let mut model = Model::default();
    // What happened, for who reads a failure.
    let mut story = Vec::new();
    let mut packets: Vec<Packet> = Vec::new();
    while story.len() < STEPS && !bytes.is_empty() {
        let Ok(step) = Step::arbitrary(&mut bytes) else { break };
        let earlier = |choice: u8| packets.get(usize::from(choice) % packets.len().max(1));
        let packet = match &step {
            Step::Flip => {
                setting.flip();
                None
            }
            Step::Wait(pause) => {
                setting.with_memory(|memory| memory.advance_seconds(pause.seconds()));
                model.wait(pause.seconds().into());
                None
            }
            Step::Packet(sent) => sent.packet(own, remote),
            Step::Answer { earlier: choice, flags } => earlier(*choice).map(|packet| packet.answer(flags)),
            Step::Complain { earlier: choice } => earlier(*choice).and_then(Packet::complaint),
        };
        story.push(step);
        let Some(packet) = packet else { continue };
        packets.push(packet);
        let (ifindex, direction, from_node) = (subject.ifindex(), packet.direction, packet.from_node);
        let arrival = Arrival { ifindex, direction, from_node };
        let frame = packet.frame();
        let verdict = setting
            .with_memory(|memory| decide(&Slice(&frame), memory, &arrival, &mut Scratch::EMPTY.clone()));
        tally.count(verdict);
        let expected = model.judge(&packet, &subject);
        let right = match expected {
            Expected::Pass(_) => verdict.is_pass(),
            Expected::Drop => !verdict.is_pass(),
            Expected::Either => true,
        };
        assert!(
            right,
            "{verdict:?}, expected {expected:?}: {packet:?} after {story:#?}; the model knows {model:#?}"
        );
        if verdict.is_pass() {
            model.passed(&packet, &subject);
        }
    }
    tally
}
