//! Each table at its limit, with the real agent: what was enforced stays so exactly, a new pod that does not fit is closed,
//! everything else comes into force, status, metrics and Events say so, and room that is made is used by itself.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, endpoint, eventually, outside6, policy, policy_file};
use sluice_tests::cluster_world::ClusterLab;

/// What is held back is tried again every five seconds; a busy machine takes longer.
const BY_ITSELF: Duration = Duration::from_secs(60);
const METRICS: &str = "127.0.0.1:9878";

fn pod(namespace: &str, name: &str) -> PodSpec {
    PodSpec::new(namespace, name, "node1").serve_tcp(80)
}

fn world() -> WorldBuilder {
    World::builder("slful")
        .node(NodeSpec::new("node1"))
        .namespace("dev", &[("team", "dev")])
        .namespace("prod", &[("team", "prod")])
        .pod(pod("dev", "web"))
        .pod(pod("dev", "client").label("app", "client"))
        .pod(pod("prod", "web"))
}

fn start(option: &str, entries: &str) -> Result<Lab> {
    Lab::start_with(world(), &[option, entries, "--metrics-address", METRICS])
}

/// What was in force before, and stays so.
const OLD: &str =
    "podSelector: {}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]";
const OLD_VERDICTS: &str = "
    dev/client dev/web tcp/80 opens
    prod/web dev/web tcp/80 hangs
    dev/web prod/web tcp/80 opens
";

/// One rule for each of `count` peers.
fn rules(count: u32, rule: impl Fn(u32) -> String) -> String {
    let rules: Vec<String> = (0..count).map(rule).collect();
    format!("podSelector: {{}}, ingress: [{}]", rules.join(", "))
}

fn write_policy(lab: &Lab, name: &str, spec: &str) -> Result<()> {
    lab.manifests.write(&policy_file(name), &policy(name, spec))
}

/// Waits until the first agent's status is as it should be.
fn until(lab: &Lab, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    eventually(BY_ITSELF, || {
        let status = lab.agents[0].status()?;
        Ok((!holds(&status)).then(|| format!("not {what}: {status:#}")))
    })
    .with_context(|| lab.agents[0].log())
}

/// Whoever was closed was not found by its neighbours either: they look again after some seconds.
fn comes_true(lab: &Lab, table: &str) -> Result<()> {
    eventually(BY_ITSELF, || {
        let wrong = lab.mismatches_of_probes(table)?;
        Ok((!wrong.is_empty()).then(|| format!("{wrong:?}")))
    })
    .with_context(|| lab.agents[0].log())
}

fn is_well(status: &Value) -> bool {
    status["synced"] == true && status["errors"].as_array().is_some_and(Vec::is_empty)
}

fn table<'a>(status: &'a Value, name: &str) -> &'a Value {
    let tables = status["tables"].as_array().map(Vec::as_slice).unwrap_or_default();
    tables.iter().find(|table| table["table"] == name).unwrap_or(&Value::Null)
}

/// Status names the table and the object, and nothing else is wrong.
fn says_full(status: &Value, name: &str, about: &str) -> bool {
    let errors = status["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    let said = errors
        .iter()
        .filter_map(Value::as_str)
        .any(|error| error.contains(&format!("table {name} is full")) && error.contains(about));
    said && status["synced"] == false && table(status, name)["full"] == true
}

/// The value of a series.
fn metric(lab: &Lab, series: &str) -> Result<f64> {
    let text = lab.ns("node1")?.run(|| -> Result<String> {
        let mut stream = TcpStream::connect(METRICS)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })??;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {series} in {text}"))?.trim().parse()?)
}

/// A policy that does not fit into the table, from the first attempt to the moment when it is withdrawn.
fn holds_back(table_name: &str, option: &str, entries: &str, too_much: &str) -> Result<()> {
    holds_back_in(start(option, entries)?, table_name, too_much)
}

fn holds_back_in(mut lab: Lab, table_name: &str, too_much: &str) -> Result<()> {
    lab.apply("dev/old", OLD)?;
    lab.expect(OLD_VERDICTS);
    write_policy(&lab, "dev/many", too_much)?;
    until(&lab, "full", |status| says_full(status, table_name, "policy dev/many"))?;
    // `explain` knows what the folder says, not what fits.
    lab.expect_probes(OLD_VERDICTS);
    let status = lab.agents[0].status()?;
    ensure!(endpoint(&status, "dev/web")["state"] == "failed", "{status:#}");
    ensure!(endpoint(&status, "prod/web")["state"] == "enforcing", "{status:#}");
    ensure!(lab.agents[0].log().contains("policy dev/many is not in force"), "{}", lab.agents[0].log());
    let full = format!("sluice_bpf_map_full{{map_name=\"{table_name}\"}}");
    eventually(BY_ITSELF, || {
        let told = (metric(&lab, &full)?, metric(&lab, "sluice_policies_held_back")?);
        Ok((told != (1.0, 1.0)).then(|| format!("{told:?}")))
    })?;
    // Others are not held up by it: a policy that fits, and pods that it does not select.
    write_policy(&lab, "prod/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    let late = lab.world.add_pod(pod("prod", "late"))?.clone();
    lab.manifests.pod(&late)?;
    let others = format!(
        "{}\ndev/web prod/web tcp/80 hangs\ndev/web prod/late tcp/80 hangs\nprod/late dev/web tcp/80 hangs",
        OLD_VERDICTS.replace("dev/web prod/web tcp/80 opens", "")
    );
    comes_true(&lab, &others)?;
    // A new pod that it selects has no policy before to go on with: it is closed.
    let new = lab.world.add_pod(pod("dev", "new").label("app", "client"))?.clone();
    lab.manifests.pod(&new)?;
    until(&lab, "closed", |status| {
        endpoint(status, "dev/new")["state"] == "failed"
            && status["errors"].to_string().contains("pod dev/new is closed")
    })?;
    lab.expect_probes(
        "dev/client dev/new tcp/80 hangs\ndev/new dev/web tcp/80 hangs\nnode1 dev/new tcp/80 hangs",
    );
    // A pod that goes, goes.
    lab.world.remove_pod("prod/late")?;
    lab.manifests.remove_pod(&late)?;
    until(&lab, "without prod/late", |status| endpoint(status, "prod/late").is_null())?;
    // Room, and nobody asks.
    lab.manifests.remove(&policy_file("dev/many"))?;
    until(&lab, "well", is_well)?;
    comes_true(
        &lab,
        "dev/client dev/web tcp/80 opens\nprod/web dev/web tcp/80 hangs\ndev/new dev/web tcp/80 opens\ndev/client dev/new tcp/80 opens\ndev/web prod/web tcp/80 hangs",
    )?;
    eventually(BY_ITSELF, || {
        let told = (metric(&lab, &full)?, metric(&lab, "sluice_policies_held_back")?);
        Ok((told != (0.0, 0.0)).then(|| format!("{told:?}")))
    })?;
    Ok(())
}

/// A rule with so many networks.
fn networks(count: u32) -> String {
    let blocks: Vec<String> = (0..count).map(|n| format!("{{ipBlock: {{cidr: 198.18.{n}.0/24}}}}")).collect();
    format!("podSelector: {{}}, ingress: [{{from: [{}]}}]", blocks.join(", "))
}

fn block(cidr: &str) -> String {
    format!("{{from: [{{ipBlock: {{cidr: '{cidr}'}}}}]}}")
}

#[test]
fn networks_of_ipv4() -> Result<()> {
    holds_back("cidrs", "--table-cidrs", "64", &networks(100))
}

#[test]
fn networks_of_ipv6() -> Result<()> {
    let many = rules(1, |_| {
        let blocks: Vec<String> =
            (0..100).map(|n| format!("{{ipBlock: {{cidr: '2001:db8:{n:x}::/48'}}}}")).collect();
        format!("{{from: [{}]}}", blocks.join(", "))
    });
    holds_back("cidrs", "--table-cidrs", "64", &many)
}

/// Pods of another node, whose addresses matter as soon as a rule selects them.
fn crowd(lab: &Lab, address: impl Fn(u32) -> IpAddr) -> Result<()> {
    let mut crowd = String::new();
    for n in 0..100 {
        write!(
            crowd,
            "kind: Pod\napiVersion: v1\nmetadata: {{namespace: prod, name: far-{n}, labels: {{far: 'yes'}}}}\nspec: {{nodeName: other, containers: []}}\nstatus: {{phase: Running, podIPs: [{{ip: '{}'}}]}}\n---\n",
            address(n)
        )?;
    }
    lab.manifests.write("crowd.yaml", &crowd)
}

const FROM_CROWD: &str =
    "podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {far: 'yes'}}}]}]";

#[test]
fn addresses_of_ipv4() -> Result<()> {
    let lab = start("--table-peers", "64")?;
    crowd(&lab, |n| Ipv4Addr::from_bits(0x0a63_0000 + n).into())?;
    holds_back_in(lab, "peers", FROM_CROWD)
}

#[test]
fn addresses_of_ipv6() -> Result<()> {
    let lab = start("--table-peers", "64")?;
    crowd(&lab, |n| outside6(99, u16::try_from(n).unwrap_or(0)).into())?;
    holds_back_in(lab, "peers", FROM_CROWD)
}

/// A class of peers for each rule: a policy set with a thousand rows.
#[test]
fn rows_for_classes_of_peers() -> Result<()> {
    let network = |n: u32| block(&format!("198.{}.{}.0/24", 18 + n / 256, n % 256));
    holds_back("rows", "--table-rows", "1024", &rules(600, network))
}

/// A class of ports for each rule, and a row for each: each row is of several words.
#[test]
fn words_for_classes_of_ports() -> Result<()> {
    let port = |n: u32| {
        format!("{{from: [{{ipBlock: {{cidr: 198.18.{n}.0/24}}}}], ports: [{{port: {}}}]}}", 1000 + n)
    };
    holds_back("bits", "--table-words", "64", &rules(80, port))
}

/// A policy that changes and does not fit is what it was; one of several that does not fit does not hold up the others.
#[test]
fn what_changes_stays_as_it_was_and_each_policy_is_tried_by_itself() -> Result<()> {
    let lab = start("--table-cidrs", "64")?;
    lab.apply("dev/old", OLD)?;
    lab.apply("prod/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    // In one breath: one that changes and does not fit, one that goes, and new ones, of which one does not fit.
    write_policy(&lab, "dev/old", &networks(100))?;
    lab.manifests.remove(&policy_file("prod/deny"))?;
    write_policy(&lab, "dev/small", "podSelector: {}, ingress: [{ports: [{port: 81}]}]")?;
    write_policy(&lab, "prod/large", &networks(90))?;
    until(&lab, "full", |status| {
        says_full(status, "cidrs", "policy dev/old") && says_full(status, "cidrs", "policy prod/large")
    })?;
    lab.expect_probes(
        "dev/client dev/web tcp/80 opens
         prod/web dev/web tcp/80 hangs
         prod/web dev/web tcp/81 refused
         dev/web prod/web tcp/80 opens",
    );
    let status = lab.agents[0].status()?;
    let policies = endpoint(&status, "dev/web")["policies"].to_string();
    ensure!(policies.contains("dev/old") && policies.contains("dev/small"), "{status:#}");
    write_policy(&lab, "dev/old", &networks(10))?;
    write_policy(&lab, "prod/large", &networks(20))?;
    until(&lab, "well", is_well)?;
    lab.expect(
        "dev/client dev/web tcp/80 hangs\ndev/web prod/web tcp/80 hangs\nprod/web dev/web tcp/81 refused",
    );
    Ok(())
}

/// Pods that nobody here can help: of other nodes, and more than there are places for. Rules do not allow those that do not
/// fit; those that were there before go on, and so do changes.
#[test]
fn addresses_of_too_many_pods() -> Result<()> {
    let lab = start("--table-peers", "64")?;
    lab.apply("dev/old", "podSelector: {}, ingress: [{from: [{namespaceSelector: {}, podSelector: {matchExpressions: [{key: app, operator: Exists}]}}, {namespaceSelector: {}, podSelector: {matchLabels: {far: 'yes'}}}]}]")?;
    lab.expect(OLD_VERDICTS);
    crowd(&lab, |n| Ipv4Addr::from_bits(0x0a63_0000 + n).into())?;
    until(&lab, "full", |status| says_full(status, "peers", "rules with selectors do not allow"))?;
    lab.expect_probes(OLD_VERDICTS);
    let status = lab.agents[0].status()?;
    ensure!(table(&status, "peers")["used"] == 64, "{status:#}");
    lab.manifests.remove("crowd.yaml")?;
    until(&lab, "well", is_well)?;
    lab.expect(OLD_VERDICTS);
    Ok(())
}

#[test]
fn endpoints() -> Result<()> {
    let builder = (0..13).fold(world(), |builder, n| builder.pod(pod("dev", &format!("p{n}"))));
    let mut lab = Lab::start_with(builder, &["--table-endpoints", "16", "--metrics-address", METRICS])?;
    lab.apply("dev/old", OLD)?;
    lab.expect(OLD_VERDICTS);
    let late = lab.world.add_pod(pod("prod", "late"))?.clone();
    lab.manifests.pod(&late)?;
    until(&lab, "full", |status| says_full(status, "endpoints", "pod prod/late is closed"))?;
    lab.expect_probes(
        "prod/late prod/web tcp/80 hangs\nprod/web prod/late tcp/80 hangs\nnode1 prod/late tcp/80 hangs",
    );
    lab.expect(OLD_VERDICTS);
    let states: Vec<Value> = lab.agents[0].status()?["endpoints"]
        .as_array()
        .context("endpoints")?
        .iter()
        .map(|endpoint| endpoint["state"].clone())
        .collect();
    ensure!(states.iter().filter(|state| *state == "enforcing").count() == 16, "{states:?}");
    eventually(BY_ITSELF, || {
        let told = metric(&lab, "sluice_bpf_map_full{map_name=\"endpoints\"}")?;
        Ok((told != 1.0).then(|| told.to_string()))
    })?;
    // Policy goes on.
    write_policy(&lab, "prod/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    comes_true(&lab, "dev/web prod/web tcp/80 hangs\ndev/client dev/web tcp/80 opens")?;
    lab.manifests.remove(&policy_file("prod/deny"))?;
    let gone = lab.world.pod("dev/p0")?.clone();
    lab.world.remove_pod("dev/p0")?;
    lab.manifests.remove_pod(&gone)?;
    until(&lab, "well", is_well)?;
    comes_true(&lab, "prod/late prod/web tcp/80 opens\nprod/web prod/late tcp/80 opens")?;
    lab.expect(OLD_VERDICTS);
    Ok(())
}

/// A pod some of whose extra sources do not fit works by its own addresses; what it sends from them is dropped.
#[test]
fn sources() -> Result<()> {
    let lab = start("--table-sources", "64")?;
    lab.apply("dev/old", OLD)?;
    let client = lab.world.pod("prod/web")?.clone();
    let with_sources = |count: u32| {
        let ranges: Vec<String> = (0..count).map(|n| format!("198.18.{n}.0/24")).collect();
        format!(
            "kind: Pod\napiVersion: v1\nmetadata:\n  namespace: prod\n  name: web\n  uid: {}\n  annotations: {{sluice.dev/source-ranges: '{}'}}\nspec: {{nodeName: node1, containers: []}}\nstatus: {{phase: Running, podIPs: [{{ip: {}}}, {{ip: '{}'}}]}}\n",
            client.uid,
            ranges.join(","),
            client.ipv4,
            client.ipv6
        )
    };
    lab.manifests.remove_pod(&client)?;
    lab.manifests.write("routing.yaml", &with_sources(80))?;
    until(&lab, "full", |status| says_full(status, "sources", "pod prod/web"))?;
    lab.expect_probes(OLD_VERDICTS);
    let status = lab.agents[0].status()?;
    ensure!(endpoint(&status, "prod/web")["state"] == "failed", "{status:#}");
    ensure!(endpoint(&status, "dev/web")["state"] == "enforcing", "{status:#}");
    ensure!(table(&status, "sources")["used"] == 63, "{status:#}");
    lab.manifests.write("routing.yaml", &with_sources(60))?;
    until(&lab, "well", is_well)?;
    lab.expect(OLD_VERDICTS);
    Ok(())
}

/// How full connection tracking is, and that it goes no further than its table; who loses an entry is tested in flow_table.rs.
#[test]
fn flows() -> Result<()> {
    let lab = start("--table-flow-sets", "1024")?;
    lab.apply("dev/old", OLD)?;
    let server = lab.sockets("dev/web", 80)?;
    let mut kept = lab.connect("dev/client", server[0])?;
    let flood = SocketAddr::from((Ipv4Addr::new(198, 18, 0, 1), 9));
    lab.ns("prod/web")?.run(|| -> Result<()> {
        for _ in 0..20_000 {
            // A socket each: another port.
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let _ = socket.send_to(b"x", flood);
        }
        Ok(())
    })??;
    // After a change of policy the table is looked through.
    lab.apply("prod/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    until(&lab, "counted", |status| table(status, "flows")["used"].as_u64().is_some_and(|used| used > 3000))?;
    let status = lab.agents[0].status()?;
    let flows = table(&status, "flows");
    ensure!(flows["capacity"] == 8192 && flows["used"].as_u64() <= Some(8192), "{flows}");
    ensure!(metric(&lab, "sluice_flow_table_flows")? > 3000.0);
    ensure!(metric(&lab, "sluice_bpf_map_pressure{map_name=\"flows\"}")? <= 1.0);
    ensure!(
        kept.echo(Duration::from_secs(2)) == sluice_netns::Outcome::Open,
        "the flood cut another pod's connection"
    );
    ensure!(is_well(&status), "{status:#}");
    Ok(())
}

/// Drops that were counted and not reported are told.
#[test]
fn events_that_are_lost() -> Result<()> {
    const PACKETS: u32 = 20_000;
    let lab = start("--table-sources", "64")?;
    lab.apply("dev/old", "podSelector: {}, policyTypes: [Ingress]")?;
    let lost = || metric(&lab, "sluice_events_lost_total");
    let dropped = || metric(&lab, "sluice_drop_count_total{reason=\"policy\",direction=\"ingress\"}");
    ensure!(lost()? == 0.0);
    let target = lab.sockets("dev/web", 9)?[0];
    lab.ns("prod/web")?.run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for _ in 0..PACKETS {
            let _ = socket.send_to(b"x", target);
        }
        Ok(())
    })??;
    eventually(BY_ITSELF, || {
        let dropped = dropped()?;
        Ok((dropped < f64::from(PACKETS)).then(|| format!("{dropped} dropped")))
    })?;
    let (lost, dropped) = (lost()?, dropped()?);
    println!("{dropped} packets dropped, {lost} of them not reported");
    ensure!(lost > f64::from(PACKETS) / 2.0 && lost < dropped, "{lost} of {dropped}");
    Ok(())
}

#[test]
fn status_shows_the_tables_and_their_memory() -> Result<()> {
    let lab = Lab::start_with(world(), &["--table-peers", "64", "--table-memory", "256Mi"])?;
    lab.apply("dev/old", OLD)?;
    let status = lab.agents[0].status()?;
    ensure!(status["table_memory"] == 256 << 20, "{status:#}");
    let names = [
        "peers",
        "cidrs",
        "rows",
        "bits",
        "endpoints",
        "interfaces",
        "sources",
        "services",
        "backends",
        "flows",
        "index",
    ];
    let mut sum = 0;
    for name in names {
        let table = table(&status, name);
        let number = |field: &str| table[field].as_u64().with_context(|| format!("{name}: {status:#}"));
        ensure!(number("used")? <= number("capacity")? && table["full"] == false, "{table}");
        sum += number("bytes")?;
    }
    ensure!(table(&status, "peers")["capacity"] == 64 && table(&status, "endpoints")["used"] == 3);
    ensure!(sum > 1 << 20 && sum < 256 << 20, "{sum}");
    let socket = lab.agents[0].socket();
    let socket = socket.to_str().context("UTF-8")?;
    let text = |more: &[&str]| -> Result<String> {
        let output = lab.run(&[&["status", "--socket", socket], more].concat())?;
        ensure!(output.status.success());
        Ok(String::from_utf8(output.stdout)?)
    };
    ensure!(!text(&[])?.contains("CAPACITY"));
    let shown = text(&["--tables"])?;
    for name in names {
        ensure!(shown.lines().any(|line| line.split_whitespace().next() == Some(name)), "{name}: {shown}");
    }
    ensure!(shown.contains("of at most 256 MiB"), "{shown}");
    Ok(())
}

/// The authors of what does not fit read it where they look: with `kubectl describe`.
#[test]
fn events_on_the_policy_and_on_the_pod() -> Result<()> {
    let arguments = ["--table-cidrs", "64", "--table-endpoints", "16"];
    let builder = (0..13).fold(world(), |builder, n| builder.pod(pod("dev", &format!("p{n}"))));
    let mut cluster = ClusterLab::start(builder, &arguments)?;
    eventually(BY_ITSELF, || match cluster.lab.agents[0].status() {
        Ok(status) => Ok((!is_well(&status)).then(|| format!("{status:#}"))),
        // It is still starting.
        Err(error) => Ok(Some(format!("{error:#}"))),
    })?;
    cluster.wait_for("dev/client dev/web tcp/80 opens")?;
    write_policy(&cluster.lab, "dev/many", &networks(100))?;
    let late = cluster.lab.world.add_pod(pod("prod", "late"))?.clone();
    cluster.lab.manifests.pod(&late)?;
    cluster.write()?;
    for (kind, name, table) in [("NetworkPolicy", "many", "cidrs"), ("Pod", "late", "endpoints")] {
        eventually(BY_ITSELF, || {
            let events = cluster.server.objects("events");
            let told = events.iter().any(|event| {
                event["regarding"]["kind"] == kind
                    && event["regarding"]["name"] == name
                    && event["reason"] == "TableFull"
                    && event["note"]
                        .as_str()
                        .is_some_and(|note| note.contains(&format!("table {table} is full")))
            });
            Ok((!told).then(|| format!("no event on {name}: {events:?}\n{}", cluster.lab.agents[0].log())))
        })?;
    }
    cluster.lab.expect_probes("dev/client dev/web tcp/80 opens\nprod/web prod/late tcp/80 hangs");
    // Whoever goes away while something is held back is gone: a policy that never fitted does not come back.
    cluster.lab.manifests.remove(&policy_file("dev/many"))?;
    let gone = cluster.lab.world.pod("dev/p0")?.clone();
    cluster.lab.world.remove_pod("dev/p0")?;
    cluster.lab.manifests.remove_pod(&gone)?;
    cluster.write()?;
    eventually(BY_ITSELF, || {
        let status = cluster.lab.agents[0].status()?;
        Ok((!is_well(&status)).then(|| format!("{status:#}")))
    })?;
    cluster.wait_for("prod/web prod/late tcp/80 opens\nprod/web dev/web tcp/80 opens")
}
