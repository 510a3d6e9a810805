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
    /// `via: ipv6`; otherwise the first address of the destination that has a partner at the source counts.
    pub ipv6: bool,
    /// Source address on the wire, where the case fixes it.
    pub src_ip: Option<IpAddr>,
    /// Why a verdict alone cannot decide it: `kind: packet`, `oracle: false`, fields the format does not name.
    pub special: Option<String>,
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

/// One expectation for each cell that is asserted, for each protocol and port of the grid.
pub fn grid_expectations(grid: &Grid, cluster: &Cluster) -> Result<Vec<Expectation>> {
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
                    other => bail!("cell {other:?}"),
                };
                expectations.push(Expectation {
                    from: Place::parse(from)?,
                    to: Place::parse(to)?,
                    protocol,
                    port,
                    want,
                    ipv6: read_via(grid.via.as_deref())?,
                    src_ip: None,
                    special: None,
                });
            }
        }
    }
    Ok(expectations)
}

pub fn probe_expectation(probe: &Probe) -> Result<Expectation> {
    let (protocol, port) = read_pp(&probe.pp)?;
    let want = match probe.want.as_str() {
        "allow" => Want::Allow,
        "deny" => Want::Deny,
        "choice" => Want::Choice,
        "mixed" => Want::Mixed,
        other => bail!("want: {other}"),
    };
    let mut special = Vec::new();
    special.extend(probe.kind.iter().map(|kind| format!("kind: {kind}")));
    if probe.oracle == Some(false) {
        special.push("oracle: false".to_owned());
    }
    special.extend(probe.more.iter().map(|(field, value)| format!("{field}: {value}")));
    Ok(Expectation {
        from: Place::parse(&probe.from)?,
        to: Place::parse(&probe.to)?,
        protocol,
        port,
        want,
        ipv6: read_via(probe.via.as_deref())?,
        src_ip: probe.src_ip,
        special: (!special.is_empty()).then(|| special.join(", ")),
    })
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
        let (ns, name) = text.split_once('/').with_context(|| format!("place {text}"))?;
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
        (None, _) => bail!("protocol {name}"),
    }
}

fn read_via(via: Option<&str>) -> Result<bool> {
    match via {
        None | Some("ipv4") => Ok(false),
        Some("ipv6") => Ok(true),
        Some(other) => bail!("via: {other}"),
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
