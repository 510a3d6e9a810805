//! Connections: long ones on which numbered messages go to and fro, and new ones all the time.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{Netns, Outcome, tcp_connect};
use socket2::{Domain, Protocol, Socket, Type};

use super::pace::Pace;
use crate::packets::frames::{Route, flag, tcp};

/// A connection that waits this long is as good as cut, on a machine however busy.
const STALL: Duration = Duration::from_secs(30);
const PACE: Duration = Duration::from_millis(1);
const NEW_PACE: Duration = Duration::from_millis(10);
const KNOCK: Duration = Duration::from_millis(20);

/// How often something was done, and how long it took at worst.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub number: u64,
    pub longest: Duration,
}

impl Count {
    fn note(&mut self, began: Instant) {
        self.number += 1;
        self.longest = self.longest.max(began.elapsed());
    }
}

pub fn open(ns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = ns
        .run(|| TcpStream::connect_timeout(&to, STALL))?
        .with_context(|| format!("connecting from {} to {to}", ns.name()))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(stream)
}

/// Sends a number to an echo server and reads it again.
fn echo(mut stream: &TcpStream, number: u64) -> Result<()> {
    stream.write_all(&number.to_be_bytes())?;
    let mut back = [0; 8];
    stream.read_exact(&mut back)?;
    ensure!(u64::from_be_bytes(back) == number, "{} came back for {number}", u64::from_be_bytes(back));
    Ok(())
}

/// Echoes on one connection until it is told to stop.
pub fn converse(stream: &TcpStream, stop: &AtomicBool) -> Result<Count> {
    let (mut count, mut pace) = (Count::default(), Pace::new(PACE));
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        echo(stream, count.number)
            .with_context(|| format!("echo {} of {:?}", count.number, stream.peer_addr()))?;
        count.note(began);
        pace.wait();
    }
    Ok(count)
}

/// A new connection for each echo.
pub fn call(ns: &Netns, to: SocketAddr, stop: &AtomicBool) -> Result<Count> {
    let mut count = Count::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let stream = open(ns, to).with_context(|| format!("call {}", count.number))?;
        echo(&stream, count.number).with_context(|| format!("call {} to {to}", count.number))?;
        count.note(began);
        drop(stream);
        thread::sleep(NEW_PACE);
    }
    Ok(count)
}

/// Tries to connect, where nobody may: how often.
pub fn knock(ns: &Netns, to: &[SocketAddr], stop: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    for to in to.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        let outcome = tcp_connect(ns, *to, KNOCK);
        ensure!(outcome == Outcome::TimedOut, "a connection to {to} is {outcome}");
        count += 1;
    }
    Ok(count)
}

/// A connection with both of its ends, and the socket that took it.
#[derive(Debug)]
pub struct Pair {
    pub opener: TcpStream,
    pub server: TcpStream,
    /// Open as long as the connection: the server goes on.
    pub listener: TcpListener,
}

/// Opens a connection to a port of which nobody else knows.
pub fn pair(from: &Netns, to: &Netns, address: IpAddr, port: u16) -> Result<Pair> {
    let listener = to.run(|| TcpListener::bind((address, port)))??;
    let opener = open(from, listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    Ok(Pair { opener, server, listener })
}

/// Writes on a connection that policy has cut since: its kernel goes on sending, nothing may arrive.
pub fn push(mut stream: &TcpStream, stop: &AtomicBool) -> Result<()> {
    stream.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        // Once its buffer is full, what is in it is sent again and again.
        let _ = stream.write(b"pushed");
        thread::sleep(PACE);
    }
    Ok(())
}

/// Sends segments with nothing but ACK from these sockets of `ns` to those: as [`push`], without a kernel's growing patience.
/// Returns how many.
pub fn acknowledge(ns: &Netns, connections: &[(SocketAddr, SocketAddr)], stop: &AtomicBool) -> Result<u64> {
    ns.run(|| {
        let raw = |domain| Socket::new(domain, Type::RAW, Some(Protocol::TCP));
        let (ipv4, ipv6) = (raw(Domain::IPV4)?, raw(Domain::IPV6)?);
        let segments: Vec<_> = connections.iter().map(|(from, to)| (segment(*from, *to), *to)).collect();
        let (mut count, mut pace) = (0, Pace::new(PACE));
        for (segment, to) in segments.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
            let socket = if to.is_ipv4() { &ipv4 } else { &ipv6 };
            socket
                .send_to(segment, &SocketAddr::new(to.ip(), 0).into())
                .with_context(|| format!("to {to}"))?;
            count += 1;
            pace.wait();
        }
        Ok(count)
    })?
}

fn segment(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    // Hardware addresses are for frames; the kernel makes that.
    let route = Route { from_mac: [0; 6], to_mac: [0; 6], src: from.ip(), dst: to.ip() };
    tcp(route, from.port(), to.port(), flag::ACK, b"cut")
}

/// A socket that takes connections on a port.
pub fn listener(ns: &Netns, port: u16) -> Result<TcpListener> {
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Counts the connections that come.
pub fn listen(listener: &TcpListener, arrived: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if listener.accept().is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PACE);
    }
}
