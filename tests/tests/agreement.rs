//! Oracle = compiled tables through the engine on the host, on random clusters and flows.

use policy_agent::explain::{Explainer, Outcome, PortSpec, Source, TransportProtocol};
use sluice_oracle::{Origin, Verdict, judge, random_cluster, random_flows};

fn clusters() -> u64 {
    let set = |name| std::env::var_os(name).is_some();
    match (set("SLUICE_TEST_LONG"), set("SLUICE_TEST_QUICK")) {
        (true, _) => 5000,
        (false, true) => 100,
        (false, false) => 600,
    }
}

fn port(transport: TransportProtocol) -> PortSpec {
    match transport {
        TransportProtocol::Ports(protocol, number) => PortSpec::Number(protocol, number),
        TransportProtocol::Icmp => PortSpec::Icmp,
    }
}

#[test]
fn explain_agrees_with_the_oracle() {
    let (mut flows, mut denied) = (0_u64, 0_u64);
    for seed in 0..clusters() {
        let cluster = random_cluster(seed);
        let read = sluice_tests::cluster::read(&cluster).unwrap();
        let explainer = Explainer::new(read).unwrap();
        for flow in random_flows(&cluster, seed, 60) {
            // `explain` asks about addresses as they are on the wire; a node's own packets are no address's business.
            if flow.origin != Origin::Wire {
                continue;
            }
            let want = judge(&cluster, &flow);
            let (from, to) = (Source::Address(flow.from), Source::Address(flow.to));
            let got = explainer.explain(&from, &to, port(sluice_tests::cluster::transport(&flow))).unwrap();
            let side = |verdict| if verdict == Verdict::Allow { Outcome::Allow } else { Outcome::Deny };
            assert!(
                got.egress.verdict == side(want.egress) && got.ingress.verdict == side(want.ingress),
                "seed {seed}, {flow}: the oracle says {want:?}, explain says {got:#?}; random_cluster({seed}) makes the manifests"
            );
            flows += 1;
            denied += u64::from(got.verdict == Outcome::Deny);
        }
    }
    println!("{flows} flows, {denied} denied");
    assert!(
        denied > flows / 10 && denied < flows * 9 / 10,
        "the flows tell nothing: {denied} of {flows} denied"
    );
}
