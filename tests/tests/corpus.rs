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

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// Runs a target on all that is kept for it.
#[track_caller]
fn replay(target: Target) -> Tally {
    let mut inputs: Vec<PathBuf> =
        corpus().join(target.name).read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    let mut tally = Tally::default();
    for input in &inputs {
        let bytes = std::fs::read(input).unwrap();
        match catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))) {
            Ok(counted) => tally += counted,
            Err(_) => panic!("{} fails on {}", target.name, input.display()),
        }
    }
    println!("{} inputs: {tally:?}", inputs.len());
    assert!(inputs.len() > 50, "there are only {} inputs for {}", inputs.len(), target.name);
    tally
}

#[test]
fn frames_pass_only_where_the_oracle_allows() {
    let tally = replay(fuzz::FRAME);
    assert!(tally.passed > 20 && tally.dropped > 20, "the frames tell nothing: {tally:?}");
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
}

#[test]
fn each_folder_is_that_of_a_target() {
    let mut folders: Vec<String> =
        corpus().read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    assert_eq!(folders, TARGETS.map(|target| target.name));
}
