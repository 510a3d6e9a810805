//! What stands for an object that is broken and never was whole: closed, never open.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::convert;
use super::document::State;
use super::fault::{Faults, Field};
use super::object::{Kind, StandIn};
use super::typed::{Unknown, typed};
use crate::model::{ObjectName, Policy, Selector};

const SPEC_FIELDS: [&str; 4] = ["podSelector", "policyTypes", "ingress", "egress"];

/// What stands for a broken object of this kind.
pub(super) fn stand_in(kind: Kind, id: &ObjectName, value: &Value, state: State) -> StandIn {
    match kind {
        Kind::NetworkPolicy => StandIn::Policy(policy(id.clone(), value, state)),
        Kind::Pod => StandIn::Pod(pod_addresses(value)),
        // A Service that is not there has no frontends, and a slice no endpoints.
        Kind::Namespace | Kind::Node | Kind::Service | Kind::EndpointSlice => StandIn::Nothing,
    }
}

/// Isolates what the policy selects, in the directions that it names, as far as that can be told: in doubt the whole
/// namespace, and both directions.
fn policy(id: ObjectName, value: &Value, state: State) -> Policy {
    if state != State::Whole {
        return Policy::closed(id, Selector::everything(), true, true);
    }
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let (ingress, egress) = directions(spec).unwrap_or((true, true));
    Policy::closed(id, subject(spec).unwrap_or_default(), ingress, egress)
}

fn subject(spec: &Value) -> Option<Selector> {
    let (selector, strangers) = typed::<LabelSelector>(spec.get("podSelector")?, Unknown::Fault);
    let mut faults = Faults::default();
    let selector = convert::selector(&selector?, &Field::Root, &mut faults);
    (strangers.is_empty() && faults.is_empty()).then_some(selector)
}

/// SEMANTICS rows 12 and 13 on what may be of any type.
fn directions(spec: &Value) -> Option<(bool, bool)> {
    let spec = spec.as_object()?;
    match spec.get("policyTypes") {
        None | Some(Value::Null) => {}
        Some(Value::Array(types)) if types.is_empty() => {}
        Some(Value::Array(types)) => {
            let known = types.iter().all(|t| matches!(t.as_str(), Some("Ingress" | "Egress")));
            let lists = |name| types.iter().any(|t| t.as_str() == Some(name));
            return known.then(|| (lists("Ingress"), lists("Egress")));
        }
        Some(_) => return None,
    }
    // A field that nobody knows may be a misspelt `policyTypes` or `egress`.
    if spec.keys().any(|key| !SPEC_FIELDS.contains(&key.as_str())) {
        return None;
    }
    match spec.get("egress") {
        None | Some(Value::Null) => Some((true, false)),
        Some(Value::Array(rules)) => Some((true, !rules.is_empty())),
        Some(_) => None,
    }
}

/// The addresses by which the interfaces of a broken pod can be found; those of a pod of the host's network are the node's.
fn pod_addresses(value: &Value) -> Vec<IpAddr> {
    let at = |path: &str| value.pointer(path);
    let finished = matches!(at("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
    if finished || at("/spec/hostNetwork") == Some(&Value::Bool(true)) {
        return Vec::new();
    }
    let listed = at("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    let listed = listed.filter_map(|entry| entry.get("ip")).chain(at("/status/podIP"));
    let mut addresses: Vec<IpAddr> = listed
        .filter_map(|text| text.as_str()?.parse::<IpAddr>().ok())
        .map(|address| address.to_canonical())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}
