//! A connection to a Service: kube-proxy on the client's node picks an endpoint, and policies judge the connection to that
//! endpoint at its own port. So there is a verdict for each of them.

use std::net::{IpAddr, SocketAddr};

use policy_common::Direction;
use serde::Serialize;

use super::query::{self, Ends, QueryError, Source};
use super::question::ServiceAddress;
use super::{Explainer, Outcome, Side, TransportProtocol, both};
use crate::model::services::{Backend, Frontend, Target, Vantage};
use crate::model::{Cluster, Node, ObjectName, Service};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceExplanation {
    pub verdict: ServiceVerdict,
    pub service: String,
    /// Whose kube-proxy translates; nobody's in particular where the client is on no node that is known.
    pub node: Option<String>,
    /// One for each family in which client and Service both have addresses.
    pub frontends: Vec<FrontendExplanation>,
    /// Those that kube-proxy picks from.
    pub endpoints: Vec<EndpointExplanation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceVerdict {
    /// To every endpoint.
    Allow,
    /// To none of them.
    Deny,
    Mixed,
    NoEndpoint,
}

/// An address and port of the Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FrontendExplanation {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'static str,
    pub verdict: ServiceVerdict,
    /// Why no endpoint is reached, whatever policies say.
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointExplanation {
    pub address: IpAddr,
    /// The endpoint's own, which is what policies see: not the Service's.
    pub port: u16,
    pub pod: Option<String>,
    /// The node whose address it is.
    pub node: Option<String>,
    pub verdict: Outcome,
    pub egress: Side,
    pub ingress: Side,
}

impl ServiceVerdict {
    fn of(parts: impl IntoIterator<Item = Self>) -> Self {
        parts
            .into_iter()
            .reduce(|one, next| if one == next { one } else { Self::Mixed })
            .unwrap_or(Self::NoEndpoint)
    }
}

impl From<Outcome> for ServiceVerdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Allow => Self::Allow,
            Outcome::Deny => Self::Deny,
        }
    }
}

/// A frontend with the client that calls it.
struct Call<'a> {
    from: IpAddr,
    from_node: Option<&'a str>,
    frontend: Frontend,
    target: Target,
}

impl Explainer {
    /// By the Service's cluster IPs, which is what its name stands for.
    pub(super) fn explain_service(
        &self,
        from: &Source,
        address: &ServiceAddress,
    ) -> Result<ServiceExplanation, QueryError> {
        let name = &address.service;
        let service = self.cluster.services.get(name).ok_or_else(|| QueryError::NoService(name.clone()))?;
        if service.cluster_ips.is_empty() {
            return Err(QueryError::NoClusterIp(name.clone(), self.instead_of(name)));
        }
        let port = address.port_of(service)?;
        let from_addresses = query::addresses(&self.cluster, from)?;
        let from_node = query::from_node(&self.cluster, from);
        let vantage = self.vantage(from);
        let mut calls = Vec::new();
        for cluster_ip in &service.cluster_ips {
            let Some(from) = from_addresses.iter().find(|from| from.is_ipv4() == cluster_ip.is_ipv4()) else {
                continue;
            };
            let frontend = Frontend { address: *cluster_ip, port: port.port, protocol: port.protocol };
            let Some(target) = self.cluster.services.target(&frontend, &vantage) else { continue };
            if target.service != *name {
                return Err(QueryError::Taken(
                    shown(&frontend),
                    name.to_string(),
                    target.service.to_string(),
                ));
            }
            calls.push(Call { from: *from, from_node: from_node.as_deref(), frontend, target });
        }
        if calls.is_empty() {
            return Err(QueryError::NoCommonFamily(from.to_string(), format!("Service {name}")));
        }
        Ok(self.answer_calls(name, vantage, &calls))
    }

    /// Where the address and port are a frontend on the client's node, however the question named them.
    pub(super) fn explain_frontend(
        &self,
        from: &Source,
        ends: &Ends,
        protocol: TransportProtocol,
    ) -> Option<ServiceExplanation> {
        let (protocol, port) = protocol.port()?;
        let frontend = Frontend { address: ends.to, port, protocol };
        let vantage = self.vantage(from);
        let target = self.cluster.services.target(&frontend, &vantage)?;
        let name = target.service.clone();
        let call = Call { from: ends.from, from_node: ends.from_node.as_deref(), frontend, target };
        Some(self.answer_calls(&name, vantage, &[call]))
    }

    fn answer_calls(&self, service: &ObjectName, vantage: Vantage, calls: &[Call<'_>]) -> ServiceExplanation {
        let mut frontends = Vec::new();
        let mut endpoints: Vec<EndpointExplanation> = Vec::new();
        for call in calls {
            let (verdict, reason) = match self.kept_from_all(call, &vantage) {
                Some((verdict, reason)) => (verdict, Some(reason)),
                None => {
                    let begin = endpoints.len();
                    endpoints.extend(call.target.backends.iter().map(|own| self.judge_endpoint(call, *own)));
                    let judged = endpoints.iter().skip(begin);
                    (ServiceVerdict::of(judged.map(|endpoint| endpoint.verdict.into())), None)
                }
            };
            let Frontend { address, port, protocol } = call.frontend;
            frontends.push(FrontendExplanation { address, port, protocol: protocol.name(), verdict, reason });
        }
        ServiceExplanation {
            verdict: ServiceVerdict::of(frontends.iter().map(|frontend| frontend.verdict)),
            service: service.to_string(),
            node: vantage.node,
            frontends,
            endpoints,
        }
    }

    /// What kube-proxy itself does to the connection, whatever policies say.
    fn kept_from_all(&self, call: &Call<'_>, vantage: &Vantage) -> Option<(ServiceVerdict, String)> {
        let Target { service, backends, sources, .. } = &call.target;
        if !sources.is_empty() && !sources.iter().any(|range| range.contains(&call.from)) {
            let ranges: Vec<String> = sources.iter().map(ToString::to_string).collect();
            let reason = format!(
                "kube-proxy drops it: {} is in none of the loadBalancerSourceRanges of Service {service}: {}",
                call.from,
                ranges.join(", ")
            );
            return Some((ServiceVerdict::Deny, reason));
        }
        if !sources.is_empty() && self.is_isolated(call.from) {
            let reason = format!(
                "Sluice drops it: Service {service} has loadBalancerSourceRanges, and what pods that policies isolate for \
                 egress may do with such an address is not known"
            );
            return Some((ServiceVerdict::Deny, reason));
        }
        if !backends.is_empty() {
            return None;
        }
        let family = if call.frontend.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let object = self.cluster.services.get(service);
        let is_local = |own: &Service| own.internal_local && own.cluster_ips.contains(&call.frontend.address);
        let reason = if object.is_some_and(|own| is_local(own)) {
            let node = vantage.node.as_deref().unwrap_or("unknown");
            format!(
                "Service {service} has no ready {family} endpoint on the client's node ({node}), and its \
                 internalTrafficPolicy is Local: kube-proxy drops the connection, or rejects it where no other node has \
                 one either"
            )
        } else {
            format!("Service {service} has no ready {family} endpoint: kube-proxy rejects the connection")
        };
        Some((ServiceVerdict::NoEndpoint, reason))
    }

    /// Whether some policy isolates the pod with this address for egress.
    fn is_isolated(&self, address: IpAddr) -> bool {
        let policy = self.pod_at(address).and_then(|pod| self.compiled.endpoints.get(&pod.id));
        policy.is_some_and(|policy| policy.egress.is_some())
    }

    fn judge_endpoint(&self, call: &Call<'_>, backend: Backend) -> EndpointExplanation {
        let Backend { address, port } = backend;
        let ends = Ends { from: call.from, to: address, from_node: call.from_node.map(str::to_owned) };
        let protocol = TransportProtocol::Ports(call.frontend.protocol, port);
        let egress = self.side(Direction::Egress, &ends, protocol);
        let ingress = self.side(Direction::Ingress, &ends, protocol);
        let pod = self.pod_at(address).map(|pod| pod.id.to_string());
        let node = if pod.is_none() { node_of(&self.cluster, address).map(str::to_owned) } else { None };
        EndpointExplanation { address, port, pod, node, verdict: both(&egress, &ingress), egress, ingress }
    }

    /// The client's node.
    fn vantage(&self, from: &Source) -> Vantage {
        let node = match from {
            Source::Node(name) => Some(name.as_str()),
            Source::Pod(name) => self.cluster.pods.get(name).and_then(|pod| pod.node.as_deref()),
            Source::Address(address) => match self.pod_at(*address) {
                Some(pod) => pod.node.as_deref(),
                None => node_of(&self.cluster, *address),
            },
        };
        node.map(|node| Vantage::of(&self.cluster, node)).unwrap_or_default()
    }

    /// What to ask about where nothing is translated.
    fn instead_of(&self, service: &ObjectName) -> String {
        let slices = self.cluster.services.slices_of(service);
        let example = slices.iter().flat_map(|slice| slice.endpoints.iter()).next();
        example.map_or_else(String::new, |endpoint| {
            format!(
                "; clients call its endpoints themselves: ask about those, such as {}",
                self.describe(endpoint.address)
            )
        })
    }
}

fn node_of(cluster: &Cluster, address: IpAddr) -> Option<&str> {
    let has = |(_, node): &(&String, &Node)| node.addresses.contains(&address);
    cluster.nodes.iter().find(has).map(|(name, _)| name.as_str())
}

fn shown(frontend: &Frontend) -> String {
    format!("{}/{}", SocketAddr::new(frontend.address, frontend.port), frontend.protocol.name())
}
