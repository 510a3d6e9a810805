//! `uninstall` takes away what Sluice made, and nothing else.

use anyhow::{Result, ensure};
use sluice_tests::agent_world::eventually;

use super::scene::{Mode, PATIENCE, Scene};

fn qdisc(scene: &Scene) -> Result<bool> {
    Ok(scene.tc("qdisc show dev DEV")?.contains("clsact"))
}

fn uninstall(scene: &mut Scene) -> Result<()> {
    ensure!(scene.lab.agent().stop()?, "SIGTERM does not end it");
    scene.lab.agent().uninstall()?;
    let left = scene.tc("filter show dev DEV egress")?;
    ensure!(!left.contains("to_pod"), "{left}");
    Ok(())
}

#[test]
fn a_qdisc_that_we_made_goes_and_one_of_others_stays() -> Result<()> {
    // Ours.
    let mut scene = Scene::start(Mode::Clsact)?;
    ensure!(qdisc(&scene)?, "there is no clsact qdisc");
    // Also after a restart.
    scene.lab.agent().kill()?;
    scene.lab.agent().restart()?;
    scene.lab.sync()?;
    uninstall(&mut scene)?;
    ensure!(!qdisc(&scene)?, "the qdisc is left");
    drop(scene);

    // Somebody else's, with nothing on it.
    let mut scene = Scene::without_agent(Mode::Clsact)?;
    scene.tc("qdisc add dev DEV clsact")?;
    scene.start_agent()?;
    uninstall(&mut scene)?;
    ensure!(qdisc(&scene)?, "somebody else's qdisc is gone");
    drop(scene);

    // Ours, which somebody uses.
    let mut scene = Scene::start(Mode::Clsact)?;
    scene.tc("filter add dev DEV egress pref 7 protocol all bpf bytecode '1,6 0 0 0'")?;
    uninstall(&mut scene)?;
    let left = scene.tc("filter show dev DEV egress")?;
    ensure!(qdisc(&scene)? && left.contains("pref 7 bpf"), "{left}");
    drop(scene);

    // Ours, which somebody made anew.
    let mut scene = Scene::start(Mode::Clsact)?;
    scene.tc("qdisc del dev DEV clsact")?;
    // The agent may be faster.
    let remade = scene.tc("qdisc add dev DEV clsact").is_ok();
    eventually(PATIENCE, || Ok((scene.ours()? != scene.expected()).then(|| "not repaired".to_owned())))?;
    uninstall(&mut scene)?;
    ensure!(qdisc(&scene)? == remade, "remade: {remade}, left: {}", qdisc(&scene)?);
    Ok(())
}
