//! The ports of a Service.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::fault::{Faults, Field};
use super::super::slim;
use super::names;
use super::policy::{parse_protocol, port_number};
use super::service::{Type, given};
use crate::model::Protocol;
use crate::model::services::ServicePort;

/// The API server lets no load balancer lead to it: clouds opened more of the node than was asked for.
const KUBELET_PORT: u16 = 10_250;

pub(super) fn ports(
    spec: &slim::ServiceSpec,
    kind: Type,
    headless: bool,
    at: &Field<'_>,
    faults: &mut Faults,
) -> Vec<ServicePort> {
    let list = spec.ports.as_deref().unwrap_or_default();
    if list.is_empty() && !headless && kind != Type::ExternalName {
        faults.add_missing(at, "is required: at least one port");
    }
    let mut seen = Seen::default();
    let mut ports = Vec::new();
    for (place, typed) in list.iter().enumerate() {
        let at = at.index(place);
        let name = given(typed.name.as_deref()).unwrap_or_default();
        if name.is_empty() && list.len() > 1 {
            faults.add_missing(&at.key("name"), "is required where there are several ports");
        }
        if let Some(Err(message)) = given(Some(name)).map(names::dns_label) {
            faults.add(&at.key("name"), name, message);
        } else if !name.is_empty() && !seen.names.insert(name) {
            faults.add(&at.key("name"), name, "is the name of another port already");
        }
        let protocol = parse_protocol(given(typed.protocol.as_deref()), &at.key("protocol"), faults);
        let port = match typed.port {
            None => {
                faults.add_missing(&at.key("port"), "is required");
                None
            }
            Some(number) => port_number(number, &at.key("port"), faults),
        };
        check_target_port(typed.target_port.as_ref(), &at.key("targetPort"), faults);
        let node_port = node_port(typed, kind, &at.key("nodePort"), faults);
        let (Some(protocol), Some(port)) = (protocol, port) else { continue };
        if !seen.ports.insert((protocol, port)) {
            let message = format!("is there twice for {}", protocol.name());
            faults.add(&at.key("port"), &port, message);
        }
        if port == KUBELET_PORT && kind == Type::LoadBalancer {
            faults.add(&at.key("port"), &port, "is the kubelet's: no load balancer may lead to it");
        }
        if let Some(number) = node_port
            && !seen.node_ports.insert((protocol, number))
        {
            faults.add(&at.key("nodePort"), &number, format!("is there twice for {}", protocol.name()));
        }
        ports.push(ServicePort { name: name.to_owned(), protocol, port, node_port });
    }
    ports
}

#[derive(Default)]
struct Seen<'a> {
    names: BTreeSet<&'a str>,
    ports: BTreeSet<(Protocol, u16)>,
    node_ports: BTreeSet<(Protocol, u16)>,
}

/// Endpoints say themselves where they listen; what is checked here is what the API server would refuse.
fn check_target_port(target: Option<&IntOrString>, at: &Field<'_>, faults: &mut Faults) {
    match target {
        // The same as the port.
        None | Some(IntOrString::Int(0)) => {}
        Some(IntOrString::Int(number)) => {
            port_number(*number, at, faults);
        }
        Some(IntOrString::String(name)) => {
            if let Some(Err(message)) = given(Some(name)).map(names::port_name) {
                faults.add(at, name, message);
            }
        }
    }
}

fn node_port(typed: &slim::ServicePort, kind: Type, at: &Field<'_>, faults: &mut Faults) -> Option<u16> {
    let number = typed.node_port.filter(|number| *number != 0)?;
    if kind == Type::ClusterIp {
        faults.add(at, &number, "must not be set for a Service of type ClusterIP");
        return None;
    }
    port_number(number, at, faults)
}
