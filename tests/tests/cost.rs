//! What the programs cost on the kernel that this runs on: the verifier's work and the stack have a budget, the time of a packet
//! is printed for the kernel matrix. One test alone: it takes the process's descriptors away for a moment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use etherparse::PacketBuilder;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::enforce;
use policy_agent::plan::{Capacity, Planner};
use policy_common::{Arrival, Direction};
use serde_json::json;
use sluice_tests::cluster::{place, read_manifests};
use sluice_tests::kernel::{Bpffs, run_program};
use sluice_tests::stack::Frames;

const PROGRAMS: [(&str, Direction); 2] = [("from_pod", Direction::Egress), ("to_pod", Direction::Ingress)];
/// Of the million instructions that the kernel's verifier goes through: room for kernels that prove less at once, and for growth.
const INSTRUCTIONS: u32 = 400_000;
/// What the kernel gives a program with all that it calls (MAX_BPF_STACK).
const STACK: u32 = 512;
const ROUNDS: usize = 11;
const REPEAT: u32 = 2_000;

const WORLD: &str = "
kind: Pod
apiVersion: v1
metadata: {namespace: x, name: web}
spec: {nodeName: n, containers: []}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}]}
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: {namespace: x, name: web}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: 80}]}]
  egress: [{ports: [{port: 443}]}]
";

#[test]
fn the_programs_stay_within_their_budget_and_pass_packets() -> Result<()> {
    let object = std::fs::read(object()?)?;
    let frames = Frames::read(&object)?;
    let verified = PROGRAMS.map(|(name, _)| instructions(&object, name));
    sluice_tests::namespace::with_interfaces(1, |interfaces| {
        let pins = Bpffs::new("cost");
        let mut kernel =
            BpfDatapath::load_object(&object, pins.path(), &Capacity::default(), AttachMode::Auto)?;
        for ((name, _), verified) in PROGRAMS.into_iter().zip(verified) {
            let (verified, stack) = (verified?, frames.depth(name)?.deepest);
            measure(
                &json!({"of": "program", "program": name, "verified_instructions": verified, "stack": stack}),
            );
            ensure!(verified <= INSTRUCTIONS, "{name}: the verifier goes through {verified} instructions");
            ensure!(stack <= STACK, "{name}: {stack} bytes of stack");
            // Linux 5.16 and later also tell it of a loaded program.
            if let Some(told) = kernel.program(name)?.info()?.verified_instruction_count() {
                ensure!(
                    told == verified,
                    "{name}: {told} instructions, and {verified} in the verifier's log"
                );
            }
        }
        packets(&mut kernel, interfaces)
    })
}

/// The object that the agent has inside, as a file: its stack is read off it.
fn object() -> Result<PathBuf> {
    let built = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/policy-ebpf"));
    let path = std::env::var_os("SLUICE_BPF_OBJECT").map_or(built, PathBuf::from);
    ensure!(path.is_file(), "there is no BPF object at {}: run `cargo xtask build`", path.display());
    Ok(path)
}

/// How many instructions the verifier goes through, from its log: kernels before 5.16 tell it nowhere else.
fn instructions(object: &[u8], name: &str) -> Result<u32> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    // As the agent does: with zero, the verifier never sees what reads connection tracking.
    loader.override_global("NFCT_OFFSET", &104_u32, true);
    loader.override_global("TUPLES_OFFSET", &16_u32, true);
    let mut ebpf = loader.load(object).context("loading the maps")?;
    let log = verifier_log(&mut ebpf, name)?;
    let count = log.lines().find_map(|line| {
        let (number, _) = line.strip_prefix("processed ")?.split_once(' ')?;
        number.parse().ok()
    });
    count.with_context(|| format!("{name}: the verifier has said no number of instructions: {log}"))
}

/// The verifier's log of a program that it accepts. aya keeps the log of a failure only, so the program fails where the verifier
/// is through with it: the kernel has no descriptor left to give.
fn verifier_log(ebpf: &mut Ebpf, name: &str) -> Result<String> {
    let program: &mut SchedClassifier = ebpf.program_mut(name).context("no such program")?.try_into()?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?;
    let outcome = program.load();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    match outcome {
        Err(ProgramError::LoadError { verifier_log, io_error })
            if io_error.raw_os_error() == Some(nix::libc::EMFILE) =>
        {
            Ok(verifier_log.to_string())
        }
        Err(error) => Err(error).with_context(|| format!("{name} is refused")),
        Ok(()) => bail!("{name} was loaded without a descriptor"),
    }
}

/// Times of an isolated pod's packets, each beside a program that does nothing.
fn packets(kernel: &mut BpfDatapath, interfaces: &[u32]) -> Result<()> {
    let cluster = read_manifests(WORLD)?;
    let locals = place(&cluster, &mut Default::default(), interfaces);
    let ifindex = locals.first().context("the pod has no interface")?.ifindex;
    enforce(&mut Planner::new(Capacity::default()), kernel, &compile(&cluster, &Scope::Cluster), &locals)?;
    let (pod, peer) = ([10, 0, 0, 1], [192, 0, 2, 9]);
    // What the pod sends is what every kernel can be asked for: before 5.18 a test run can't name the interface that a packet
    // has come in by, and all that comes to the pod seems to be its node's. So it is the node that calls the pod.
    let from = Direction::Egress;
    for (direction, frame) in [
        (Direction::Ingress, tcp((peer, 40_000), (pod, 80), true, false)?),
        (from, tcp((pod, 80), (peer, 40_000), true, true)?),
        (from, tcp((pod, 40_000), (peer, 443), true, false)?),
    ] {
        ensure!(time(kernel, direction, ifindex, &frame, 1)?.0, "a handshake does not pass");
    }
    for (packet, passes, direction, frame) in [
        ("allowed", true, from, tcp((pod, 40_000), (peer, 443), false, true)?),
        ("reply", true, from, tcp((pod, 80), (peer, 40_000), false, true)?),
        ("denied", false, from, tcp((pod, 40_000), (peer, 81), true, false)?),
    ] {
        let (mut all, mut no_ops) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (passed, duration) = time(kernel, direction, ifindex, &frame, REPEAT)?;
            ensure!(passed == passes, "{packet}: passed {passed}");
            all.push(duration);
            let arrival = arrival(direction, ifindex);
            no_ops.push(run_program(kernel, "no_op", &arrival, &frame, REPEAT)?.duration);
        }
        let (ns, no_op_ns) = (median(all), median(no_ops));
        ensure!(
            ns > Duration::ZERO && no_op_ns > Duration::ZERO,
            "{packet}: the kernel has measured nothing"
        );
        measure(
            &json!({"of": "packet", "packet": packet, "ns": ns.as_nanos() as f64, "no_op_ns": no_op_ns.as_nanos() as f64}),
        );
    }
    Ok(())
}

fn time(
    kernel: &mut BpfDatapath,
    direction: Direction,
    ifindex: u32,
    frame: &[u8],
    repeat: u32,
) -> Result<(bool, Duration)> {
    let run = sluice_tests::kernel::run(kernel, &arrival(direction, ifindex), frame, repeat)?;
    Ok((run.passed, run.duration))
}

/// The kernel takes any packet without an interface that it has come in by.
fn arrival(direction: Direction, ifindex: u32) -> Arrival {
    Arrival { ifindex, direction, from_node: true }
}

fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), syn: bool, ack: bool) -> Result<Vec<u8>> {
    let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let mut tcp = link.ipv4(from.0, to.0, 64).tcp(from.1, to.1, 1, 1000);
    if syn {
        tcp = tcp.syn();
    }
    if ack {
        tcp = tcp.ack(1);
    }
    let mut frame = Vec::new();
    tcp.write(&mut frame, &[])?;
    Ok(frame)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The test harness may have begun a line.
fn measure(figure: &serde_json::Value) {
    println!("\nmeasure: {figure}");
}
