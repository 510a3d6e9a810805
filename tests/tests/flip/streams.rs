//! Connections: long ones on which numbered messages go to and fro, and new ones all the time.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sluice_netns::{Netns, Outcome, tcp_connect};

/// A connection that waits this long is as good as cut, on a machine however busy.
const STALL: Duration = Duration::from_secs(5);
const PACE: Duration = Duration::from_millis(2);
const NEW_PACE: Duration = Duration::from_millis(10);
const KNOCK: Duration = Duration::from_millis(20);

/// How often something was done, and how long it took at worst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) number: u64,
    pub(crate) longest: Duration,
}

impl Count {
    fn note(&mut self, began: Instant) {
        self.number += 1;
        self.longest = self.longest.max(began.elapsed());
    }
}

pub(crate) fn open(ns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    let stream = ns
        .run(|| TcpStream::connect_timeout(&to, STALL))?
        .with_context(|| format!("connecting from {} to {to}", ns.name()))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    Ok(stream)
}

/// Sends a number to an echo server and reads it again.
fn echo(stream: &mut TcpStream, number: u64) -> Result<()> {
    stream.write_all(&number.to_be_bytes())?;
    let mut back = [0; 8];
    stream.read_exact(&mut back)?;
    ensure!(u64::from_be_bytes(back) == number, "{} came back for {number}", u64::from_be_bytes(back));
    Ok(())
}

/// Echoes on one connection until it is told to stop.
pub(crate) fn converse(mut stream: TcpStream, stop: &AtomicBool) -> Result<Count> {
    let mut count = Count::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        echo(&mut stream, count.number)
            .with_context(|| format!("echo {} of {:?}", count.number, stream.peer_addr()))?;
        count.note(began);
        thread::sleep(PACE);
    }
    Ok(count)
}

/// A new connection for each echo.
pub(crate) fn call(ns: &Netns, to: SocketAddr, stop: &AtomicBool) -> Result<Count> {
    let mut count = Count::default();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut stream = open(ns, to).with_context(|| format!("call {}", count.number))?;
        echo(&mut stream, count.number).with_context(|| format!("call {} to {to}", count.number))?;
        count.note(began);
        drop(stream);
        thread::sleep(NEW_PACE);
    }
    Ok(count)
}

/// Tries to connect, where nobody may: how often.
pub(crate) fn knock(ns: &Netns, to: &[SocketAddr], stop: &AtomicBool) -> Result<u64> {
    let mut count = 0;
    for to in to.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
        let outcome = tcp_connect(ns, *to, KNOCK);
        ensure!(outcome == Outcome::TimedOut, "a connection to {to} is {outcome}");
        count += 1;
    }
    Ok(count)
}

/// Writes on a connection that policy has cut since: its kernel goes on sending, nothing may arrive.
pub(crate) fn push(mut stream: TcpStream, stop: &AtomicBool) -> Result<()> {
    stream.set_nonblocking(true)?;
    while !stop.load(Ordering::Relaxed) {
        // Once its buffer is full, what is in it is sent again and again.
        let _ = stream.write(b"pushed");
        thread::sleep(PACE);
    }
    Ok(())
}

/// A socket that takes connections on a port.
pub(crate) fn listener(ns: &Netns, port: u16) -> Result<TcpListener> {
    let listener = ns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))??;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Counts the connections that come.
pub(crate) fn listen(listener: &TcpListener, arrived: &AtomicU64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if listener.accept().is_ok() {
            arrived.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(PACE);
    }
}
