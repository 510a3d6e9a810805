//! Restarts, upgrades and downgrades: the program of one version gives way to another's in place.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::rig::{Field, alone, field, seeded, times};
use sluice_tests::agent_world::agent_binary;

/// The agent with another layout of its maps.
fn next_version() -> Result<PathBuf> {
    let path = std::env::var_os("SLUICE_AGENT_NEXT").map(PathBuf::from).unwrap_or_default();
    ensure!(
        path.is_file(),
        "SLUICE_AGENT_NEXT ({:?}) must name the agent of the next version, with another layout of its maps: `cargo xtask test` \
         builds it and names it; by hand, build policy-agent with its feature for that (nothing is skipped without it)",
        path
    );
    Ok(path.canonicalize()?)
}

/// Stops one agent in order, or kills it, and starts another program in its place.
fn replace(field: &mut Field<'_>, agent: usize, program: &PathBuf, crash: bool) -> Result<()> {
    let agent = &mut field.lab.agents[agent];
    if crash {
        agent.kill()?;
    } else {
        ensure!(agent.stop()?, "the agent did not end by SIGTERM; its log:\n{}", agent.log());
    }
    agent.options_mut().binary.clone_from(program);
    agent.relaunch()
}

#[test]
fn restarts_upgrades_and_downgrades_lose_nothing_and_open_nothing() -> Result<()> {
    let _alone = alone();
    let (mut random, seed) = seeded("versions")?;
    let (this, next) = (agent_binary()?, next_version()?);
    let rounds = times(5, 50);
    field("slversion", seed, |field| {
        // Answers are only let through because somebody knows who asked.
        field.changes.answers_need_memory(field.lab)?;
        field.settled()?;
        for round in 0..rounds {
            for (what, program) in [("restart", &this), ("upgrade", &next), ("downgrade", &this)] {
                let place = || format!("{what} {round}");
                for agent in [0, 1] {
                    // What changes while nobody is there is in force with the next agent.
                    if random.one_in(2) {
                        field.changes.all(field.lab)?;
                        field.changes.answers_need_memory(field.lab)?;
                    }
                    replace(field, agent, program, random.one_in(3))?;
                    if random.one_in(3) {
                        // A version that dies over its own start, half-way between the two.
                        thread::sleep(Duration::from_micros(random.below(300_000) as u64));
                        replace(field, agent, program, true)?;
                    }
                }
                field.settled().with_context(place)?;
                if program == &next {
                    field.settled_with_one_program_each().with_context(place)?;
                } else {
                    field.settled_without_leftovers().with_context(place)?;
                }
            }
        }
        Ok(())
    })?;
    println!("{rounds} restarts, upgrades and downgrades of two agents each");
    Ok(())
}
