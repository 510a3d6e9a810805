//! SCTP's handshake over raw IP sockets, for kernels without SCTP.
//!
//! Real packets on the real wire: a client sends an INIT, the responder answers with INIT ACK or, where nothing listens,
//! ABORT, as a kernel with SCTP does. Only the rest of the association is left out.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use crc::{CRC_32_ISCSI, Crc};
use sluice_netns::{Netns, Outcome};
use socket2::{Domain, SockRef, Socket, Type};

const PROTOCOL: i32 = 132;
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// How long the responder may wait in the kernel before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(250);

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;

/// Clients take the ports from 49152 to 65535 in turn: raw sockets share no table of ports.
const FIRST_PORT: u16 = 0xc000;
static CLIENTS: AtomicU16 = AtomicU16::new(0);

/// What matters of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packet {
    source: u16,
    destination: u16,
    /// Zero in an INIT, otherwise what the other side asked for.
    tag: u32,
    chunk: u8,
    /// Of INIT and INIT ACK: what the sender asks for.
    initiate_tag: u32,
}

impl Packet {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        let mut value = Vec::new();
        if self.chunk != ABORT {
            value.extend(self.initiate_tag.to_be_bytes());
            // Receiver window, streams out and in, initial sequence number.
            value.extend(65_536_u32.to_be_bytes());
            value.extend(10_u16.to_be_bytes());
            value.extend(10_u16.to_be_bytes());
            value.extend(1_u32.to_be_bytes());
        }
        if self.chunk == INIT_ACK {
            // The state cookie, which an INIT ACK must have.
            value.extend([0, 7, 0, 8]);
            value.extend(*b"slui");
        }
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        bytes.extend([self.chunk, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(value);
        // The one field of SCTP that goes out least significant byte first.
        let checksum = CHECKSUM.checksum(&bytes).to_le_bytes();
        if let Some(field) = bytes.get_mut(8..12) {
            field.copy_from_slice(&checksum);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            source: half(0)?,
            destination: half(2)?,
            tag: word(4)?,
            chunk: *bytes.get(12)?,
            initiate_tag: word(16).unwrap_or_default(),
        })
    }
}

/// The standard library's datagram socket has the safe calls that a raw one needs.
fn raw_socket(address: IpAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let domain = Domain::for_address(SocketAddr::from((address, 0)));
    let socket = Socket::new(domain, Type::RAW, Some(socket2::Protocol::from(PROTOCOL)))?;
    socket.bind(&SocketAddr::from((address, 0)).into())?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket.into())
}

/// Without the header that raw sockets of IPv4 hand over.
fn payload(address: IpAddr, bytes: &[u8]) -> Option<&[u8]> {
    match address {
        IpAddr::V4(_) => bytes.get(usize::from(bytes.first()? & 0x0f) * 4..),
        IpAddr::V6(_) => Some(bytes),
    }
}

/// Sends an INIT from `source` and waits for what answers it.
pub(super) fn connect(ns: &Netns, source: IpAddr, to: SocketAddr, timeout: Duration) -> Outcome {
    Outcome::of(ns.run(|| handshake(source, to, timeout)))
}

fn handshake(source: IpAddr, to: SocketAddr, timeout: Duration) -> io::Result<()> {
    let port = FIRST_PORT | CLIENTS.fetch_add(1, Ordering::Relaxed);
    let tag = 0x736c_0000 | u32::from(port);
    let socket = raw_socket(source, timeout)?;
    socket.connect((to.ip(), 0))?;
    let init = Packet { source: port, destination: to.port(), tag: 0, chunk: INIT, initiate_tag: tag };
    socket.send(&init.bytes())?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 256];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        let answer = buffer.get(..length).and_then(|bytes| Packet::read(payload(source, bytes)?));
        // Every raw socket of the namespace sees every packet from that machine.
        match answer {
            Some(Packet { source, destination, tag: seen, chunk, .. })
                if (source, destination, seen) == (to.port(), port, tag) =>
            {
                match chunk {
                    INIT_ACK => return Ok(()),
                    ABORT => return Err(io::ErrorKind::ConnectionRefused.into()),
                    other => return Err(io::Error::other(format!("SCTP chunk {other} answers INIT"))),
                }
            }
            _ => {}
        }
    }
}

/// Answers INITs to one address. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Responder {
    ports: Arc<Mutex<BTreeSet<u16>>>,
    stop: Arc<AtomicBool>,
    socket: UdpSocket,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    pub(super) fn start(ns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = ns
            .run(|| raw_socket(address, PATIENCE))?
            .with_context(|| format!("raw SCTP socket on {address} in {}", ns.name()))?;
        let ports = Arc::new(Mutex::new(BTreeSet::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (worker, listening, end) = (socket.try_clone()?, Arc::clone(&ports), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                // What comes of a shutdown has no sender, and must not be asked for one: look first.
                if worker.peek(&mut [0]).is_err() || end.load(Ordering::Relaxed) {
                    continue;
                }
                // A client that is gone, or that may not be answered, is the client's business.
                let _ = answer(&worker, address, &listening);
            }
        });
        Ok(Self { ports, stop, socket, thread: Some(thread) })
    }

    /// Answers with INIT ACK at this port from now on.
    pub(super) fn listen(&self, port: u16) {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
    }
}

fn answer(socket: &UdpSocket, address: IpAddr, listening: &Mutex<BTreeSet<u16>>) -> io::Result<()> {
    let mut buffer = [0; 256];
    let (length, client) = socket.recv_from(&mut buffer)?;
    let Some(init) = buffer.get(..length).and_then(|bytes| Packet::read(payload(address, bytes)?)) else {
        return Ok(());
    };
    if init.chunk != INIT {
        return Ok(());
    }
    let listens = listening.lock().unwrap_or_else(PoisonError::into_inner).contains(&init.destination);
    let reply = Packet {
        source: init.destination,
        destination: init.source,
        tag: init.initiate_tag,
        chunk: if listens { INIT_ACK } else { ABORT },
        initiate_tag: 1,
    };
    socket.send_to(&reply.bytes(), (client.ip(), 0)).map(drop)
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread, though it fails for a socket that isn't connected.
        let _ = SockRef::from(&self.socket).shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_what_sctp_says() {
        let init = Packet { source: 49_152, destination: 80, tag: 0, chunk: INIT, initiate_tag: 7 };
        let bytes = init.bytes();
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..8], [0xc0, 0, 0, 80, 0, 0, 0, 0]);
        assert_eq!(bytes[12..20], [INIT, 0, 0, 20, 0, 0, 0, 7]);
        assert_eq!(Packet::read(&bytes), Some(init));
        assert_eq!(Packet::read(&bytes[..12]), None);
        // RFC 3720's vector for the same CRC.
        assert_eq!(CHECKSUM.checksum(&[0; 32]), 0x8a91_36aa);
        let abort = Packet { chunk: ABORT, tag: 7, initiate_tag: 0, ..init };
        assert_eq!(abort.bytes().len(), 16);
        assert_eq!(Packet::read(&abort.bytes()).unwrap().tag, 7);
    }
}
