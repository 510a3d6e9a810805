//! Questions as people and programs write them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Deserialize;

use super::frame::TransportProtocol;
use super::question::{Called, Question};
use crate::model::{Cluster, ObjectName, Pod, Protocol};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("there is no pod {0} in the manifests")]
    NoPod(ObjectName),
    #[error("pod {0} has no address")]
    NoAddress(ObjectName),
    #[error("there is no node {0} with an address in the manifests")]
    NoNode(String),
    #[error("{0} and {1} have no addresses of one family")]
    NoCommonFamily(String, String),
    #[error("{0:?}: {1}")]
    Syntax(String, &'static str),
    #[error("the port name {0:?} needs a pod that declares it, and the destination does not")]
    NoNamedPort(String),
    #[error("there is no Service {0} in the manifests")]
    NoService(ObjectName),
    #[error(
        "Service {0} has no cluster IP (it is headless, of type ExternalName, or was not given one yet), so that nothing is \
         translated{1}"
    )]
    NoClusterIp(ObjectName, String),
    #[error("Service {service} has no port {port}; its ports: {candidates}")]
    NoServicePort { service: ObjectName, port: String, candidates: String },
    #[error(
        "Service {service} has several ports {port:?}: {candidates}; append /TCP, /UDP or /SCTP, or ask by name"
    )]
    AmbiguousPort { service: ObjectName, port: String, candidates: String },
    #[error("{0} of Service {1} leads elsewhere: Service {2} claims it, too, and comes first by name")]
    Taken(String, String, String),
    #[error("{0} needs a --port: only svc/NAMESPACE/NAME:PORT has one in itself")]
    PortMissing(String),
    #[error(
        "{0} has its port in itself: no other port or protocol goes with it (append /TCP, /UDP or /SCTP to it)"
    )]
    PortTwice(String),
    #[error("not a question: {0}")]
    Batch(String),
}

/// What a node's name follows in a question. No namespace has a colon, so that it is never one end of another kind.
const NODE: &str = "node:";

/// One end of a connection: `namespace/pod`, `node:NAME` (a process of that node, as the kubelet is), or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Pod(ObjectName),
    Node(String),
    Address(IpAddr),
}

impl FromStr for Source {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        if let Some(name) = text.strip_prefix(NODE).filter(|name| !name.is_empty()) {
            return Ok(Self::Node(name.to_owned()));
        }
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::Pod(ObjectName::new(namespace, name)))
            }
            _ => {
                Err(QueryError::Syntax(text.to_owned(), "must be namespace/pod, node:NAME or an IP address"))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(name) => name.fmt(f),
            Self::Node(name) => write!(f, "{NODE}{name}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// `80/TCP`, `80` (TCP), `http/TCP` (a name that the destination pod declares) or `ICMP`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    Number(Protocol, u16),
    Name(Protocol, String),
    Icmp,
}

impl FromStr for PortSpec {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.eq_ignore_ascii_case("icmp") {
            return Ok(Self::Icmp);
        }
        let (port, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
        let Some(protocol) = Protocol::parse(&protocol.to_ascii_uppercase()) else {
            return Err(QueryError::Syntax(
                text.to_owned(),
                "the protocol must be TCP, UDP or SCTP, or ICMP alone",
            ));
        };
        match port.parse::<u16>() {
            Ok(0) => Err(QueryError::Syntax(text.to_owned(), "a port is a number from 1 to 65535")),
            Ok(number) => Ok(Self::Number(protocol, number)),
            Err(_) if port.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Ok(Self::Name(protocol, port.to_owned()))
            }
            Err(_) => {
                Err(QueryError::Syntax(text.to_owned(), "a port is a number from 1 to 65535, or a name"))
            }
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchLine {
    from: String,
    to: String,
    port: Option<serde_json::Value>,
    protocol: Option<String>,
}

/// `{"from", "to", "port", "protocol"}`; TCP where no protocol stands, and no port for ICMP. `{"from", "to"}` for a Service.
pub fn parse_batch_line(line: &str) -> Result<Question, QueryError> {
    let line: BatchLine = serde_json::from_str(line).map_err(|e| QueryError::Batch(e.to_string()))?;
    let to: Called = line.to.parse()?;
    if let Called::Service(address) = &to {
        if line.port.is_some() || line.protocol.is_some() {
            return Err(QueryError::PortTwice(address.to_string()));
        }
        return Question::new(line.from.parse()?, to, None);
    }
    let protocol = line.protocol.unwrap_or_else(|| "TCP".to_owned());
    let port = if protocol.eq_ignore_ascii_case("icmp") || protocol.eq_ignore_ascii_case("icmpv6") {
        PortSpec::Icmp
    } else {
        let port = match &line.port {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(serde_json::Value::Number(number)) => number.to_string(),
            _ => return Err(QueryError::Batch(format!("{protocol} needs a port"))),
        };
        format!("{port}/{protocol}").parse()?
    };
    Question::new(line.from.parse()?, to, Some(port))
}

/// Both ends as addresses of one family.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    /// The connection comes from a process in the network namespace of this node.
    pub(super) from_node: Option<String>,
}

/// A pod stands for its first address of the other end's family.
pub(super) fn resolve(cluster: &Cluster, from: &Source, to: &Source) -> Result<Ends, QueryError> {
    let from_addresses = addresses(cluster, from)?;
    let to_addresses = addresses(cluster, to)?;
    let (from_address, to_address) = to_addresses
        .iter()
        .find_map(|to| {
            let from = from_addresses.iter().find(|from| from.is_ipv4() == to.is_ipv4())?;
            Some((*from, *to))
        })
        .ok_or_else(|| QueryError::NoCommonFamily(from.to_string(), to.to_string()))?;
    Ok(Ends { from: from_address, to: to_address, from_node: from_node(cluster, from) })
}

/// The node in whose network namespace the process is that opens the connection.
pub(super) fn from_node(cluster: &Cluster, from: &Source) -> Option<String> {
    match from {
        Source::Pod(name) => {
            let pod = cluster.pods.get(name).filter(|pod| pod.host_network);
            pod.and_then(|pod| pod.node.as_deref()).map(str::to_owned)
        }
        Source::Node(name) => Some(name.clone()),
        Source::Address(_) => None,
    }
}

pub(super) fn addresses(cluster: &Cluster, source: &Source) -> Result<Vec<IpAddr>, QueryError> {
    match source {
        Source::Address(address) => Ok(vec![*address]),
        Source::Node(name) => {
            let node = cluster.nodes.get(name).filter(|node| !node.addresses.is_empty());
            Ok(node.ok_or_else(|| QueryError::NoNode(name.clone()))?.addresses.clone())
        }
        Source::Pod(name) => {
            let pod = cluster.pods.get(name).ok_or_else(|| QueryError::NoPod(name.clone()))?;
            if pod.addresses.is_empty() {
                return Err(QueryError::NoAddress(name.clone()));
            }
            Ok(pod.addresses.clone())
        }
    }
}

pub(super) fn resolve_port(port: PortSpec, to: Option<&Pod>) -> Result<TransportProtocol, QueryError> {
    match port {
        PortSpec::Icmp => Ok(TransportProtocol::Icmp),
        PortSpec::Number(protocol, number) => Ok(TransportProtocol::Ports(protocol, number)),
        PortSpec::Name(protocol, name) => to
            .and_then(|pod| pod.named_port(protocol, &name))
            .map(|number| TransportProtocol::Ports(protocol, number))
            .ok_or(QueryError::NoNamedPort(name)),
    }
}
