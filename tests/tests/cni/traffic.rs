//! A peer that never stops sending, and a listener that counts what reaches it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sluice_netns::Netns;
use sluice_tests::agent_world::shell;

use crate::runtime::Sandbox;

pub(crate) const PORT: u16 = 9000;

/// Datagrams to a pod that need not be there yet.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Flood {
    /// From `ns`, which knows the pod's hardware address before it exists: the first frame that its interface can take is one
    /// of these.
    pub(crate) fn start(ns: &Netns, sandbox: &Sandbox) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for address in sandbox.addresses {
            let line = format!("ip neigh replace {address} lladdr {} nud permanent dev eth0", sandbox.mac);
            shell(ns, &line)?;
            let any: IpAddr =
                if address.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = ns.run(|| UdpSocket::bind((any, 0)))??;
            let stopped = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let mut sent = 0;
                while !stopped.load(Ordering::Relaxed) {
                    // A queue that is full is the flood's own business.
                    sent += u64::from(socket.send_to(b"flood", (address, PORT)).is_ok());
                    thread::sleep(Duration::from_micros(200));
                }
                sent
            }));
        }
        Ok(Self { stop, threads })
    }

    /// Ends it; how many datagrams were sent.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).filter_map(|thread| thread.join().ok()).sum()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A pod's listener.
pub(crate) struct Listener(UdpSocket);

impl Listener {
    pub(crate) fn start(sandbox: &Sandbox) -> Result<Self> {
        let socket = sandbox.ns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)))??;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self(socket))
    }

    /// How many datagrams of each family came in until `end`, and when the last did.
    pub(crate) fn count(&self, end: Instant) -> ([u64; 2], Option<Instant>) {
        let (mut counts, mut last) = ([0, 0], None);
        let mut buffer = [0; 64];
        while Instant::now() < end {
            if let Ok((_, from)) = self.0.recv_from(&mut buffer) {
                let v4 = from.ip().to_canonical().is_ipv4();
                counts[usize::from(!v4)] += 1;
                last = Some(Instant::now());
            }
        }
        (counts, last)
    }
}

/// When a socket that is open before ADD gets its first and its last datagram.
pub(crate) fn exposure(sandbox: &Sandbox) -> Result<JoinHandle<Option<(Instant, Instant)>>> {
    let listener = Listener::start(sandbox).context("listening before ADD")?;
    Ok(thread::spawn(move || {
        let mut seen: Option<(Instant, Instant)> = None;
        let mut buffer = [0; 64];
        let start = Instant::now();
        // Long enough for ADD, and half a second of silence behind the last.
        while start.elapsed() < Duration::from_secs(4)
            && seen.is_none_or(|(_, last)| last.elapsed() < Duration::from_millis(500))
        {
            if listener.0.recv_from(&mut buffer).is_ok() {
                let now = Instant::now();
                seen = Some((seen.map_or(now, |(first, _)| first), now));
            }
        }
        seen
    }))
}

pub(crate) fn sockets(sandbox: &Sandbox, port: u16) -> [SocketAddr; 2] {
    sandbox.addresses.map(|address| SocketAddr::from((address, port)))
}
