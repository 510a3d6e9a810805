//! Questions: who calls whom. A Service has its port in its address, every other destination needs one beside it.

use std::fmt;
use std::str::FromStr;

use super::query::{PortSpec, QueryError, Source};
use crate::model::services::ServicePort;
use crate::model::{ObjectName, Protocol, Service};

/// What a Service's address begins with. Pods have one slash less.
const SERVICE: &str = "svc/";

/// A Service's port: `svc/NAMESPACE/NAME:PORT`, or `svc/NAMESPACE/NAME:PORT/PROTOCOL` where PORT alone is not enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAddress {
    pub service: ObjectName,
    /// Number or name: a name may consist of digits.
    pub port: String,
    pub protocol: Option<Protocol>,
}

/// What `--to` takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    End(Source),
    Service(ServiceAddress),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    End(Source, PortSpec),
    Service(ServiceAddress),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub from: Source,
    pub to: Destination,
}

impl Question {
    pub fn new(from: Source, to: Called, port: Option<PortSpec>) -> Result<Self, QueryError> {
        let to = match (to, port) {
            (Called::End(end), Some(port)) => Destination::End(end, port),
            (Called::End(end), None) => return Err(QueryError::PortMissing(end.to_string())),
            (Called::Service(address), None) => Destination::Service(address),
            (Called::Service(address), Some(_)) => return Err(QueryError::PortTwice(address.to_string())),
        };
        Ok(Self { from, to })
    }
}

impl FromStr for Called {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(SERVICE).filter(|rest| rest.contains('/')) {
            Some(rest) => service_address(rest).map(Self::Service).ok_or_else(|| {
                QueryError::Syntax(
                    text.to_owned(),
                    "a Service is svc/NAMESPACE/NAME:PORT, and where that is not enough, svc/NAMESPACE/NAME:PORT/PROTOCOL \
                     with TCP, UDP or SCTP",
                )
            }),
            None => text.parse().map(Self::End).map_err(|error| match error {
                QueryError::Syntax(text, _) => QueryError::Syntax(
                    text,
                    "must be namespace/pod, node:NAME, an IP address or svc/NAMESPACE/NAME:PORT",
                ),
                other => other,
            }),
        }
    }
}

fn service_address(text: &str) -> Option<ServiceAddress> {
    let (namespace, rest) = text.split_once('/')?;
    let (name, port) = rest.split_once(':')?;
    let (port, protocol) = match port.split_once('/') {
        Some((port, protocol)) => (port, Some(Protocol::parse(&protocol.to_ascii_uppercase())?)),
        None => (port, None),
    };
    let complete = ![namespace, name, port].iter().any(|part| part.is_empty()) && !name.contains('/');
    complete.then(|| ServiceAddress {
        service: ObjectName::new(namespace, name),
        port: port.to_owned(),
        protocol,
    })
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SERVICE}{}:{}", self.service, self.port)?;
        self.protocol.map_or(Ok(()), |protocol| write!(f, "/{}", protocol.name()))
    }
}

impl ServiceAddress {
    /// The one port of the Service that is meant.
    pub(super) fn port_of<'a>(&self, service: &'a Service) -> Result<&'a ServicePort, QueryError> {
        let is_meant = |own: &&ServicePort| {
            (own.port.to_string() == self.port || own.name == self.port)
                && self.protocol.is_none_or(|protocol| protocol == own.protocol)
        };
        let meant: Vec<&ServicePort> = service.ports.iter().filter(is_meant).collect();
        match meant.as_slice() {
            [port] => Ok(port),
            [] => Err(QueryError::NoServicePort {
                service: service.id.clone(),
                port: match self.protocol {
                    Some(protocol) => format!("{:?}/{}", self.port, protocol.name()),
                    None => format!("{:?}", self.port),
                },
                candidates: listed(service.ports.iter()),
            }),
            several => Err(QueryError::AmbiguousPort {
                service: service.id.clone(),
                port: self.port.clone(),
                candidates: listed(several.iter().copied()),
            }),
        }
    }
}

fn listed<'a>(ports: impl Iterator<Item = &'a ServicePort>) -> String {
    let words = |port: &ServicePort| {
        let number = format!("{}/{}", port.port, port.protocol.name());
        if port.name.is_empty() { number } else { format!("{number} ({})", port.name) }
    };
    let list: Vec<String> = ports.map(words).collect();
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}
