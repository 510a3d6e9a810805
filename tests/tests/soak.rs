//! What an agent holds of the machine stays what it was over thousands of changes, and at rest it does nothing.
//!
//! The short form makes 300 changes; with `SLUICE_TEST_LONG=1` they are 10,000.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, policy, policy_file};
use sluice_tests::usage::Usage;

/// Before anything is measured: caches and the allocator's arenas have their size then.
const WARM_UP: u32 = 40;
const SHORT: u32 = 300;
const LONG: u32 = 10_000;
/// The allocator's waste, not a leak: a byte lost with each of 10,000 changes would have to be less than a kilobyte.
const SLACK: u64 = 8 << 20;
const REST: Duration = Duration::from_secs(5);

fn village() -> WorldBuilder {
    World::builder("slsoak")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("dev", "web", "node1").label("app", "web").serve_tcp(80))
        .pod(PodSpec::new("dev", "client", "node1").label("app", "client"))
}

/// What has to be the same at the end.
#[derive(Clone, Debug)]
struct Holding {
    usage: Usage,
    pins: BTreeSet<String>,
    /// Of the tables, what `/metrics` says is in use.
    tables: Vec<String>,
    endpoints: usize,
    flows: usize,
}

impl Holding {
    fn of(lab: &Lab) -> Result<Self> {
        let agent = lab.agents.first().context("there is no agent")?;
        let socket = agent.socket();
        let flows = lab.run(&["flows", "--output", "json", "--socket", socket.to_str().context("UTF-8")?])?;
        let flows: Value = serde_json::from_slice(&flows.stdout)?;
        let node = lab.world.node("node1")?;
        let text = sluice_tests::agent_world::shell(node.ns(), "curl -s -m 5 http://127.0.0.1:9878/metrics")?;
        let tables = text.lines().filter(|line| line.starts_with("sluice_bpf_map_pressure{"));
        let tables: Vec<String> = tables.filter(|line| !line.contains("flows")).map(str::to_owned).collect();
        ensure!(!tables.is_empty(), "no tables in the metrics: {text}");
        Ok(Self {
            usage: Usage::of(agent.id())?,
            pins: pins(node.bpffs())?,
            tables,
            endpoints: agent.status()?["endpoints"].as_array().map_or(0, Vec::len),
            flows: flows.as_array().map_or(0, Vec::len),
        })
    }
}

fn pins(folder: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        names.insert(entry.path().display().to_string());
        if entry.file_type()?.is_dir() {
            names.append(&mut pins(&entry.path())?);
        }
    }
    Ok(names)
}

/// One change of each kind in turn; what comes also goes.
fn churn(lab: &mut Lab, n: u32) -> Result<()> {
    let object = |name: &str, app: &str, last: u32| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: dev, name: {name}, uid: {name}-{n}, labels: {{app: {app}}}}}\n\
             spec: {{nodeName: elsewhere, containers: [{{ports: [{{name: http, containerPort: {}}}]}}]}}\n\
             status: {{podIP: 10.77.{}.{last}}}\n",
            1 + n % 60_000,
            n % 250,
        )
    };
    let spec = |port: u32| {
        format!(
            "podSelector: {{}}, policyTypes: [Ingress, Egress], egress: [{{ports: [{{port: http}}]}}], \
             ingress: [{{from: [{{podSelector: {{matchLabels: {{app: a{}}}}}}}, {{ipBlock: {{cidr: 10.{}.0.0/16}}}}], \
             ports: [{{port: {port}, endPort: {}}}]}}]",
            n % 7,
            n % 256,
            port + n % 9,
        )
    };
    let (own, rule) = (format!("churn-{}.yaml", n % 5), format!("dev/churn{}", n % 3));
    match n % 10 {
        0 => {
            let name = format!("real{n}");
            let spec = PodSpec::new("dev", &name, "node1").label("app", "real").serve_tcp(80);
            let pod = lab.world.add_pod(spec)?.clone();
            lab.manifests.pod(&pod)?;
            lab.sync()?;
            let to = lab.sockets(&format!("dev/{name}"), 80)?[0];
            drop(sluice_netns::tcp_connect(&lab.ns("dev/client")?, to, Duration::from_millis(200)));
            lab.manifests.remove_pod(&pod)?;
            lab.world.remove_pod(&format!("dev/{name}"))?;
        }
        1 | 2 => lab.manifests.write(&own, &object(&format!("p{}", n % 5), &format!("a{}", n % 7), 1 + n % 200))?,
        3 | 4 => lab.manifests.write(&policy_file(&rule), &policy(&rule, &spec(1 + n % 50_000)))?,
        5 => lab.manifests.write(&own, &object(&format!("p{}", n % 5), "relabelled", 1 + n % 200))?,
        6 => lab.manifests.write("broken.yaml", "kind: NetworkPolicy\napiVersion: networking.k8s.io/v1\nmetadata: {namespace: other, name: x}\nspec: {podSelector: 7}\n")?,
        7 => lab.manifests.remove("broken.yaml")?,
        8 => {
            // What nobody has written yet is not there to be removed.
            let _ = lab.manifests.remove(&policy_file(&rule));
        }
        _ => {
            let _ = lab.manifests.remove(&own);
        }
    }
    lab.sync()
}

fn clear(lab: &Lab) -> Result<()> {
    for entry in fs::read_dir(lab.manifests.path())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains("churn") || name == "broken.yaml" {
            lab.manifests.remove(&name)?;
        }
    }
    lab.sync()
}

#[test]
fn what_it_holds_stays_and_at_rest_it_does_nothing() -> Result<()> {
    let mut lab = Lab::without_agents(village())?;
    lab.start_agents(&["--metrics-address", "127.0.0.1:9878"])?;
    for n in 0..WARM_UP {
        churn(&mut lab, n)?;
    }
    clear(&lab)?;
    let before = Holding::of(&lab)?;
    let count = if std::env::var_os("SLUICE_TEST_LONG").is_some() { LONG } else { SHORT };
    let began = Instant::now();
    for n in WARM_UP..WARM_UP + count {
        churn(&mut lab, n).with_context(|| format!("change {n}"))?;
    }
    clear(&lab)?;
    let taken = began.elapsed();
    // What was freed goes a second after the last change.
    thread::sleep(Duration::from_secs(2));
    let after = Holding::of(&lab)?;
    let grown = after.usage.resident.saturating_sub(before.usage.resident);
    println!(
        "{count} changes in {taken:.1?}: {} -> {} KiB, {} -> {} descriptors, {} -> {} threads, flows {} -> {}",
        before.usage.resident >> 10,
        after.usage.resident >> 10,
        before.usage.descriptors.len(),
        after.usage.descriptors.len(),
        before.usage.threads,
        after.usage.threads,
        before.flows,
        after.flows,
    );
    assert_eq!(after.usage.descriptors, before.usage.descriptors);
    assert_eq!(after.usage.threads, before.usage.threads);
    assert_eq!(after.usage.bpf.len(), before.usage.bpf.len(), "{:?} {:?}", before.usage.bpf, after.usage.bpf);
    assert_eq!(after.pins.len(), before.pins.len(), "{:?} {:?}", before.pins, after.pins);
    assert_eq!(after.tables, before.tables);
    assert_eq!(after.endpoints, before.endpoints);
    assert!(grown < SLACK, "{grown} bytes more after {count} changes");
    // Flows of pods that are gone are forgotten in time, and there were few.
    assert!(after.flows <= before.flows + 4 * (count as usize / 10) + 8, "{} flows", after.flows);

    let rest = Instant::now();
    let begin = Usage::of(lab.agents[0].id())?;
    thread::sleep(REST);
    let end = Usage::of(lab.agents[0].id())?;
    let busy = (end.processor - begin.processor).as_secs_f64() / rest.elapsed().as_secs_f64();
    let switches = end.switches - begin.switches;
    println!("at rest: {:.2} % of a processor, {switches} wake-ups in {REST:?}", busy * 100.0);
    assert!(busy < 0.01, "{:.2} % of a processor at rest", busy * 100.0);
    assert!(switches < 100, "{switches} wake-ups at rest");
    assert_eq!(end.descriptors, begin.descriptors);
    Ok(())
}
