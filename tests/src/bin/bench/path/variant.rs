//! Who enforces, and how many rules.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// The addresses that the rules name: blocks of sixteen, every other one, so that nobody can merge them.
const BLOCKS: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
const BLOCK_LENGTH: u8 = 28;
const BLOCK_STEP: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Engine {
    Nobody,
    Sluice,
    Nft,
    Iptables,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shape {
    /// All CIDRs in one rule.
    OneRule,
    /// A rule for each CIDR.
    RuleEach,
}

#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Variant {
    pub engine: Engine,
    pub cidrs: u32,
    pub shape: Shape,
}

pub(crate) fn all() -> Vec<Variant> {
    use Engine::{Iptables, Nft, Nobody, Sluice};
    use Shape::{OneRule, RuleEach};
    let mut all = vec![Variant { engine: Nobody, cidrs: 0, shape: OneRule }];
    for engine in [Sluice, Nft, Iptables] {
        for (cidrs, shape) in [(1, OneRule), (1_000, RuleEach), (1_000, OneRule), (100_000, OneRule)] {
            all.push(Variant { engine, cidrs, shape });
        }
    }
    all
}

impl Variant {
    pub(crate) fn name(&self) -> String {
        let engine = match (self.engine, self.shape) {
            (Engine::Nobody, _) => return "no policy".to_owned(),
            (Engine::Sluice, _) => "Sluice",
            (Engine::Nft, Shape::OneRule) => "nft set",
            (Engine::Nft, Shape::RuleEach) => "nft",
            (Engine::Iptables, Shape::OneRule) => "ipset",
            (Engine::Iptables, Shape::RuleEach) => "iptables",
        };
        match (self.cidrs, self.shape) {
            (1, _) => format!("{engine}, 1 CIDR"),
            (1_000, Shape::OneRule) => format!("{engine}, 1,000 CIDRs"),
            (1_000, Shape::RuleEach) => format!("{engine}, 1,000 rules"),
            (100_000, Shape::OneRule) => format!("{engine}, 100,000 CIDRs"),
            (cidrs, _) => format!("{engine}, {cidrs}"),
        }
    }

    /// The CIDRs that may connect: nobody's but the last, which is the client's.
    pub(crate) fn sources(&self, client: Ipv4Addr) -> Vec<Ipv4Net> {
        let blocks = (1..self.cidrs).map(|n| Ipv4Addr::from_bits(BLOCKS.to_bits() + n * BLOCK_STEP));
        let blocks = blocks.map(|first| (first, BLOCK_LENGTH));
        blocks.chain([(client, 32)]).filter_map(|(first, length)| Ipv4Net::new(first, length).ok()).collect()
    }
}
