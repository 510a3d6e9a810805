//! What somebody may do to the programs on dev/web's interface.

use std::thread;

use anyhow::Result;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;

use super::foreign::Foreign;
use super::scene::{BUSY, Mode, Scene, is_busy};

/// As docs/architecture.md has them; a change strands the filters of the agents before.
const OUR_PLACE: &str = "protocol all pref 20942";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taking {
    /// `bpftool link detach`: `BPF_LINK_DETACH`.
    Detach,
    /// Another program under our link: `BPF_LINK_UPDATE`.
    Update,
    /// The pins, while the agent has the links open.
    Pins,
    /// The whole folder of them.
    Folder,
    /// `tc filter del` of one.
    Filter,
    /// `tc qdisc del`, which takes both.
    Qdisc,
    /// And somebody makes one at once, as `tc qdisc replace` does.
    RemadeQdisc,
    /// Another BPF filter with our priority and handle.
    Replace,
    /// A filter of another protocol with our priority, which two cannot share.
    Usurp,
    /// The marks, while the filters hang.
    Marks,
}

impl Taking {
    pub(crate) const fn all(mode: Mode) -> &'static [Self] {
        match mode {
            Mode::Tcx => &[Self::Detach, Self::Update, Self::Pins, Self::Folder],
            Mode::Clsact => {
                &[Self::Filter, Self::Qdisc, Self::RemadeQdisc, Self::Replace, Self::Usurp, Self::Marks]
            }
        }
    }

    /// No packet passes although this is done.
    pub(crate) const fn keeps_enforcing(self) -> bool {
        matches!(self, Self::Pins | Self::Folder | Self::Marks)
    }

    pub(crate) fn take(self, scene: &Scene) -> Result<()> {
        let (pins, index) = (scene.pins()?, scene.ifindex);
        match self {
            Self::Detach => {
                scene.shell(&format!("bpftool link detach pinned {pins}/{index}-to_pod")).map(drop)
            }
            Self::Update => {
                let link = FdLink::from(PinnedLink::from_pin(format!("{pins}/{index}-to_pod"))?);
                let mut other = Foreign::load("other")?;
                // The kernel's link keeps the program; what is left here is only closed.
                other.program()?.attach_to_link(SchedClassifierLink::try_from(link)?)?;
                Ok(())
            }
            Self::Pins => scene.shell(&format!("rm {pins}/{index}-to_pod {pins}/{index}-from_pod")).map(drop),
            Self::Folder => scene.shell(&format!("rm {pins}/{index}-* && (rmdir {pins} || true)")).map(drop),
            Self::Filter => scene.tc("filter del dev DEV egress pref 20942").map(drop),
            Self::Qdisc => scene.tc("qdisc del dev DEV clsact").map(drop),
            Self::RemadeQdisc => two_steps(scene, "qdisc del dev DEV clsact", "qdisc add dev DEV clsact"),
            Self::Replace => scene
                .tc(&format!(
                    "filter replace dev DEV egress {OUR_PLACE} handle 1 bpf da bytecode '1,6 0 0 0'"
                ))
                .map(drop),
            Self::Usurp => two_steps(
                scene,
                "filter del dev DEV egress pref 20942",
                "filter add dev DEV egress pref 20942 protocol ip handle 1 bpf da bytecode '1,6 0 0 0'",
            ),
            Self::Marks => scene
                .shell(&format!("rmdir {pins}/{index}-to_pod-filter {pins}/{index}-from_pod-filter"))
                .map(drop),
        }
    }
}

/// In one process, as fast as it goes. The agent may be faster: then the second step fails, and the first was enough.
fn two_steps(scene: &Scene, first: &str, second: &str) -> Result<()> {
    let batch = format!("{first}\n{second}").replace("DEV", &scene.interface);
    let line = format!("tc -force -batch - 2>&1 <<'END' || true\n{batch}\nEND");
    while is_busy(&scene.shell(&line)?) {
        thread::sleep(BUSY);
    }
    Ok(())
}
