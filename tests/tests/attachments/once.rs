//! Never a second one of ours, whatever an agent dies in.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{Outcome, Process};

use super::scene::{Mode, Scene, modes};

fn rounds() -> u64 {
    if std::env::var_os("SLUICE_TEST_LONG").is_some() { 200 } else { 16 }
}

#[test]
fn agents_that_die_while_they_change_the_way_to_attach_leave_one() -> Result<()> {
    let modes = modes()?;
    let last = modes.len() - 1;
    let mut scene = Scene::start(modes[last])?;
    scene.lab.agent().kill()?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("dying.sock");
    let socket = socket.to_str().context("a path that is no text")?;
    let (knocker, door) = (scene.lab.ns("prod/web")?, scene.lab.sockets("dev/web", 80)?);
    for round in 0..rounds() {
        let mode = modes[usize::try_from(round)? % modes.len()];
        let node = scene.lab.world.node("node1")?;
        let mut command = Command::new(&scene.lab.binary);
        command.args(["run", "--node", "node1", "--attach", &mode.to_string(), "--socket", socket]);
        command.arg("--manifests").arg(scene.lab.manifests.path()).arg("--bpffs").arg(node.bpffs());
        command.env("SLUICE_HEALTH_ADDRESS", "off").env("SLUICE_CNI_BIN_DIR", "/nonexistent");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut agent = Process::spawn(node.ns(), &mut command)?;
        thread::sleep(Duration::from_millis(40 + round * 37 % 400));
        agent.kill()?;
        for to in door {
            let outcome = sluice_netns::tcp_connect(&knocker, to, Duration::from_millis(10));
            ensure!(outcome == Outcome::TimedOut, "round {round}, {mode}: {to} is {outcome}");
        }
        let ours = scene.ours()?;
        let count = |side: usize| ours[side].links + ours[side].filters;
        // Both for a moment, never none; and of each kind never a second.
        ensure!((0..2).all(|side| count(side) >= 1), "round {round}: {ours:?}");
        ensure!(ours.iter().all(|o| o.links <= 1 && o.filters <= 1), "round {round}: {ours:?}");
    }
    scene.lab.agent().restart()?;
    scene.lab.sync()?;
    ensure!(scene.ours()? == scene.expected(), "{:?}", scene.ours()?);
    let names = scene.shell(&format!("ls {}", scene.pins()?))?;
    let of = |suffix: &str| names.lines().filter(|name| name.ends_with(suffix)).count();
    let counts = [of("pod"), of("-filter"), of("-clsact"), of("-next")];
    // Of two pods.
    let expected = match scene.mode {
        Mode::Tcx => [4, 0, 0, 0],
        Mode::Clsact => [0, 4, 2, 0],
    };
    ensure!(counts == expected, "{names}");
    scene.lab.expect("prod/web dev/web tcp/80 hangs\nprod/web dev/web udp/5300 opens");
    Ok(())
}
