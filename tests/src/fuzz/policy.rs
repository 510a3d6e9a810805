//! Any bytes as a file of manifests: nothing panics on the way into the tables, the same bytes give the same cluster, and
//! whatever is wrong names its file.

use std::collections::BTreeMap;

use policy_agent::compile::{Scope, compile};
use policy_agent::datapath::enforce;
use policy_agent::datapath::memory::Memory;
use policy_agent::plan::Planner;
use policy_agent::source::{FolderRead, Store, read_text};
use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, Slice, decide};

use super::Tally;
use super::setting::CAPACITY;
use crate::cluster::place;

/// The file's name: the first bit chooses how it is read.
const NAMES: [&str; 2] = ["a.yaml", "a.json"];

pub(super) fn run(input: &[u8]) -> Tally {
    let mut tally = Tally::default();
    let Some((first, text)) = input.split_first() else { return tally };
    let name = NAMES[usize::from(first & 1)];
    let read = || {
        let mut store = Store::default();
        store.update(FolderRead { files: vec![read_text(name, text.to_vec())], problem: None });
        store
    };
    let store = read();
    assert_eq!(
        (store.cluster(), store.problems()),
        (read().cluster(), read().problems()),
        "the same bytes, read again"
    );
    for problem in store.problems() {
        assert!(problem.source.starts_with(name), "a problem without its file: {problem:?}");
        assert!(!problem.message.is_empty(), "a problem that says nothing: {problem:?}");
    }
    let compiled = compile(store.cluster(), &Scope::Cluster);
    // Tables take a thousand times as long: the second bit says whether they are made as well.
    if first & 2 == 0 {
        return tally;
    }
    let interfaces: Vec<u32> = (1..=32).collect();
    let locals = place(store.cluster(), &mut BTreeMap::new(), &interfaces);
    let mut memory = Memory::new(&CAPACITY);
    // Tables that are too small refuse the plan as a whole, and say so: no fault of the input.
    if enforce(&mut Planner::new(CAPACITY), &mut memory, &compiled, &locals).is_err() {
        return tally;
    }
    for local in &locals {
        let isolated = compiled.endpoints.get(&local.pod).is_some_and(|policy| !policy.policies.is_empty());
        for direction in [Direction::Egress, Direction::Ingress] {
            let arrival = Arrival { ifindex: local.ifindex, direction, from_node: false };
            let verdict = decide(&Slice(&[0; 64]), &memory, &arrival, &mut Scratch::EMPTY.clone());
            assert!(!verdict.is_pass() || !isolated, "{}: what nobody can read passes", local.pod);
            tally.count(verdict);
        }
    }
    tally
}
