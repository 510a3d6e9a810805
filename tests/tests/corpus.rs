//! Every input that fuzzing has kept, through the same bodies: those that once found a fault, and those that reach what
//! others don't. `cargo xtask fuzz` looks for more.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of a test fail as the test does: by panicking"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use sluice_tests::fuzz::{self, TARGETS, Tally, Target};
use sluice_tests::random::Random;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn kept(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(target.name);
    let mut inputs: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() > 50, "there are only {} inputs for {}", inputs.len(), target.name);
    inputs.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs a target on all that is kept for it.
#[track_caller]
fn replay(target: Target) -> Tally {
    let mut tally = Tally::default();
    for (path, input) in kept(target) {
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(counted) => tally += counted,
            Err(_) => panic!("{} fails on {}", target.name, path.display()),
        }
    }
    println!("{}: {tally:?}", target.name);
    tally
}

/// And on each of them changed in a few bytes, the first ones above all: they choose the cluster, the endpoint and the way.
#[track_caller]
fn replay_changed(target: Target, head: usize, count: u32) -> Tally {
    let kept = kept(target);
    let mut random = Random::new(7);
    let mut tally = Tally::default();
    for _ in 0..count {
        let (_, input) = random.pick(&kept).unwrap();
        let mut input = input.clone();
        for at in 0..head.min(input.len()) {
            input[at] = random.byte();
        }
        for _ in 0..random.below(4) {
            if !input.is_empty() {
                let at = random.below(input.len());
                input[at] = random.byte();
            }
        }
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&input))) {
            Ok(counted) => tally += counted,
            Err(_) => panic!("{} fails on {input:?}", target.name),
        }
    }
    println!("{}, changed: {tally:?}", target.name);
    tally
}

#[test]
fn frames_pass_only_where_the_oracle_allows() {
    let tally = replay(fuzz::FRAME);
    assert!(tally.passed > 20 && tally.dropped > 20, "the frames tell nothing: {tally:?}");
    replay_changed(fuzz::FRAME, 4, 200_000);
}

#[test]
fn manifests_of_any_kind_are_read_or_refused() {
    let tally = replay(fuzz::POLICY);
    assert!(tally.passed > 0 && tally.dropped > 0, "no input isolates a pod, or all do: {tally:?}");
}

#[test]
fn sequences_pass_only_as_the_model_says() {
    let tally = replay(fuzz::SEQUENCE);
    assert!(tally.passed > 100 && tally.tracked > 20 && tally.dropped > 100, "they tell nothing: {tally:?}");
    replay_changed(fuzz::SEQUENCE, 2, 200);
}

#[test]
fn each_folder_is_that_of_a_target() {
    let mut folders: Vec<String> =
        corpus().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|target| target.name));
}
