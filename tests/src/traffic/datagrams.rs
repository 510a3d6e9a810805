//! Numbered datagrams, a thousand a second of each flow: which of them arrived, and which answers came back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use sluice_netns::Netns;

use super::pace::Pace;

const PACE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_millis(20);
/// What is still under way when the last one is sent has this long.
const LAST: Duration = Duration::from_secs(30);
/// Sockets that may wait for their answers at a time.
const WAITING: usize = 1000;
/// Room for all that may come while nobody is let read: a loaded machine is no reason for a loss.
const BUFFER: usize = 16 << 20;

/// A flow's number and the datagram's.
type Datagram = [u8; 12];

pub(super) fn datagram(flow: u32, number: u64) -> Datagram {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&flow.to_be_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(super) fn parse(bytes: &[u8]) -> Option<(u32, u64)> {
    let (flow, number) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*flow), u64::from_be_bytes(number.try_into().ok()?)))
}

pub(super) fn bind(ns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket =
        ns.run(|| UdpSocket::bind(address))?.with_context(|| format!("{address} in {}", ns.name()))?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The datagrams that came, counted for each flow. A busy machine may overtake itself; none may come twice.
#[derive(Debug, Default)]
pub struct Arrivals(Mutex<BTreeMap<u32, Arrived>>);

#[derive(Debug, Default)]
struct Arrived {
    /// One more than the highest number.
    end: u64,
    missing: BTreeSet<u64>,
}

impl Arrivals {
    pub(super) fn note(&self, flow: u32, number: u64) -> Result<()> {
        let mut flows = self.0.lock().map_err(|_| anyhow::anyhow!("a panic"))?;
        let arrived = flows.entry(flow).or_default();
        if number >= arrived.end {
            arrived.missing.extend(arrived.end..number);
            arrived.end = number + 1;
        } else {
            ensure!(arrived.missing.remove(&number), "flow {flow}: datagram {number} came twice");
        }
        Ok(())
    }

    /// The numbers of a flow's datagrams that others overtook and that did not come themselves.
    pub(super) fn missing(&self, flow: u32) -> Vec<u64> {
        let missing =
            |flows: &BTreeMap<u32, Arrived>| flows.get(&flow).map(|a| a.missing.iter().copied().collect());
        self.0.lock().ok().and_then(|flows| missing(&flows)).unwrap_or_default()
    }

    pub fn of(&self, flow: u32) -> u64 {
        self.0.lock().map(|flows| flows.get(&flow).map_or(0, Arrived::count)).unwrap_or_default()
    }
}

impl Arrived {
    fn count(&self) -> u64 {
        self.end - self.missing.len() as u64
    }
}

/// A socket that receives on a port, before anybody sends to it.
pub fn receiver(ns: &Netns, port: u16) -> Result<UdpSocket> {
    bind(ns, (Ipv6Addr::UNSPECIFIED, port).into())
}

/// Sends back what comes.
pub fn answer(socket: &UdpSocket, arrivals: &Arrivals, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, sender)) => {
                let bytes = &buffer[..length];
                let (flow, number) = parse(bytes).context("a datagram of nobody")?;
                arrivals.note(flow, number)?;
                socket.send_to(bytes, sender)?;
            }
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Counts what comes, whatever it is.
pub fn listen(socket: &UdpSocket, arrived: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if socket.recv(&mut [0; 64]).is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
}

pub(super) fn any(to: SocketAddr) -> SocketAddr {
    let address =
        if to.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    (address, 0).into()
}

/// Sends until it is told to stop, and waits for the last answers: how many were sent, and how many came back.
pub fn converse(ns: &Netns, to: SocketAddr, flow: u32, stop: &AtomicBool) -> Result<(u64, u64)> {
    let socket = bind(ns, any(to))?;
    socket.connect(to)?;
    let (sent, sending, back) = (AtomicU64::new(0), AtomicBool::new(true), Arrivals::default());
    thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<()> {
            let mut buffer = [0; 64];
            let mut last = Instant::now();
            while sending.load(Ordering::Acquire)
                || (back.of(flow) < sent.load(Ordering::Relaxed) && last.elapsed() < LAST)
            {
                match socket.recv(&mut buffer) {
                    Ok(length) => {
                        let (flow, number) = parse(&buffer[..length]).context("an answer of nobody")?;
                        back.note(flow, number)?;
                        last = Instant::now();
                    }
                    Err(error) if is_timeout(&error) => {}
                    Err(error) => return Err(error).with_context(|| format!("flow {flow} to {to}")),
                }
            }
            Ok(())
        });
        let mut pace = Pace::new(PACE);
        let outcome = loop {
            if stop.load(Ordering::Relaxed) || receiver.is_finished() {
                break Ok(());
            }
            if let Err(error) = socket.send(&datagram(flow, sent.load(Ordering::Relaxed))) {
                break Err(error);
            }
            sent.fetch_add(1, Ordering::Relaxed);
            pace.wait();
        };
        sending.store(false, Ordering::Release);
        receiver.join().map_err(|_| anyhow::anyhow!("a panic"))?.context("answers")?;
        outcome.with_context(|| format!("flow {flow} to {to}"))?;
        Ok((sent.load(Ordering::Relaxed), back.of(flow)))
    })
}

/// Sends to all of the addresses in turn, where nothing may arrive: how many datagrams.
pub fn shower(ns: &Netns, to: &[SocketAddr], stop: &AtomicBool) -> Result<u64> {
    let sockets = to
        .iter()
        .map(|to| {
            let socket = bind(ns, any(*to))?;
            socket.connect(to)?;
            Ok(socket)
        })
        .collect::<Result<Vec<_>>>()?;
    let (mut sent, mut pace) = (0, Pace::new(PACE));
    for (socket, to) in sockets.iter().zip(to).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        // An error is the answer to an earlier one: something got through.
        socket.send(&datagram(u32::MAX, sent)).with_context(|| format!("datagrams to {to}"))?;
        sent += 1;
        pace.wait();
    }
    Ok(sent)
}

/// As [`converse`], each datagram from a port of its own: every one is the first of its flow, and has one answer.
pub fn strangers(ns: &Netns, to: SocketAddr, flow: u32, stop: &AtomicBool) -> Result<(u64, u64)> {
    let send = |number| -> Result<UdpSocket> {
        let socket = UdpSocket::bind(any(to))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        socket.send(&datagram(flow, number))?;
        Ok(socket)
    };
    ns.run(|| {
        let (mut sent, mut back, mut pace) = (0, 0, Pace::new(PACE));
        let mut waiting: VecDeque<(UdpSocket, u64, Instant)> = VecDeque::new();
        loop {
            let mut outcome = Ok(());
            waiting.retain(|(socket, number, since)| match is_answered(socket, flow, *number) {
                Ok(true) => {
                    back += 1;
                    false
                }
                Ok(false) => since.elapsed() < LAST,
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            });
            outcome?;
            if !stop.load(Ordering::Relaxed) {
                if waiting.len() < WAITING {
                    let socket = send(sent).with_context(|| format!("flow {flow} to {to}"))?;
                    waiting.push_back((socket, sent, Instant::now()));
                    sent += 1;
                }
            } else if waiting.is_empty() {
                return Ok((sent, back));
            }
            pace.wait();
        }
    })?
}

fn is_answered(socket: &UdpSocket, flow: u32, number: u64) -> Result<bool> {
    let mut buffer = [0; 64];
    match socket.recv(&mut buffer) {
        Ok(length) => {
            let answer = parse(&buffer[..length]);
            ensure!(answer == Some((flow, number)), "flow {flow}: {answer:?} came back for {number}");
            Ok(true)
        }
        Err(error) if is_timeout(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("flow {flow}, datagram {number}")),
    }
}
