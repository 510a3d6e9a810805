//! What a step expects: cells of grids and probes, as connections between places.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};

use super::file::{Grid, Probe};
use crate::model::{Cluster, Pod, Protocol};

/// One connection that the case has an opinion on.
#[derive(Clone, Debug, PartialEq)]
pub struct Expectation {
    pub from: Place,
    pub to: Place,
    pub protocol: Protocol,
    pub port: u16,
    pub want: Want,
    /// `via`, where the case fixes the family; otherwise the first address of the destination that has a partner at the
    /// source counts.
    pub via: Option<Family>,
    /// Source address on the wire, where the case fixes it.
    pub src_ip: Option<IpAddr>,
    /// `kind: packet` or `kind: flow` with what else the probe says: more than the verdict on one connection.
    pub kind: Option<String>,
    /// False: stated by hand, the oracle is not asked.
    pub oracle: bool,
    pub whence: Whence,
}

/// Where in its step an expectation stands, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whence {
    Grid(usize),
    Probe(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    Ipv4,
    Ipv6,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Pod {
        ns: String,
        name: String,
    },
    /// A process of that host.
    Node(String),
    External(IpAddr),
    Address(IpAddr),
    Service(String),
    NodePort {
        node: String,
        port: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Allow,
    Deny,
    /// The texts leave it open.
    Choice,
    Mixed,
}

/// Why the oracle has nothing to say on an expectation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutOfScope {
    /// ClusterNetworkPolicy: not yet.
    ClusterNetworkPolicy,
    /// Services are translated before policy sees the connection; which endpoint is meant is not in the case.
    Service,
    /// `want: choice` or `mixed`.
    NoSingleVerdict,
    Special(String),
    /// No pair of addresses of the family: nothing to connect.
    NoAddress,
}

/// One expectation for each cell that is asserted, for each protocol and port of the grid, the step's `index`-th.
pub fn grid_expectations(index: usize, grid: &Grid, cluster: &Cluster) -> Result<Vec<Expectation>> {
    let via = read_via(grid.via.as_deref())?;
    let names = match &grid.pods {
        Some(names) => names.clone(),
        None => {
            let mut names: Vec<String> = cluster.pods.iter().map(Pod::full_name).collect();
            names.sort();
            names
        }
    };
    let rows: Vec<&str> = grid.grid.split('/').collect();
    ensure!(rows.len() == names.len(), "{} rows for {} pods: {}", rows.len(), names.len(), grid.grid);
    let mut expectations = Vec::new();
    for pp in &grid.pp {
        let (protocol, port) = read_pp(pp)?;
        for (from, row) in names.iter().zip(&rows) {
            ensure!(row.chars().count() == names.len(), "row {row} for {} pods", names.len());
            for (to, cell) in names.iter().zip(row.chars()) {
                let want = match cell {
                    '.' => Want::Allow,
                    'X' => Want::Deny,
                    '-' => continue,
                    other => bail!("grid: cell {other:?} of row {row}: not '.', 'X' or '-'"),
                };
                expectations.push(Expectation {
                    from: Place::parse(from)?,
                    to: Place::parse(to)?,
                    protocol,
                    port,
                    want,
                    via,
                    src_ip: None,
                    kind: None,
                    oracle: true,
                    whence: Whence::Grid(index),
                });
            }
        }
    }
    Ok(expectations)
}

pub fn probe_expectation(index: usize, probe: &Probe) -> Result<Expectation> {
    let (protocol, port) = read_pp(&probe.pp)?;
    let want = match probe.want.as_str() {
        "allow" => Want::Allow,
        "deny" => Want::Deny,
        "choice" => Want::Choice,
        "mixed" => Want::Mixed,
        other => bail!("want: {other}: not allow, deny, choice or mixed"),
    };
    let details: Vec<String> = probe.more.iter().map(|(field, value)| format!("{field}: {value}")).collect();
    let kind = match probe.kind.as_deref() {
        // What such a probe says besides is its own affair.
        Some(kind @ ("packet" | "flow")) => {
            let mut words = vec![format!("kind: {kind}")];
            words.extend(details);
            Some(words.join(", "))
        }
        Some(other) => bail!("kind: {other}: not packet or flow"),
        None => {
            ensure!(details.is_empty(), "{}: no field of a probe", details.join(", "));
            None
        }
    };
    Ok(Expectation {
        from: Place::parse(&probe.from)?,
        to: Place::parse(&probe.to)?,
        protocol,
        port,
        want,
        via: read_via(probe.via.as_deref())?,
        src_ip: probe.src_ip,
        kind,
        oracle: probe.oracle != Some(false),
        whence: Whence::Probe(index),
    })
}

impl Expectation {
    /// Why a verdict alone cannot decide it.
    pub fn special(&self) -> Option<String> {
        let by_hand = (!self.oracle).then(|| "oracle: false".to_owned());
        let words: Vec<String> = self.kind.iter().cloned().chain(by_hand).collect();
        (!words.is_empty()).then(|| words.join(", "))
    }

    /// `TCP/80`, as the case writes it.
    pub fn pp(&self) -> String {
        match self.protocol {
            Protocol::Icmp => "ICMP".to_owned(),
            protocol => format!("{protocol}/{}", self.port),
        }
    }
}

impl Family {
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 }
    }
}

impl Place {
    pub fn parse(text: &str) -> Result<Place> {
        if let Some(name) = text.strip_prefix("node:") {
            return Ok(Place::Node(name.to_owned()));
        }
        if let Some(ip) = text.strip_prefix("ext:") {
            return Ok(Place::External(ip.parse().with_context(|| text.to_owned())?));
        }
        if let Some(ip) = text.strip_prefix("ip:") {
            return Ok(Place::Address(ip.parse().with_context(|| text.to_owned())?));
        }
        if let Some(name) = text.strip_prefix("svc:") {
            return Ok(Place::Service(name.to_owned()));
        }
        if let Some(rest) = text.strip_prefix("nodeport:") {
            let (node, port) = rest.split_once(':').with_context(|| text.to_owned())?;
            return Ok(Place::NodePort { node: node.to_owned(), port: port.parse()? });
        }
        let (ns, name) = text
            .split_once('/')
            .with_context(|| format!("{text}: no pod, node:, ext:, ip:, svc: or nodeport:"))?;
        Ok(Place::Pod { ns: ns.to_owned(), name: name.to_owned() })
    }
}

/// `TCP/80`; a protocol without ports stands alone.
fn read_pp(text: &str) -> Result<(Protocol, u16)> {
    let (protocol, port) = text.split_once('/').unwrap_or((text, "0"));
    Ok((read_protocol(protocol)?, port.parse().with_context(|| text.to_owned())?))
}

pub(super) fn read_protocol(name: &str) -> Result<Protocol> {
    match (Protocol::from_api_name(name), name) {
        (Some(protocol), _) => Ok(protocol),
        (None, "ICMP" | "ICMPv6") => Ok(Protocol::Icmp),
        (None, _) => bail!("protocol {name}: not TCP, UDP, SCTP or ICMP"),
    }
}

fn read_via(via: Option<&str>) -> Result<Option<Family>> {
    match via {
        None => Ok(None),
        Some("ipv4") => Ok(Some(Family::Ipv4)),
        Some("ipv6") => Ok(Some(Family::Ipv6)),
        Some(other) => bail!("via: {other}: not ipv4 or ipv6"),
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

/// As the file writes it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Pod { ns, name } => write!(f, "{ns}/{name}"),
            Place::Node(name) => write!(f, "node:{name}"),
            Place::External(ip) => write!(f, "ext:{ip}"),
            Place::Address(ip) => write!(f, "ip:{ip}"),
            Place::Service(name) => write!(f, "svc:{name}"),
            Place::NodePort { node, port } => write!(f, "nodeport:{node}:{port}"),
        }
    }
}

/// Counted from 1, as people do.
impl fmt::Display for Whence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whence::Grid(index) => write!(f, "grid {}", index + 1),
            Whence::Probe(index) => write!(f, "probe {}", index + 1),
        }
    }
}

impl fmt::Display for OutOfScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OutOfScope::ClusterNetworkPolicy => f.write_str("ClusterNetworkPolicy: not yet"),
            OutOfScope::Service => f.write_str("goes through a Service"),
            OutOfScope::NoSingleVerdict => f.write_str("the case names no single verdict"),
            OutOfScope::Special(what) => f.write_str(what),
            OutOfScope::NoAddress => f.write_str("no pair of addresses of the family"),
        }
    }
}
