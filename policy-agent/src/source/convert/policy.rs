//! NetworkPolicies.

use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::fault::{Fault, Faults, Field};
use super::{cidr, names, object_name, selector};
use crate::compile::{Excess, excess};
use crate::model::{Block, NamespaceMatch, Peer, Policy, PortMatch, Protocol, Rule, Selector};

pub fn policy(typed: &networking::NetworkPolicy) -> Result<Policy, Vec<Fault>> {
    let mut faults = Faults::default();
    let (name, namespace) = (typed.metadata.name.as_deref(), typed.metadata.namespace.as_deref());
    let id = object_name(name, namespace, &Field::Root.key("metadata"), &mut faults);
    // An absent spec is an empty one, and that isolates the namespace for ingress (rows 1, 12, 14).
    let empty = networking::NetworkPolicySpec::default();
    let spec = typed.spec.as_ref().unwrap_or(&empty);
    let at = Field::Root.key("spec");
    let mut convert = Converter { namespace: &id.namespace, faults };
    let subject = spec
        .pod_selector
        .as_ref()
        .map_or_else(Selector::everything, |s| selector(s, &at.key("podSelector"), &mut convert.faults));
    let (isolates_ingress, isolates_egress) = convert.directions(spec, &at);
    let ingress_at = at.key("ingress");
    let ingress = spec.ingress.iter().flatten().enumerate().map(|(i, rule)| {
        let at = ingress_at.index(i);
        convert.rule(rule.from.as_deref(), &at.key("from"), rule.ports.as_deref(), &at.key("ports"))
    });
    let ingress: Vec<Rule> = ingress.collect();
    let egress_at = at.key("egress");
    let egress = spec.egress.iter().flatten().enumerate().map(|(i, rule)| {
        let at = egress_at.index(i);
        convert.rule(rule.to.as_deref(), &at.key("to"), rule.ports.as_deref(), &at.key("ports"))
    });
    let egress: Vec<Rule> = egress.collect();
    let mut faults = convert.faults;
    for (rules, at) in [(&ingress, &ingress_at), (&egress, &egress_at)] {
        if let Some(Excess { what, count, most }) = excess(rules) {
            faults.add(at, &count, format!("{what} are too many: {most} may be in one policy"));
        }
    }
    // Rules of a direction that is not listed are checked, and have no effect (row 13).
    let (ingress, egress) = (isolates_ingress.then_some(ingress), isolates_egress.then_some(egress));
    faults.result(Policy { id, subject, ingress, egress })
}

struct Converter<'a> {
    namespace: &'a str,
    faults: Faults,
}

impl Converter<'_> {
    /// Rows 12 and 13; an empty list is an omitted one.
    fn directions(&mut self, spec: &networking::NetworkPolicySpec, at: &Field<'_>) -> (bool, bool) {
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let at = at.key("policyTypes");
        if types.len() > 2 {
            self.faults.add(&at, types, "must not have more than two entries");
        } else {
            for (i, name) in types.iter().enumerate() {
                if !matches!(name.as_str(), "Ingress" | "Egress") {
                    self.faults.add(&at.index(i), name, "must be Ingress or Egress");
                }
            }
        }
        if types.is_empty() {
            return (true, spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()));
        }
        let lists = |wanted: &str| types.iter().any(|name| name == wanted);
        (lists("Ingress"), lists("Egress"))
    }

    /// Rows 15 to 18: an empty list restricts nothing.
    fn rule(
        &mut self,
        peers: Option<&[networking::NetworkPolicyPeer]>,
        peers_at: &Field<'_>,
        ports: Option<&[networking::NetworkPolicyPort]>,
        ports_at: &Field<'_>,
    ) -> Rule {
        let peers = peers.filter(|list| !list.is_empty()).map(|list| {
            let each = list.iter().enumerate();
            each.filter_map(|(i, peer)| self.peer(peer, &peers_at.index(i))).collect()
        });
        let ports = ports.filter(|list| !list.is_empty()).map(|list| {
            let each = list.iter().enumerate();
            each.filter_map(|(i, port)| self.port(port, &ports_at.index(i))).collect()
        });
        Rule { peers, ports }
    }

    /// Rows 4 to 10.
    fn peer(&mut self, typed: &networking::NetworkPolicyPeer, at: &Field<'_>) -> Option<Peer> {
        let networking::NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = typed;
        let pods = pod_selector.as_ref().map(|s| selector(s, &at.key("podSelector"), &mut self.faults));
        let namespaces =
            namespace_selector.as_ref().map(|s| selector(s, &at.key("namespaceSelector"), &mut self.faults));
        let block = ip_block.as_ref().map(|b| self.block(b, &at.key("ipBlock")));
        match (block, namespaces, pods) {
            (None, None, None) => {
                let message = "must have a podSelector, a namespaceSelector or an ipBlock";
                self.faults.add(at, typed, message);
                None
            }
            (Some(block), None, None) => block.map(Peer::Block),
            (Some(_), _, _) => {
                let message = "must not be together with podSelector or namespaceSelector in one peer";
                self.faults.add(&at.key("ipBlock"), ip_block, message);
                None
            }
            (None, namespaces, pods) => Some(Peer::Pods {
                namespaces: namespaces.map_or_else(
                    || NamespaceMatch::Named(self.namespace.to_owned()),
                    NamespaceMatch::Selected,
                ),
                pods: pods.unwrap_or_else(Selector::everything),
            }),
        }
    }

    /// Rows 30 and 31.
    fn block(&mut self, typed: &networking::IPBlock, at: &Field<'_>) -> Option<Block> {
        let networking::IPBlock { cidr, except } = typed;
        let net = match cidr::parse_cidr(cidr) {
            Ok(net) => Some(net),
            Err(_) if cidr.is_empty() => {
                self.faults.add_missing(&at.key("cidr"), "is required");
                None
            }
            Err(message) => {
                self.faults.add(&at.key("cidr"), cidr, message);
                None
            }
        };
        let mut exceptions = Vec::new();
        let list = at.key("except");
        for (i, text) in except.iter().flatten().enumerate() {
            match (cidr::parse_cidr(text), net) {
                (Err(message), _) => self.faults.add(&list.index(i), text, message),
                (Ok(inner), Some(outer)) if !outer.contains(&inner) || inner == outer => {
                    let message = format!("must be a strict subset of cidr {outer}");
                    self.faults.add(&list.index(i), text, message);
                }
                (Ok(inner), _) => exceptions.push(inner),
            }
        }
        net.map(|cidr| Block { cidr, except: exceptions })
    }

    /// Rows 21, 22 and 28.
    fn port(&mut self, typed: &networking::NetworkPolicyPort, at: &Field<'_>) -> Option<PortMatch> {
        let networking::NetworkPolicyPort { end_port, port, protocol } = typed;
        let protocol = parse_protocol(protocol.as_deref(), &at.key("protocol"), &mut self.faults);
        let end_at = at.key("endPort");
        let port_at = at.key("port");
        match (port, end_port) {
            (None, None) => protocol.map(|protocol| PortMatch::Range { protocol, first: 0, last: u16::MAX }),
            (None, Some(end)) => {
                self.faults.add(&end_at, end, "needs a port");
                None
            }
            (Some(IntOrString::String(name)), end) => {
                if let Err(message) = names::port_name(name) {
                    self.faults.add(&port_at, name, message);
                }
                if let Some(end) = end {
                    self.faults.add(&end_at, end, "must not be together with a named port");
                }
                protocol.map(|protocol| PortMatch::Named { protocol, name: name.clone() })
            }
            (Some(IntOrString::Int(number)), end) => {
                let first = port_number(*number, &port_at, &mut self.faults);
                let last = match end {
                    None => first,
                    Some(end) if end < number => {
                        self.faults.add(&end_at, end, format!("must not be below port {number}"));
                        None
                    }
                    Some(end) => port_number(*end, &end_at, &mut self.faults),
                };
                Some(PortMatch::Range { protocol: protocol?, first: first?, last: last? })
            }
        }
    }
}

/// TCP where none is named (row 21).
pub(super) fn parse_protocol(name: Option<&str>, at: &Field<'_>, faults: &mut Faults) -> Option<Protocol> {
    let Some(name) = name else { return Some(Protocol::Tcp) };
    let protocol = Protocol::parse(name);
    if protocol.is_none() {
        faults.add(at, name, "must be TCP, UDP or SCTP");
    }
    protocol
}

pub(super) fn port_number(number: i32, at: &Field<'_>, faults: &mut Faults) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        faults.add(at, &number, "must be a port number, 1 to 65535");
    }
    port
}
