//! Worlds with the real agent in them, and tables that say who reaches whom.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sluice_netns::{
    ALLOW_TIMEOUT, Agent, AgentOptions, DENY_TIMEOUT, Flow, Manifests, Netns, Node, Outcome, Probe, Protocol,
    WorldBuilder, explain_batch, patience, probe_all,
};
use sluice_netns::{TcpConn, World};

/// How soon a change of the folder is enforced without anybody asking for it: the watcher's patience, and time for a
/// busy machine.
pub const FOLLOW_TIMEOUT: Duration = Duration::from_secs(3);

/// The agent that `cargo xtask test` names, or the one that `cargo xtask build` made.
pub fn agent_binary() -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/policy-agent");
    let path = std::env::var_os("SLUICE_AGENT").map_or(built, PathBuf::from);
    ensure!(
        path.is_file(),
        "there is no agent at {}: run `cargo xtask build`, or name one by SLUICE_AGENT (nothing is skipped without it)",
        path.display()
    );
    Ok(path.canonicalize()?)
}

/// A world, its folder of manifests and the agents on its nodes. They are dropped in their order: agents before nodes.
#[derive(Debug)]
pub struct Lab {
    pub agents: Vec<Agent>,
    pub manifests: Manifests,
    pub world: World,
    pub binary: PathBuf,
}

/// Somebody who can probe, or be probed.
struct End {
    ns: Netns,
    addresses: Vec<IpAddr>,
    /// Whether `explain` can be asked by these addresses.
    explainable: bool,
}

/// One line of a table of expectations, in one family.
struct Expectation {
    line: String,
    probe: Probe,
    expected: Outcome,
    flow: Option<Flow>,
}

impl Lab {
    /// Builds the world and starts an agent on each of its nodes.
    pub fn start(builder: WorldBuilder) -> Result<Self> {
        Self::start_with(builder, &[])
    }

    /// The same with more arguments of `run`.
    pub fn start_with(builder: WorldBuilder, arguments: &[&str]) -> Result<Self> {
        let mut lab = Self::without_agents(builder)?;
        lab.start_agents(arguments)?;
        Ok(lab)
    }

    /// Starts an agent on each node, and waits until everything is enforced.
    pub fn start_agents(&mut self, arguments: &[&str]) -> Result<()> {
        for node in self.world.nodes() {
            self.agents.push(self.spawn(node, arguments)?);
        }
        self.sync()
    }

    /// The world and its manifests alone.
    pub fn without_agents(builder: WorldBuilder) -> Result<Self> {
        let binary = agent_binary()?;
        let world = builder.build()?;
        let manifests = Manifests::of(&world)?;
        Ok(Self { agents: Vec::new(), manifests, world, binary })
    }

    fn spawn(&self, node: &Node, arguments: &[&str]) -> Result<Agent> {
        let options = AgentOptions {
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            ..self.options(node)
        };
        Agent::spawn(node.ns(), options)
    }

    /// How an agent is started on `node`.
    #[must_use]
    pub fn options(&self, node: &Node) -> AgentOptions {
        AgentOptions::new(&self.binary, self.manifests.path(), node)
    }

    /// The agent of the first node.
    #[must_use]
    pub fn agent(&mut self) -> &mut Agent {
        &mut self.agents[0]
    }

    /// Waits until every agent enforces what the folder says.
    pub fn sync(&self) -> Result<()> {
        self.agents.iter().try_for_each(|agent| agent.sync().map(drop))
    }

    /// Writes a policy, `NAMESPACE/NAME` with the inside of its spec, and waits until it is enforced.
    pub fn apply(&self, name: &str, spec: &str) -> Result<()> {
        self.manifests.write(&policy_file(name), &policy(name, spec))?;
        self.sync()
    }

    /// Deletes a policy and waits until it is not enforced any more.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.manifests.remove(&policy_file(name))?;
        self.sync()
    }

    /// Checks a table of lines `FROM TO WHAT OUTCOME`, each over IPv4 and IPv6 unless a fifth word says `v4` or `v6`; and that
    /// `explain` says the same, where it can.
    ///
    /// FROM and TO are pods, nodes or machines outside; `NODE.bridge` is the node by its address on the pods' bridge. WHAT is
    /// `tcp/PORT`, `udp/PORT`, `sctp/PORT` or `ping`. OUTCOME is `opens`, `refused` or `hangs`.
    #[track_caller]
    pub fn expect(&self, table: &str) {
        let wrong = self.mismatches(table);
        assert!(matches!(&wrong, Ok(wrong) if wrong.is_empty()), "{wrong:#?}");
    }

    /// As [`Lab::expect`] without `explain`.
    #[track_caller]
    pub fn expect_probes(&self, table: &str) {
        let wrong = self.mismatches_of_probes(table);
        assert!(matches!(&wrong, Ok(wrong) if wrong.is_empty()), "{wrong:#?}");
    }

    /// As [`Lab::expect`], for callers that wait for it to come true.
    pub fn mismatches(&self, table: &str) -> Result<Vec<String>> {
        let mut wrong = self.mismatches_of_probes(table)?;
        wrong.extend(self.mismatches_of_explain(table)?);
        Ok(wrong)
    }

    /// The probes alone: where the agent knows of a past that the folder doesn't tell any more, `explain` can't follow.
    pub fn mismatches_of_probes(&self, table: &str) -> Result<Vec<String>> {
        let expectations = self.expectations(table)?;
        let probes: Vec<Probe> = expectations.iter().map(|expectation| expectation.probe.clone()).collect();
        let outcomes = probe_all(&probes);
        let mut wrong = Vec::new();
        for (Expectation { line, probe, expected, .. }, outcome) in expectations.iter().zip(outcomes) {
            if outcome != *expected {
                wrong.push(format!("{line} ({}): {outcome}", probe.to));
            }
        }
        Ok(wrong)
    }

    fn mismatches_of_explain(&self, table: &str) -> Result<Vec<String>> {
        let expectations = self.expectations(table)?;
        let mut wrong = Vec::new();
        let asked: Vec<&Expectation> = expectations.iter().filter(|e| e.flow.is_some()).collect();
        let flows: Vec<Flow> = asked.iter().filter_map(|e| e.flow.clone()).collect();
        let answers = explain_batch(&self.binary, self.manifests.path(), &flows)?;
        for (expectation, answer) in asked.iter().zip(answers) {
            if answer.allows() != (expectation.expected != Outcome::TimedOut) {
                wrong.push(format!(
                    "{} ({}): explain says {answer:?}",
                    expectation.line, expectation.probe.to
                ));
            }
        }
        Ok(wrong)
    }

    fn expectations(&self, table: &str) -> Result<Vec<Expectation>> {
        let mut all = Vec::new();
        for line in table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (from, to, what, expected, family) = match words[..] {
                [from, to, what, expected] => (from, to, what, expected, None),
                [from, to, what, expected, family] => (from, to, what, expected, Some(family)),
                _ => bail!("not a line of expectations: {line}"),
            };
            let (protocol, port) = match what.split_once('/') {
                Some(("tcp", port)) => (Protocol::Tcp, port.parse()?),
                Some(("udp", port)) => (Protocol::Udp, port.parse()?),
                Some(("sctp", port)) => (Protocol::Sctp, port.parse()?),
                None if what == "ping" => (Protocol::Ping, 0),
                _ => bail!("not a protocol: {line}"),
            };
            let (expected, timeout) = match expected {
                "opens" => (Outcome::Open, ALLOW_TIMEOUT),
                "refused" => (Outcome::Refused, ALLOW_TIMEOUT),
                "hangs" => (Outcome::TimedOut, DENY_TIMEOUT),
                _ => bail!("not an outcome: {line}"),
            };
            let families: &[bool] = match family {
                None => &[true, false],
                Some("v4") => &[true],
                Some("v6") => &[false],
                Some(_) => bail!("not a family: {line}"),
            };
            let (source, target) = (self.end(from)?, self.end(to)?);
            for v4 in families {
                let address = |end: &End| end.addresses.iter().copied().find(|a| a.is_ipv4() == *v4);
                let to = address(&target).with_context(|| format!("{to} has no address: {line}"))?;
                let from = address(&source).with_context(|| format!("{from} has no address: {line}"))?;
                let flow = (source.explainable && target.explainable).then(|| flow(from, to, protocol, port));
                let probe = Probe { from: source.ns.clone(), protocol, to, port, timeout };
                all.push(Expectation { line: words.join(" "), probe, expected: expected.clone(), flow });
            }
        }
        Ok(all)
    }

    fn end(&self, name: &str) -> Result<End> {
        if name.contains('/') {
            let pod = self.world.pod(name)?;
            let addresses = vec![pod.ipv4.into(), pod.ipv6.into()];
            return Ok(End { ns: pod.ns.clone(), addresses, explainable: true });
        }
        if let Some(machine) = self.world.outside().iter().find(|machine| machine.name == name) {
            let addresses = [Some(machine.ipv4.into()), machine.ipv6.map(IpAddr::from)];
            return Ok(End {
                ns: machine.ns.clone(),
                addresses: addresses.into_iter().flatten().collect(),
                explainable: true,
            });
        }
        let (name, addresses): (&str, fn(&Node) -> [IpAddr; 2]) = match name.split_once('.') {
            Some((node, "bridge")) => (node, Node::gateways),
            _ => (name, Node::addresses),
        };
        let node = self.world.node(name)?;
        // A node's process has its origin for it, not its address: no table can tell that.
        Ok(End { ns: node.ns().clone(), addresses: addresses(node).to_vec(), explainable: false })
    }

    /// Both addresses of a pod with a port.
    pub fn sockets(&self, pod: &str, port: u16) -> Result<[SocketAddr; 2]> {
        let pod = self.world.pod(pod)?;
        Ok([SocketAddr::from((pod.ipv4, port)), SocketAddr::from((pod.ipv6, port))])
    }

    /// A TCP connection that has echoed once.
    pub fn connect(&self, from: &str, to: SocketAddr) -> Result<TcpConn> {
        let mut conn = TcpConn::open(&self.end(from)?.ns, to, ALLOW_TIMEOUT)?;
        let outcome = conn.echo(ALLOW_TIMEOUT);
        ensure!(outcome == Outcome::Open, "{from} -> {to}: a new connection is {outcome}");
        Ok(conn)
    }

    /// The network namespace of a pod, a node or a machine outside.
    pub fn ns(&self, name: &str) -> Result<Netns> {
        Ok(self.end(name)?.ns)
    }

    /// The addresses of a pod, a node or a machine outside.
    pub fn addresses(&self, name: &str) -> Result<Vec<IpAddr>> {
        Ok(self.end(name)?.addresses)
    }

    /// Runs the agent's program with `arguments`.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(&self.binary).args(arguments).output().context("cannot run the agent's program")
    }

    /// What the agent of the first node says of one of its endpoints.
    pub fn endpoint(&self, pod: &str) -> Result<Value> {
        let agent = self.agents.first().context("there is no agent")?;
        Ok(endpoint(&agent.status()?, pod))
    }

    /// The errors that the agent of the first node lists.
    pub fn errors(&self) -> Result<Vec<String>> {
        let agent = self.agents.first().context("there is no agent")?;
        let status = agent.status()?;
        let errors = status["errors"].as_array().context("status has no errors")?;
        Ok(errors.iter().map(|error| error.as_str().unwrap_or("no text").to_owned()).collect())
    }
}

/// The entry of `pod` in a status, or null.
#[must_use]
pub fn endpoint(status: &Value, pod: &str) -> Value {
    let endpoints = status["endpoints"].as_array().into_iter().flatten();
    endpoints.into_iter().find(|endpoint| endpoint["pod"] == pod).cloned().unwrap_or_default()
}

fn flow(from: IpAddr, to: IpAddr, protocol: Protocol, port: u16) -> Flow {
    let (protocol, port) = match protocol {
        Protocol::Tcp => ("TCP", Some(port)),
        Protocol::Udp => ("UDP", Some(port)),
        Protocol::Sctp => ("SCTP", Some(port)),
        Protocol::Ping => ("ICMP", None),
    };
    Flow { from: from.to_string(), to: to.to_string(), port, protocol: protocol.to_owned() }
}

/// The file that [`Lab::apply`] writes a policy to.
#[must_use]
pub fn policy_file(name: &str) -> String {
    format!("policy-{}.yaml", name.replace('/', "-"))
}

/// The manifest of a policy, `NAMESPACE/NAME` with the inside of its spec.
#[must_use]
pub fn policy(name: &str, spec: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{namespace: {namespace}, name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// What is wrong by an agent's log. Other tests make and remove network namespaces meanwhile: what is half there cannot be
/// opened, and is no matter of the world with this id.
#[must_use]
pub fn complaints(world: &str, log: &str) -> Vec<String> {
    let of_others = |line: &str| line.contains("/var/run/netns/") && !line.contains(world);
    let wrong = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    wrong.filter(|line| !of_others(line)).map(str::to_owned).collect()
}

/// Waits for something to come true, and says what was last seen where it doesn't.
pub fn eventually(timeout: Duration, mut look: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let timeout = patience(timeout);
    let deadline = Instant::now() + timeout;
    while let Some(seen) = look()? {
        ensure!(Instant::now() < deadline, "still not so after {timeout:?}: {seen}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a program printed in a namespace; fails where it fails.
pub fn shell(ns: &Netns, line: &str) -> Result<String> {
    let output = ns.output(Command::new("sh").args(["-c", line]))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        write!(text, "{}", String::from_utf8_lossy(&output.stderr))?;
        bail!("`{line}` in {}: {}: {text}", ns.name(), output.status);
    }
    Ok(text)
}

/// The IPv6 address of a machine outside in the documentation's network.
#[must_use]
pub const fn outside6(net: u16, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x172, 0x16, net, 0, 0, 0, host)
}
