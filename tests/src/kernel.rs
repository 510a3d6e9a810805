//! The loaded programs under `BPF_PROG_TEST_RUN`: a frame and its arrival in, a verdict and nanoseconds out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use aya::programs::{TestRun as _, TestRunOptions};
use policy_agent::datapath::bpf::{BpfDatapath, uninstall};
use policy_common::{Arrival, Direction};

/// Size and offsets of `struct __sk_buff` (include/uapi/linux/bpf.h), as far as the kernel takes them from a test.
const SK_BUFF: usize = 192;
const INGRESS_IFINDEX: usize = 36;
const IFINDEX: usize = 40;

/// `TC_ACT_UNSPEC`, which goes on to the next program.
const UNSPEC: u32 = u32::MAX;
const SHOT: u32 = 2;

/// A folder of pins that nobody else has; dropping it takes everything away.
#[derive(Debug)]
pub struct Bpffs(PathBuf);

impl Bpffs {
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(PathBuf::from(format!("/sys/fs/bpf/sluice-{name}-{}-{number}", std::process::id())))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(error) = uninstall(&self.0) {
            eprintln!("cleaning up {}: {error}", self.0.display());
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub passed: bool,
    /// Of one run, averaged over `repeat`.
    pub duration: Duration,
}

/// Runs the program of the arrival's direction on one frame, `repeat` times. The interface must exist in the caller's
/// network namespace.
pub fn run(datapath: &mut BpfDatapath, arrival: &Arrival, frame: &[u8], repeat: u32) -> anyhow::Result<Run> {
    let name = match arrival.direction {
        Direction::Egress => "from_pod",
        Direction::Ingress => "to_pod",
    };
    run_program(datapath, name, arrival, frame, repeat)
}

pub fn run_program(
    datapath: &mut BpfDatapath,
    name: &'static str,
    arrival: &Arrival,
    frame: &[u8],
    repeat: u32,
) -> anyhow::Result<Run> {
    let mut context = [0; SK_BUFF];
    // What a pod sends always comes from its interface; before 5.18 the kernel takes no other answer than none.
    let came_from = u32::from(arrival.direction == Direction::Ingress && !arrival.from_node);
    context[INGRESS_IFINDEX..][..4].copy_from_slice(&came_from.to_ne_bytes());
    context[IFINDEX..][..4].copy_from_slice(&arrival.ifindex.to_ne_bytes());
    let options =
        TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), repeat, ..TestRunOptions::new() };
    let result = datapath.program(name)?.test_run(options).context("BPF_PROG_TEST_RUN")?;
    let passed = match result.return_value {
        UNSPEC => true,
        SHOT => false,
        other => anyhow::bail!("{name} returned {other}"),
    };
    Ok(Run { passed, duration: result.duration })
}
