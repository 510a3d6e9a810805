//! Absurd objects, from a folder: nothing has looked at them before the agent does.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::agent_world::Lab;
use sluice_tests::usage::Usage;

use super::{MOST_MEMORY, alone, follows, usage, village, wrong_with};

/// What an agent may need for one of them, on a machine that does other things, unoptimised.
const PATIENCE: Duration = Duration::from_secs(20);

/// An absurd object, and what becomes of it.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) objects: Vec<Value>,
    /// What the error says; none where the object is enforced as it stands.
    pub(super) refused: Option<&'static str>,
    /// Where a pod of `dev` is reached then, from `prod`.
    pub(super) web: &'static str,
}

pub(super) fn policy(ingress: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "namespace": "dev", "name": "absurd" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"], "ingress": ingress },
    })
}

pub(super) fn pod(name: &str, labels: Value, spec: Value, status: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "namespace": "dev", "name": name, "labels": labels },
        "spec": spec, "status": status,
    })
}

fn host(n: u32) -> String {
    format!("{}/32", std::net::Ipv4Addr::from_bits(0x0b00_0000 + 2 * n))
}

fn each<T: Into<Value>>(count: u32, of: impl Fn(u32) -> T) -> Value {
    Value::Array((0..count).map(|n| of(n).into()).collect())
}

fn block(cidr: &str) -> Value {
    json!({ "ipBlock": { "cidr": cidr } })
}

/// Those that an API server takes too.
fn policies() -> Vec<Case> {
    let enforced = |name, ingress, web| Case { name, objects: vec![policy(ingress)], refused: None, web };
    let refused =
        |name, ingress, why| Case { name, objects: vec![policy(ingress)], refused: Some(why), web: "hangs" };
    let with_endpoint = |n: u32, last: u32| json!({ "ports": [{ "port": 1 + n, "endPort": last }] });
    let values = each(10_000, |n| format!("v{n}"));
    vec![
        enforced(
            "10,000 rules that differ in labels",
            each(10_000, |n| {
                json!({
                    "from": [{ "podSelector": { "matchLabels": { "app": format!("a{n}") } } }], "ports": [{ "port": 80 }],
                })
            }),
            "hangs",
        ),
        refused(
            "10,000 rules, each with an address and a port of its own",
            each(10_000, |n| json!({ "from": [block(&host(n))], "ports": [{ "port": 1 + n }] })),
            "spec.ingress: 1570000: words of port classes are too many: 65536 may be in one policy",
        ),
        refused(
            "65,535 rules with a port each",
            each(65_535, |n| json!({ "ports": [{ "port": 1 + n }] })),
            "spec.ingress: 65535: rules are too many: 10000 may be in one policy",
        ),
        enforced(
            "65,535 entries of ports in one rule",
            json!([{ "ports": each(65_535, |n| json!({ "port": 1 + n })) }]),
            "opens",
        ),
        enforced(
            "65,000 ranges of ports that overlap in one rule",
            json!([{ "ports": each(65_000, |n| json!({ "port": 1 + n % 30_000, "endPort": 65_535 - n / 3 })) }]),
            "opens",
        ),
        refused(
            "10,000 rules with ranges within each other",
            each(10_000, |n| with_endpoint(n, 65_535 - n)),
            "words of port classes are too many",
        ),
        refused(
            "10,000 rules with ranges that overlap in part",
            each(10_000, |n| with_endpoint(n, 30_000 + n)),
            "words of port classes are too many",
        ),
        enforced(
            "1,000 rules with ranges within each other",
            each(1_000, |n| with_endpoint(n, 65_535 - n)),
            "opens",
        ),
        refused(
            "10,000 rules for everybody but one",
            each(
                10_000,
                |n| json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": [host(n)] } }] }),
            ),
            "overlaps of CIDRs with lists of peers are too many: 1000000 may be in one policy",
        ),
        enforced(
            "100,000 exceptions",
            json!([{ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": each(100_000, host) } }] }]),
            "opens",
        ),
        enforced("100,000 CIDRs", json!([{ "from": each(100_000, |n| block(&host(n))) }]), "hangs"),
        enforced(
            "lists of 10,000 values",
            json!([{ "from": [{ "namespaceSelector": {}, "podSelector": { "matchExpressions": [
                { "key": "app", "operator": "NotIn", "values": values.clone() },
                { "key": "app", "operator": "In", "values": ["client"] },
            ] } }] }]),
            "opens",
        ),
        enforced(
            "10,000 requirements",
            json!([{ "from": [{ "namespaceSelector": {}, "podSelector": { "matchExpressions":
                each(10_000, |n| json!({ "key": format!("k{n}"), "operator": "DoesNotExist" })) } }] }]),
            "opens",
        ),
    ]
}

/// All of them in the long form; else one of each `step`, beginning with the one at `first`.
pub(super) fn chosen(first: usize, step: usize) -> impl Iterator<Item = Case> {
    let (first, step) = if std::env::var_os("SLUICE_TEST_LONG").is_some() { (0, 1) } else { (first, step) };
    policies().into_iter().skip(first).step_by(step)
}

/// Those that only a folder can hold.
fn of_a_folder() -> Vec<Case> {
    let long = "x".repeat(1 << 20);
    let refused = |name, object, why, web| Case { name, objects: vec![object], refused: Some(why), web };
    let ports = |count: u32| {
        json!({ "containers": [{ "ports": each(count, |n| json!({
        "name": format!("p{n}"), "containerPort": 1 + n % 65_535,
    })) }] })
    };
    let named = policy(json!([{ "ports": each(10_000, |n| json!({ "port": format!("p{n}") })) }]));
    vec![
        refused(
            "a million CIDRs",
            policy(json!([{ "from": each(1_000_000, |n| block(&host(n))) }])),
            "NetworkPolicy dev/absurd is larger than 8 MiB, which no API server stores",
            "hangs",
        ),
        refused(
            "150,000 CIDRs",
            policy(json!([{ "from": each(150_000, |n| block(&host(n))) }])),
            "NetworkPolicy dev/absurd: spec.ingress: 150000: different CIDRs and exceptions are too many: 120000 may be",
            "hangs",
        ),
        refused(
            "a label of a megabyte",
            pod("absurd", json!({ "app": long }), json!({}), json!({ "podIP": "10.99.0.1" })),
            "Pod dev/absurd: metadata.labels.app: \"xxx",
            "opens",
        ),
        refused(
            "a key of a megabyte",
            pod("absurd", json!({ long: "x" }), json!({}), json!({ "podIP": "10.99.0.1" })),
            "must be a label key",
            "opens",
        ),
        refused(
            "10,000 addresses of one pod",
            pod(
                "absurd",
                json!({}),
                json!({}),
                json!({ "podIPs": each(10_000, |n| json!({
                "ip": std::net::Ipv4Addr::from_bits(0x0a63_0000 + n).to_string(),
            })) }),
            ),
            "and 9949 more errors",
            "opens",
        ),
        Case {
            name: "10,000 named ports of one pod, and a policy that uses all",
            objects: vec![pod("absurd", json!({}), ports(10_000), json!({ "podIP": "10.99.0.1" })), named],
            refused: None,
            web: "hangs",
        },
        Case {
            name: "100,000 labels of one pod",
            objects: vec![pod(
                "absurd",
                (0..100_000).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into(),
                json!({}),
                json!({ "podIP": "10.99.0.1" }),
            )],
            refused: None,
            web: "opens",
        },
    ]
}

#[test]
fn each_is_enforced_or_refused_in_time_and_memory_and_nobody_else_notices() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhobj"))?;
    follows(&lab)?;
    let pid = lab.agents[0].id();
    let before = usage(&lab)?;
    let mut report = String::new();
    for Case { name, objects, refused, web } in chosen(0, 2).chain(of_a_folder()) {
        Usage::forget_peak(pid)?;
        // Values one after the other, as kubectl reads them.
        let text: String = objects.iter().map(|object| format!("{object}\n")).collect();
        lab.manifests.write("absurd.json", &text)?;
        let began = Instant::now();
        lab.sync().with_context(|| name.to_owned())?;
        let taken = began.elapsed();
        let errors = wrong_with(&lab)?;
        let followed = follows(&lab).with_context(|| name.to_owned())?;
        let peak = usage(&lab)?.peak;
        writeln!(report, "{name}: {taken:.2?}, then a change {followed:.2?}, {} MiB", peak >> 20)?;
        match refused {
            None => assert_eq!(errors, Vec::<String>::new(), "{name}"),
            Some(why) => {
                assert!(errors.iter().any(|error| error.contains(why)), "{name}: {errors:.500?}");
                assert!(errors.iter().all(|error| error.len() < 500 && error.contains("absurd")), "{name}");
            }
        }
        let wrong = lab.mismatches_of_probes(&format!("prod/client dev/web tcp/80 {web} v4"))?;
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
        assert!(taken < PATIENCE, "{name}: {taken:?}\n{report}");
        assert!(peak < MOST_MEMORY, "{name}: {} MiB\n{report}", peak >> 20);
        lab.manifests.remove("absurd.json")?;
        lab.sync()?;
        assert_eq!(wrong_with(&lab)?, Vec::<String>::new(), "after {name}");
        lab.expect_probes("prod/client dev/web tcp/80 opens v4");
    }
    println!("{report}");
    let after = usage(&lab)?;
    assert_eq!(after.descriptors.len(), before.descriptors.len());
    // What the C library's allocator keeps for the next time.
    ensure!(after.resident < before.resident + (512 << 20), "{} MiB stay\n{report}", after.resident >> 20);
    Ok(())
}

/// Each is small; together they are not.
#[test]
fn many_policies_that_overlap_are_refused_together() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhsum"))?;
    follows(&lab)?;
    let pid = lab.agents[0].id();
    Usage::forget_peak(pid)?;
    for n in 0..20_u32 {
        let rules = each(
            700,
            |m| json!({ "from": [{ "ipBlock": { "cidr": "0.0.0.0/0", "except": [host(700 * n + m)] } }] }),
        );
        let mut object = policy(rules);
        object["metadata"]["name"] = json!(format!("part{n}"));
        lab.manifests.write(&format!("part{n}.json"), &object.to_string())?;
    }
    let began = Instant::now();
    // Not everything is enforced, so that nothing is in sync.
    let synced = lab.sync();
    let taken = began.elapsed();
    let (errors, peak) = (wrong_with(&lab)?, usage(&lab)?.peak);
    println!("{taken:?}, {} MiB: {synced:?}, {errors:?}", peak >> 20);
    assert!(errors.iter().any(|error| error.contains("overlaps of CIDRs")), "{errors:?}");
    assert!(taken < PATIENCE && peak < MOST_MEMORY, "{taken:?}, {} MiB", peak >> 20);
    // What was enforced stays so.
    lab.expect_probes("prod/client prod/web tcp/80 opens v4");
    for n in 0..20 {
        lab.manifests.remove(&format!("part{n}.json"))?;
    }
    lab.sync()?;
    follows(&lab)?;
    Ok(())
}

/// What a terminal would take for more than text, at every place of an object that holds some.
#[test]
fn no_text_of_an_object_reaches_a_terminal_as_it_is() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhterm"))?;
    let evil = "\u{1b}[31mred\u{1b}]0;title\u{7}\r\nnew line\u{9b}2J\u{202e}\u{200f}\u{2028}";
    let samples = [
        policy(json!([{
            "from": [
                { "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] } },
                { "podSelector": { "matchLabels": { "a": "b" }, "matchExpressions": [
                    { "key": "k", "operator": "In", "values": ["v"] },
                ] } },
            ],
            "ports": [{ "port": "http", "protocol": "TCP" }],
        }])),
        pod(
            "absurd",
            json!({ "a": "b" }),
            json!({ "nodeName": "node1", "containers": [{ "ports": [
            { "name": "http", "containerPort": 80, "protocol": "TCP" },
        ] }] }),
            json!({ "podIP": "10.99.0.1", "podIPs": [{ "ip": "10.99.0.1" }], "phase": "Running" }),
        ),
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "absurd", "labels": { "a": "b" } } }),
        json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "absurd" }, "status": { "addresses": [
            { "type": "InternalIP", "address": "10.99.0.2" },
        ] } }),
    ];
    let mut count = 0;
    for sample in &samples {
        for (at, broken) in poisoned(sample, evil).into_iter().enumerate() {
            lab.manifests.write(&format!("evil{count}-{at}.json"), &broken.to_string())?;
            count += 1;
        }
    }
    lab.manifests.write("yaml.yaml", "a: \"\\e[31m\\r\\n\": \u{9b}2J\n")?;
    lab.manifests.write("\u{1b}[31mname\n.yaml", "not: [an object")?;
    lab.sync()?;
    assert!(count > 40 && wrong_with(&lab)?.len() > 20, "{count}: {:?}", wrong_with(&lab)?.len());
    let socket = lab.agents[0].socket();
    let socket = socket.to_str().context("UTF-8")?;
    let folder = lab.manifests.path().to_str().context("UTF-8")?;
    let status = lab.run(&["status", "--socket", socket])?;
    let (web, client) =
        (lab.addresses("dev/web")?[0].to_string(), lab.addresses("prod/client")?[0].to_string());
    let explained =
        lab.run(&["explain", "--manifests", folder, "--from", &client, "--to", &web, "--port", "80/TCP"])?;
    for (what, bytes) in [
        ("status", status.stdout),
        ("status, errors", status.stderr),
        ("explain", explained.stdout),
        ("explain, errors", explained.stderr),
        ("log", lab.agents[0].log().into_bytes()),
    ] {
        let text = String::from_utf8(bytes)?;
        let bad =
            |c: char| c != '\n' && (c.is_control() || matches!(c, '\u{202e}' | '\u{200f}' | '\u{2028}'));
        let line = text.lines().find(|line| line.contains(bad) || line.starts_with("new line"));
        assert_eq!(line, None, "{what}");
    }
    Ok(())
}

/// The value with each of its texts in turn, keys too, replaced.
fn poisoned(value: &Value, evil: &str) -> Vec<Value> {
    match value {
        Value::String(_) => vec![json!(evil)],
        Value::Array(items) => {
            let replaced = items.iter().enumerate().flat_map(|(at, item)| {
                poisoned(item, evil).into_iter().map(move |item| {
                    let mut items = items.clone();
                    items[at] = item;
                    Value::Array(items)
                })
            });
            replaced.collect()
        }
        Value::Object(map) => {
            let mut all = Vec::new();
            for (key, item) in map {
                for item in poisoned(item, evil) {
                    let mut map = map.clone();
                    map.insert(key.clone(), item);
                    all.push(Value::Object(map));
                }
                let mut map = map.clone();
                map.remove(key);
                map.insert(evil.to_owned(), item.clone());
                all.push(Value::Object(map));
            }
            all
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => vec![json!(evil)],
    }
}

/// Addresses that no pod has in a cluster: none of them may take the policy off an interface, or put it on another's.
#[test]
fn addresses_that_are_no_pods() -> Result<()> {
    let _alone = alone();
    let lab = Lab::start(village("slhaddr"))?;
    follows(&lab)?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    let node = lab.addresses("node1")?[0].to_string();
    let web = lab.addresses("prod/web")?[0];
    let mapped = format!("::ffff:{web}");
    for ip in ["0.0.0.0", "255.255.255.255", "127.0.0.1", "224.0.0.1", "::", "::1", "ff02::1", &node, &mapped]
    {
        let object =
            pod("absurd", json!({ "app": "absurd" }), json!({ "nodeName": "node1" }), json!({ "podIP": ip }));
        lab.manifests.write("absurd.json", &object.to_string())?;
        // An address that is another pod's is refused; the others wait for an interface that never comes.
        let synced = lab.sync();
        lab.expect_probes("prod/client dev/web tcp/80 hangs v4\nprod/client prod/web tcp/80 opens v4");
        let errors = wrong_with(&lab)?;
        println!("{ip}: {synced:?} {errors:?}");
        if ip == mapped {
            assert!(
                errors.iter().any(|error| error.contains("is the address of Pod prod/web already")),
                "{errors:?}"
            );
        }
        lab.manifests.remove("absurd.json")?;
        lab.sync()?;
    }
    follows(&lab)?;
    Ok(())
}
