//! The programs of others run as they did, and in their order.

use anyhow::{Result, ensure};
use aya::programs::{LinkOrder, TcAttachType};
use policy_agent::datapath::bpf::has_tcx;
use sluice_netns::{ALLOW_TIMEOUT, Outcome, UdpConn};
use sluice_tests::agent_world::eventually;

use super::foreign::{Foreign, counting};
use super::scene::{Mode, PATIENCE, Scene, modes};
use super::taking::Taking;

const PACKETS: u64 = 20;

/// Others on the side where dev/web receives.
struct Others {
    /// Before all others, after them, and there before the agent.
    tcx: Vec<(&'static str, Foreign)>,
    /// With a priority before ours, and after it.
    filters: Vec<(&'static str, Foreign)>,
}

impl Others {
    /// Those that were there before the agent.
    fn early(scene: &Scene) -> Result<Self> {
        let node = scene.lab.world.node("node1")?.ns();
        let mut others = Self { tcx: Vec::new(), filters: Vec::new() };
        if has_tcx()? {
            others.tcx.push(("early", Foreign::tcx("early", node, &scene.interface, LinkOrder::default())?));
        }
        scene.tc("qdisc add dev DEV clsact")?;
        others.filters.push(("pref 7", Foreign::filter("f7", node, &scene.interface, 7)?));
        Ok(others)
    }

    /// Those that come when it runs.
    fn late(&mut self, scene: &Scene) -> Result<()> {
        let node = scene.lab.world.node("node1")?.ns();
        if has_tcx()? {
            self.tcx.push(("last", Foreign::tcx("last", node, &scene.interface, LinkOrder::default())?));
            self.tcx.push(("first", Foreign::tcx("first", node, &scene.interface, LinkOrder::first())?));
        }
        self.filters.push(("pref 30000", Foreign::filter("f30000", node, &scene.interface, 30_000)?));
        Ok(())
    }

    fn runs(&mut self) -> Result<Vec<(&'static str, u64)>> {
        let all = self.tcx.iter_mut().chain(&mut self.filters);
        all.map(|(name, foreign)| Ok((*name, foreign.runs()?))).collect()
    }

    /// The order of the others on the hook, by tcx.
    fn order(&mut self, scene: &Scene) -> Result<Vec<&'static str>> {
        let hanging = scene.links(&scene.interface, TcAttachType::Egress)?;
        let mut order = Vec::new();
        for (id, name) in hanging {
            let mut known = None;
            for (other, foreign) in &mut self.tcx {
                if foreign.id()? == id {
                    known = Some(*other);
                }
            }
            match known {
                Some(other) => order.push(other),
                None if name == "to_pod" => order.push("OURS"),
                None => order.push("unknown"),
            }
        }
        Ok(order)
    }
}

/// Who saw all of some packets, allowed ones and denied ones.
fn seen(scene: &Scene, others: &mut Others, port: u16) -> Result<Vec<&'static str>> {
    let before = others.runs()?;
    let to = (scene.lab.world.pod("dev/web")?.ipv4, port);
    let mut conn = UdpConn::open(&scene.lab.ns("prod/web")?, to.into())?;
    for _ in 0..PACKETS {
        if port == 5300 {
            ensure!(conn.echo(ALLOW_TIMEOUT) == Outcome::Open, "an allowed datagram is lost");
        } else {
            conn.echo(std::time::Duration::from_millis(1));
        }
    }
    let after = others.runs()?;
    let saw = before.iter().zip(&after).filter(|((_, before), (_, after))| after - before >= PACKETS);
    Ok(saw.map(|((name, _), _)| *name).collect())
}

fn check(scene: &Scene, others: &mut Others, when: &str) -> Result<()> {
    let mode = scene.mode;
    ensure!(scene.ours()? == scene.expected(), "{mode} {when}: {:?}", scene.ours()?);
    let all: Vec<&str> = others.tcx.iter().chain(&others.filters).map(|(name, _)| *name).collect();
    let allowed = seen(scene, others, 5300)?;
    ensure!(allowed == all, "{mode} {when}: what is allowed is seen by {allowed:?}");
    // tcx runs before all filters.
    let before_us: Vec<&str> = all
        .iter()
        .copied()
        .filter(|name| match mode {
            Mode::Tcx => *name == "first" && !when.contains("repair"),
            Mode::Clsact => *name != "pref 30000",
        })
        .collect();
    let denied = seen(scene, others, 5301)?;
    ensure!(denied == before_us, "{mode} {when}: what is denied is seen by {denied:?}, not {before_us:?}");
    scene.lab.expect_probes("prod/web dev/web tcp/80 hangs\nprod/web dev/web udp/5300 opens v4");
    Ok(())
}

#[test]
fn others_run_in_their_order_after_restarts_and_repairs() -> Result<()> {
    let _counting = counting()?;
    for mode in modes()? {
        let mut scene = Scene::without_agent(mode)?;
        let mut others = Others::early(&scene)?;
        scene.start_agent()?;
        others.late(&scene)?;
        let order = others.order(&scene)?;
        if has_tcx()? {
            let expected: &[&str] = match mode {
                // Ours was put before all that were there; who comes later stands where it asks to.
                Mode::Tcx => &["first", "OURS", "early", "last"],
                Mode::Clsact => &["first", "early", "last"],
            };
            ensure!(order == expected, "{mode}: {order:?}");
        }
        check(&scene, &mut others, "at first")?;
        for killed in [true, false] {
            match killed {
                true => scene.lab.agent().kill()?,
                false => ensure!(scene.lab.agent().stop()?, "SIGTERM does not end it"),
            }
            scene.lab.agent().restart()?;
            scene.lab.sync()?;
            ensure!(others.order(&scene)? == order, "{mode} after a restart: {:?}", others.order(&scene)?);
            check(&scene, &mut others, "after a restart")?;
        }
        let taking = match mode {
            Mode::Tcx => Taking::Detach,
            Mode::Clsact => Taking::Filter,
        };
        let before = scene.metric("sluice_programs_repaired_total")?;
        taking.take(&scene)?;
        eventually(PATIENCE, || {
            let repaired = scene.metric("sluice_programs_repaired_total")?;
            Ok((repaired == before).then(|| format!("{mode}: not repaired")))
        })?;
        let others_alone = |order: &[&'static str]| -> Vec<&'static str> {
            order.iter().copied().filter(|name| *name != "OURS").collect()
        };
        let now = others.order(&scene)?;
        ensure!(others_alone(&now) == others_alone(&order), "{mode} after a repair: {now:?}");
        check(&scene, &mut others, "after a repair")?;
    }
    Ok(())
}
