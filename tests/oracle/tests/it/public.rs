//! The public conformance cases: the oracle agrees with every expectation that it can decide, and names the others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sluice_oracle::cases::{CasesFile, Family, OutOfScope, Want};
use sluice_oracle::judge;

#[test]
fn oracle_agrees_with_the_public_cases() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../cases/public.yaml");
    let file = CasesFile::read(&path).unwrap();
    assert_eq!(file.unreadable, []);
    let mut decided: BTreeMap<&str, usize> = BTreeMap::new();
    let mut left: BTreeMap<(&str, OutOfScope), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut expected = 0;

    for case in &file.cases {
        for (step_number, step) in file.steps(case).unwrap().enumerate() {
            let (_, state, expectations) = step.unwrap();
            for expectation in expectations {
                expected += 1;
                let flow = match state.flow(&expectation) {
                    Ok(flow) => flow,
                    Err(reason) => {
                        *left.entry((&case.id, reason)).or_default() += 1;
                        continue;
                    }
                };
                *decided.entry(&case.id).or_default() += 1;
                let judgement = judge(&state.cluster, &flow);
                if judgement.allowed() != (expectation.want == Want::Allow) {
                    wrong.push(format!(
                        "{} step {step_number}: {flow}: want {:?}, got {judgement:?}",
                        case.id, expectation.want
                    ));
                }
            }
        }
    }

    let total: usize = decided.values().sum();
    println!(
        "decided: {total} of {expected} expectations, in {} of {} cases",
        decided.len(),
        file.cases.len()
    );
    for ((id, reason), count) in &left {
        println!("not decided: {id}: {count} expectations: {reason}");
    }
    assert!(wrong.is_empty(), "{} disagreements:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(total + left.values().sum::<usize>(), expected);

    // All of the e2e suite is decided, and of the other suite nothing is left for a reason but the one we know.
    let undecided: BTreeSet<&str> = left.keys().map(|(id, _)| *id).collect();
    let of_suite = |suite: &str| -> BTreeSet<&str> {
        file.cases.iter().filter(|case| case.suite == suite).map(|case| case.id.as_str()).collect()
    };
    assert!(of_suite("k8s-e2e").iter().all(|id| decided.contains_key(id) && !undecided.contains(id)));
    assert!(undecided.is_subset(&of_suite("npapi-conformance")));
    assert!(left.keys().all(|(_, reason)| *reason == OutOfScope::ClusterNetworkPolicy));
}

/// Over IPv6 the same must come out wherever no policy names IPv4 blocks.
#[test]
fn the_same_over_ipv6() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../cases/public.yaml");
    let file = CasesFile::read(&path).unwrap();
    let mut judged = 0;
    for case in &file.cases {
        for step in file.steps(case).unwrap() {
            let (_, state, expectations) = step.unwrap();
            if state.cluster.policies.iter().any(|policy| format!("{:?}", policy.spec).contains("cidr")) {
                continue;
            }
            for mut expectation in expectations {
                expectation.via = Some(Family::Ipv6);
                if let Ok(flow) = state.flow(&expectation) {
                    judged += 1;
                    let allowed = judge(&state.cluster, &flow).allowed();
                    assert_eq!(allowed, expectation.want == Want::Allow, "{}: {flow}", case.id);
                }
            }
        }
    }
    assert!(judged > 400, "{judged}");
}
