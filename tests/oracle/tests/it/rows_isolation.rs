//! Who is isolated, in which direction, and what no policy can forbid: rows 1-3, 12-20, 36-39, 41-47.

use sluice_oracle::{Phase, Policy, Verdict};

use crate::support::{OUTSIDE, OUTSIDE_V6, judged, labels, no, pod, pod_mut, world, yes};

const DENY_IN: &str = "{podSelector: {}, policyTypes: [Ingress]}";
const DENY_BOTH: &str = "{podSelector: {}, policyTypes: [Ingress, Egress]}";

#[test]
fn no_policy_allows_everything() {
    let c = world(&[]);
    yes(&c, "x/a", "y/a", "TCP/80");
    yes(&c, OUTSIDE, "x/a", "ICMP");
    yes(&c, "x/a", OUTSIDE_V6, "UDP/53");
}

#[test]
fn row_01_pod_selector_absent_null_or_empty() {
    for spec in ["{policyTypes: [Ingress]}", "{podSelector: null, policyTypes: [Ingress]}", DENY_IN] {
        let c = world(&[("x", spec)]);
        no(&c, "y/a", "x/a", "TCP/80");
        no(&c, "y/a", "x/b", "TCP/80");
        yes(&c, "x/a", "y/a", "TCP/80");
    }
}

#[test]
fn row_02_all_labels_and_all_expressions() {
    let c = world(&[(
        "x",
        "{podSelector: {matchLabels: {app: b, tier: ''}, matchExpressions: [{key: app, operator: In, values: [a, b]}]}}",
    )]);
    no(&c, "y/a", "x/b", "TCP/80");
    yes(&c, "y/a", "x/a", "TCP/80");
    let c = world(&[(
        "x",
        "{podSelector: {matchLabels: {app: b}, matchExpressions: [{key: tier, operator: DoesNotExist}]}}",
    )]);
    yes(&c, "y/a", "x/b", "TCP/80");
}

/// Of x/a (app=a) and x/b (app=b, tier=""), whom an expression selects.
#[test]
fn row_03_operators() {
    let cases = [
        ("{key: tier, operator: In, values: ['']}", false, true),
        ("{key: tier, operator: In, values: [q]}", false, false),
        ("{key: tier, operator: NotIn, values: ['']}", true, false),
        ("{key: tier, operator: NotIn, values: [q]}", true, true),
        ("{key: tier, operator: Exists}", false, true),
        ("{key: tier, operator: Exists, values: []}", false, true),
        ("{key: tier, operator: DoesNotExist}", true, false),
        ("{key: none, operator: NotIn, values: [a]}", true, true),
        ("{key: none, operator: In, values: [a]}", false, false),
        ("{key: app, operator: In, values: [a, b]}", true, true),
        ("{key: app, operator: NotIn, values: [a, b]}", false, false),
        // What the API rejects matches nothing.
        ("{key: app, operator: In}", false, false),
        ("{key: none, operator: NotIn, values: []}", false, false),
        ("{key: app, operator: Exists, values: [a]}", false, false),
        ("{key: none, operator: DoesNotExist, values: [a]}", false, false),
        ("{key: app, operator: in, values: [a]}", false, false),
    ];
    for (expression, selects_a, selects_b) in cases {
        let spec = format!("{{podSelector: {{matchExpressions: [{expression}]}}, policyTypes: [Ingress]}}");
        let c = world(&[("x", &spec)]);
        for (pod, selected) in [("x/a", selects_a), ("x/b", selects_b)] {
            let denied = judged(&c, "y/a", pod, "TCP/80").ingress == Verdict::Deny;
            assert_eq!(denied, selected, "{expression} on {pod}");
        }
    }
}

/// (spec, isolated for ingress, isolated for egress), with no rule that would let the probe through.
#[test]
fn row_12_policy_types_default() {
    let cases = [
        ("{podSelector: {}}", true, false),
        ("{podSelector: {}, policyTypes: []}", true, false),
        ("{podSelector: {}, policyTypes: null}", true, false),
        ("{podSelector: {}, egress: []}", true, false),
        ("{podSelector: {}, egress: null}", true, false),
        ("{podSelector: {}, egress: [{ports: [{port: 9}]}]}", true, true),
        ("{podSelector: {}, ingress: [{ports: [{port: 9}]}]}", true, false),
    ];
    for (spec, ingress, egress) in cases {
        let c = world(&[("x", spec)]);
        assert_eq!(judged(&c, "y/a", "x/a", "TCP/80").ingress == Verdict::Deny, ingress, "{spec}");
        assert_eq!(judged(&c, "x/a", "y/a", "TCP/80").egress == Verdict::Deny, egress, "{spec}");
    }
}

#[test]
fn row_13_policy_types_win_over_rules() {
    let c = world(&[("x", "{podSelector: {}, policyTypes: [Egress], ingress: [{ports: [{port: 9}]}]}")]);
    yes(&c, "y/a", "x/a", "TCP/80");
    no(&c, "x/a", "y/a", "TCP/9");
    // A rule of a direction that is not listed does not add to another policy's isolation of it either.
    let c = world(&[("x", DENY_IN), ("x", "{podSelector: {}, policyTypes: [Egress], ingress: [{}]}")]);
    no(&c, "y/a", "x/a", "TCP/80");
}

#[test]
fn row_14_no_rules_allow_nothing() {
    for rules in ["", ", ingress: []", ", ingress: null"] {
        let spec = format!("{{podSelector: {{}}, policyTypes: [Ingress]{rules}}}");
        let c = world(&[("x", &spec)]);
        for pp in ["TCP/80", "UDP/53", "SCTP/1", "ICMP"] {
            no(&c, "y/a", "x/a", pp);
            no(&c, OUTSIDE, "x/a", pp);
        }
    }
}

#[test]
fn rows_15_16_17_empty_rule_allows_everything() {
    let rules = ["{}", "{from: []}", "{ports: []}", "{from: null, ports: null}", "{from: [], ports: []}"];
    for rule in rules {
        let spec = format!("{{podSelector: {{}}, policyTypes: [Ingress], ingress: [{rule}]}}");
        let c = world(&[("x", &spec)]);
        for pp in ["TCP/80", "UDP/53", "SCTP/1", "ICMP"] {
            yes(&c, "y/a", "x/a", pp);
            yes(&c, OUTSIDE, "x/a", pp);
            yes(&c, OUTSIDE_V6, "x/a@6", pp);
            yes(&c, "node:n2", "x/a", pp);
        }
    }
}

#[test]
fn row_18_peers_and_ports_of_one_rule_only() {
    let c = world(&[(
        "x",
        "{podSelector: {matchLabels: {app: a}}, ingress: [
           {from: [{podSelector: {}}], ports: [{port: 80}, {port: 81}]},
           {from: [{namespaceSelector: {matchLabels: {team: '2'}}}, {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}], ports: [{port: 90}]}]}",
    )]);
    yes(&c, "x/b", "x/a", "TCP/80");
    yes(&c, "x/b", "x/a", "TCP/81");
    no(&c, "x/b", "x/a", "TCP/90");
    no(&c, "y/a", "x/a", "TCP/80");
    yes(&c, "y/a", "x/a", "TCP/90");
    yes(&c, "z/c", "x/a", "TCP/90");
}

#[test]
fn row_19_policies_add_up_in_any_order() {
    let allow = "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 80}]}]}";
    let more = "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}";
    for policies in [[("x", DENY_IN), ("x", allow), ("x", more)], [("x", more), ("x", allow), ("x", DENY_IN)]]
    {
        let c = world(&policies);
        yes(&c, "y/a", "x/a", "TCP/80");
        no(&c, "y/a", "x/a", "TCP/81");
        yes(&c, "x/b", "x/a", "TCP/81");
        no(&c, "y/a", "x/b", "TCP/80");
    }
}

#[test]
fn row_20_directions_are_separate_and_both_ends_must_allow() {
    let c = world(&[("x", "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}"), ("y", DENY_IN)]);
    assert_eq!(judged(&c, "x/a", "y/a", "TCP/81").egress, Verdict::Deny);
    assert_eq!(judged(&c, "x/a", "y/a", "TCP/81").ingress, Verdict::Deny);
    assert_eq!(judged(&c, "x/b", "y/a", "TCP/81").egress, Verdict::Allow);
    no(&c, "x/b", "y/a", "TCP/81");
    no(&c, "x/a", "z/c", "TCP/81");
    yes(&c, "y/a", "x/a", "TCP/80");
}

#[test]
fn row_36_own_node_to_pod_by_origin_never_by_address() {
    let c = world(&[("x", DENY_BOTH)]);
    for pp in ["TCP/80", "UDP/1", "ICMP"] {
        yes(&c, "node:n1", "x/a", pp);
        // The same source address, but not started by the node.
        no(&c, "192.0.2.1", "x/a", pp);
    }
    // By origin means whatever the source address: the bridge's, even a pod's, whose egress policy then has no say.
    let mut c = world(&[("x", DENY_BOTH), ("y", DENY_BOTH)]);
    for source in ["10.244.1.1", "10.244.2.20"] {
        c.nodes.get_mut("n1").unwrap().ips.insert(0, source.parse().unwrap());
        yes(&c, "node:n1", "x/a", "TCP/80");
    }
}

#[test]
fn row_37_pod_to_own_node_is_allowed() {
    let c = world(&[("x", DENY_BOTH)]);
    for pp in ["TCP/10250", "UDP/53", "ICMP"] {
        yes(&c, "x/a", "192.0.2.1", pp);
        no(&c, "x/a", "192.0.2.2", pp);
        yes(&c, "x/b", "192.0.2.2", pp);
    }
    yes(&c, "x/a@6", "fd00:c0de::1", "TCP/80");
}

#[test]
fn row_38_other_node_is_an_outside_source() {
    let c = world(&[("x", DENY_IN)]);
    no(&c, "node:n2", "x/a", "TCP/80");
    let block = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 192.0.2.2/32}}]}]}";
    let c = world(&[("x", block)]);
    yes(&c, "node:n2", "x/a", "TCP/80");
    yes(&c, "192.0.2.2", "x/a", "TCP/80");
    let c = world(&[("x", "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}")]);
    no(&c, "node:n2", "x/a", "TCP/80");
}

#[test]
fn row_39_loopback_is_always_allowed() {
    let c = world(&[("x", DENY_BOTH)]);
    yes(&c, "x/a", "x/a", "TCP/80");
    yes(&c, "x/a@6", "x/a@6", "ICMP");
    no(&c, "x/a", "x/b", "TCP/80");
}

#[test]
fn row_41_host_network_pods_are_the_node() {
    // Not a subject: neither its own traffic nor that of its node is judged.
    let c = world(&[("y", DENY_BOTH)]);
    yes(&c, OUTSIDE, "y/host", "TCP/80");
    yes(&c, "node:n1", OUTSIDE, "TCP/80");
    // Not a peer by selectors, in either direction; by address it is.
    let selectors = "[{namespaceSelector: {}, podSelector: {matchLabels: {app: a}}}]";
    let c = world(&[(
        "x",
        &format!("{{podSelector: {{}}, ingress: [{{from: {selectors}}}], egress: [{{to: {selectors}}}]}}"),
    )]);
    no(&c, "x/b", "y/host", "TCP/80");
    no(&c, "node:n1", "x/b", "TCP/80");
    yes(&c, "y/a", "x/b", "TCP/80");
    let blocks = "[{ipBlock: {cidr: 192.0.2.1/32}}]";
    let c = world(&[(
        "x",
        &format!("{{podSelector: {{}}, ingress: [{{from: {blocks}}}], egress: [{{to: {blocks}}}]}}"),
    )]);
    yes(&c, "x/b", "y/host", "TCP/80");
    yes(&c, "node:n1", "x/b", "TCP/80");
}

#[test]
fn rows_42_43_pending_and_terminating_pods_count() {
    let from_app_a =
        "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]}";
    let mut c = world(&[("x", from_app_a)]);
    pod_mut(&mut c, "x/a").terminating = true;
    pod_mut(&mut c, "x/b").phase = Phase::Pending;
    yes(&c, "x/a", "x/b", "TCP/80");
    no(&c, "y/a", "x/b", "TCP/80");
}

#[test]
fn rows_44_45_finished_pods_are_gone() {
    for phase in [Phase::Succeeded, Phase::Failed] {
        let both =
            "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}], egress: [{to: [{podSelector: {}}]}]}";
        let mut c = world(&[("x", both)]);
        yes(&c, "x/a", "x/b", "TCP/80");
        pod_mut(&mut c, "x/a").phase = phase;
        // Neither subject nor peer: its address is an outside address.
        yes(&c, OUTSIDE, "x/a", "TCP/80");
        yes(&c, "x/a", OUTSIDE, "TCP/80");
        no(&c, "x/a", "x/b", "TCP/80");
        no(&c, "x/b", "x/a", "TCP/80");
        // The address has a new owner, listed before or after: only that one counts.
        for at in [0, c.pods.len()] {
            let mut c = c.clone();
            c.pods.insert(at, pod("z/new", "n1", &["10.244.1.10"], &[("app", "a")]));
            no(&c, "10.244.1.10", "x/b", "TCP/80");
            yes(&c, OUTSIDE, "10.244.1.10", "TCP/80");
            c.policies.push(Policy {
                ns: "z".to_owned(),
                name: "deny".to_owned(),
                spec: world(&[("z", DENY_IN)]).policies[0].spec.clone(),
            });
            no(&c, OUTSIDE, "10.244.1.10", "TCP/80");
        }
    }
}

#[test]
fn row_46_label_changes_count_at_both_ends() {
    let spec = "{podSelector: {matchLabels: {role: server}}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: '1'}}, podSelector: {matchLabels: {role: client}}}]}]}";
    let mut c = world(&[("y", spec)]);
    yes(&c, "x/a", "y/a", "TCP/80");
    pod_mut(&mut c, "y/a").labels = labels(&[("role", "server")]);
    no(&c, "x/a", "y/a", "TCP/80");
    pod_mut(&mut c, "x/a").labels = labels(&[("role", "client")]);
    yes(&c, "x/a", "y/a", "TCP/80");
    c.namespaces.insert("x".to_owned(), labels(&[]));
    no(&c, "x/a", "y/a", "TCP/80");
}

#[test]
fn row_47_namespaces_always_carry_their_name() {
    let from = |ns: &str| {
        format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {ns}}}}}}}]}}]}}"
        )
    };
    let c = world(&[("y", &from("x"))]);
    yes(&c, "x/a", "y/a", "TCP/80");
    no(&c, "z/c", "y/a", "TCP/80");
    // z has no manifest: its pods and their labels are all that is known of it.
    let c = world(&[("y", &from("z"))]);
    yes(&c, "z/c", "y/a", "TCP/80");
    // And its policies count.
    let c = world(&[("z", DENY_IN)]);
    no(&c, "x/a", "z/c", "TCP/80");
}

#[test]
fn row_57_every_address_of_a_pod_counts() {
    let c = world(&[("x", "{podSelector: {}, ingress: [{from: [{podSelector: {}}]}]}")]);
    for v in ["", "@6"] {
        yes(&c, &format!("x/b{v}"), &format!("x/a{v}"), "TCP/80");
        no(&c, &format!("y/a{v}"), &format!("x/a{v}"), "TCP/80");
    }
}
