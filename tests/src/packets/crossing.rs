//! From a pod to another on the same bridge: which of the frames that one sends arrive at the other.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};
use sluice_netns::{ALLOW_TIMEOUT, Pod};

use super::frames::Route;
use super::neighbour::{ARP_REQUEST, arp};
use super::wire::Wire;
use crate::agent_world::Lab;

/// The way from one pod's `eth0` to another's. A bridge changes nothing in a frame: it arrives as it was sent.
#[derive(Debug)]
pub struct Crossing {
    pub from: Wire,
    pub to: Wire,
    addresses: [(IpAddr, IpAddr); 2],
    marks: Cell<u32>,
}

impl Crossing {
    pub fn between(lab: &Lab, from: &str, to: &str) -> Result<Self> {
        let (source, target) = (lab.world.pod(from)?, lab.world.pod(to)?);
        let open = |pod: &Pod| Wire::open(&pod.ns, "eth0").with_context(|| pod.key());
        Ok(Self {
            from: open(source)?,
            to: open(target)?,
            addresses: [(source.ipv4.into(), target.ipv4.into()), (source.ipv6.into(), target.ipv6.into())],
            marks: Cell::new(0),
        })
    }

    /// The route of a packet that is what it seems to be, over IPv4 and IPv6.
    #[must_use]
    pub fn routes(&self) -> [Route; 2] {
        self.addresses.map(|(src, dst)| Route { from_mac: self.from.mac, to_mac: self.to.mac, src, dst })
    }

    #[must_use]
    pub fn v4(&self) -> Route {
        self.routes()[0]
    }

    #[must_use]
    pub fn v6(&self) -> Route {
        self.routes()[1]
    }

    /// Sends the frames and tells which of them arrived. Nothing is waited for but a last frame that no policy stops:
    /// what has not arrived before it does not come any more.
    pub fn arrivals(&self, frames: &[Vec<u8>]) -> Result<Vec<bool>> {
        self.to.drain()?;
        for frame in frames {
            self.from.send(frame)?;
        }
        let mark = self.mark();
        self.from.send(&mark)?;
        let seen = self.to.until(ALLOW_TIMEOUT, |frame| *frame == mark[..])?;
        let seen: Vec<Vec<u8>> = seen.iter().map(|frame| untagged(frame)).collect();
        Ok(frames.iter().map(|frame| seen.contains(&untagged(frame))).collect())
    }

    /// An ARP request for the sender's own address, each with another number behind it.
    fn mark(&self) -> Vec<u8> {
        self.marks.set(self.marks.get() + 1);
        let own = match self.v4().src {
            IpAddr::V4(own) => own,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        };
        arp(self.v4(), ARP_REQUEST, own, own, &[&b"mark"[..], &self.marks.get().to_be_bytes()].concat())
    }
}

/// The frame without its VLAN tags. A socket is shown a frame without the outermost (packet(7) tells it apart).
fn untagged(frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    while let Some([0x81, 0x00] | [0x88, 0xa8]) = frame.get(12..14) {
        frame.drain(12..16.min(frame.len()));
    }
    frame
}
