//! What runs in the guests, and what does not and why.

use super::release::Release;

/// A test target of `sluice-tests` that says something about a kernel.
#[derive(Debug)]
pub(crate) struct Suite {
    /// cargo's name of the target.
    pub(crate) target: &'static str,
    /// Whether it also runs where only the most telling do.
    pub(crate) telling: bool,
    /// It is killed after so many seconds.
    pub(crate) seconds: u64,
    /// More arguments.
    pub(crate) arguments: &'static [&'static str],
}

/// Something that can't run on some kernels. It is named in the report of each run.
#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) target: &'static str,
    /// A test by its path; the whole suite where none is named.
    pub(crate) test: Option<&'static str>,
    pub(crate) kernels: &'static [Release],
    pub(crate) because: &'static str,
}

/// The suite that measures, which is also the proof that the programs load.
pub(crate) const MEASURES: &str = "cost";

const fn telling(target: &'static str) -> Suite {
    Suite { target, telling: true, seconds: 300, arguments: &[] }
}

const fn also(target: &'static str) -> Suite {
    Suite { target, telling: false, seconds: 900, arguments: &[] }
}

pub(crate) const SUITES: &[Suite] = &[
    Suite { arguments: &["--nocapture"], ..telling(MEASURES) },
    telling("kernel"),
    telling("vectors"),
    telling("flow_table"),
    telling("known_flows"),
    // Real frames through both hooks.
    telling("packets_headers"),
    // Needs what the guests have and other machines may not: elsewhere its tests are marked as ignored.
    Suite { arguments: &["--ignored"], ..telling("sctp_sockets") },
    also("agent_lifecycle"),
    also("agent_files"),
    also("endpoints"),
    also("memory_lock"),
    also("services"),
    also("sources"),
    also("packets_bursts"),
    also("packets_fragments"),
    also("packets_icmp"),
    also("packets_impersonation"),
    also("packets_multicast"),
    also("packets_neighbours"),
    also("packets_pmtu"),
    also("packets_tcp"),
    also("sockets_conntrack"),
    also("sockets_existing"),
    also("sockets_story"),
    also("topologies"),
];

/// A test run of the kernel names no interface that a packet has come in by before 5.18.
const NO_ARRIVAL: &str = "before Linux 5.18 BPF_PROG_TEST_RUN takes no ingress_ifindex, and every packet to a pod is judged as its \
                          node's own; what others send is tried with real packets by the suites packets_* and sockets_*";

pub(crate) const GATES: &[Gate] = &[
    Gate { target: "vectors", test: None, kernels: &[Release::V5_10], because: NO_ARRIVAL },
    Gate {
        target: "kernel",
        test: Some("kernel_engine_and_oracle_agree_on_what_pods_receive"),
        kernels: &[Release::V5_10],
        because: NO_ARRIVAL,
    },
    Gate {
        target: "packets_bursts",
        test: None,
        kernels: &[Release::V5_10],
        because: "before Linux 5.11 a veth takes no super-packets of UDP, the kernel cuts them up before it; for those of TCP an \
                  emulated machine is too slow, as on the other kernels",
    },
    Gate {
        target: "packets_bursts",
        test: Some("super_packets_of_tcp_pass_over_bridge_and_vxlan"),
        kernels: &[Release::V6_1, Release::V6_12, Release::V7],
        because: "it counts segments that TCP sends again, and an emulated machine is too slow for TCP's clock: 777 of 49,436 \
                  were seen on 5.10 on a loaded machine",
    },
    Gate {
        target: "agent_lifecycle",
        test: Some("the_way_to_attach_can_change_between_two_agents"),
        kernels: &[Release::V5_10, Release::V6_1],
        because: "tcx came with Linux 6.6: before, there is one way to attach",
    },
    Gate {
        target: "services",
        test: Some("behind_iptables"),
        kernels: &[Release::V5_10, Release::V6_1, Release::V6_12, Release::V7],
        because: "the guests have no iptables: with its rules these are tried on the machine itself, and here with those of nftables",
    },
    Gate { target: "flow_table", test: None, kernels: &[Release::V5_10], because: NO_ARRIVAL },
];

impl Gate {
    /// The gates of a suite on a kernel.
    pub(crate) fn of(target: &str, kernel: Release) -> impl Iterator<Item = &'static Self> {
        GATES.iter().filter(move |gate| gate.target == target && gate.kernels.contains(&kernel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gates_name_suites_and_reasons() {
        for gate in GATES {
            assert!(SUITES.iter().any(|suite| suite.target == gate.target), "{gate:?}");
            assert!(!gate.kernels.is_empty() && !gate.because.is_empty(), "{gate:?}");
        }
    }

    #[test]
    fn what_always_runs_measures() {
        assert!(SUITES.iter().any(|suite| suite.telling && suite.target == MEASURES));
    }
}
