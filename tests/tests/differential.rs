//! The loaded program against the engine on the host: random tables, and packets by the hundred thousand (`--long`: by
//! the million), from those that belong to one connection to nothing but random bytes. Verdicts are compared packet by
//! packet, the reasons for them at the end of each round; connections and fragments are remembered by both.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use arbitrary::{Arbitrary as _, Unstructured};
use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::datapath::enforce;
use policy_agent::datapath::memory::Memory;
use policy_agent::model::ObjectName;
use policy_agent::plan::{Capacity, LocalEndpoint, Planner};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, PassReason, Slice, Verdict, decide};
use sluice_oracle::{random_cluster, random_flows};
use sluice_tests::kernel::{Bpffs, run};
use sluice_tests::packet::{Sent, is_v4, put_addresses};
use sluice_tests::random::Random;

/// Clusters that follow each other in a round, under connections that go on.
const CLUSTERS: u64 = 8;
const PACKETS_PER_CLUSTER: u64 = 5000;
/// Time passes in the kernel only, and the shortest timeout there is ten seconds: a round ends before.
const ROUND: Duration = Duration::from_secs(5);
/// Bytes in front of the frame in an input of the fuzz target `frame`.
const FUZZ_HEAD: usize = 4;

fn packets() -> u64 {
    let set = |name| std::env::var_os(name).is_some();
    match (set("SLUICE_TEST_LONG"), set("SLUICE_TEST_QUICK")) {
        (true, _) => 2_000_000,
        (false, true) => 20_000,
        (false, false) => 100_000,
    }
}

/// What was compared.
#[derive(Debug, Default)]
struct Counts {
    packets: u64,
    passed: u64,
    /// Of those, let through by connection tracking alone.
    tracked: u64,
}

/// Both sides, with a planner each: their tables are what the same updates made of them.
struct Round<'a> {
    kernel: &'a mut BpfDatapath,
    memory: Memory,
    planners: [Planner; 2],
    locals: Vec<LocalEndpoint>,
    remotes: Vec<IpAddr>,
    interfaces: BTreeMap<ObjectName, u32>,
    /// What the engine said of the packets that the kernel saw as well.
    verdicts: HashMap<(Verdict, Direction), u64>,
}

impl Round<'_> {
    fn enforce(&mut self, seed: u64, pool: &[u32]) -> Result<()> {
        let cluster = random_cluster(seed);
        let read = sluice_tests::cluster::read(&cluster)?;
        self.locals = sluice_tests::cluster::place(&read, &mut self.interfaces, pool);
        let flows = random_flows(&cluster, seed, 20);
        self.remotes = flows.iter().flat_map(|flow| [flow.from, flow.to]).collect();
        let compiled = compile(&read, &Scope::Cluster);
        let [for_kernel, for_memory] = &mut self.planners;
        enforce(for_kernel, self.kernel, &compiled, &self.locals)?;
        enforce(for_memory, &mut self.memory, &compiled, &self.locals)?;
        Ok(())
    }

    fn compare(&mut self, arrival: &Arrival, frame: &[u8]) -> Result<Verdict> {
        let verdict = decide(&Slice(frame), &self.memory, arrival, &mut Scratch::EMPTY.clone());
        // BPF_PROG_TEST_RUN refuses an IP frame without its whole first header.
        let least = match is_v4(frame) {
            Some(true) if frame.get(13) == Some(&0) => 34,
            Some(false) => 54,
            _ => 14,
        };
        if frame.len() < least {
            return Ok(verdict);
        }
        let passed = run(self.kernel, arrival, frame, 1).with_context(|| format!("{frame:02x?}"))?.passed;
        ensure!(
            passed == verdict.is_pass(),
            "{arrival:?}: the engine says {verdict:?}, the kernel {}: {frame:02x?}",
            if passed { "passes" } else { "drops" }
        );
        *self.verdicts.entry((verdict, arrival.direction)).or_default() += 1;
        Ok(verdict)
    }

    /// The same reasons, each as often.
    fn compare_reasons(&self) -> Result<()> {
        let totals = self.kernel.totals()?;
        for ((verdict, direction), count) in &self.verdicts {
            let counted = match verdict {
                Verdict::Drop(reason) => totals.dropped(*reason, *direction),
                Verdict::Pass(reason) => totals.passed(*reason, *direction),
            };
            ensure!(
                counted.packets == *count,
                "{verdict:?} {direction:?}: {count} by the engine, {} counted by the kernel",
                counted.packets
            );
        }
        Ok(())
    }
}

/// A source of frames.
struct Frames {
    random: Random,
    /// Those that fuzzing found worth keeping.
    kept: Vec<Vec<u8>>,
}

impl Frames {
    fn new() -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/frame");
        let mut kept = Vec::new();
        for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
            let input = std::fs::read(entry?.path())?;
            kept.extend(input.get(FUZZ_HEAD..).map(<[u8]>::to_vec));
        }
        kept.sort();
        ensure!(!kept.is_empty(), "nothing is kept in {}", folder.display());
        Ok(Self { random: Random::new(1), kept })
    }

    fn next(&mut self, round: &Round<'_>) -> Option<(Arrival, Vec<u8>)> {
        let random = &mut self.random;
        let local = random.pick(&round.locals)?;
        let own = |v4| local.addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        let remote = |v4: bool, choice: u8| {
            // Few, so that they meet again.
            round
                .remotes
                .iter()
                .copied()
                .filter(|address| address.is_ipv4() == v4)
                .nth(usize::from(choice % 4))
        };
        let mut direction = if random.one_in(2) { Direction::Egress } else { Direction::Ingress };
        let mut frame = match random.below(8) {
            0 => random_bytes(random),
            1 => random.pick(&self.kept)?.clone(),
            _ => {
                let bytes = random.bytes(24);
                let packet = Sent::arbitrary(&mut Unstructured::new(&bytes)).ok()?.packet(own, remote)?;
                direction = packet.direction;
                packet.frame()
            }
        };
        if frame.len() < 14 {
            return None;
        }
        if random.one_in(2)
            && let Some(v4) = is_v4(&frame)
        {
            put_addresses(&mut frame, direction, own(v4), remote(v4, random.byte()));
        }
        if random.one_in(3) {
            mutate(random, &mut frame);
        }
        let from_node = direction == Direction::Ingress && random.one_in(8);
        Some((Arrival { ifindex: local.ifindex, direction, from_node }, frame))
    }
}

fn random_bytes(random: &mut Random) -> Vec<u8> {
    let length = 14 + random.below(120);
    let mut frame = random.bytes(length);
    let ethertypes = [[0x08, 0x00], [0x86, 0xdd], [0x08, 0x06], [0x81, 0x00]];
    if let (Some(ethertype), Some(place)) = (random.pick(&ethertypes), frame.get_mut(12..14)) {
        place.copy_from_slice(ethertype);
    }
    if let (Some(v4), Some(first)) = (is_v4(&frame), frame.get_mut(14)) {
        *first = if v4 { 0x40 | *first & 0x0f } else { 0x60 };
    }
    frame
}

/// Bytes changed, cut off, or put in where options and extension headers stand.
fn mutate(random: &mut Random, frame: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let at = 12 + random.below(frame.len() - 12);
        frame[at] = random.byte();
    }
    if random.one_in(4) {
        insert_header(random, frame);
    }
    if random.one_in(6) {
        frame.truncate(14 + random.below(frame.len() - 13));
    }
}

fn insert_header(random: &mut Random, frame: &mut Vec<u8>) {
    match is_v4(frame) {
        Some(true) if frame.len() >= 34 => {
            let words = random.byte() % 11;
            let options = random.bytes(usize::from(words) * 4);
            frame[14] = frame[14].saturating_add(words);
            frame.splice(34..34, options);
        }
        Some(false) if frame.len() >= 54 => {
            let kinds = [0, 43, 44, 51, 60];
            let Some(kind) = random.pick(&kinds).copied() else { return };
            let words = random.byte() % 3;
            let length = if kind == 51 { (usize::from(words) + 2) * 4 } else { (usize::from(words) + 1) * 8 };
            let mut header = random.bytes(length);
            header[0] = frame[20];
            // A fragment header's is a fragment offset: mostly none.
            header[1] = words;
            header[2] = 0;
            header[3] &= 1;
            frame[20] = kind;
            frame.splice(54..54, header);
        }
        _ => {}
    }
}

fn compare_round(frames: &mut Frames, seed: u64, pool: &[u32], counts: &mut Counts) -> Result<()> {
    let pins = Bpffs::new(&format!("differ{seed}"));
    // Large enough that nothing is evicted: which entry goes depends on the seed of the kernel's table.
    let capacity = Capacity {
        words: 4096,
        rows: 65_536,
        endpoints: 64,
        peers: 1024,
        cidrs: 1024,
        sources: 64,
        services: 64,
        backends: 256,
        flow_sets: 65_536,
        // In every other round the index soon has no room, and the hash and the trie answer.
        index_blocks: if seed.is_multiple_of(2) { 2 } else { 1024 },
    };
    let mut kernel = BpfDatapath::load(pins.path(), &capacity, AttachMode::Auto)?;
    let mut round = Round {
        kernel: &mut kernel,
        memory: Memory::new(&capacity),
        planners: [Planner::new(capacity), Planner::new(capacity)],
        locals: Vec::new(),
        remotes: Vec::new(),
        interfaces: BTreeMap::new(),
        verdicts: HashMap::new(),
    };
    let began = Instant::now();
    for cluster in 0..CLUSTERS {
        round.enforce(seed * CLUSTERS + cluster, pool)?;
        for _ in 0..PACKETS_PER_CLUSTER {
            let Some((arrival, frame)) = frames.next(&round) else { continue };
            let verdict = round.compare(&arrival, &frame).with_context(|| format!("round {seed}"))?;
            counts.packets += 1;
            counts.passed += u64::from(verdict.is_pass());
            let tracked = matches!(
                verdict,
                Verdict::Pass(PassReason::Reply | PassReason::IcmpError | PassReason::Fragment)
            );
            counts.tracked += u64::from(tracked);
            if began.elapsed() > ROUND {
                return round.compare_reasons();
            }
        }
    }
    round.compare_reasons()
}

#[test]
fn kernel_and_engine_agree_on_any_packet() {
    let (counts, took) = sluice_tests::namespace::with_interfaces(16, |pool| {
        let mut frames = Frames::new()?;
        let mut counts = Counts::default();
        let began = Instant::now();
        for seed in 0.. {
            compare_round(&mut frames, seed, pool, &mut counts)?;
            if counts.packets >= packets() {
                break;
            }
        }
        Ok((counts, began.elapsed()))
    })
    .unwrap();
    println!("{counts:?} in {took:?}");
    let Counts { packets, passed, tracked } = counts;
    assert!(passed > packets / 10 && passed < packets * 9 / 10, "the packets tell nothing: {counts:?}");
    assert!(tracked > packets / 200, "connection tracking is not tried: {counts:?}");
}
