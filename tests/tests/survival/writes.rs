//! SIGKILL between any two calls that change the kernel's state: those of a change of policy, and those of a start. What the
//! dead agent left is under traffic for a while each time.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::rig::{Field, alone, field, seeded, times};
use crate::strace::{BPF, Calls, NETLINK, PATIENCE, PINS, Trace, died};

/// How long nobody is there to repair what was left half-way: some dozens of samples of each flow.
const DEAD: Duration = Duration::from_millis(30);

type Form = BTreeMap<String, String>;

/// Changes everything; returns how many calls that took, and whether the agent died at the n-th.
fn change(field: &mut Field<'_>, agent: usize, to: &Form, kill_at: Option<usize>) -> Result<(Calls, bool)> {
    let trace = Trace::new()?;
    let node = field.lab.world.nodes()[agent].ns().clone();
    let tracer = trace.attach(&field.lab.agents[agent], &node, BPF, kill_at)?;
    field.changes.return_to(field.lab, to)?;
    // The stream ends with an answer or with the agent.
    let mut stream = field.lab.agents[agent].prompt()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let answered = matches!(stream.read(&mut [0; 1]), Ok(1));
    died(&mut field.lab.agents[agent], || answered)?;
    drop(tracer);
    // It may have died over what it does after its answer.
    let dead = field.lab.agents[agent].exit_status()?.is_some();
    Ok((trace.calls()?, dead))
}

#[test]
fn an_agent_that_dies_between_any_two_writes_of_a_change_leaves_the_old_verdict_or_the_new() -> Result<()> {
    let _alone = alone();
    let (_, seed) = seeded("writes")?;
    let mut kills = 0;
    field("slwrite", seed, |field| {
        field.changes.narrow();
        let old = field.changes.form();
        let was_on = field.changes.is_on();
        while field.changes.is_on() == was_on {
            field.changes.all(field.lab)?;
        }
        let new = field.changes.form();
        field.settled()?;
        for agent in [0, 1] {
            // The agent before may have ended on either.
            if field.changes.form() == old {
                change(field, agent, &new, None)?;
                field.settled()?;
            }
            let (back, _) = change(field, agent, &old, None)?;
            field.settled()?;
            let (forth, _) = change(field, agent, &new, None)?;
            field.settled()?;
            println!("agent {agent}: {forth} forth; {back} back");
            // Writes of a change are of few kinds.
            let each = times(2, 500);
            let (mut forth, mut back) = (forth.sample(each).into_iter(), back.sample(each).into_iter());
            loop {
                let (to, n) =
                    if field.changes.form() == old { (&new, forth.next()) } else { (&old, back.next()) };
                if n.is_none() && forth.len() + back.len() == 0 {
                    break;
                }
                let (_, dead) = change(field, agent, to, n)?;
                let place = || format!("agent {agent}, call {n:?}, dead: {dead}");
                if dead {
                    kills += 1;
                    thread::sleep(DEAD);
                    field.lab.agents[agent].relaunch()?;
                }
                field.settled().with_context(place)?;
            }
        }
        field.settled_without_leftovers()
    })?;
    println!("{kills} kills at an exact write");
    // A call of the sample may not come when the change is made again.
    ensure!(kills >= 5, "only {kills} kills");
    Ok(())
}

/// Starts an agent beside what its predecessor left, to die at its n-th call; returns whether it did.
fn start(field: &mut Field<'_>, agent: usize, calls: &str, kill_at: Option<usize>) -> Result<(Calls, bool)> {
    let trace = Trace::new()?;
    let running = &mut field.lab.agents[agent];
    running.kill()?;
    running.options_mut().wrapper = trace.wrapper(calls, kill_at);
    running.relaunch()?;
    running.options_mut().wrapper.clear();
    // strace first starts itself again: the socket of the agent before doesn't answer any more, the new one does at its end.
    let socket = running.socket();
    let mut synced = None;
    let dead = died(running, || {
        if synced.is_none() {
            synced = std::os::unix::net::UnixStream::connect(&socket).ok();
        }
        synced.is_some()
    })?;
    let dead = dead || {
        // It answers when it has done its first work, or dies over it.
        let answered = running.prompt().and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            Ok(stream.read(&mut [0; 1])? == 1)
        });
        died(running, || matches!(answered, Ok(true)))?
    };
    let calls = trace.calls()?;
    if !dead {
        // Without strace, which would still kill it.
        running.kill()?;
        running.relaunch()?;
    }
    Ok((calls, dead))
}

#[test]
fn an_agent_that_dies_at_any_call_of_its_start_leaves_what_was_enforced() -> Result<()> {
    let _alone = alone();
    let (mut random, seed) = seeded("starts")?;
    let mut kills = 0;
    field("slstart", seed, |field| {
        field.changes.narrow();
        // Links are pinned by the first agent, filters sent by the second: the long form tries what neither does, too.
        let short: [(&str, &[usize]); 3] = [(BPF, &[0]), (PINS, &[0]), (NETLINK, &[1])];
        let long: [(&str, &[usize]); 3] = [(BPF, &[0, 1]), (PINS, &[0, 1]), (NETLINK, &[0, 1])];
        for (calls, agents) in if times(0, 1) == 0 { short } else { long } {
            for agent in agents.iter().copied() {
                let (made, _) = start(field, agent, calls, None)?;
                field.settled_without_leftovers()?;
                println!("agent {agent}: {made}");
                for n in made.sample(times(1, 300)) {
                    // What changed while nobody was there is the next one's work.
                    field.changes.all(field.lab)?;
                    let (_, dead) = start(field, agent, calls, Some(n))?;
                    if dead {
                        kills += 1;
                        thread::sleep(DEAD);
                        // Another one may well die on the heap that this one left.
                        if random.one_in(2) {
                            continue;
                        }
                        field.lab.agents[agent].relaunch()?;
                    }
                    let place = || format!("agent {agent}, call {n} of {calls}, dead: {dead}");
                    field.settled().with_context(place)?;
                }
                if field.lab.agents[agent].exit_status()?.is_some() {
                    field.lab.agents[agent].relaunch()?;
                }
                field.settled_without_leftovers().with_context(|| format!("agent {agent}, {calls}"))?;
            }
        }
        Ok(())
    })?;
    println!("{kills} kills at an exact call of a start");
    ensure!(kills >= 5, "only {kills} kills");
    Ok(())
}
