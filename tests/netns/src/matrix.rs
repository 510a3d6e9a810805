//! Many probes at once: those that hang cost their timeout once, not once each.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::netns::Netns;
use crate::probe::{Outcome, ping, sctp_connect, tcp_connect, udp_exchange};

/// Enough for the pairs of a test's world; each waits more than it works.
const AT_ONCE: usize = 48;

/// What a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TCP connection.
    Tcp,
    /// A datagram and its echo.
    Udp,
    /// An SCTP association.
    Sctp,
    /// An echo request of ICMP or ICMPv6; it has no port.
    Ping,
}

/// One probe of many.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Where it is made.
    pub from: Netns,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whom it asks.
    pub to: IpAddr,
    /// At which port.
    pub port: u16,
    /// How long it waits.
    pub timeout: Duration,
}

impl Probe {
    /// Makes the probe.
    #[must_use]
    pub fn run(&self) -> Outcome {
        let to = SocketAddr::from((self.to, self.port));
        match self.protocol {
            Protocol::Tcp => tcp_connect(&self.from, to, self.timeout),
            Protocol::Udp => udp_exchange(&self.from, to, self.timeout),
            Protocol::Sctp => sctp_connect(&self.from, to, self.timeout),
            Protocol::Ping => ping(&self.from, self.to, self.timeout),
        }
    }
}

/// Makes all the probes, many at a time; the outcomes are in the order of the probes.
#[must_use]
pub fn probe_all(probes: &[Probe]) -> Vec<Outcome> {
    many_at_once(probes, Probe::run)
}

/// Works on all the items, many at a time; the results are in the order of the items.
#[must_use]
pub fn many_at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(items.len()));
    thread::scope(|scope| {
        for _ in 0..items.len().min(AT_ONCE) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
