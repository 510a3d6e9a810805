//! What these tests share: a world under traffic, and what must hold after each death.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::Agent;
use sluice_tests::agent_world::{Lab, eventually};
use sluice_tests::footprint::Footprint;
use sluice_tests::random::Random;
use sluice_tests::traffic::changes::Changes;
use sluice_tests::traffic::switch::Switch;
use sluice_tests::traffic::{Old, enforced, under_traffic, world};

const PATIENCE: Duration = Duration::from_secs(60);

/// Each of these tests keeps a machine busy: one after the other.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often, in the short form and in the long one.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if std::env::var_os("SLUICE_TEST_LONG").is_some() { long } else { short }
}

/// Random numbers whose seed is printed, or given by `SLUICE_TEST_SEED`.
pub(crate) fn seeded(test: &str) -> Result<(Random, u64)> {
    let seed = match std::env::var("SLUICE_TEST_SEED") {
        Ok(text) => text.parse().with_context(|| format!("SLUICE_TEST_SEED={text}"))?,
        Err(_) => std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0) % 1_000_000,
    };
    println!("{test}: SLUICE_TEST_SEED={seed}");
    Ok((Random::new(seed), seed))
}

/// Everything under traffic.
pub(crate) struct Field<'a> {
    pub(crate) lab: &'a mut Lab,
    pub(crate) changes: &'a mut Changes,
    pub(crate) switch: &'a Switch,
    /// Of each agent, before any of them died.
    footprints: Vec<Footprint>,
}

/// Starts agents on two nodes and runs `work` under traffic, which is judged afterwards; then nothing of the agents may stay.
pub(crate) fn field(prefix: &str, seed: u64, work: impl FnOnce(&mut Field<'_>) -> Result<()>) -> Result<()> {
    let mut lab = Lab::without_agents(world(prefix))?;
    for (node, mode) in lab.world.nodes().iter().zip(["auto", "clsact"]) {
        // By links where the kernel has them, and by filters: both ways have to hold.
        let mut options = lab.options(node);
        options.arguments = ["--attach".to_owned(), mode.to_owned()].into();
        lab.agents.push(Agent::spawn(node.ns(), options)?);
    }
    lab.sync()?;
    let old = Old::open(&lab)?;
    let mut changes = Changes::begin(&lab, seed)?;
    lab.sync()?;
    let footprints = lab.world.nodes().iter().zip(&lab.agents);
    let footprints =
        footprints.map(|(node, agent)| Footprint::of(&lab, node, agent)).collect::<Result<_>>()?;
    under_traffic(&mut lab, old, |lab, switch| {
        let mut field = Field { lab, changes: &mut changes, switch, footprints };
        work(&mut field)?;
        field.settled()
    })?;
    for (agent, node) in lab.agents.iter_mut().zip(lab.world.nodes()) {
        agent.uninstall()?;
        ensure!(!node.bpffs().exists(), "{} is left after `uninstall`", node.bpffs().display());
    }
    Ok(())
}

impl Field<'_> {
    /// Kills one agent as a crash would, and starts the next at once.
    pub(crate) fn replace(&mut self, agent: usize) -> Result<()> {
        self.lab.agents[agent].kill()?;
        self.lab.agents[agent].relaunch()
    }

    /// Waits until everything is enforced, and asks the traffic whether it is.
    pub(crate) fn settled(&mut self) -> Result<()> {
        enforced(self.lab)?;
        for agent in &self.lab.agents {
            // Asked again: `status` waits two seconds, which a busy machine may not have for the agent.
            eventually(PATIENCE, || {
                let status = agent.status();
                let synced = status.as_ref().is_ok_and(|status| status["synced"] == true);
                Ok((!synced).then(|| format!("not synced: {status:#?}\n{}", agent.log())))
            })?;
        }
        self.switch.ask(self.changes.is_on())
    }

    /// As `settled`, and nothing of any agent before is there. The kernel frees late what nobody has any more.
    pub(crate) fn settled_without_leftovers(&mut self) -> Result<()> {
        self.settled()?;
        for ((node, agent), before) in
            self.lab.world.nodes().iter().zip(&self.lab.agents).zip(&self.footprints)
        {
            eventually(PATIENCE, || {
                let now = Footprint::of(self.lab, node, agent);
                Ok((!now.as_ref().is_ok_and(|now| now == before)).then(|| {
                    format!("{}: {now:#?}, and {before:#?} before; its log:\n{}", node.name(), agent.log())
                }))
            })?;
        }
        Ok(())
    }

    /// As `settled`, and each interface carries one program of the running agent on each hook: another version may have
    /// other pins.
    pub(crate) fn settled_with_one_program_each(&mut self) -> Result<()> {
        self.settled()?;
        for (node, agent) in self.lab.world.nodes().iter().zip(&self.lab.agents) {
            let footprint = || Footprint::of(self.lab, node, agent);
            eventually(PATIENCE, || Ok(footprint().err().map(|error| format!("{error:#}"))))?;
        }
        Ok(())
    }
}
