//! The story as data: what is applied at each step, what is tried, and what must come of it.

/// The namespace under `deny-ingress`.
pub(crate) const DEV: &str = "dev-linuxea";
/// The namespace under `deny-egress`.
pub(crate) const PROD: &str = "prod-linuxea";
/// The machine outside of the cluster.
pub(crate) const CLIENT: &str = "client";

const DEV_1: &str = "dev-linuxea/dev-1";
const DEV_2: &str = "dev-linuxea/dev-2";
const DEV_3: &str = "dev-linuxea/dev-3";
const PROD_1: &str = "prod-linuxea/prod-1";
const PROD_2: &str = "prod-linuxea/prod-2";

/// One step of the story.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) title: &'static str,
    pub(crate) words: &'static str,
    pub(crate) changes: &'static [Change],
    pub(crate) checks: &'static [Check],
}

/// One change of the folder of manifests.
#[derive(Debug)]
pub(crate) enum Change {
    Apply { file: &'static str, text: &'static str },
    Delete { file: &'static str },
    Label { pod: &'static str, key: &'static str, value: &'static str },
}

/// One probe and what must come of it.
#[derive(Debug)]
pub(crate) struct Check {
    /// A pod's `namespace/name`, or [`CLIENT`].
    pub(crate) from: &'static str,
    pub(crate) what: What,
    pub(crate) to: &'static str,
    pub(crate) expected: Expected,
}

/// What is tried.
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Curl(u16),
    Ping,
}

/// What must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The pod answers.
    Answers,
    /// The packet arrives, and the pod says that nothing listens there.
    Refused,
    /// Nothing comes back: the packet was dropped.
    Hangs,
}

impl Expected {
    /// Whether the policies let the packet through.
    pub(crate) fn allowed(self) -> bool {
        self != Self::Hangs
    }

    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Answers => "answers",
            Self::Refused => "connection refused",
            Self::Hangs => "hangs",
        }
    }
}

const fn curl(from: &'static str, to: &'static str, port: u16, expected: Expected) -> Check {
    Check { from, what: What::Curl(port), to, expected }
}

const fn ping(from: &'static str, to: &'static str, expected: Expected) -> Check {
    Check { from, what: What::Ping, to, expected }
}

/// The whole story, in order: each step begins with what the last one left.
pub(crate) const STORY: &[Step] = &[
    Step {
        title: "(0) No policy",
        words: "Kubernetes without network policies: everything reaches everything.",
        changes: &[],
        checks: &[
            curl(PROD_1, DEV_1, 80, Expected::Answers),
            curl(CLIENT, DEV_1, 80, Expected::Answers),
            ping(PROD_1, PROD_2, Expected::Answers),
        ],
    },
    Step {
        title: "(1) deny-ingress in dev-linuxea",
        words: "The policy selects every pod of its namespace ({}) and lists no ingress rule: nothing may open a \
                connection to them, from the same node or another. prod-linuxea has no policy and answers as before.",
        changes: &[Change::Apply {
            file: "deny-ingress.yaml",
            text: include_str!("policies/dev-deny-ingress.yaml"),
        }],
        checks: &[
            curl(PROD_1, DEV_1, 80, Expected::Hangs),
            curl(PROD_2, DEV_1, 80, Expected::Hangs),
            curl(CLIENT, DEV_1, 80, Expected::Hangs),
            curl(DEV_1, PROD_1, 80, Expected::Answers),
            curl(PROD_1, PROD_2, 80, Expected::Answers),
        ],
    },
    Step {
        title: "(2) The same policy with `ingress: [{}]`",
        words: "An empty rule allows everything. On port 81 nothing listens: the pod itself refuses, which shows that the \
                packet arrived.",
        changes: &[Change::Apply {
            file: "deny-ingress.yaml",
            text: include_str!("policies/dev-open-ingress.yaml"),
        }],
        checks: &[
            curl(PROD_1, DEV_1, 80, Expected::Answers),
            curl(PROD_2, DEV_1, 80, Expected::Answers),
            curl(PROD_2, DEV_1, 81, Expected::Refused),
        ],
    },
    Step {
        title: "(3) deny-ingress again, and allow-ingress for app=linuxea.com",
        words: "Policies add up. dev-1 gets the label and may be asked on TCP 80 from 172.16.0.0/16 except \
                172.16.8.0/24, where the client is. dev-2 has no such label.",
        changes: &[
            Change::Apply { file: "deny-ingress.yaml", text: include_str!("policies/dev-deny-ingress.yaml") },
            Change::Label { pod: DEV_1, key: "app", value: "linuxea.com" },
            Change::Apply {
                file: "allow-ingress.yaml",
                text: include_str!("policies/dev-allow-ingress-80.yaml"),
            },
        ],
        checks: &[
            curl(PROD_1, DEV_1, 80, Expected::Answers),
            curl(PROD_2, DEV_1, 80, Expected::Answers),
            curl(PROD_2, DEV_1, 81, Expected::Hangs),
            curl(CLIENT, DEV_1, 80, Expected::Hangs),
            curl(PROD_1, DEV_2, 80, Expected::Hangs),
        ],
    },
    Step {
        title: "(3) allow-ingress with port 81 added",
        words: "Now the packet to 81 arrives, and is refused since nothing listens.",
        changes: &[Change::Apply {
            file: "allow-ingress.yaml",
            text: include_str!("policies/dev-allow-ingress-80-81.yaml"),
        }],
        checks: &[
            curl(PROD_2, DEV_1, 81, Expected::Refused),
            curl(PROD_2, DEV_1, 80, Expected::Answers),
            curl(CLIENT, DEV_1, 81, Expected::Hangs),
        ],
    },
    Step {
        title: "(4) deny-egress in prod-linuxea",
        words: "The pods of prod-linuxea may open nothing, not even an echo request. They still answer: replies belong to \
                the connection that another pod opened.",
        changes: &[Change::Apply {
            file: "deny-egress.yaml",
            text: include_str!("policies/prod-deny-egress.yaml"),
        }],
        checks: &[
            ping(PROD_1, CLIENT, Expected::Hangs),
            ping(PROD_1, PROD_2, Expected::Hangs),
            curl(PROD_1, DEV_1, 80, Expected::Hangs),
            ping(DEV_1, PROD_1, Expected::Answers),
            curl(DEV_1, PROD_1, 80, Expected::Answers),
        ],
    },
    Step {
        title: "(4) The same policy with `egress: [{}]`",
        words: "An empty rule allows everything again.",
        changes: &[Change::Apply {
            file: "deny-egress.yaml",
            text: include_str!("policies/prod-open-egress.yaml"),
        }],
        checks: &[
            ping(PROD_1, CLIENT, Expected::Answers),
            ping(PROD_1, PROD_2, Expected::Answers),
            curl(PROD_1, DEV_1, 80, Expected::Answers),
        ],
    },
    Step {
        title: "(5) Pods of one namespace",
        words: "Without allow-ingress only deny-ingress of step (1) is left in dev-linuxea. It isolates its pods from one \
                another too, on one bridge (dev-1, dev-2) and across nodes (dev-3). A pod always reaches itself.",
        changes: &[
            Change::Delete { file: "allow-ingress.yaml" },
            Change::Apply { file: "deny-ingress.yaml", text: include_str!("policies/dev-deny-ingress.yaml") },
        ],
        checks: &[
            curl(DEV_1, DEV_2, 80, Expected::Hangs),
            curl(DEV_2, DEV_1, 80, Expected::Hangs),
            curl(DEV_1, DEV_3, 80, Expected::Hangs),
            curl(DEV_3, DEV_2, 80, Expected::Hangs),
            curl(DEV_1, DEV_1, 80, Expected::Answers),
        ],
    },
];

/// Whether `from` must reach `to` (a pod's `namespace/name`) on TCP 80 when the story has ended.
pub(crate) fn open_at_the_end(from: &str, to: &str) -> bool {
    from == to || !to.starts_with(DEV)
}
