//! Other policy engines on the node. Sluice works beside them, but then a packet passes only if both allow it, and whoever
//! looks at one of them alone is puzzled: the agent warns.
//!
//! [`judge`] is pure; [`files`] and [`programs`] look, and [`Neighbours`] tells what is new. Rules of iptables and nftables are not read: that takes either
//! programs that the agent's image does not have, or a dump of everything that kube-proxy wrote.

mod files;
mod neighbours;
mod programs;

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

pub use files::files;
pub use neighbours::Neighbours;
pub use programs::{Program, programs};

/// What was seen on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Each plugin of each CNI configuration, by its type.
    pub plugins: Vec<(PathBuf, String)>,
    /// What is pinned on the BPF file system at the places of [`PINS`].
    pub pins: Vec<PathBuf>,
    /// Programs on pods' interfaces that are not Sluice's.
    pub programs: Vec<Program>,
    /// What could not be looked at, and why.
    pub problems: Vec<String>,
}

/// A sign of another policy engine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// As the label of the metric has it.
    pub engine: &'static str,
    pub evidence: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, evidence } = self;
        match *engine {
            UNKNOWN => write!(f, "a program that is not Sluice's judges packets of pods: {evidence}"),
            _ => write!(f, "another policy engine may be at work: {engine}: {evidence}"),
        }
    }
}

/// The engine of a program that nothing tells more about.
pub const UNKNOWN: &str = "unknown";

/// Types of CNI plugins whose agents enforce NetworkPolicy. `calico` is also Canal's, beside flannel.
const PLUGINS: [(&str, &str); 6] = [
    ("antrea", "antrea"),
    ("calico", "calico"),
    ("cilium-cni", "cilium"),
    ("kube-ovn", "kube-ovn"),
    ("ovn-k8s-cni-overlay", "ovn-kubernetes"),
    ("weave-net", "weave"),
];

/// Where engines pin their maps: folder below the BPF file system, beginning of the name there, engine.
const PINS: [(&str, &str, &str); 5] = [
    ("", "calico", "calico"),
    ("", "cilium", "cilium"),
    ("globals", "aws", "aws"),
    ("tc/globals", "cali", "calico"),
    ("tc/globals", "cilium", "cilium"),
];

/// How the names of their programs begin.
const PROGRAMS: [(&str, &str); 2] = [("cali", "calico"), ("cil_", "cilium")];

/// Every sign of another engine, in order.
pub fn judge(observed: &Observed) -> BTreeSet<Finding> {
    let plugins = observed.plugins.iter().filter_map(|(file, kind)| {
        let (_, engine) = PLUGINS.iter().find(|(known, _)| known == kind)?;
        Some(Finding { engine, evidence: format!("{} has a plugin of type {kind}", file.display()) })
    });
    let pins = observed.pins.iter().filter_map(|pin| {
        let name = pin.file_name()?.to_str()?;
        let (_, _, engine) = PINS.iter().find(|(folder, begin, _)| {
            name.starts_with(begin) && pin.parent().is_some_and(|p| p.ends_with(folder))
        })?;
        Some(Finding { engine, evidence: format!("{} is pinned", pin.display()) })
    });
    let programs = observed.programs.iter().map(|program| {
        let engine = PROGRAMS.iter().find(|(begin, _)| program.name.starts_with(begin));
        Finding { engine: engine.map_or(UNKNOWN, |(_, engine)| engine), evidence: program.to_string() }
    });
    plugins.chain(pins).chain(programs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_node_of_flannel_has_nothing() {
        let plugins = ["flannel", "portmap", "bandwidth", "bridge", "host-local", "sluice", "loopback"];
        let file = PathBuf::from("/etc/cni/net.d/10-flannel.conflist");
        let observed = Observed {
            plugins: plugins.iter().map(|kind| (file.clone(), (*kind).to_owned())).collect(),
            pins: vec![
                "/sys/fs/bpf/sluice".into(),
                "/sys/fs/bpf/snap".into(),
                "/sys/fs/bpf/tc/globals/x".into(),
            ],
            ..Observed::default()
        };
        assert_eq!(judge(&observed), BTreeSet::new());
    }

    #[test]
    fn engines_are_named_with_what_tells_of_them() {
        let program = |name: &str| Program {
            interface: "veth1".to_owned(),
            hook: "ingress",
            name: name.to_owned(),
            id: 12,
        };
        let observed = Observed {
            plugins: vec![("/etc/cni/net.d/05-cilium.conflist".into(), "cilium-cni".to_owned())],
            pins: vec!["/sys/fs/bpf/tc/globals/cali_v4_ip_sets".into(), "/sys/fs/bpf/globals/aws".into()],
            programs: vec![program("cil_from_container"), program("mystery")],
            problems: Vec::new(),
        };
        let told: Vec<String> = judge(&observed).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "another policy engine may be at work: aws: /sys/fs/bpf/globals/aws is pinned",
                "another policy engine may be at work: calico: /sys/fs/bpf/tc/globals/cali_v4_ip_sets is pinned",
                "another policy engine may be at work: cilium: /etc/cni/net.d/05-cilium.conflist has a plugin of type cilium-cni",
                "another policy engine may be at work: cilium: interface veth1 has program cil_from_container (id 12) at tc ingress",
                "a program that is not Sluice's judges packets of pods: interface veth1 has program mystery (id 12) at tc ingress",
            ]
        );
    }
}
