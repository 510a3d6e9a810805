//! The parts of the case format that the public file does not use.

use sluice_oracle::cases::{CasesFile, OutOfScope, Want};
use sluice_oracle::judge;

const FILE: &str = "
version: 1
worlds:
  w:
    namespaces: {x: {}, y: {}}
    nodes:
      n1: {labels: {}, ips: [192.0.2.1, 'fd00::1']}
      n2: {ips: [192.0.2.2]}
    pods:
      x/a: {labels: {app: a}, node: n1, ips: [10.0.1.1, 'fd00:1::1']}
      y/b: {labels: {app: b}, node: n2, ips: [10.0.2.1, 'fd00:2::1']}
      y/h: {node: n2, hostNetwork: true, ips: [192.0.2.2]}
    serve:
      pods: [{name: web, proto: TCP, port: 80}, {name: '', proto: UDP, port: 53}]
      hostNetwork: [{name: web, proto: TCP, port: 31000}]
cases:
- id: t-1
  suite: test
  title: everything
  world: w
  steps:
  - do:
    - np: {name: p, ns: x, spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {app: new}}}], ports: [{port: extra}]}]}}
    - note: the words of it
    - restart_agent
    - pod: {ns: x, name: c, labels: {app: new}, node: n1, ips: [10.0.1.3]}
    - pod: {ns: x, name: a, ports: [{name: extra, proto: TCP, port: 99}]}
    - node: {name: n1, labels: {role: edge}}
    probes:
    - {from: x/c, to: x/a, pp: TCP/99, want: allow}
    - {from: x/c, to: x/a, pp: TCP/80, want: deny}
    - {from: 'node:n1', to: x/a, pp: TCP/80, want: allow}
    - {from: y/h, to: x/a, pp: TCP/80, want: deny}
    - {from: 'ext:203.0.113.1', to: x/a, pp: ICMP, want: deny}
    - {from: y/b, to: x/a, pp: TCP/80, want: deny, via: ipv6}
    - {from: y/b, to: x/c, pp: TCP/80, want: deny, via: ipv6}
    - {from: y/b, to: 'ip:10.0.1.1', pp: TCP/80, want: deny, src_ip: 192.0.2.2}
    - {from: y/b, to: 'svc:10.96.0.1', pp: TCP/80, want: allow}
    - {from: 'ext:203.0.113.1', to: 'nodeport:n1:30000', pp: TCP/80, want: allow}
    - {from: y/b, to: x/a, pp: TCP/80, want: choice}
    - {from: y/b, to: x/a, pp: TCP/80, want: mixed}
    - {from: y/b, to: x/a, pp: TCP/80, want: deny, kind: packet, flags: SYN}
    - {from: y/b, to: x/a, pp: TCP/80, want: deny, oracle: false}
    grids:
    - {pp: [TCP/99], pods: [x/c, x/a], grid: -./X-}
  - do:
    - del_np: {ns: x, name: p}
    - cnp: {name: q, spec: {tier: Admin}}
    grids:
    - {pp: [TCP/80], grid: '-.../.-../..-./...-'}
  - do:
    - del_cnp: {name: q}
    - del_pod: {ns: y, name: h}
    - del_ns: {name: y}
    - ns: {name: z, labels: {team: t}}
    - pod: {ns: x, name: c, phase: Succeeded}
    grids:
    - {pp: [TCP/80, UDP/1], grid: -./.-}
";

#[test]
fn every_action_and_place() {
    let file = CasesFile::parse(FILE).unwrap();
    let steps: Vec<_> = file.steps(&file.cases[0]).unwrap().map(|step| step.unwrap()).collect();

    let (_, state, expectations) = &steps[0];
    assert_eq!(state.words, ["note: \"the words of it\"", "restart_agent: null"]);
    assert_eq!(state.cluster.nodes["n1"].labels["role"], "edge");
    let mut reasons = Vec::new();
    for expectation in expectations {
        match state.flow(expectation) {
            Ok(flow) => {
                let allowed = judge(&state.cluster, &flow).allowed();
                assert_eq!(allowed, expectation.want == Want::Allow, "{expectation:?}: {flow}");
            }
            Err(reason) => reasons.push(reason),
        }
    }
    let special = |text: &str| OutOfScope::Special(text.to_owned());
    assert_eq!(
        reasons,
        [
            OutOfScope::NoAddress,
            OutOfScope::Service,
            OutOfScope::Service,
            OutOfScope::NoSingleVerdict,
            OutOfScope::NoSingleVerdict,
            special("kind: packet, flags: \"SYN\""),
            special("oracle: false"),
        ]
    );

    let (_, state, expectations) = &steps[1];
    assert_eq!(expectations.len(), 12);
    for expectation in expectations {
        assert_eq!(state.flow(expectation), Err(OutOfScope::ClusterNetworkPolicy));
    }

    let (_, state, expectations) = &steps[2];
    assert_eq!(state.cluster.pods.len(), 2);
    assert!(state.cluster.policies.is_empty() && state.cluster.namespaces.contains_key("z"));
    assert_eq!(expectations.len(), 4);
    assert!(expectations.iter().all(|expectation| state.flow(expectation).is_ok()));
}

#[test]
fn what_cannot_be_read_names_the_case_the_place_and_the_value() {
    let wrong = [
        ("- note: the words of it", "- shout: {name: q}", "steps[0].do[1]: action shout: unknown"),
        ("- note: the words of it", "- pod: {ns: x, name: c, colour: red}", "unknown field `colour`"),
        ("- note: the words of it", "- np: {name: q, ns: x}", "steps[0].do[1]: action np: no spec"),
        ("pods: [x/c, x/a], grid", "colour: red, grid", "steps[0].grids[0].colour: unknown field `colour`"),
        ("grid: -./X-}\n  - do", "grid: -./X-/--}\n  - do", "grid 1: 3 rows for 2 pods: -./X-/--"),
        ("grid: -./X-}\n  - do", "grid: -?/X-}\n  - do", "grid 1: grid: cell '?' of row -?"),
        ("pp: ICMP", "pp: GRE", "probe 5: protocol GRE"),
        ("want: mixed", "want: perhaps", "probe 12: want: perhaps"),
        ("kind: packet", "kind: parcel", "probe 13: kind: parcel"),
        ("kind: packet, ", "", "probe 13: flags: \"SYN\": no field of a probe"),
        ("del_cnp: {name: q}", "del_cnp: {name: other}", "del_cnp other: no such policy"),
        ("world: w", "world: other", "no world other"),
    ];
    for (right, wrong, why) in wrong {
        let text = FILE.replacen(right, wrong, 1);
        assert_ne!(text, FILE, "{right} is not in the file");
        let file = CasesFile::parse(&text).unwrap();
        let mut errors: Vec<String> =
            file.unreadable.iter().map(|case| format!("{}: {}", case.id, case.error)).collect();
        for case in &file.cases {
            let steps = file.steps(case).and_then(|mut steps| steps.try_for_each(|step| step.map(drop)));
            errors.extend(steps.err().map(|error| format!("{error:#}")));
        }
        assert!(errors.len() == 1 && errors[0].contains(why), "{wrong}: {errors:?} lacks {why:?}");
    }
}

#[test]
fn a_case_that_cannot_be_read_leaves_the_others() {
    let text =
        format!("{FILE}- {{id: t-2, colour: red}}\n- {{id: t-1, suite: s, title: t, world: w, steps: []}}\n");
    let file = CasesFile::parse(&text).unwrap();
    assert_eq!(file.cases.len(), 1);
    let ids: Vec<&str> = file.unreadable.iter().map(|case| case.id.as_str()).collect();
    assert_eq!(ids, ["t-2", "t-1"]);
    assert!(file.unreadable[0].error.contains("unknown field `colour`"), "{:?}", file.unreadable);
    assert!(file.unreadable[1].error.contains("another case has it"), "{:?}", file.unreadable);

    let other = FILE.replacen("version: 1", "version: 2", 1);
    assert!(CasesFile::parse(&other).unwrap_err().to_string().contains("version: 2"));
}
