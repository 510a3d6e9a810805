//! The IPv6 twin of a policy that names IPv4 blocks.
//!
//! The public cases write their ipBlocks in IPv4; over IPv6 the suites that they come from take the same pods' other
//! addresses. Here a block's twin is the smallest IPv6 block with just the ends that the IPv4 one covers.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::{IpNet, Ipv6Net};
use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicySpec};
use sluice_oracle::Cluster;
use sluice_oracle::cases::{Action, Case};

/// Which families the blocks of a case's policies are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks {
    pub(super) ipv4: bool,
    pub(super) ipv6: bool,
}

impl Blocks {
    pub(super) fn of(case: &Case) -> Self {
        let mut found = Self::default();
        for action in case.steps.iter().flat_map(|step| &step.actions) {
            let Action::Policy { spec, .. } = action else { continue };
            let mut spec = spec.clone();
            for block in blocks(&mut spec) {
                if block.cidr.contains(':') {
                    found.ipv6 = true;
                } else {
                    found.ipv4 = true;
                }
            }
        }
        found
    }
}

/// The cluster with the twin in the place of each IPv4 block.
pub(super) fn translate(cluster: &Cluster) -> Result<Cluster> {
    let ends = ends(cluster);
    let mut twin = cluster.clone();
    for policy in &mut twin.policies {
        for block in blocks(&mut policy.spec) {
            let text = block.cidr.clone();
            translate_block(block, &ends).with_context(|| format!("ipBlock {text} has no IPv6 twin"))?;
        }
    }
    Ok(twin)
}

fn blocks(spec: &mut NetworkPolicySpec) -> impl Iterator<Item = &mut IPBlock> {
    let from = spec.ingress.iter_mut().flatten().filter_map(|rule| rule.from.as_mut());
    let to = spec.egress.iter_mut().flatten().filter_map(|rule| rule.to.as_mut());
    from.chain(to).flatten().filter_map(|peer| peer.ip_block.as_mut())
}

/// The addresses of everybody who has both families, in pairs: a node's are in the same order in both.
fn ends(cluster: &Cluster) -> Vec<(IpAddr, Ipv6Net)> {
    let pods = cluster.pods.iter().map(|pod| &pod.ips);
    let nodes = cluster.nodes.values().map(|node| &node.ips);
    let mut ends = Vec::new();
    for ips in pods.chain(nodes) {
        let four = ips.iter().filter(|ip| ip.is_ipv4());
        let six = ips.iter().filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(Ipv6Net::from(*ip)),
            IpAddr::V4(_) => None,
        });
        ends.extend(four.copied().zip(six));
    }
    ends
}

fn translate_block(block: &mut IPBlock, ends: &[(IpAddr, Ipv6Net)]) -> Result<()> {
    let cidr = twin(&block.cidr, ends)?.context("nobody of the case is in it")?;
    let mut except = Vec::new();
    for hole in block.except.iter().flatten() {
        // A hole where nobody is makes no difference to anybody.
        if let Some(hole) = twin(hole, ends)? {
            ensure!(hole != cidr, "{hole} would be all of it");
            except.push(hole.to_string());
        }
    }
    block.cidr = cidr.to_string();
    block.except = block.except.is_some().then_some(except);
    Ok(())
}

/// Nothing where the block has nobody in it.
fn twin(text: &str, ends: &[(IpAddr, Ipv6Net)]) -> Result<Option<Ipv6Net>> {
    let block: IpNet = text.parse().with_context(|| text.to_owned())?;
    if block.prefix_len() == 0 {
        return Ok(Some(Ipv6Net::default()));
    }
    let (inside, outside): (Vec<_>, Vec<_>) = ends.iter().partition(|(ip, _)| block.contains(ip));
    let Some((_, first)) = inside.first() else { return Ok(None) };
    let mut cover = *first;
    while !inside.iter().all(|(_, six)| cover.contains(six)) {
        cover = cover.supernet().context("no prefix covers all")?;
    }
    if let Some((ip, six)) = outside.iter().find(|(_, six)| cover.contains(six)) {
        bail!("{cover} has those of {text} in it, and {six} too, which is {ip}");
    }
    Ok(Some(cover))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> Vec<(IpAddr, Ipv6Net)> {
        [("10.1.0.5", "fd00:1::5"), ("10.1.0.6", "fd00:1::6"), ("10.2.0.5", "fd00:2::5")]
            .map(|(four, six)| (four.parse().unwrap(), format!("{six}/128").parse().unwrap()))
            .to_vec()
    }

    fn twin_of(cidr: &str, except: &[&str]) -> Result<(String, Vec<String>)> {
        let except = except.iter().map(|&hole| hole.to_owned()).collect();
        let mut block = IPBlock { cidr: cidr.to_owned(), except: Some(except) };
        translate_block(&mut block, &ends())?;
        Ok((block.cidr, block.except.unwrap()))
    }

    #[test]
    fn a_twin_covers_the_same_ends() {
        let twin = |cidr, except: &[&str]| twin_of(cidr, except).unwrap();
        assert_eq!(twin("10.1.0.5/32", &[]), ("fd00:1::5/128".to_owned(), vec![]));
        assert_eq!(twin("10.1.0.0/16", &[]), ("fd00:1::4/126".to_owned(), vec![]));
        let (wide, holes) = twin("0.0.0.0/4", &["10.2.0.5/32", "10.3.0.0/16"]);
        assert_eq!(wide, "fd00::/30");
        assert_eq!(holes, ["fd00:2::5/128"]);
        assert_eq!(twin("0.0.0.0/0", &["10.2.0.0/16"]).0, "::/0");
    }

    #[test]
    fn what_has_no_twin_says_why() {
        let why = |cidr, except: &[&str]| format!("{:#}", twin_of(cidr, except).unwrap_err());
        assert!(why("203.0.113.0/24", &[]).contains("nobody"));
        assert!(why("10.1.0.5/32", &["10.1.0.5/32"]).contains("all of it"));
        assert!(why("elsewhere", &[]).contains("elsewhere"));
        // Two pods next to each other in IPv6 that a third is between.
        let ends: Vec<(IpAddr, Ipv6Net)> =
            [("10.0.0.1", "fd00::1"), ("10.9.0.1", "fd00::2"), ("10.0.0.2", "fd00::3")]
                .map(|(four, six)| (four.parse().unwrap(), format!("{six}/128").parse().unwrap()))
                .to_vec();
        let error = twin("10.0.0.0/24", &ends).unwrap_err();
        assert!(error.to_string().contains("10.9.0.1"), "{error}");
    }
}
