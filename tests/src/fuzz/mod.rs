//! What is fuzzed: bodies that `tests/fuzz` (cargo-fuzz) runs on its own inputs, and `tests/tests/corpus.rs` on those that
//! were kept. A body panics where Sluice is wrong.
//!
//! Who is right is never asked of Sluice: frames are read by [`wire`], connections remembered by [`model`], and
//! policy judged by the oracle. None of them shares code with the engine or the compiler.

mod frame;
mod model;
mod policy;
mod sequence;
mod setting;
mod wire;

use std::ops::AddAssign;

use policy_common::{PassReason, Verdict};

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Of the target in `tests/fuzz/fuzz_targets` and of its folder in `tests/fuzz/corpus`.
    pub name: &'static str,
    pub run: fn(&[u8]) -> Tally,
}

pub const FRAME: Target = Target { name: "frame", run: frame::run };
pub const POLICY: Target = Target { name: "policy", run: policy::run };
pub const SEQUENCE: Target = Target { name: "sequence", run: sequence::run };
pub const TARGETS: [Target; 3] = [FRAME, POLICY, SEQUENCE];

/// Makes every cluster that `frame` and `sequence` choose from, so that a fuzzer doesn't take the compiler's work for that of
/// the input which first needs it.
pub fn prepare() {
    setting::prepare();
}

/// What the engine said about the packets of an input: inputs that all end alike prove little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    /// Of those that passed, the ones that only connection tracking let through.
    pub tracked: u64,
    pub dropped: u64,
}

impl Tally {
    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Drop(_) => self.dropped += 1,
            Verdict::Pass(reason) => {
                self.passed += 1;
                let tracked =
                    matches!(reason, PassReason::Reply | PassReason::IcmpError | PassReason::Fragment);
                self.tracked += u64::from(tracked);
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.tracked += other.tracked;
        self.dropped += other.dropped;
    }
}
