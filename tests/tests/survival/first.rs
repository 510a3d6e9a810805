//! SIGKILL during the first start of all, when nothing was enforced before: each direction of a pod is as open as without
//! Sluice, or it is enforced. A program whose tables don't say anything yet must not be there.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_netns::{Agent, NodeSpec, PodSpec, World};
use sluice_tests::agent_world::{Lab, policy, policy_file};
use sluice_tests::footprint::is_hooked;

use crate::rig::{alone, times};
use crate::strace::{BPF, Calls, Trace, died};

const OPEN: u16 = 5300;
const CLOSED: u16 = 5301;
const PATIENCE: Duration = Duration::from_secs(10);

/// From one pod to another: a port that policy leaves open, and one that it closes.
struct Way {
    from: &'static str,
    to: &'static str,
    sender: [UdpSocket; 2],
    receiver: [UdpSocket; 2],
    addresses: [[SocketAddr; 2]; 2],
}

impl Way {
    fn open(lab: &Lab, from: &'static str, to: &'static str) -> Result<Self> {
        let bind = |ns: &sluice_netns::Netns, port| -> Result<UdpSocket> {
            let socket = ns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))??;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let v4 =
            |ns: &sluice_netns::Netns| -> Result<UdpSocket> { Ok(ns.run(|| UdpSocket::bind("0.0.0.0:0"))??) };
        let (here, there) = (lab.ns(from)?, lab.ns(to)?);
        Ok(Self {
            from,
            to,
            sender: [v4(&here)?, bind(&here, 0)?],
            receiver: [bind(&there, OPEN)?, bind(&there, CLOSED)?],
            addresses: [lab.sockets(to, OPEN)?, lab.sockets(to, CLOSED)?],
        })
    }

    /// Whether datagrams come to the closed port, by IPv4 and by IPv6; those to the open one must.
    fn probe(&self, mark: u32) -> Result<[bool; 2]> {
        let mut arrived = [false; 2];
        for (family, came) in arrived.iter_mut().enumerate() {
            let number = (mark * 2 + u32::try_from(family)?).to_be_bytes();
            // What goes to the open port behind it tells when it would have come.
            for port in [1, 0] {
                self.sender[family].send_to(&number, self.addresses[port][family])?;
            }
            let began = Instant::now();
            while !self.came(0, number)? {
                ensure!(
                    began.elapsed() < PATIENCE,
                    "{} -> {} (port {OPEN}): cut, and policy allows it",
                    self.from,
                    self.addresses[0][family]
                );
                thread::sleep(Duration::from_millis(1));
            }
            *came = self.came(1, number)?;
        }
        Ok(arrived)
    }

    fn came(&self, port: usize, number: [u8; 4]) -> Result<bool> {
        let mut buffer = [0; 16];
        loop {
            match self.receiver[port].recv(&mut buffer) {
                Ok(length) if buffer[..length] == number => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Who is closed at his own end: what comes to the vault, what the prisoner sends.
fn check(lab: &Lab, ways: &[Way; 2], mark: u32) -> Result<[bool; 2]> {
    let node = lab.world.node("node1")?;
    let hooked = [
        is_hooked(node, lab.world.pod("dev/vault")?)?[1],
        is_hooked(node, lab.world.pod("dev/prisoner")?)?[0],
    ];
    for (way, hooked) in ways.iter().zip(hooked) {
        let arrived = way.probe(mark)?;
        let state = if hooked { "with its program" } else { "without a program" };
        ensure!(
            arrived == [!hooked; 2],
            "{} -> {}, {state}: a datagram to the closed port came by IPv4: {}, by IPv6: {}",
            way.from,
            way.to,
            arrived[0],
            arrived[1]
        );
    }
    Ok(hooked)
}

#[test]
fn an_agent_that_dies_during_the_first_start_leaves_pods_as_they_were_or_enforced() -> Result<()> {
    let _alone = alone();
    let pod = |name: &str| PodSpec::new("dev", name, "node1").label("app", name);
    let world = World::builder("slfirst").node(NodeSpec::new("node1"));
    let lab = Lab::without_agents(world.pod(pod("client")).pod(pod("vault")).pod(pod("prisoner")))?;
    for (name, spec) in [
        (
            "dev/vault",
            format!(
                "podSelector: {{matchLabels: {{app: vault}}}}, ingress: [{{ports: [{{port: {OPEN}, protocol: UDP}}]}}]"
            ),
        ),
        (
            "dev/prisoner",
            format!(
                "podSelector: {{matchLabels: {{app: prisoner}}}}, policyTypes: [Egress], egress: [{{ports: [{{port: {OPEN}, protocol: UDP}}]}}]"
            ),
        ),
    ] {
        lab.manifests.write(&policy_file(name), &policy(name, &spec))?;
    }
    let ways = [Way::open(&lab, "dev/client", "dev/vault")?, Way::open(&lab, "dev/prisoner", "dev/client")?];
    ensure!(check(&lab, &ways, 0)? == [false; 2], "there are programs before the first agent");

    let node = lab.world.node("node1")?;
    let start = |kill_at: Option<usize>| -> Result<(Agent, Calls, bool)> {
        let trace = Trace::new()?;
        let mut options = lab.options(node);
        options.wrapper = trace.wrapper(BPF, kill_at);
        let mut agent = Agent::launch(node.ns(), options)?;
        agent.options_mut().wrapper.clear();
        let socket = agent.socket();
        let mut dead = died(&mut agent, || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
        if !dead {
            let synced = agent.sync();
            dead = died(&mut agent, || synced.is_ok())?;
        }
        Ok((agent, trace.calls()?, dead))
    };
    let (agent, calls, _) = start(None)?;
    ensure!(check(&lab, &ways, 1)? == [true; 2], "there is an agent, and no programs");
    drop(agent);
    println!("{calls}");

    let (mut kills, mut hooked) = (0, [0, 0]);
    for (mark, n) in (2..).zip(calls.sample(times(2, 300))) {
        let (mut agent, _, dead) = start(Some(n))?;
        let place = || format!("call {n}, dead: {dead}");
        kills += usize::from(dead);
        for (count, hooked) in hooked.iter_mut().zip(check(&lab, &ways, mark).with_context(place)?) {
            *count += usize::from(hooked);
        }
        // The next one makes it whole, whatever is there.
        agent.restart()?;
        if agent.sync().is_err() {
            bail!("{}: the next agent does not come to enforce:\n{}", place(), agent.log());
        }
        ensure!(
            check(&lab, &ways, mark).with_context(place)? == [true; 2],
            "{}: the next agent has no programs",
            place()
        );
        agent.uninstall()?;
        ensure!(
            check(&lab, &ways, mark).with_context(place)? == [false; 2],
            "{}: programs are left",
            place()
        );
    }
    println!("{kills} kills; programs were there already after {} and {} of them", hooked[0], hooked[1]);
    ensure!(kills >= 8, "only {kills} kills");
    Ok(())
}
