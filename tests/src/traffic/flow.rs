//! All flows at once: who sends, who answers, and in which order they end.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::Result;
use sluice_netns::Netns;

use super::datagrams::{self, Arrivals};
use super::streams::{self, Pair};
use super::{DENIED, OPEN, Old, SHOP, TCP, Traffic, UDP, VAULT, sockets};
use crate::agent_world::Lab;

/// What was sent where nothing may arrive.
#[derive(Debug, Default)]
pub(super) struct Denied {
    pub(super) datagrams: u64,
    /// Of connections that policy has cut.
    pub(super) segments: u64,
    /// Attempts to connect.
    pub(super) knocks: u64,
    pub(super) arrived: u64,
}

/// A namespace, and from which of its sockets to which others it may not send any more.
type Cut = (Netns, Vec<(SocketAddr, SocketAddr)>);

/// Everything that is open before the first packet is counted.
pub(super) struct Flows {
    client: Netns,
    intruder: Netns,
    prisoner: Netns,
    vaults: [Netns; 2],
    /// One answers what comes, one counts.
    answering: Vec<UdpSocket>,
    listening: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
    talk: Vec<SocketAddr>,
    tell: Vec<SocketAddr>,
    forbidden: Vec<SocketAddr>,
    closed: Vec<SocketAddr>,
    streams: Vec<TcpStream>,
    old: Vec<Pair>,
}

pub(super) fn join<T>(thread: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a panic")))
}

impl Flows {
    pub(super) fn open(lab: &Lab, Old(old): Old) -> Result<Self> {
        let client = lab.ns("guest/client")?;
        let (mut answering, mut listening, mut listeners) = (Vec::new(), Vec::new(), Vec::new());
        for pod in SHOP {
            let ns = lab.ns(pod)?;
            answering.push(datagrams::receiver(&ns, UDP)?);
            listening.extend([datagrams::receiver(&ns, DENIED)?, datagrams::receiver(&ns, OPEN)?]);
            listeners.push(streams::listener(&ns, DENIED)?);
        }
        let talk = sockets(lab, &SHOP, TCP)?;
        let mut forbidden = sockets(lab, &VAULT, TCP)?;
        forbidden.extend(sockets(lab, &SHOP, DENIED)?);
        Ok(Self {
            intruder: lab.ns("guest/intruder")?,
            prisoner: lab.ns("guest/prisoner")?,
            vaults: [lab.ns(VAULT[0])?, lab.ns(VAULT[1])?],
            answering,
            listening,
            listeners,
            streams: talk.iter().map(|to| streams::open(&client, *to)).collect::<Result<_>>()?,
            talk,
            tell: sockets(lab, &SHOP, UDP)?,
            forbidden,
            closed: sockets(lab, &SHOP, OPEN)?,
            client,
            old,
        })
    }

    /// Sends on every flow until `work` is done, and until all that was sent has arrived.
    pub(super) fn run(&self, work: impl FnOnce() -> Result<()>) -> Result<Traffic> {
        // The senders stop before the receivers: what was sent can still arrive.
        let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (answered, arrived) = (Arrivals::default(), AtomicU64::new(0));
        let cut = self.cut()?;
        let Self { client, intruder, prisoner, answering, listening, listeners, .. } = self;
        let Self { talk, tell, forbidden, closed, streams, old, .. } = self;
        thread::scope(|scope| {
            let (stop, over, answered, arrived) = (&stop, &over, &answered, &arrived);
            let answerers: Vec<_> = answering
                .iter()
                .map(|socket| scope.spawn(move || datagrams::answer(socket, answered, over)))
                .collect();
            let mut counting: Vec<_> = listening
                .iter()
                .map(|socket| scope.spawn(move || datagrams::listen(socket, arrived, over)))
                .collect();
            counting.extend(
                listeners
                    .iter()
                    .map(|listener| scope.spawn(move || streams::listen(listener, arrived, over))),
            );
            let mut told: Vec<_> = (0..)
                .zip(tell)
                .map(|(flow, to)| scope.spawn(move || datagrams::converse(client, *to, flow, stop)))
                .collect();
            // One of each family, one of each node.
            let strangers = (u32::try_from(tell.len())?..).zip([tell.first(), tell.last()]);
            told.extend(
                strangers
                    .filter_map(|(flow, to)| Some((flow, *to?)))
                    .map(|(flow, to)| scope.spawn(move || datagrams::strangers(client, to, flow, stop))),
            );
            let talks: Vec<_> =
                streams.iter().map(|stream| scope.spawn(move || streams::converse(stream, stop))).collect();
            let calls: Vec<_> =
                talk.iter().map(|to| scope.spawn(move || streams::call(client, *to, stop))).collect();
            let showers = [
                scope.spawn(move || datagrams::shower(intruder, forbidden, stop)),
                scope.spawn(move || datagrams::shower(prisoner, closed, stop)),
            ];
            let knocks = scope.spawn(move || streams::knock(intruder, forbidden, stop));
            let segments: Vec<_> = cut
                .iter()
                .map(|(ns, ways)| scope.spawn(move || streams::acknowledge(ns, ways, stop)))
                .collect();
            let ends = old.iter().flat_map(|pair| [&pair.opener, &pair.server]);
            let pushing: Vec<_> = ends.map(|end| scope.spawn(move || streams::push(end, stop))).collect();

            let worked = work();
            stop.store(true, Ordering::Relaxed);
            let mut traffic = Traffic::default();
            let outcome = (|| -> Result<()> {
                for (flow, thread) in (0..).zip(told) {
                    let (sent, back) = join(thread)?;
                    let missing = answered.missing(flow);
                    if !missing.is_empty() {
                        println!("flow {flow}: of {sent} datagrams these did not arrive: {missing:?}");
                    }
                    traffic.datagrams.push((sent, answered.of(flow), back));
                }
                traffic.conversations = talks.into_iter().map(join).collect::<Result<_>>()?;
                traffic.calls = calls.into_iter().map(join).collect::<Result<_>>()?;
                for shower in showers {
                    traffic.denied.datagrams += join(shower)?;
                }
                for thread in segments {
                    traffic.denied.segments += join(thread)?;
                }
                traffic.denied.knocks = join(knocks)?;
                pushing.into_iter().try_for_each(join)
            })();
            over.store(true, Ordering::Relaxed);
            worked?;
            outcome?;
            answerers.into_iter().try_for_each(join)?;
            for thread in counting {
                thread.join().map_err(|_| anyhow::anyhow!("a panic"))?;
            }
            traffic.denied.arrived = arrived.load(Ordering::Relaxed);
            Ok(traffic)
        })
    }

    /// The old connections, both ways: in whose namespace, from which sockets to which.
    fn cut(&self) -> Result<Vec<Cut>> {
        let namespaces = [&self.intruder, &self.vaults[0], &self.vaults[1]];
        let mut all: Vec<_> = namespaces.map(|ns| (ns.clone(), Vec::new())).into();
        let per_vault = self.old.len() / self.vaults.len();
        for (n, pair) in self.old.iter().enumerate() {
            let vault = 1 + n / per_vault.max(1);
            // Of each vault, those that the intruder opened come first.
            let from_intruder = n % per_vault.max(1) < per_vault / 2;
            let (mine, others) = (pair.opener.local_addr()?, pair.opener.peer_addr()?);
            let (opener, server) = if from_intruder { (0, vault) } else { (vault, 0) };
            all[opener].1.push((mine, others));
            all[server].1.push((others, mine));
        }
        Ok(all)
    }
}
