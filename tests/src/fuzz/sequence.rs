//! Packets one after the other at one endpoint, while time passes and policy changes. Of each, a model that is no part of
//! Sluice says whether it must pass, must not, or may ([`super::model`]).

use arbitrary::{Arbitrary, Unstructured};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, Slice, decide};

use super::Tally;
use super::model::{Expected, Model};
use super::setting::Setting;
use crate::packet::Sent;

/// Longer inputs are cut: what is wrong after more packets than these is wrong after fewer.
const STEPS: usize = 64;
/// Addresses that take part, of each family.
const REMOTES: u8 = 5;

#[derive(Arbitrary, Debug)]
struct Head {
    setting: u8,
    endpoint: u8,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Packet(Sent),
    /// Somebody changes the policies.
    Flip,
    Wait(Pause),
}

#[derive(Arbitrary, Debug)]
enum Pause {
    Seconds(u8),
    Minutes(u8),
    /// Some hours, or some days: what an idle connection may take.
    Long(u8),
}

impl Pause {
    fn seconds(&self) -> u64 {
        match *self {
            Self::Seconds(n) => u64::from(n % 64),
            Self::Minutes(n) => u64::from(n % 64) * 60,
            Self::Long(n) => u64::from(n) * 3600,
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
    let mut model = Model::default();
    let mut story = Vec::new();
    while story.len() < STEPS && !bytes.is_empty() {
        let Ok(step) = Step::arbitrary(&mut bytes) else { break };
        match &step {
            Step::Flip => setting.flip(),
            Step::Wait(pause) => {
                setting.with_memory(|memory| memory.advance_seconds(pause.seconds()));
                model.wait(pause.seconds());
            }
            Step::Packet(sent) => {
                let own = |v4| subject.address(v4);
                let remote = |v4, choice| Some(setting.remote(v4, choice % REMOTES));
                let Some(packet) = sent.packet(own, remote) else { continue };
                let arrival = Arrival {
                    ifindex: subject.ifindex(),
                    direction: packet.direction,
                    from_node: packet.from_node && packet.direction == Direction::Ingress,
                };
                let frame = packet.frame();
                let verdict = setting.with_memory(|memory| {
                    decide(&Slice(&frame), memory, &arrival, &mut Scratch::EMPTY.clone())
                });
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
        }
        story.push(step);
    }
    tally
}
