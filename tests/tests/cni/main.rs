//! A pod's first instant: the plugin behind the real `bridge` and `host-local`, called as libcni calls them, with the real
//! agent.

mod runtime;
mod traffic;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_netns::{
    ALLOW_TIMEOUT, DENY_TIMEOUT, NodeSpec, Outcome, PodSpec, Server, World, WorldBuilder, tcp_connect,
};
use sluice_tests::agent_world::{Lab, eventually, policy, policy_file, shell};

use runtime::{Runtime, Sandbox, refusal, result};
use traffic::{Flood, Listener, PORT, exposure, sockets};

const NODE: &str = "node1";
const MANIFEST: &str = "pod-new.json";

fn node() -> WorldBuilder {
    World::builder("slcni")
        .cni_plugins()
        .node(NodeSpec::new(NODE))
        .pod(PodSpec::new("dev", "friend", NODE).label("role", "friend"))
        .pod(PodSpec::new("dev", "stranger", NODE))
}

/// A node with an agent, its runtime, and a sandbox without an interface.
struct Scene {
    sandbox: Sandbox,
    runtime: Runtime,
    lab: Lab,
}

impl Scene {
    fn start(options: &[&str], policies: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(options, policies, &[])
    }

    fn start_with(options: &[&str], policies: &[(&str, &str)], agent: &[&str]) -> Result<Self> {
        let mut lab = Lab::without_agents(node())?;
        for (name, spec) in policies {
            lab.manifests.write(&policy_file(name), &policy(name, spec))?;
        }
        lab.start_agents(agent)?;
        let socket = lab.agent().socket();
        Self::with(lab, &socket, options)
    }

    fn without_agent(options: &[&str]) -> Result<Self> {
        Self::with(Lab::without_agents(node())?, Path::new("/nonexistent/agent.sock"), options)
    }

    fn with(lab: Lab, socket: &Path, options: &[&str]) -> Result<Self> {
        let node = lab.world.node(NODE)?;
        let runtime = Runtime::new(node, &lab.binary, socket, options)?;
        let sandbox = runtime.sandbox(lab.world.id(), node, "new", 100)?;
        Ok(Self { sandbox, runtime, lab })
    }

    /// The pod's object, as it is before its sandbox has addresses.
    fn announce(&self) -> Result<()> {
        self.lab.manifests.write(MANIFEST, &self.sandbox.manifest(NODE, false))
    }

    /// The pod's object with the addresses, as the kubelet tells them after ADD.
    fn report(&self) -> Result<()> {
        self.lab.manifests.write(MANIFEST, &self.sandbox.manifest(NODE, true))?;
        self.lab.sync()
    }

    fn flood(&self, peer: &str) -> Result<Flood> {
        Flood::start(&self.lab.ns(peer)?, &self.sandbox)
    }

    fn connects(&self, peer: &str, port: u16, timeout: Duration) -> Result<Vec<Outcome>> {
        let ns = self.lab.ns(peer)?;
        Ok(sockets(&self.sandbox, port).into_iter().map(|to| tcp_connect(&ns, to, timeout)).collect())
    }
}

const DENY: (&str, &str) = ("dev/deny", "podSelector: {matchLabels: {app: new}}, policyTypes: [Ingress]");
const FRIENDS: (&str, &str) = (
    "dev/friends",
    "podSelector: {matchLabels: {app: new}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {role: friend}}}]}]",
);

fn second() -> Instant {
    Instant::now() + Duration::from_secs(1)
}

#[test]
fn a_denied_pod_never_hears_a_peer_that_was_there_before_it() -> Result<()> {
    let scene = Scene::start(&[], &[DENY])?;
    scene.announce()?;
    let flood = scene.flood("dev/stranger")?;
    let calls = scene.runtime.add(&scene.sandbox)?;
    let listener = Listener::start(&scene.sandbox)?;
    let heard = listener.count(second()).0;
    // Nor when the API server learns its addresses.
    scene.report()?;
    let later = listener.count(second()).0;
    let sent = flood.stop();
    assert_eq!((heard, later), ([0, 0], [0, 0]), "{calls:?}");
    ensure!(sent > 1000, "no flood: {sent} datagrams");
    let [bridge, ours] = calls.as_slice() else { panic!("{calls:?}") };
    assert_eq!((bridge.plugin.as_str(), ours.plugin.as_str()), ("bridge", "sluice"));
    assert_eq!(serde_json::from_str::<Value>(&ours.output)?, serde_json::from_str::<Value>(&bridge.output)?);
    Ok(())
}

#[test]
fn an_open_pod_hears_the_same_peer_from_its_first_instant() -> Result<()> {
    let scene = Scene::start(&[], &[])?;
    scene.announce()?;
    let flood = scene.flood("dev/stranger")?;
    scene.runtime.add(&scene.sandbox)?;
    let listener = Listener::start(&scene.sandbox)?;
    let [v4, v6] = listener.count(Instant::now() + Duration::from_millis(300)).0;
    drop(flood);
    ensure!(v4 > 0 && v6 > 0, "{v4} and {v6} datagrams");
    Ok(())
}

#[test]
fn an_allowed_peer_gets_through_at_once_and_another_never() -> Result<()> {
    let scene = Scene::start(&[], &[FRIENDS])?;
    scene.announce()?;
    scene.runtime.add(&scene.sandbox)?;
    let _server = Server::tcp(&scene.sandbox.ns, 80, "new")?;
    // A first SYN that were lost would take a second.
    assert_eq!(scene.connects("dev/friend", 80, DENY_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    assert_eq!(scene.connects("dev/stranger", 80, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::TimedOut]);
    scene.report()?;
    assert_eq!(scene.connects("dev/friend", 80, DENY_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    assert_eq!(scene.connects("dev/stranger", 80, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::TimedOut]);
    Ok(())
}

#[test]
fn a_pod_whose_object_comes_after_add_began_is_waited_for() -> Result<()> {
    let scene = Scene::start(&["--timeout", "20s"], &[FRIENDS])?;
    let delay = Duration::from_millis(700);
    let started = Instant::now();
    let calls = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(delay);
            scene.announce().unwrap();
        });
        scene.runtime.add(&scene.sandbox)
    })?;
    let took = started.elapsed();
    ensure!(took >= delay && took < Duration::from_secs(15), "ADD took {took:?}: {calls:?}");
    let _server = Server::tcp(&scene.sandbox.ns, 80, "new")?;
    assert_eq!(scene.connects("dev/friend", 80, DENY_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    assert_eq!(scene.connects("dev/stranger", 80, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::TimedOut]);
    Ok(())
}

#[test]
fn a_pod_that_nobody_knows_in_time_starts_closed_and_opens_when_its_object_comes() -> Result<()> {
    let scene = Scene::start(&["--timeout", "500ms"], &[FRIENDS])?;
    let flood = scene.flood("dev/friend")?;
    let calls = scene.runtime.add(&scene.sandbox)?;
    let log = &calls.last().context("no plugin was called")?.log;
    ensure!(log.contains("dev/new starts closed"), "{log}");
    let listener = Listener::start(&scene.sandbox)?;
    assert_eq!(listener.count(second()).0, [0, 0]);
    scene.announce()?;
    eventually(ALLOW_TIMEOUT, || {
        let [v4, v6] = listener.count(Instant::now() + Duration::from_millis(100)).0;
        Ok((v4 == 0 || v6 == 0).then(|| format!("{v4} and {v6} datagrams")))
    })?;
    drop(flood);
    let _server = Server::tcp(&scene.sandbox.ns, 80, "new")?;
    assert_eq!(scene.connects("dev/stranger", 80, DENY_TIMEOUT)?, [Outcome::TimedOut, Outcome::TimedOut]);
    Ok(())
}

#[test]
fn a_pod_that_nobody_knows_in_time_starts_open_where_that_is_configured() -> Result<()> {
    let scene = Scene::start(&["--timeout", "500ms", "--unready", "open"], &[DENY])?;
    let flood = scene.flood("dev/stranger")?;
    let calls = scene.runtime.add(&scene.sandbox)?;
    let log = &calls.last().context("no plugin was called")?.log;
    ensure!(log.contains("dev/new starts open"), "{log}");
    let listener = Listener::start(&scene.sandbox)?;
    let [v4, v6] = listener.count(second()).0;
    ensure!(v4 > 0 && v6 > 0, "{v4} and {v6} datagrams");
    scene.announce()?;
    eventually(ALLOW_TIMEOUT, || {
        let heard = listener.count(Instant::now() + Duration::from_millis(200)).0;
        Ok((heard != [0, 0]).then(|| format!("{heard:?} datagrams")))
    })?;
    drop(flood);
    Ok(())
}

#[test]
fn without_an_agent_a_pod_is_to_be_tried_again_and_nothing_is_left_of_it() -> Result<()> {
    let scene = Scene::without_agent(&["--timeout", "200ms"])?;
    let refused = refusal(scene.runtime.add(&scene.sandbox));
    assert_eq!((refused.plugin.as_str(), refused.code), ("sluice", 11), "{refused}");
    // What a runtime does then.
    scene.runtime.del(&scene.sandbox, None)?;
    let links = shell(&scene.sandbox.ns, "ip -brief link")?;
    ensure!(!links.contains("eth0"), "{links}");
    // The addresses are free again.
    let refused = refusal(scene.runtime.add(&scene.sandbox));
    assert_eq!((refused.plugin.as_str(), refused.code), ("sluice", 11), "{refused}");
    scene.runtime.del(&scene.sandbox, None)
}

#[test]
fn without_an_agent_a_pod_starts_open_where_that_is_configured() -> Result<()> {
    let scene = Scene::without_agent(&["--timeout", "200ms", "--unready", "open"])?;
    let calls = scene.runtime.add(&scene.sandbox)?;
    let log = &calls.last().context("no plugin was called")?.log;
    ensure!(log.contains("dev/new starts OPEN"), "{log}");
    let _server = Server::tcp(&scene.sandbox.ns, 80, "new")?;
    assert_eq!(scene.connects("dev/stranger", 80, ALLOW_TIMEOUT)?, [Outcome::Open, Outcome::Open]);
    scene.runtime.del(&scene.sandbox, Some(&result(&calls)?))
}

#[test]
fn status_tells_whether_there_is_an_agent_that_enforces() -> Result<()> {
    let mut scene = Scene::start(&["--timeout", "200ms"], &[])?;
    scene.runtime.ours("STATUS", None, None, &json!({}))?;
    scene.lab.agent().kill()?;
    let refused = refusal(scene.runtime.ours("STATUS", None, None, &json!({})));
    assert_eq!(refused.code, 50, "{refused}");
    scene.lab.agent().restart()?;
    scene.lab.sync()?;
    scene.runtime.ours("STATUS", None, None, &json!({}))?;
    Ok(())
}

fn check_notices(attach: &str, take_off: impl FnOnce(&Scene, &str) -> Result<()>) -> Result<()> {
    let scene = Scene::start_with(&[], &[DENY], &["--attach", attach])?;
    scene.announce()?;
    let calls = scene.runtime.add(&scene.sandbox)?;
    let added = result(&calls)?;
    let check = || scene.runtime.ours("CHECK", Some(&scene.sandbox), Some(&added), &json!({}));
    check()?;
    let ends = added["interfaces"].as_array().context("no interfaces")?;
    let host = ends.iter().find(|end| end["name"].as_str().is_some_and(|name| name.starts_with("veth")));
    take_off(&scene, host.and_then(|end| end["name"].as_str()).context("no end on the node")?)?;
    // Unless the agent has noticed by itself already.
    let log = || scene.lab.agents[0].log();
    if !log().contains("put back what somebody took off") {
        match check() {
            Err(refused) => {
                let refused = refusal(Err::<(), _>(refused));
                assert_eq!(refused.code, 100, "{refused}");
            }
            Ok(_) => ensure!(log().contains("put back what somebody took off"), "nobody noticed"),
        }
    }
    // It was put back meanwhile.
    check()?;
    let flood = scene.flood("dev/stranger")?;
    let listener = Listener::start(&scene.sandbox)?;
    assert_eq!(listener.count(second()).0, [0, 0]);
    drop(flood);
    Ok(())
}

#[test]
fn check_notices_a_filter_that_was_taken_off() -> Result<()> {
    check_notices("clsact", |scene, host| {
        shell(scene.lab.world.node(NODE)?.ns(), &format!("tc qdisc del dev {host} clsact")).map(drop)
    })
}

#[test]
fn check_notices_a_link_that_was_taken_off() -> Result<()> {
    check_notices("tcx", |scene, host| {
        let node = scene.lab.world.node(NODE)?;
        let index = shell(node.ns(), &format!("ip -o link show {host}"))?;
        let index = index.split(':').next().context("no index")?;
        let line = format!("bpftool link detach pinned {}/links/{index}-to_pod", node.bpffs().display());
        let output = std::process::Command::new("sh").args(["-c", &line]).output()?;
        ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    })
}

#[test]
fn del_and_gc_may_be_repeated_and_gc_keeps_what_it_is_told_to() -> Result<()> {
    let scene = Scene::start(&[], &[DENY])?;
    scene.announce()?;
    let calls = scene.runtime.add(&scene.sandbox)?;
    let added = result(&calls)?;
    let gc = |valid: Value| {
        scene.runtime.ours("GC", None, None, &json!({ "cni.dev/valid-attachments": valid })).map(drop)
    };
    let own = json!([{ "containerID": scene.sandbox.id(), "ifname": "eth0" }]);
    for _ in 0..2 {
        gc(own.clone())?;
        scene.runtime.ours("CHECK", Some(&scene.sandbox), Some(&added), &json!({}))?;
    }
    for _ in 0..2 {
        scene.runtime.del(&scene.sandbox, Some(&added))?;
        gc(json!([]))?;
    }
    // Also where the namespace is gone before the runtime asks.
    scene.runtime.add(&scene.sandbox)?;
    shell(&scene.sandbox.ns, "ip link del eth0")?;
    scene.runtime.del(&scene.sandbox, None)?;
    // And a new one under the old name is enforced like the first.
    scene.runtime.add(&scene.sandbox)?;
    let flood = scene.flood("dev/stranger")?;
    let listener = Listener::start(&scene.sandbox)?;
    assert_eq!(listener.count(second()).0, [0, 0]);
    drop(flood);
    Ok(())
}

/// The figures of docs/cni.md: run it with `--nocapture`.
#[test]
fn what_the_plugin_costs_and_how_long_an_interface_is_there_without_policy() -> Result<()> {
    const ROUNDS: usize = 20;
    let scene = Scene::start(&[], &[DENY])?;
    scene.announce()?;
    let flood = scene.flood("dev/stranger")?;
    let (mut bridge, mut ours, mut window) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let exposed = exposure(&scene.sandbox)?;
        let calls = scene.runtime.add(&scene.sandbox)?;
        let [first, second] = calls.as_slice() else { panic!("{calls:?}") };
        bridge.push(first.took);
        ours.push(second.took);
        // What a socket hears that no container can have opened yet.
        let heard = exposed.join().map_err(|_| anyhow::anyhow!("the listener"))?;
        window.push(heard.map_or(Duration::ZERO, |(first, last)| last - first));
        scene.runtime.del(&scene.sandbox, Some(&result(&calls)?))?;
    }
    let sent = flood.stop();
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times.get(ROUNDS / 2).copied().unwrap_or_default()
    };
    let (bridge, ours, heard) = (median(&mut bridge), median(&mut ours), median(&mut window));
    println!(
        "median of {ROUNDS}: bridge {bridge:?}, sluice {ours:?}; from the first to the last datagram on port {PORT}: {heard:?} ({sent} sent)"
    );
    ensure!(ours < Duration::from_secs(1), "the plugin takes {ours:?}");
    Ok(())
}
