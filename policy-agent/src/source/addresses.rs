//! Two live pods with one address: the one that had it keeps it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::fault::{Problem, short_json};
use super::object::{Object, ObjectKey};
use super::store::{Entries, Standing};
use crate::model::Pod;

/// Puts newcomers back to what they were before; where nobody had the address before, it stays everybody's, and the
/// compiler closes them.
pub(super) fn settle(entries: &mut Entries, previous: &Entries) -> Vec<Problem> {
    let mut problems = Vec::new();
    // A pod that is put back may take an address again that another newcomer has claimed.
    loop {
        let mut newcomers = BTreeMap::new();
        for (address, pods) in shared(entries) {
            let had =
                |key: &&ObjectKey| live_pod(previous, key).is_some_and(|p| p.addresses.contains(&address));
            if let Some(owner) = pods.iter().find(had) {
                for key in pods.iter().filter(|key| !had(key)) {
                    newcomers.entry(key.clone()).or_insert_with(|| (address, owner.clone()));
                }
            }
        }
        if newcomers.is_empty() {
            break;
        }
        for (key, (address, owner)) in newcomers {
            let Some(entry) = entries.get_mut(&key) else { continue };
            problems.push(problem(
                &entry.sources,
                &key,
                address,
                format!("is the address of {owner} already"),
            ));
            let standing = std::mem::replace(&mut entry.standing, Standing::Nothing);
            entry.standing = match (live_pod(previous, &key), standing) {
                (Some(good), _) => Standing::Good(Object::Pod(good.clone())),
                (None, Standing::Good(Object::Pod(pod))) => Standing::BrokenPod(pod.addresses),
                (None, other) => other,
            };
        }
    }
    for (address, pods) in shared(entries) {
        if let Some((first, others)) = pods.split_first() {
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            let sources = entries.get(first).map(|e| e.sources.clone()).unwrap_or_default();
            problems.push(problem(
                &sources,
                first,
                address,
                format!("is also the address of {}", others.join(", ")),
            ));
        }
    }
    problems
}

fn shared(entries: &Entries) -> BTreeMap<IpAddr, Vec<ObjectKey>> {
    let mut owners: BTreeMap<IpAddr, Vec<ObjectKey>> = BTreeMap::new();
    for key in entries.keys() {
        for address in live_pod(entries, key).iter().flat_map(|pod| &pod.addresses) {
            owners.entry(*address).or_default().push(key.clone());
        }
    }
    owners.retain(|_, pods| pods.len() > 1);
    owners
}

fn live_pod<'e>(entries: &'e Entries, key: &ObjectKey) -> Option<&'e Pod> {
    match &entries.get(key)?.standing {
        Standing::Good(Object::Pod(pod)) if pod.is_selectable() => Some(pod),
        _ => None,
    }
}

fn problem(sources: &[String], key: &ObjectKey, address: IpAddr, message: String) -> Problem {
    Problem {
        source: sources.join(", "),
        object: key.to_string(),
        field: "status.podIPs".to_owned(),
        value: short_json(&address),
        message,
    }
}
