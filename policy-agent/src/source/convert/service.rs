//! Services: what the API server would never store, and what kube-proxy reads of the others.

use std::net::IpAddr;

use super::super::fault::{Fault, Faults, Field};
use super::super::slim;
use super::service_ports::ports;
use super::{NOT_AN_ADDRESS, check_proxied, names, object_name, parse_address, parse_cidr};
use crate::model::Service;
use crate::model::services::DEFAULT_AFFINITY_SECONDS;

/// Addresses times ports of one Service. An object that the API server stores has room for a million times as many.
const MOST_FRONTENDS: usize = 16_384;
/// A day, as the API server has it.
const MOST_AFFINITY_SECONDS: u32 = 86_400;
const HEADLESS: &str = "None";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

pub(in super::super) fn service(typed: &slim::Service) -> Result<Service, Vec<Fault>> {
    let mut faults = Faults::default();
    let at = Field::Root.key("metadata");
    let metadata = typed.metadata.as_deref();
    let (name, namespace) =
        (metadata.and_then(|m| m.name.as_deref()), metadata.and_then(|m| m.namespace.as_deref()));
    let id = object_name(name, namespace, &at, &mut faults);
    if names::is_dns_subdomain(&id.name)
        && let Err(message) = names::dns_label(&id.name)
    {
        faults.add(&at.key("name"), &id.name, message);
    }
    let empty = slim::ServiceSpec::default();
    let spec = typed.spec.as_deref().unwrap_or(&empty);
    let at = Field::Root.key("spec");
    let kind = service_type(spec, &at, &mut faults);
    let headless = is_headless(spec);
    let cluster_ips = cluster_ips(spec, kind, &at, &mut faults);
    check_families(spec, &cluster_ips, &at, &mut faults);
    let service = Service {
        id,
        cluster_ips: if kind == Type::ExternalName { Vec::new() } else { cluster_ips },
        external_ips: external_ips(spec, &at.key("externalIPs"), &mut faults),
        load_balancer_ips: load_balancer_ips(typed.status.as_deref(), &mut faults),
        source_ranges: source_ranges(spec, kind, &at, &mut faults).into(),
        ports: ports(spec, kind, headless, &at.key("ports"), &mut faults).into(),
        affinity: affinity(spec, &at, &mut faults),
        internal_local: is_local(
            spec.internal_traffic_policy.as_deref(),
            &at.key("internalTrafficPolicy"),
            &mut faults,
        ),
    };
    is_local(spec.external_traffic_policy.as_deref(), &at.key("externalTrafficPolicy"), &mut faults);
    check_external_name(spec, kind, &at, &mut faults);
    let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
    let addresses: usize = addresses.iter().map(|list| list.len()).sum();
    let frontends = addresses.saturating_mul(service.ports.len());
    if frontends > MOST_FRONTENDS {
        let message = format!("addresses times ports are too many: {MOST_FRONTENDS} may be of one Service");
        faults.add(&at.key("ports"), &frontends, message);
    }
    faults.result(service)
}

fn service_type(spec: &slim::ServiceSpec, at: &Field<'_>, faults: &mut Faults) -> Type {
    match given(spec.kind.as_deref()) {
        None | Some("ClusterIP") => Type::ClusterIp,
        Some("NodePort") => Type::NodePort,
        Some("LoadBalancer") => Type::LoadBalancer,
        Some("ExternalName") => Type::ExternalName,
        Some(other) => {
            faults.add(&at.key("type"), other, "must be ClusterIP, NodePort, LoadBalancer or ExternalName");
            Type::ClusterIp
        }
    }
}

fn is_headless(spec: &slim::ServiceSpec) -> bool {
    given(spec.cluster_ip.as_deref()) == Some(HEADLESS)
}

/// An empty string is a field that is not there.
pub(super) fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// `clusterIPs` begins with `clusterIP`; a file may leave it out, as a user does who creates the object.
fn cluster_ips(spec: &slim::ServiceSpec, kind: Type, at: &Field<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let (single_at, list_at) = (at.key("clusterIP"), at.key("clusterIPs"));
    let single = given(spec.cluster_ip.as_deref());
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    if kind == Type::ExternalName {
        if let Some(single) = single {
            faults.add(&single_at, single, "must not be set for a Service of type ExternalName");
        } else if !list.is_empty() {
            faults.add(&list_at, list, "must not be set for a Service of type ExternalName");
        }
        return Vec::new();
    }
    let Some(single) = single else {
        if !list.is_empty() {
            faults.add(&list_at, list, "must be empty where clusterIP is not set");
        }
        return Vec::new();
    };
    if single == HEADLESS && matches!(kind, Type::NodePort | Type::LoadBalancer) {
        faults.add(&single_at, single, "must not be None for a Service of type NodePort or LoadBalancer");
    }
    match list {
        [] if single == HEADLESS => Vec::new(),
        [] => addresses(&[single.to_owned()], &|_, then| then(&single_at), faults),
        [first, ..] if first != single => {
            faults.add(&list_at, list, format!("must begin with clusterIP, {single:?}"));
            Vec::new()
        }
        [_] if single == HEADLESS => Vec::new(),
        [_] | [_, _] if single != HEADLESS => {
            let found = addresses(list, &|place, then| then(&list_at.index(place)), faults);
            if let [first, second] = found.as_slice()
                && first.is_ipv4() == second.is_ipv4()
            {
                faults.add(&list_at, list, "must not have two addresses of one family");
            }
            found
        }
        [_, ..] if single == HEADLESS => {
            faults.add(&list_at, list, "must have nothing beside None");
            Vec::new()
        }
        _ => {
            faults.add(&list_at, list, "must not have more than two entries");
            Vec::new()
        }
    }
}

/// Calls with the place of an entry: a `Field` lives on the stack.
type AtEntry<'a> = &'a dyn Fn(usize, &mut dyn FnMut(&Field<'_>));

fn addresses(list: &[String], at: AtEntry<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (place, text) in list.iter().enumerate() {
        match parse_address(text) {
            Some(address) => found.push(address),
            None => at(place, &mut |at| faults.add(at, text, NOT_AN_ADDRESS)),
        }
    }
    found
}

fn check_families(spec: &slim::ServiceSpec, cluster_ips: &[IpAddr], at: &Field<'_>, faults: &mut Faults) {
    let list_at = at.key("ipFamilies");
    let list = spec.ip_families.as_deref().unwrap_or_default();
    for (place, family) in list.iter().enumerate() {
        let v4 = match family.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => {
                faults.add(&list_at.index(place), family, "must be IPv4 or IPv6");
                continue;
            }
        };
        if list.iter().take(place).any(|other| other == family) {
            faults.add(&list_at.index(place), family, "must not be there twice");
        } else if let Some(address) = cluster_ips.get(place).filter(|address| address.is_ipv4() != v4) {
            faults.add(
                &list_at.index(place),
                family,
                format!("must be the family of clusterIPs[{place}], {address}"),
            );
        }
    }
}

fn external_ips(spec: &slim::ServiceSpec, at: &Field<'_>, faults: &mut Faults) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for (place, text) in spec.external_ips.iter().flatten().enumerate() {
        let at = at.index(place);
        match parse_address(text) {
            None => faults.add(&at, text, NOT_AN_ADDRESS),
            Some(address) => {
                check_proxied(address, &at, faults);
                found.push(address);
            }
        }
    }
    found
}

/// Those that packets come to the node with; behind the others is a proxy, which is not our node's.
fn load_balancer_ips(status: Option<&slim::ServiceStatus>, faults: &mut Faults) -> Vec<IpAddr> {
    let status_at = Field::Root.key("status");
    let load_balancer_at = status_at.key("loadBalancer");
    let at = load_balancer_at.key("ingress");
    let list = status.and_then(|status| status.load_balancer.as_deref()).and_then(|lb| lb.ingress.as_ref());
    let mut found = Vec::new();
    for (place, ingress) in list.into_iter().flatten().enumerate() {
        let at = at.index(place);
        let Some(text) = given(ingress.ip.as_deref()) else { continue };
        match ingress.ip_mode.as_deref() {
            None | Some("VIP" | "Proxy") => {}
            Some(other) => faults.add(&at.key("ipMode"), other, "must be VIP or Proxy"),
        }
        match parse_address(text) {
            None => faults.add(&at.key("ip"), text, NOT_AN_ADDRESS),
            Some(address) if ingress.ip_mode.as_deref() != Some("Proxy") => found.push(address),
            Some(_) => {}
        }
    }
    found
}

fn source_ranges(
    spec: &slim::ServiceSpec,
    kind: Type,
    at: &Field<'_>,
    faults: &mut Faults,
) -> Vec<ipnet::IpNet> {
    let at = at.key("loadBalancerSourceRanges");
    let list = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    if kind != Type::LoadBalancer && !list.is_empty() {
        faults.add(&at, list, "must not be set unless the type is LoadBalancer");
    }
    let mut found = Vec::new();
    for (place, text) in list.iter().enumerate() {
        // The API server takes blanks around them.
        match parse_cidr(text.trim()) {
            Ok(net) => found.push(net),
            Err(message) => faults.add(&at.index(place), text, message),
        }
    }
    found
}

fn affinity(spec: &slim::ServiceSpec, at: &Field<'_>, faults: &mut Faults) -> Option<u32> {
    match given(spec.session_affinity.as_deref()) {
        None | Some("None") => None,
        Some("ClientIP") => {
            let config =
                spec.session_affinity_config.as_deref().and_then(|config| config.client_ip.as_deref());
            let Some(seconds) = config.and_then(|client_ip| client_ip.timeout_seconds) else {
                return Some(DEFAULT_AFFINITY_SECONDS);
            };
            let valid = u32::try_from(seconds).ok().filter(|s| (1..=MOST_AFFINITY_SECONDS).contains(s));
            if valid.is_none() {
                let config_at = at.key("sessionAffinityConfig");
                let client_at = config_at.key("clientIP");
                let message = format!("must be 1 to {MOST_AFFINITY_SECONDS}");
                faults.add(&client_at.key("timeoutSeconds"), &seconds, message);
            }
            valid
        }
        Some(other) => {
            faults.add(&at.key("sessionAffinity"), other, "must be ClientIP or None");
            None
        }
    }
}

fn is_local(policy: Option<&str>, at: &Field<'_>, faults: &mut Faults) -> bool {
    match given(policy) {
        None | Some("Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            faults.add(at, other, "must be Cluster or Local");
            false
        }
    }
}

fn check_external_name(spec: &slim::ServiceSpec, kind: Type, at: &Field<'_>, faults: &mut Faults) {
    if kind != Type::ExternalName {
        return;
    }
    let at = at.key("externalName");
    match given(spec.external_name.as_deref()) {
        None => faults.add_missing(&at, "is required for a Service of type ExternalName"),
        Some(name) => {
            if let Err(message) = names::dns_subdomain(name.strip_suffix('.').unwrap_or(name)) {
                faults.add(&at, name, message);
            }
        }
    }
}
