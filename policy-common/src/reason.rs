//! Why a packet passed or was dropped: small stable numbers, one table of texts for kernel, metrics and command line.

/// Why a packet was dropped. The numbers are stable: they stand in counters, events and dashboards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// No rule of the policies that isolate the pod allows it.
    Policy = 1,
    /// The pod sent from an address that is not its own.
    Spoofed = 2,
    /// The frame ends before the header that its own fields announce.
    Truncated = 3,
    /// A header contradicts itself (version, header length, total length).
    BadHeader = 4,
    /// A VLAN tag: no pod network of Kubernetes uses them.
    Vlan = 5,
    /// Neither IPv4, IPv6 nor ARP.
    EtherType = 6,
    /// More IPv6 extension headers than the bound (`parse::MAX_EXTENSIONS`).
    ExtensionChain = 7,
    /// A later fragment whose first fragment was not allowed, or not seen.
    FragmentOrphan = 8,
    /// A first fragment too short for its transport header (RFC 1858, RFC 7112).
    FragmentShort = 9,
    /// An ICMP error that quotes no tracked, allowed flow.
    IcmpError = 10,
    /// A pod sent a router advertisement or a redirect.
    RouterSpoof = 11,
    /// The program runs on an interface that no endpoint describes: closed.
    NoEndpoint = 12,
    /// A table entry that must exist does not: closed.
    Table = 13,
    /// A later fragment that overlaps its first, which was judged (RFC 1858 section 4, RFC 5722).
    FragmentOverlap = 14,
    /// It belongs to a connection whose opener has lost the permission to open it.
    Revoked = 15,
    /// To a Service: a connection that was opened before its pod was isolated, or an address that is not for everybody.
    Service = 16,
}

impl DropReason {
    pub const ALL: [Self; 16] = [
        Self::Policy,
        Self::Spoofed,
        Self::Truncated,
        Self::BadHeader,
        Self::Vlan,
        Self::EtherType,
        Self::ExtensionChain,
        Self::FragmentOrphan,
        Self::FragmentShort,
        Self::IcmpError,
        Self::RouterSpoof,
        Self::NoEndpoint,
        Self::Table,
        Self::FragmentOverlap,
        Self::Revoked,
        Self::Service,
    ];

    /// The name in metrics, events and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Spoofed => "spoofed-source",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad-header",
            Self::Vlan => "vlan",
            Self::EtherType => "ethertype",
            Self::ExtensionChain => "extension-chain",
            Self::FragmentOrphan => "fragment-orphan",
            Self::FragmentShort => "fragment-short",
            Self::IcmpError => "icmp-error-unknown-flow",
            Self::RouterSpoof => "router-spoof",
            Self::NoEndpoint => "no-endpoint",
            Self::Table => "table",
            Self::FragmentOverlap => "fragment-overlap",
            Self::Revoked => "revoked",
            Self::Service => "service",
        }
    }

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|r| *r as u8 == number)
    }
}

/// Why a packet passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PassReason {
    /// Some policy isolates the pod in this direction, and a rule allows the packet.
    Policy = 1,
    /// No policy isolates the pod in this direction.
    NotIsolated = 2,
    /// It belongs to a connection that the other side was allowed to open.
    Reply = 3,
    /// The node itself originated it (SEMANTICS row 36).
    Host = 4,
    /// A pod always reaches itself (SEMANTICS row 39).
    Own = 5,
    /// ARP, neighbour discovery or multicast listener discovery (SEMANTICS row 56).
    Neighbour = 6,
    /// An ICMP error about a tracked flow that policy allows.
    IcmpError = 7,
    /// A later fragment whose first was allowed.
    Fragment = 8,
    /// To a Service that has no endpoint: kube-proxy rejects it.
    NoEndpoint = 9,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Pass(PassReason),
    Drop(DropReason),
}

impl Verdict {
    pub const fn is_pass(self) -> bool {
        matches!(self, Self::Pass(_))
    }
}
