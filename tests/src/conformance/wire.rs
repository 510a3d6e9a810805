//! Probes on the wire, and who answers them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use sluice_netns::{
    Netns, Outcome, Server, many_at_once, ping_from, sctp_connect_from, sctp_supported, tcp_connect_from,
    udp_exchange_from,
};
use sluice_oracle::Protocol;

use super::sctp::{self, Responder};

/// How a probe was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    TcpConnection,
    UdpExchange,
    SctpAssociation,
    /// INIT and its answer over raw IP sockets, where the kernel has no SCTP.
    SctpInit,
    Ping,
}

impl Proof {
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::TcpConnection => "TCP connections",
            Self::UdpExchange => "UDP datagrams with their echo",
            Self::SctpAssociation => "SCTP associations",
            Self::SctpInit => {
                "SCTP INIT with its answer over raw IP sockets (this kernel has no SCTP sockets)"
            }
            Self::Ping => "echo requests with their reply",
        }
    }
}

/// One probe between two ends that exist.
#[derive(Clone, Debug)]
pub(super) struct WireProbe {
    pub(super) from: Netns,
    pub(super) source: IpAddr,
    pub(super) target: Netns,
    pub(super) to: IpAddr,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// By which address and port it is called, where that is another.
    pub(super) called: Option<(IpAddr, u16)>,
    pub(super) timeout: Duration,
}

/// Everything that answers probes. It is started when the first probe asks for it.
#[derive(Debug)]
pub(super) struct Servers {
    sctp_sockets: bool,
    tcp: BTreeMap<(String, u16), Server>,
    udp: BTreeMap<(String, IpAddr, u16), Server>,
    sctp: BTreeMap<(String, u16), Server>,
    responders: BTreeMap<(String, IpAddr), Responder>,
}

impl Servers {
    #[must_use]
    pub(super) fn new() -> Self {
        Self {
            sctp_sockets: sctp_supported(),
            tcp: BTreeMap::new(),
            udp: BTreeMap::new(),
            sctp: BTreeMap::new(),
            responders: BTreeMap::new(),
        }
    }

    /// Makes all the probes, many at a time, after everybody whom they ask listens.
    pub(super) fn probe(&mut self, probes: &[WireProbe]) -> Result<Vec<Outcome>> {
        for probe in probes {
            self.listen(probe).with_context(|| format!("who answers on {}", probe.to))?;
        }
        Ok(many_at_once(probes, |probe| self.run(probe)))
    }

    fn run(&self, probe: &WireProbe) -> Outcome {
        let WireProbe { from, source, to, timeout, .. } = probe;
        let socket = SocketAddr::from(probe.called.unwrap_or((*to, probe.port)));
        match self.proof(probe.protocol) {
            Proof::TcpConnection => tcp_connect_from(from, *source, socket, *timeout),
            Proof::UdpExchange => udp_exchange_from(from, *source, socket, *timeout),
            Proof::SctpAssociation => sctp_connect_from(from, *source, socket, *timeout),
            Proof::SctpInit => sctp::connect(from, *source, socket, *timeout),
            Proof::Ping => ping_from(from, *source, *to, *timeout),
        }
    }

    /// How a probe of this protocol is made on this kernel.
    #[must_use]
    pub(super) const fn proof(&self, protocol: Protocol) -> Proof {
        match protocol {
            Protocol::Tcp => Proof::TcpConnection,
            Protocol::Udp => Proof::UdpExchange,
            Protocol::Sctp if self.sctp_sockets => Proof::SctpAssociation,
            Protocol::Sctp => Proof::SctpInit,
            Protocol::Icmp => Proof::Ping,
        }
    }

    fn listen(&mut self, probe: &WireProbe) -> Result<()> {
        let WireProbe { target: ns, to, port, .. } = probe;
        let (name, to, port) = (ns.name().to_owned(), *to, *port);
        match self.proof(probe.protocol) {
            Proof::TcpConnection if !self.tcp.contains_key(&(name.clone(), port)) => {
                self.tcp.insert((name.clone(), port), Server::tcp(ns, port, &name)?);
            }
            Proof::UdpExchange if !self.udp.contains_key(&(name.clone(), to, port)) => {
                self.udp.insert((name, to, port), Server::udp_at(ns, to, port)?);
            }
            Proof::SctpAssociation if !self.sctp.contains_key(&(name.clone(), port)) => {
                self.sctp.insert((name.clone(), port), Server::sctp(ns, port, &name)?);
            }
            Proof::SctpInit => {
                let key = (name, to);
                if !self.responders.contains_key(&key) {
                    self.responders.insert(key.clone(), Responder::start(ns, to)?);
                }
                if let Some(responder) = self.responders.get(&key) {
                    responder.listen(port);
                }
            }
            // The kernel answers, or somebody listens already.
            _ => {}
        }
        Ok(())
    }

    /// Ends everything that listens in a namespace.
    pub(super) fn forget(&mut self, ns: &Netns) {
        self.tcp.retain(|(name, _), _| name != ns.name());
        self.udp.retain(|(name, ..), _| name != ns.name());
        self.sctp.retain(|(name, _), _| name != ns.name());
        self.responders.retain(|(name, _), _| name != ns.name());
    }
}
