//! `explain`: what would happen to a connection, and which policy and rule decide it.
//!
//! The verdict is the engine's, on a crafted packet over the compiled tables: the same code that runs in the kernel.
//! The compiler's provenance then names the rule.

mod frame;
mod query;
mod question;
mod service;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use policy_common::parse::Scratch;
use policy_common::{Arrival, Direction, DropReason, PassReason, Slice, Verdict, decide};
use serde::Serialize;

pub use frame::{TransportProtocol, frame};
pub use query::{PortSpec, QueryError, Source, parse_batch_line};
pub use question::{Called, Destination, Question, ServiceAddress};
pub use service::{EndpointExplanation, FrontendExplanation, ServiceExplanation, ServiceVerdict};

use crate::compile::{Compiled, Scope, compile};
use crate::datapath::memory::Memory;
use crate::datapath::{EnforceError, enforce};
use crate::model::{Cluster, ObjectName, Owner, Pod};
use crate::plan::{Capacity, LocalEndpoint, Planner};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub verdict: Outcome,
    pub egress: Side,
    pub ingress: Side,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    Direct(Explanation),
    Service(ServiceExplanation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Allow,
    Deny,
}

/// What one direction says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Side {
    pub verdict: Outcome,
    /// The policy that allows it; for a denial the first of those that isolate the pod.
    pub policy: Option<String>,
    /// The rule that allows it, such as `ingress[0]`.
    pub rule: Option<String>,
    pub reason: String,
}

/// A cluster, compiled and loaded into tables in memory, ready for questions.
#[derive(Debug)]
pub struct Explainer {
    cluster: Cluster,
    compiled: Compiled,
    tables: Memory,
    endpoints: BTreeMap<ObjectName, u32>,
}

impl Explainer {
    pub fn new(cluster: Cluster) -> Result<Self, EnforceError> {
        let compiled = compile(&cluster, &Scope::Cluster);
        let mut locals = Vec::new();
        let mut endpoints = BTreeMap::new();
        for (ifindex, name) in (1_u32..).zip(compiled.endpoints.keys()) {
            let Some(pod) = cluster.pods.get(name) else { continue };
            locals.push(LocalEndpoint {
                pod: name.clone(),
                ifindex,
                addresses: pod.addresses.clone(),
                sources: pod.sources.clone(),
            });
            endpoints.insert(name.clone(), ifindex);
        }
        let capacity = capacity_for(&compiled);
        let mut tables = Memory::new(&capacity);
        enforce(&mut Planner::new(capacity), &mut tables, &compiled, &locals)?;
        Ok(Self { cluster, compiled, tables, endpoints })
    }

    /// What a client finds: an address and port of a Service lead to its endpoints.
    pub fn answer(&self, question: &Question) -> Result<Answer, QueryError> {
        let from = &question.from;
        match &question.to {
            Destination::Service(address) => self.explain_service(from, address).map(Answer::Service),
            Destination::End(to, port) => {
                let (ends, port) = self.resolve(from, to, port.clone())?;
                let service = self.explain_frontend(from, &ends, port);
                Ok(service.map_or_else(|| Answer::Direct(self.judge(&ends, port)), Answer::Service))
            }
        }
    }

    /// What policies say of these addresses themselves, as they are on the wire.
    pub fn explain(&self, from: &Source, to: &Source, port: PortSpec) -> Result<Explanation, QueryError> {
        let (ends, port) = self.resolve(from, to, port)?;
        Ok(self.judge(&ends, port))
    }

    fn resolve(
        &self,
        from: &Source,
        to: &Source,
        port: PortSpec,
    ) -> Result<(query::Ends, TransportProtocol), QueryError> {
        let ends = query::resolve(&self.cluster, from, to)?;
        let port = query::resolve_port(port, self.pod_at(ends.to))?;
        Ok((ends, port))
    }

    fn judge(&self, ends: &query::Ends, port: TransportProtocol) -> Explanation {
        let egress = self.side(Direction::Egress, ends, port);
        let ingress = self.side(Direction::Ingress, ends, port);
        Explanation { verdict: both(&egress, &ingress), egress, ingress }
    }

    fn pod_at(&self, address: IpAddr) -> Option<&Pod> {
        match self.cluster.pods.owner(address) {
            Owner::Pod(pod) => Some(pod),
            // All of them are closed.
            Owner::Contested => self.cluster.pods.claimants(address).last().map(Arc::as_ref),
            Owner::Nobody => None,
        }
    }

    fn side(&self, direction: Direction, ends: &query::Ends, protocol: TransportProtocol) -> Side {
        let (own, remote) = match direction {
            Direction::Egress => (ends.from, ends.to),
            Direction::Ingress => (ends.to, ends.from),
        };
        let Some((pod, ifindex)) =
            self.pod_at(own).and_then(|pod| Some((pod, *self.endpoints.get(&pod.id)?)))
        else {
            return allowed(format!(
                "{own} is no pod that policies can select: nothing restricts its {}",
                direction.name()
            ));
        };
        if own == remote {
            return allowed(format!("{} reaches itself, whatever the policies say", pod.id));
        }
        let from_node = direction == Direction::Ingress
            && ends.from_node.is_some()
            && ends.from_node.as_deref() == pod.node.as_deref();
        let arrival = Arrival { ifindex, direction, from_node };
        let bytes = frame(ends.from, ends.to, protocol);
        // Each question stands for a new connection.
        self.tables.forget_flows();
        let verdict = decide(&Slice(&bytes), &self.tables, &arrival, &mut Scratch::EMPTY.clone());
        self.words(direction, pod, remote, protocol, verdict)
    }

    fn words(
        &self,
        direction: Direction,
        pod: &Pod,
        remote: IpAddr,
        protocol: TransportProtocol,
        verdict: Verdict,
    ) -> Side {
        let way = direction.name();
        match verdict {
            Verdict::Pass(PassReason::NotIsolated) => {
                allowed(format!("no policy isolates {} for {way}", pod.id))
            }
            Verdict::Pass(PassReason::Host) => allowed(format!("{}'s own node always reaches it", pod.id)),
            Verdict::Pass(PassReason::Policy) => self.allowed_by(direction, pod, remote, protocol),
            Verdict::Pass(reason) => allowed(format!("passes as {reason:?}")),
            Verdict::Drop(DropReason::Policy) => self.denied(direction, pod, remote, protocol),
            Verdict::Drop(reason) => Side {
                verdict: Outcome::Deny,
                policy: None,
                rule: None,
                reason: format!("dropped: {}", reason.name()),
            },
        }
    }

    fn allowed_by(
        &self,
        direction: Direction,
        pod: &Pod,
        remote: IpAddr,
        protocol: TransportProtocol,
    ) -> Side {
        let signature = self.compiled.signature_of(remote);
        let origins = self.compiled.endpoints.get(&pod.id).map_or(&[][..], |p| p.origins(direction));
        let decider =
            origins.iter().find(|o| self.compiled.rule_allows(&o.content, signature, protocol.port()));
        let way = direction.name();
        match decider.map(|origin| (origin, &origin.policy)) {
            Some((origin, Some(policy))) => Side {
                verdict: Outcome::Allow,
                policy: Some(policy.to_string()),
                rule: Some(format!("{way}[{}]", origin.rule)),
                reason: format!(
                    "{policy} allows it: rule {way}[{}] matches {} on {protocol}",
                    origin.rule,
                    self.describe(remote)
                ),
            },
            Some((_, None)) => allowed(format!("{remote} is the node that {} runs on", pod.id)),
            None => allowed("the tables allow it, but no rule explains it: please report this".to_owned()),
        }
    }

    fn denied(&self, direction: Direction, pod: &Pod, remote: IpAddr, protocol: TransportProtocol) -> Side {
        let way = direction.name();
        let signature = self.compiled.signature_of(remote);
        let policy = self.compiled.endpoints.get(&pod.id);
        let isolating: Vec<String> = policy
            .into_iter()
            .flat_map(|p| &p.policies)
            .filter(|name| self.isolates(name, direction))
            .map(ToString::to_string)
            .collect();
        let origins = policy.map_or(&[][..], |p| p.origins(direction));
        let peer_matches = origins.iter().any(|o| self.compiled.rule_names_peer(&o.content, signature));
        let why = if isolating.is_empty() {
            "its address is claimed by more than one pod, or it could not be read: closed".to_owned()
        } else if origins.iter().all(|origin| origin.policy.is_none()) {
            format!("isolated by {}, which {} nothing", isolating.join(", "), verb(&isolating))
        } else if peer_matches {
            format!(
                "isolated by {}; rules name {}, but none of them {protocol}",
                isolating.join(", "),
                self.describe(remote)
            )
        } else {
            format!("isolated by {}; no rule names {}", isolating.join(", "), self.describe(remote))
        };
        Side {
            verdict: Outcome::Deny,
            policy: isolating.first().cloned(),
            rule: None,
            reason: format!("no rule allows {way} of {}: {why}", pod.id),
        }
    }

    fn isolates(&self, name: &ObjectName, direction: Direction) -> bool {
        self.cluster.policies.get(name).is_some_and(|policy| match direction {
            Direction::Egress => policy.egress.is_some(),
            Direction::Ingress => policy.ingress.is_some(),
        })
    }

    fn describe(&self, address: IpAddr) -> String {
        self.pod_at(address).map_or_else(|| address.to_string(), |pod| format!("{} ({address})", pod.id))
    }
}

fn both(egress: &Side, ingress: &Side) -> Outcome {
    match (egress.verdict, ingress.verdict) {
        (Outcome::Allow, Outcome::Allow) => Outcome::Allow,
        _ => Outcome::Deny,
    }
}

fn verb(policies: &[String]) -> &'static str {
    if policies.len() == 1 { "allows" } else { "allow" }
}

fn allowed(reason: String) -> Side {
    Side { verdict: Outcome::Allow, policy: None, rule: None, reason }
}

/// Tables as large as this cluster needs.
fn capacity_for(compiled: &Compiled) -> Capacity {
    let size = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let stride = size(compiled.signatures.len()).max(64).next_power_of_two();
    let default = Capacity::default();
    Capacity {
        words: default.words.saturating_mul(4),
        rows: size(compiled.sets.len() + 1).saturating_mul(stride).max(default.rows),
        endpoints: size(compiled.endpoints.len() + 1),
        peers: size(compiled.addresses.len() + 1),
        cidrs: size(compiled.prefixes.len() + 2),
        services: 1,
        backends: 1,
        ..default
    }
}
