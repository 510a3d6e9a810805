//! Label selectors, and the two kinds of address sets that a peer can name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::IPBlock;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::model::Labels;

/// A standard label selector: all of matchLabels and all of matchExpressions; an empty one matches everything
/// (rows 2, 3). One that the API would reject matches nothing.
pub fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return false;
        }
    }
    for requirement in selector.match_expressions.iter().flatten() {
        if !requirement_holds(requirement, labels) {
            return false;
        }
    }
    true
}

/// An absent selector where absence means "all" (row 1).
pub fn selects_or_absent(selector: Option<&LabelSelector>, labels: &Labels) -> bool {
    match selector {
        None => true,
        Some(selector) => selects(selector, labels),
    }
}

/// One matchExpressions entry (row 3). A label with an empty value is present.
fn requirement_holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let none = Vec::new();
    let values = requirement.values.as_ref().unwrap_or(&none);
    let actual = labels.get(&requirement.key);
    match (requirement.operator.as_str(), values.is_empty()) {
        ("In", false) => match actual {
            Some(value) => values.contains(value),
            None => false,
        },
        ("NotIn", false) => match actual {
            Some(value) => !values.contains(value),
            None => true,
        },
        ("Exists", true) => actual.is_some(),
        ("DoesNotExist", true) => actual.is_none(),
        // The API rejects the rest.
        _ => false,
    }
}

/// An ipBlock: inside cidr and outside every except (rows 30, 31). A block that cannot be read, or that has an
/// except that cannot be read, covers nothing: to guess could only allow too much.
pub fn block_covers(block: &IPBlock, address: IpAddr) -> bool {
    let Some(cidr) = parse_cidr(&block.cidr) else {
        return false;
    };
    let mut covered = cidr_contains(cidr, address);
    for except in block.except.iter().flatten() {
        match parse_cidr(except) {
            Some(except) => covered = covered && !cidr_contains(except, address),
            None => return false,
        }
    }
    covered
}

/// Families never mix: 0.0.0.0/0 holds no IPv6 address, ::/0 no IPv4 address (rows 34, 57).
fn cidr_contains(cidr: IpNet, address: IpAddr) -> bool {
    match (cidr, address) {
        (IpNet::V4(cidr), IpAddr::V4(address)) => cidr.contains(&address),
        (IpNet::V6(cidr), IpAddr::V6(address)) => cidr.contains(&address),
        (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => false,
    }
}

/// What the API server's ParseCIDRSloppy reads: host bits may be set, IPv4 octets may have leading zeros and are
/// decimal all the same (row 30).
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let address = match address.contains(':') {
        true => IpAddr::V6(address.parse::<Ipv6Addr>().ok()?),
        false => IpAddr::V4(parse_sloppy_v4(address)?),
    };
    IpNet::new(address, length.parse().ok()?).ok()
}

fn parse_sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = Vec::new();
    for part in text.split('.') {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        octets.push(part.parse::<u8>().ok()?);
    }
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(Ipv4Addr::from(octets))
}
