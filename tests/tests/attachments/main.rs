//! What the agent hung stays there, once, beside the programs of others; and what somebody takes off comes back.

mod cost;
mod flood;
mod foreign;
mod once;
mod order;
mod scene;
mod taking;
mod uninstalling;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice_netns::{ALLOW_TIMEOUT, DENY_TIMEOUT, Outcome};
use sluice_tests::agent_world::eventually;

use flood::Flood;
use scene::{Mode, PATIENCE, Scene, WITHIN, in_time, modes};
use taking::Taking;

/// Until a packet gets through after that, it is as good as closed.
const AFTER: Duration = Duration::from_millis(300);

#[test]
fn what_somebody_takes_off_is_noticed_and_back_within_a_second() -> Result<()> {
    for mode in modes()? {
        let scene = Scene::start(mode)?;
        let flood = Flood::start(&scene.lab)?;
        let mut repairs = 0;
        for taking in Taking::all(mode) {
            in_time(|| {
                thread::sleep(Duration::from_millis(200));
                flood.quiet().with_context(|| format!("before {mode} {taking:?}"))?;
                taking.take(&scene)?;
                let taken = Instant::now();
                thread::sleep(WITHIN + AFTER);
                let (count, window) = flood.heard_since(taken);
                println!("{mode}, {taking:?}: open for {window:?} ({count} packets)");
                ensure!(!taking.keeps_enforcing() || count == 0, "{mode} {taking:?}: {count} packets");
                repairs += 1;
                eventually(PATIENCE, || {
                    let (ours, repaired) = (scene.ours()?, scene.metric("sluice_programs_repaired_total")?);
                    let done = ours == scene.expected() && repaired == repairs;
                    Ok((!done).then(|| format!("{mode} {taking:?}: {ours:?}, {repaired} repairs")))
                })?;
                Ok(window)
            })
            .with_context(|| format!("{mode} {taking:?}"))?;
        }
        let log = scene.lab.agents[0].log();
        let told =
            log.lines().filter(|l| l.contains("WARN") && l.contains("put back what somebody took off"));
        let told: Vec<&str> = told.collect();
        ensure!(u64::try_from(told.len())? == repairs, "{told:#?}");
        let named = |line: &&str| line.contains("dev/web") && line.contains(&scene.interface);
        ensure!(told.iter().all(named), "{told:#?}");
        let status = scene.lab.agents[0].status()?;
        let warnings = status["warnings"].to_string();
        let times = format!("{repairs} times within the last hour");
        ensure!(warnings.contains("pod dev/web") && warnings.contains(&times), "{warnings}");
        ensure!(scene.lab.errors()?.is_empty(), "{:?}", scene.lab.errors()?);
        scene.lab.expect("prod/web dev/web tcp/80 hangs\nprod/web dev/web udp/5300 opens");
    }
    Ok(())
}

/// The same with an agent that stands still meanwhile: that the pod is open then shows that the probes can fail.
#[test]
fn what_began_while_nothing_hung_is_judged_when_it_hangs_again() -> Result<()> {
    for mode in modes()? {
        let scene = Scene::start(mode)?;
        let agent = Pid::from_raw(i32::try_from(scene.lab.agents[0].id())?);
        let mut allowed = scene.lab.connect("dev/web", scene.lab.sockets("prod/web", 80)?[0])?;
        for taking in Taking::all(mode).iter().filter(|taking| !taking.keeps_enforcing()) {
            kill(agent, Signal::SIGSTOP)?;
            let seen = (|| {
                taking.take(&scene)?;
                scene.lab.connect("prod/web", scene.lab.sockets("dev/web", 80)?[0])
            })();
            kill(agent, Signal::SIGCONT)?;
            let mut denied = seen.with_context(|| format!("{mode} {taking:?}"))?;
            eventually(PATIENCE, || {
                Ok((scene.ours()? != scene.expected()).then(|| format!("{mode} {taking:?}")))
            })?;
            scene.lab.expect_probes("prod/web dev/web tcp/80 hangs");
            // Its opener had no permission, and has none now.
            ensure!(denied.echo(DENY_TIMEOUT) == Outcome::TimedOut, "{mode} {taking:?}");
            ensure!(allowed.echo(ALLOW_TIMEOUT) == Outcome::Open, "{mode} {taking:?}: an answer was cut");
        }
    }
    Ok(())
}

/// All interfaces at once: by the clock, not one after the other.
#[test]
fn all_that_is_taken_off_at_once_is_back_within_a_second() -> Result<()> {
    let scene = Scene::start(Mode::Clsact)?;
    let interfaces: Vec<String> = scene.lab.world.pods().map(|pod| pod.host_interface.clone()).collect();
    in_time(|| {
        for interface in &interfaces {
            scene.tc(&format!("qdisc del dev {interface} clsact"))?;
        }
        let taken = Instant::now();
        eventually(PATIENCE, || {
            for interface in &interfaces {
                if scene.ours_on(interface)? != scene.expected() {
                    return Ok(Some(interface.clone()));
                }
            }
            Ok(None)
        })?;
        Ok(taken.elapsed())
    })
}
