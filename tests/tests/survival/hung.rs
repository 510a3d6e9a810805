//! An agent that hangs, and one too many.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::libc::{SIGCONT, SIGSTOP};
use sluice_netns::{Agent, AgentOptions};
use sluice_tests::agent_world::eventually;

use crate::rig::{alone, field, seeded};

const HUNG: Duration = Duration::from_secs(2);

#[test]
fn what_was_enforced_stays_so_while_the_agents_hang_and_they_catch_up_afterwards() -> Result<()> {
    let _alone = alone();
    let (_, seed) = seeded("hung")?;
    field("slhung", seed, |field| {
        let was_on = field.changes.is_on();
        for agent in &field.lab.agents {
            agent.signal(SIGSTOP)?;
        }
        for _ in 0..5 {
            field.changes.all(field.lab)?;
        }
        while field.changes.is_on() == was_on {
            field.changes.all(field.lab)?;
        }
        thread::sleep(HUNG);
        field.switch.ask(was_on).context("while the agents hang")?;
        for agent in &field.lab.agents {
            agent.signal(SIGCONT)?;
        }
        field.settled_without_leftovers()
    })
}

#[test]
fn a_second_agent_on_the_same_pins_refuses_to_run_and_the_first_goes_on() -> Result<()> {
    let _alone = alone();
    let (_, seed) = seeded("two")?;
    field("sltwo", seed, |field| {
        let node = &field.lab.world.nodes()[0];
        let options = field.lab.options(node);
        let bpffs = options.bpffs.display().to_string();
        // It must not be the one to clean up: what is there is the first one's.
        let mut second = Agent::launch(node.ns(), AgentOptions { wrapper: Vec::new(), ..options })?;
        second.leave_installed();
        let mut ended = None;
        eventually(Duration::from_secs(15), || {
            ended = second.exit_status()?;
            Ok(ended.is_none().then(|| format!("the second agent runs:\n{}", second.log())))
        })?;
        ensure!(!ended.is_some_and(|status| status.success()), "the second agent ended as if all were well");
        ensure!(second.log().contains(&bpffs), "it does not name {bpffs}:\n{}", second.log());
        field.changes.all(field.lab)?;
        field.settled_without_leftovers()
    })
}
