//! Pods, namespaces and agents come and go, and what is enforced stays enforced until somebody says otherwise.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use policy_agent::datapath::bpf::has_tcx;
use serde_json::Value;
use sluice_netns::{
    ALLOW_TIMEOUT, Agent, AgentOptions, DENY_TIMEOUT, Netns, NodeSpec, Outcome, PodSpec, Process, TcpConn,
    UdpConn, World, WorldBuilder,
};
use sluice_tests::agent_world::{FOLLOW_TIMEOUT, Lab, endpoint, eventually, shell};

const DENY: &str = "podSelector: {}, policyTypes: [Ingress]";

fn pod(namespace: &str, name: &str, node: &str) -> PodSpec {
    PodSpec::new(namespace, name, node).serve_tcp(80).serve_udp(5300)
}

/// What stands in the folder of links: a link for each hook, or a mark that names the interface and a program for each.
fn pins_of_an_interface() -> Result<usize> {
    Ok(if has_tcx()? { 2 } else { 3 })
}

fn one_node() -> WorldBuilder {
    World::builder("sllife")
        .node(NodeSpec::new("node1"))
        .pod(pod("dev", "web", "node1"))
        .pod(pod("prod", "web", "node1"))
}

fn two_nodes() -> WorldBuilder {
    one_node().node(NodeSpec::new("node2")).pod(pod("prod", "far", "node2"))
}

/// An address that moves to another pod has another MAC: who knows the old one waits for seconds.
fn forget_neighbours(lab: &Lab) -> Result<()> {
    for pod in lab.world.pods() {
        shell(&pod.ns, "ip neigh flush dev eth0")?;
    }
    // Not those of the overlay, which nobody would ask for again.
    shell(&lab.ns("node1")?, "ip neigh flush dev cni0")?;
    Ok(())
}

#[test]
fn a_pod_that_comes_after_its_policy_is_isolated_and_one_that_goes_leaves_nothing() -> Result<()> {
    let mut lab = Lab::start(two_nodes())?;
    lab.apply("dev/deny", DENY)?;
    let late = lab.world.add_pod(pod("dev", "late", "node1"))?.clone();
    lab.manifests.pod(&late)?;
    lab.sync()?;
    assert_eq!(lab.endpoint("dev/late")?["state"], "enforcing");
    lab.expect(
        "prod/web dev/late tcp/80 hangs\nprod/far dev/late ping hangs\ndev/late prod/far tcp/80 opens",
    );

    let pins = |lab: &Lab| -> Result<usize> {
        Ok(std::fs::read_dir(lab.world.node("node1")?.bpffs().join("links"))?.count())
    };
    let before = pins(&lab)?;
    lab.manifests.remove_pod(&late)?;
    lab.world.remove_pod("dev/late")?;
    lab.sync()?;
    assert_eq!(lab.endpoint("dev/late")?, Value::Null);
    assert_eq!(pins(&lab)?, before - pins_of_an_interface()?);
    assert_eq!(lab.errors()?, Vec::<String>::new());

    // Its address is another's now, whom no policy selects; and a closed pod's address may come next.
    let heir = pod("prod", "heir", "node1").address(late.ipv4.into()).address(late.ipv6.into());
    let heir = lab.world.add_pod(heir)?.clone();
    lab.manifests.pod(&heir)?;
    forget_neighbours(&lab)?;
    lab.sync()?;
    lab.expect("prod/far prod/heir tcp/80 opens\ndev/web prod/heir udp/5300 opens");
    lab.manifests.remove_pod(&heir)?;
    lab.world.remove_pod("prod/heir")?;
    let next = pod("dev", "next", "node1").address(late.ipv4.into()).address(late.ipv6.into());
    let next = lab.world.add_pod(next)?.clone();
    lab.manifests.pod(&next)?;
    forget_neighbours(&lab)?;
    lab.sync()?;
    lab.expect("prod/far dev/next tcp/80 hangs\nprod/web dev/next ping hangs");
    Ok(())
}

#[test]
fn a_manifest_waits_for_its_pod_and_is_enforced_soon_after() -> Result<()> {
    let mut lab = Lab::start(one_node())?;
    lab.apply("dev/deny", DENY)?;
    let late = lab.world.add_pod(pod("dev", "late", "node1"))?.clone();
    lab.world.remove_pod("dev/late")?;
    lab.manifests.pod(&late)?;
    lab.sync()?;
    let waiting = lab.endpoint("dev/late")?;
    assert_eq!((&waiting["state"], &waiting["interface"]), (&"waiting".into(), &"".into()));
    assert_eq!(waiting["ingress_isolated"], true);
    let again = pod("dev", "late", "node1").address(late.ipv4.into()).address(late.ipv6.into());
    lab.world.add_pod(again)?;
    eventually(FOLLOW_TIMEOUT, || {
        let wrong = lab.mismatches("prod/web dev/late tcp/80 hangs")?;
        Ok((!wrong.is_empty()).then(|| format!("{wrong:?}")))
    })?;
    assert_eq!(lab.endpoint("dev/late")?["state"], "enforcing");
    Ok(())
}

#[test]
fn a_namespace_is_known_by_its_name_before_its_manifest_and_by_its_labels_with_it() -> Result<()> {
    let lab = Lab::start(two_nodes())?;
    lab.manifests.remove("namespace-prod.json")?;
    lab.apply(
        "dev/label",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {team: prod}}}], ports: [{port: 80}]}]",
    )?;
    lab.expect("prod/web dev/web tcp/80 hangs\nprod/far dev/web tcp/80 hangs");
    lab.manifests.namespace("prod", &[("team", "prod")])?;
    lab.sync()?;
    lab.expect("prod/web dev/web tcp/80 opens\nprod/far dev/web tcp/80 opens");
    lab.manifests.remove("namespace-prod.json")?;
    lab.sync()?;
    lab.expect("prod/web dev/web tcp/80 hangs\nprod/far dev/web tcp/80 hangs");
    lab.apply(
        "dev/label",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: prod}}}]}]",
    )?;
    lab.expect("prod/web dev/web tcp/80 opens\nprod/far dev/web tcp/80 opens");
    Ok(())
}

#[test]
fn only_pods_of_its_node_are_an_agents_endpoints() -> Result<()> {
    let lab = Lab::start(two_nodes())?;
    lab.apply(
        "dev/deny",
        "podSelector: {}, ingress: [{from: [{namespaceSelector: {}}], ports: [{port: 80}]}]",
    )?;
    let status = lab.agents[0].status()?;
    let pods: Vec<&str> =
        status["endpoints"].as_array().into_iter().flatten().filter_map(|e| e["pod"].as_str()).collect();
    assert_eq!(pods, ["dev/web", "prod/web"]);
    // Pods of other nodes are peers.
    lab.expect("prod/far dev/web tcp/80 opens\nprod/far dev/web udp/5300 hangs");
    let far = lab.agents[1].status()?;
    assert_eq!(endpoint(&far, "prod/far")["ingress_isolated"], false);
    assert_eq!(endpoint(&far, "dev/web"), Value::Null);
    Ok(())
}

#[test]
fn without_a_node_name_the_pods_that_are_here_are_endpoints() -> Result<()> {
    let mut lab = Lab::without_agents(two_nodes())?;
    for node in lab.world.nodes() {
        let options = AgentOptions { node: None, ..lab.options(node) };
        lab.agents.push(Agent::spawn(node.ns(), options)?);
    }
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    let status = lab.agents[0].status()?;
    assert_eq!((&status["synced"], &status["errors"]), (&Value::Bool(true), &Value::Array(Vec::new())));
    assert_eq!(endpoint(&status, "dev/web")["state"], "enforcing");
    lab.expect(
        "prod/web dev/web tcp/80 hangs
         prod/far dev/web tcp/80 hangs
         dev/web prod/far ping hangs
         node1 dev/web tcp/80 opens
         dev/web node1 ping opens
         dev/web node1.bridge ping opens
         node2 dev/web tcp/80 hangs
         dev/web node2 ping hangs",
    );
    Ok(())
}

/// Flows that only connection tracking lets back in: their pod is closed for whoever comes.
fn tracked_flows(lab: &Lab) -> Result<(Vec<TcpConn>, Vec<UdpConn>)> {
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for server in ["prod/web", "prod/far"] {
        for to in lab.sockets(server, 80)? {
            tcp.push(lab.connect("dev/web", to)?);
        }
        for to in lab.sockets(server, 5300)? {
            udp.push(UdpConn::open(&lab.ns("dev/web")?, to)?);
        }
    }
    Ok((tcp, udp))
}

/// Echoes on all flows while `work` is done; the datagrams may not be lost, not one.
fn without_loss(tcp: Vec<TcpConn>, udp: Vec<UdpConn>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let stop = AtomicBool::new(false);
    let again = |mut echo: Box<dyn FnMut() -> Outcome + Send>| -> Result<()> {
        let mut count = 0_u64;
        while !stop.load(Ordering::Relaxed) || count == 0 {
            let outcome = echo();
            ensure!(outcome == Outcome::Open, "echo {count} is {outcome}");
            count += 1;
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    thread::scope(|scope| {
        let mut running = Vec::new();
        for mut conn in tcp {
            running.push(scope.spawn(|| again(Box::new(move || conn.echo(ALLOW_TIMEOUT)))));
        }
        for mut conn in udp {
            running.push(scope.spawn(|| again(Box::new(move || conn.echo(Duration::from_secs(2))))));
        }
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        for thread in running {
            thread.join().unwrap_or_else(|_| bail!("a panic"))?;
        }
        worked
    })
}

#[test]
fn nothing_is_lost_when_an_agent_dies_and_the_next_one_takes_over() -> Result<()> {
    let mut lab = Lab::start(two_nodes())?;
    lab.apply("dev/deny", DENY)?;
    let (tcp, udp) = tracked_flows(&lab)?;
    without_loss(tcp, udp, || {
        for round in 0..4 {
            if round % 2 == 0 {
                lab.agent().kill()?;
            } else {
                ensure!(lab.agent().stop()?, "SIGTERM does not end it");
                ensure!(
                    lab.agent().exit_status()?.is_some_and(|status| status.success()),
                    "it fails at SIGTERM"
                );
                ensure!(!lab.agent().socket().exists(), "its socket stays");
            }
            // While nobody is there, and while the next one starts.
            let wrong =
                lab.mismatches_of_probes("prod/web dev/web tcp/80 hangs\nprod/far dev/web udp/5300 hangs")?;
            ensure!(wrong.is_empty(), "round {round}: {wrong:?}");
            lab.agent().restart()?;
            lab.sync()?;
            ensure!(lab.endpoint("dev/web")?["state"] == "enforcing", "{}", lab.endpoint("dev/web")?);
        }
        Ok(())
    })?;
    lab.expect("prod/web dev/web tcp/80 hangs\nprod/far dev/web tcp/80 hangs\ndev/web prod/far tcp/80 opens");
    Ok(())
}

#[test]
fn what_changes_while_no_agent_runs_is_enforced_by_the_next() -> Result<()> {
    let mut lab = Lab::start(one_node())?;
    lab.apply("dev/deny", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")?;
    let to = lab.sockets("dev/web", 80)?;
    let mut conns = [lab.connect("prod/web", to[0])?, lab.connect("prod/web", to[1])?];
    lab.agent().kill()?;
    lab.manifests.write("policy-dev-deny.yaml", &sluice_tests::agent_world::policy("dev/deny", DENY))?;
    let gone = lab.world.pod("prod/web")?.clone();
    let late = lab.world.add_pod(pod("dev", "late", "node1"))?.clone();
    lab.manifests.pod(&late)?;
    for conn in &mut conns {
        assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open, "the dead agent's policy holds");
    }
    lab.agent().restart()?;
    lab.sync()?;
    for conn in &mut conns {
        assert_eq!(conn.echo(DENY_TIMEOUT), Outcome::TimedOut);
    }
    lab.expect("prod/web dev/web tcp/80 hangs\nprod/web dev/late tcp/80 hangs");
    // A pod that goes while nobody looks: its pins go with the next agent.
    lab.agent().kill()?;
    lab.manifests.remove_pod(&gone)?;
    lab.world.remove_pod("prod/web")?;
    lab.agent().restart()?;
    lab.sync()?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    let pins = std::fs::read_dir(lab.world.nodes()[0].bpffs().join("links"))?.count();
    assert_eq!(pins, 2 * pins_of_an_interface()?);
    Ok(())
}

/// `run` as a bare process: one that may die before it has a socket.
fn starting_agent(lab: &Lab, socket: &str) -> Result<Process> {
    let node = lab.world.node("node1")?;
    let mut command = Command::new(&lab.binary);
    command.args(["run", "--node", "node1", "--socket", socket, "--manifests"]).arg(lab.manifests.path());
    command.arg("--bpffs").arg(node.bpffs());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Process::spawn(node.ns(), &mut command)
}

#[test]
fn an_agent_may_die_at_any_moment_of_its_start() -> Result<()> {
    let mut lab = Lab::start(two_nodes())?;
    lab.apply("dev/deny", DENY)?;
    let (tcp, udp) = tracked_flows(&lab)?;
    lab.agent().kill()?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("dying.sock");
    let socket = socket.to_str().context("a path that is no text")?;
    let knocker = lab.ns("prod/far")?;
    let door = lab.sockets("dev/web", 80)?;
    without_loss(tcp, udp, || {
        for step in 0_u64..14 {
            let mut agent = starting_agent(&lab, socket)?;
            for to in door {
                let outcome = sluice_netns::tcp_connect(&knocker, to, Duration::from_millis(10));
                ensure!(outcome == Outcome::TimedOut, "{to} is {outcome} after {step} starts");
            }
            thread::sleep(Duration::from_millis(step * 12));
            agent.kill()?;
        }
        lab.agent().restart()?;
        lab.sync()
    })?;
    assert_eq!(lab.errors()?, Vec::<String>::new());
    let v1 = lab.world.node("node1")?.bpffs().join("v1");
    assert!(!v1.join("next").exists(), "what dead agents began is left");
    lab.expect("prod/far dev/web tcp/80 hangs\ndev/web prod/far tcp/80 opens");
    Ok(())
}

/// The kernel's ids of what is pinned below a folder.
fn ids(ns: &Netns, kind: &str, folder: &str) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    for pin in shell(ns, &format!("find {folder} -type f"))?.lines() {
        if let Ok(text) = shell(ns, &format!("bpftool -j {kind} show pinned {pin}")) {
            let shown: Value = serde_json::from_str(&text)?;
            found.extend(shown["id"].as_u64());
        }
    }
    Ok(found)
}

/// Links, programs and maps of the node's agent.
fn kernel_objects(lab: &Lab) -> Result<Vec<(&'static str, u64)>> {
    let node = lab.world.node("node1")?;
    let mut all = Vec::new();
    let folders = [
        ("link", "links"),
        ("prog", "v1/programs"),
        ("map", "v1/maps"),
        ("map", "v1/kept"),
        ("map", "flows-v1"),
    ];
    for (kind, folder) in folders {
        let folder = node.bpffs().join(folder);
        all.extend(ids(node.ns(), kind, &folder.display().to_string())?.into_iter().map(|id| (kind, id)));
    }
    Ok(all)
}

fn alive(ns: &Netns, objects: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    objects
        .iter()
        .filter(|(kind, id)| {
            shell(ns, &format!("bpftool {kind} show id {id}")).is_ok_and(|text| !text.is_empty())
        })
        .copied()
        .collect()
}

#[test]
fn uninstall_leaves_nothing_in_the_kernel() -> Result<()> {
    let mut lab = Lab::start(one_node())?;
    lab.apply("dev/deny", DENY)?;
    lab.expect("prod/web dev/web tcp/80 hangs");
    let node = lab.world.node("node1")?.clone();
    let objects = kernel_objects(&lab)?;
    let links = if has_tcx()? { 4 } else { 0 };
    for (kind, least) in [("link", links), ("prog", 2), ("map", 10)] {
        let count = objects.iter().filter(|(k, _)| *k == kind).count();
        assert!(count >= least, "{count} of {kind}: {objects:?}");
    }
    ensure!(lab.agent().stop()?, "SIGTERM does not end it");
    lab.expect("prod/web dev/web tcp/80 hangs");
    assert_eq!(alive(node.ns(), &objects), objects, "enforcement outlives the agent");

    lab.agent().uninstall()?;
    // The kernel frees programs and maps some time after their last user.
    eventually(FOLLOW_TIMEOUT, || {
        let left = alive(node.ns(), &objects);
        Ok((!left.is_empty()).then(|| format!("{left:?}")))
    })?;
    assert!(!node.bpffs().exists());
    for pod in lab.world.pods() {
        let tc = shell(
            node.ns(),
            &format!(
                "tc filter show dev {0} ingress; tc filter show dev {0} egress; tc qdisc show dev {0}; bpftool net show dev {0}",
                pod.host_interface
            ),
        )?;
        assert!(!tc.contains("clsact") && !tc.contains("from_pod") && !tc.contains("to_pod"), "{tc}");
    }
    let wrong = lab.mismatches_of_probes("prod/web dev/web tcp/80 opens\nprod/web dev/web udp/5300 opens")?;
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[test]
fn uninstall_stops_the_running_agent_first() -> Result<()> {
    let mut lab = Lab::start(one_node())?;
    lab.apply("dev/deny", DENY)?;
    let node = lab.world.node("node1")?.clone();
    let mut command = Command::new(&lab.binary);
    command.arg("uninstall").arg("--bpffs").arg(node.bpffs()).arg("--socket").arg(lab.agent().socket());
    let output = node.ns().output(&mut command)?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && words.contains("stopped the agent"), "{output:?}");
    eventually(FOLLOW_TIMEOUT, || Ok(lab.agent().exit_status()?.is_none().then(|| "it runs on".to_owned())))?;
    assert!(!node.bpffs().exists());
    let wrong = lab.mismatches_of_probes("prod/web dev/web tcp/80 opens")?;
    assert!(wrong.is_empty(), "{wrong:?}");
    // Once more there is nothing to do, and that is no error.
    let again = node.ns().output(&mut command)?;
    assert!(again.status.success(), "{again:?}");
    Ok(())
}

/// The filters on both sides of an interface that are ours.
fn our_filters(node: &Netns, interface: &str) -> Result<[usize; 2]> {
    let mut counts = [0; 2];
    for (count, (side, program)) in counts.iter_mut().zip([("ingress", "from_pod"), ("egress", "to_pod")]) {
        let shown = shell(node, &format!("tc filter show dev {interface} {side}"))?;
        *count = shown.lines().filter(|line| line.contains("handle") && line.contains(program)).count();
    }
    Ok(counts)
}

#[test]
fn with_clsact_there_is_one_filter_on_each_side_and_foreign_ones_survive() -> Result<()> {
    let mut lab = Lab::without_agents(two_nodes())?;
    let node = lab.world.node("node1")?.clone();
    let (web, other) =
        (lab.world.pod("dev/web")?.host_interface.clone(), lab.world.pod("prod/web")?.host_interface.clone());
    // Somebody else's, before ours; it lets everything through to the next.
    shell(
        node.ns(),
        &format!(
            "tc qdisc add dev {other} root pfifo limit 777 && tc qdisc add dev {other} clsact &&
             tc filter add dev {other} ingress pref 7 protocol all bpf bytecode '1,6 0 0 0'"
        ),
    )?;
    lab.start_agents(&["--attach", "clsact"])?;
    lab.apply("dev/deny", DENY)?;
    for round in 0..3 {
        for interface in [&web, &other] {
            assert_eq!(our_filters(node.ns(), interface)?, [1, 1], "round {round}, {interface}");
        }
        lab.expect(
            "prod/web dev/web tcp/80 hangs\nprod/far dev/web tcp/80 hangs\ndev/web prod/far udp/5300 opens",
        );
        if round == 0 {
            lab.agent().kill()?;
        } else {
            lab.agent().stop()?;
        }
        assert_eq!(our_filters(node.ns(), &web)?, [1, 1], "filters outlive the agent");
        lab.expect("prod/web dev/web tcp/80 hangs");
        lab.agent().restart()?;
        lab.sync()?;
    }
    let (tcp, udp) = tracked_flows(&lab)?;
    without_loss(tcp, udp, || {
        lab.agent().kill()?;
        lab.agent().restart()?;
        lab.sync()
    })?;

    lab.agent().stop()?;
    lab.agent().uninstall()?;
    let shown = |interface: &str| {
        shell(
            node.ns(),
            &format!(
                "tc qdisc show dev {interface}; tc filter show dev {interface} ingress; tc filter show dev {interface} egress"
            ),
        )
    };
    let (ours, foreign) = (shown(&web)?, shown(&other)?);
    assert!(!ours.contains("clsact") && !ours.contains("bpf"), "{ours}");
    assert!(
        foreign.contains("clsact") && foreign.contains("pref 7 bpf") && foreign.contains("limit 777"),
        "{foreign}"
    );
    assert!(!foreign.contains("pod"), "{foreign}");
    assert!(!node.bpffs().exists());
    let wrong = lab.mismatches_of_probes("prod/web dev/web tcp/80 opens")?;
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[test]
fn the_way_to_attach_can_change_between_two_agents() -> Result<()> {
    let mut lab = Lab::start_with(two_nodes(), &["--attach", "tcx"])?;
    lab.apply("dev/deny", DENY)?;
    let node = lab.world.node("node1")?.clone();
    let web = lab.world.pod("dev/web")?.host_interface.clone();
    assert_eq!(our_filters(node.ns(), &web)?, [0, 0]);
    // Connections alone: the kernel stops an interface's queue for a moment to add or remove a clsact qdisc, whoever asks.
    let (tcp, _) = tracked_flows(&lab)?;
    without_loss(tcp, Vec::new(), || {
        for (mode, filters) in [("clsact", [1, 1]), ("tcx", [0, 0]), ("clsact", [1, 1]), ("auto", [0, 0])] {
            // The last one's pins are the next one's to adopt; it stays in the list to be dropped, and uninstall, last.
            lab.agent().stop()?;
            let arguments = vec!["--attach".to_owned(), mode.to_owned()];
            let next = Agent::spawn(node.ns(), AgentOptions { arguments, ..lab.options(&node) })?;
            lab.agents.insert(0, next);
            lab.agents[0].sync()?;
            ensure!(our_filters(node.ns(), &web)? == filters, "{mode}: {:?}", our_filters(node.ns(), &web)?);
            // Debian's bpftool does not list tcx programs by interface: the pins tell, two for each of two pods.
            let pins = shell(node.ns(), &format!("ls {}", node.bpffs().join("links").display()))?;
            let marks = pins.lines().filter(|pin| pin.ends_with("-filter")).count();
            let links = pins.lines().filter(|pin| pin.ends_with("_pod")).count();
            ensure!([links, marks] == if mode == "clsact" { [0, 4] } else { [4, 0] }, "{mode}: {pins}");
            let wrong =
                lab.mismatches_of_probes("prod/web dev/web tcp/80 hangs\nprod/far dev/web tcp/80 hangs")?;
            ensure!(wrong.is_empty(), "{mode}: {wrong:?}");
        }
        Ok(())
    })
}

#[test]
fn one_socket_has_one_agent() -> Result<()> {
    let mut lab = Lab::start(one_node())?;
    lab.apply("dev/deny", DENY)?;
    let node = lab.world.node("node1")?.clone();
    let mut command = Command::new(&lab.binary);
    command.args(["run", "--manifests"]).arg(lab.manifests.path()).arg("--bpffs").arg(node.bpffs());
    command.arg("--socket").arg(lab.agent().socket());
    let output = node.ns().output(&mut command)?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("another agent is running"), "{output:?}");
    lab.sync()?;
    lab.expect("prod/web dev/web tcp/80 hangs");
    Ok(())
}

#[test]
fn a_pod_that_changes_its_addresses_stays_closed() -> Result<()> {
    let lab = Lab::start(one_node().pod(pod("evil", "pod", "node1")))?;
    lab.apply("evil/deny", "podSelector: {}, policyTypes: [Ingress, Egress]")?;
    lab.expect("evil/pod prod/web tcp/80 hangs");
    // It may: many pods have CAP_NET_ADMIN in their own network namespace.
    shell(
        &lab.ns("evil/pod")?,
        "ip addr flush dev eth0; ip addr add 10.244.1.99/24 dev eth0; ip addr add fd00:10:244:1::99/64 dev eth0 nodad",
    )?;
    thread::sleep(Duration::from_millis(300));
    lab.sync()?;
    lab.expect_probes("evil/pod prod/web tcp/80 hangs\nevil/pod prod/web udp/5300 hangs");
    Ok(())
}

#[test]
fn an_agent_that_cannot_read_its_folder_at_its_start_leaves_what_is_enforced() -> Result<()> {
    let mut lab = Lab::start(one_node())?;
    lab.apply("dev/deny", DENY)?;
    lab.agent().kill()?;
    let (folder, aside) = (lab.manifests.path().to_owned(), lab.manifests.path().with_extension("aside"));
    std::fs::rename(&folder, &aside)?;
    lab.agent().restart()?;
    let synced = lab.sync();
    let wrong = lab.mismatches_of_probes("prod/web dev/web tcp/80 hangs");
    std::fs::rename(&aside, &folder)?;
    assert!(wrong.as_ref().is_ok_and(Vec::is_empty), "{wrong:?}, sync: {synced:?}");
    Ok(())
}
