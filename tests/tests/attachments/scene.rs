//! A node with an agent, two pods and a policy; and what hangs on the first pod's interface.

use std::fmt;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};
use policy_agent::datapath::bpf::has_tcx;
use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, shell};

/// The promise.
pub(crate) const WITHIN: Duration = Duration::from_secs(1);
/// Where it is not about time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const METRICS: &str = "127.0.0.1:9878";
/// How long somebody may be reading filters.
pub(crate) const BUSY: Duration = Duration::from_millis(20);

/// The kernel takes no qdisc away whose filters somebody is just reading, as an agent does that looks after its own
/// (net/sched/sch_api.c, EBUSY): whoever wants it gone tries again.
pub(crate) fn is_busy(words: &str) -> bool {
    words.contains("ongoing filter requests")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Tcx,
    Clsact,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// The ways to attach that this kernel has. The only place that asks.
pub(crate) fn modes() -> Result<Vec<Mode>> {
    if has_tcx().context("asking the kernel for tcx")? {
        return Ok(vec![Mode::Tcx, Mode::Clsact]);
    }
    eprintln!(
        "THIS KERNEL HAS NO TCX (Linux 6.6 brought it): the tcx cases do not run here, those of clsact do"
    );
    Ok(vec![Mode::Clsact])
}

/// Tries up to three times what must be done within a second: a machine that builds at the same time may stand still
/// for as long.
pub(crate) fn in_time(mut attempt: impl FnMut() -> Result<Duration>) -> Result<()> {
    let mut windows = Vec::new();
    while windows.len() < 3 {
        windows.push(attempt()?);
        if windows.last().is_some_and(|window| *window < WITHIN) {
            return Ok(());
        }
    }
    bail!("not within {WITHIN:?}: {windows:?}")
}

pub(crate) const HOOKS: [(TcAttachType, &str, &str); 2] =
    [(TcAttachType::Ingress, "ingress", "from_pod"), (TcAttachType::Egress, "egress", "to_pod")];

/// What of ours hangs on one side of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ours {
    pub(crate) links: usize,
    pub(crate) filters: usize,
}

#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) mode: Mode,
    /// Of dev/web, on the node.
    pub(crate) interface: String,
    pub(crate) ifindex: u32,
}

fn world() -> WorldBuilder {
    let pod = |namespace, name| PodSpec::new(namespace, name, "node1").serve_tcp(80).serve_udp(5300);
    World::builder("slatt").node(NodeSpec::new("node1")).pod(pod("dev", "web")).pod(pod("prod", "web"))
}

impl Scene {
    pub(crate) fn start(mode: Mode) -> Result<Self> {
        let mut scene = Self::without_agent(mode)?;
        scene.start_agent()?;
        Ok(scene)
    }

    pub(crate) fn without_agent(mode: Mode) -> Result<Self> {
        let lab = Lab::without_agents(world())?;
        lab.manifests.write(
            "policy-dev-some.yaml",
            &sluice_tests::agent_world::policy(
                "dev/some",
                "podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 5300, protocol: UDP}]}]",
            ),
        )?;
        let interface = lab.world.pod("dev/web")?.host_interface.clone();
        let index = shell(lab.world.node("node1")?.ns(), &format!("ip -o link show {interface}"))?;
        let ifindex = index.split(':').next().context("no index")?.trim().parse()?;
        Ok(Self { lab, mode, interface, ifindex })
    }

    pub(crate) fn start_agent(&mut self) -> Result<()> {
        let mode = self.mode.to_string();
        self.lab.start_agents(&["--attach", &mode, "--metrics-address", METRICS])
    }

    /// Runs a line on the node.
    pub(crate) fn shell(&self, line: &str) -> Result<String> {
        shell(self.lab.world.node("node1")?.ns(), line)
    }

    pub(crate) fn tc(&self, line: &str) -> Result<String> {
        let line = format!("tc {}", line.replace("DEV", &self.interface));
        loop {
            match self.shell(&line) {
                Err(error) if is_busy(&error.to_string()) => thread::sleep(BUSY),
                answer => return answer,
            }
        }
    }

    /// What is once on each side, in this mode.
    pub(crate) fn expected(&self) -> [Ours; 2] {
        let one = match self.mode {
            Mode::Tcx => Ours { links: 1, filters: 0 },
            Mode::Clsact => Ours { links: 0, filters: 1 },
        };
        [one; 2]
    }

    pub(crate) fn ours(&self) -> Result<[Ours; 2]> {
        self.ours_on(&self.interface)
    }

    pub(crate) fn ours_on(&self, interface: &str) -> Result<[Ours; 2]> {
        let mut all = [Ours::default(); 2];
        for (ours, (side, word, program)) in all.iter_mut().zip(HOOKS) {
            let shown = self.shell(&format!("tc filter show dev {interface} {word}"))?;
            ours.filters = shown.lines().filter(|l| l.contains("handle") && l.contains(program)).count();
            ours.links = self.links(interface, side)?.iter().filter(|(_, name)| name == program).count();
        }
        Ok(all)
    }

    /// Numbers and names of the programs that hang by tcx, in their order.
    pub(crate) fn links(&self, interface: &str, side: TcAttachType) -> Result<Vec<(u32, String)>> {
        if !has_tcx()? {
            return Ok(Vec::new());
        }
        let node = self.lab.world.node("node1")?;
        let (_, programs) = node.ns().run(|| SchedClassifier::query_tcx(interface, side))??;
        Ok(programs.iter().map(|p| (p.id(), p.name_as_str().unwrap_or_default().to_owned())).collect())
    }

    /// The folder of pins, whatever the layout of the tables.
    pub(crate) fn pins(&self) -> Result<String> {
        let root = self.lab.world.node("node1")?.bpffs().display().to_string();
        Ok(self.shell(&format!("find {root} -type d -name links"))?.trim().to_owned())
    }

    pub(crate) fn metric(&self, name: &str) -> Result<u64> {
        use std::io::{Read as _, Write as _};
        let node = self.lab.world.node("node1")?;
        let mut stream = node.ns().run(|| std::net::TcpStream::connect(METRICS))??;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line =
            text.lines().find(|line| line.split(' ').next() == Some(name)).context("no such metric")?;
        line.split(' ').nth(1).and_then(|value| value.parse().ok()).with_context(|| line.to_owned())
    }
}
