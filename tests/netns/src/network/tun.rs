//! An IPIP tunnel (RFC 2003) as a thread between a TUN device and a raw socket, for kernels without IPIP. On the wire and to
//! the routing table it is the same.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;
use crate::sys;

/// IPv4 in IPv4.
const IPIP: i32 = 4;
const HEADER: usize = 20;

/// Which node has which pods.
type Peers = Arc<Mutex<Vec<(Ipv4Net, Ipv4Addr)>>>;

/// One node's end of the tunnels to all others. The device goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Tunnel {
    peers: Peers,
    /// Closing it ends the thread.
    alive: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    pub(super) fn open(ns: &Netns, device: &str, local: Ipv4Addr) -> Result<Self> {
        let open = || -> io::Result<(File, Socket)> {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPIP)))?;
            socket.bind(&SocketAddr::from((local, 0)).into())?;
            Ok((sys::open_tun(device)?, socket))
        };
        let (tun, socket) = ns.run(open)?.with_context(|| format!("making {device} in {}", ns.name()))?;
        let (closed, alive) = io::pipe()?;
        let peers = Peers::default();
        let known = Arc::clone(&peers);
        let name = ns.name().to_owned();
        let thread = thread::spawn(move || {
            if let Err(error) = forward(&tun, &socket, &closed, &known) {
                eprintln!("the tunnel of {name} is broken: {error}");
            }
        });
        Ok(Self { peers, alive: Some(alive), thread: Some(thread) })
    }

    /// Sets the other nodes: their pods' networks and their own addresses.
    pub(crate) fn set_peers(&self, peers: Vec<(Ipv4Net, Ipv4Addr)>) {
        *self.peers.lock().unwrap_or_else(PoisonError::into_inner) = peers;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(mut tun: &File, socket: &Socket, closed: &PipeReader, peers: &Peers) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut ready = [
            PollFd::new(tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(closed.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            outcome => outcome?,
        };
        let [from_pods, from_nodes, end] = ready.map(|fd| fd.any().unwrap_or_default());
        if end {
            return Ok(());
        }
        if from_pods {
            let length = tun.read(&mut buffer)?;
            let packet = buffer.get(..length).unwrap_or_default();
            if let Some(peer) = destination(packet).and_then(|address| peer_of(peers, address)) {
                // A node that can't be reached is no fault of the tunnel.
                let _ = socket.send_to(packet, &SocketAddr::from((peer, 0)).into());
            }
        }
        if from_nodes {
            let mut received = socket;
            let length = received.read(&mut buffer)?;
            if let Some(packet) = inner(buffer.get(..length).unwrap_or_default(), peers) {
                // The kernel refuses what is no packet.
                let _ = tun.write(packet);
            }
        }
    }
}

fn peer_of(peers: &Peers, pod: Ipv4Addr) -> Option<Ipv4Addr> {
    let peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
    peers.iter().find(|(cidr, _)| cidr.contains(&pod)).map(|(_, node)| *node)
}

/// What a packet from a known node carries, as the kernel's device takes none from others.
fn inner<'a>(outer: &'a [u8], peers: &Peers) -> Option<&'a [u8]> {
    let header = usize::from(outer.first()? & 0xf) * 4;
    let sender = Ipv4Addr::from(outer.get(12..16)?.first_chunk::<4>().copied()?);
    let peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
    let known = peers.iter().any(|(_, node)| *node == sender);
    outer.get(header..).filter(|packet| known && destination(packet).is_some())
}

/// The destination of an IPv4 packet; other packets have none.
fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let header = packet.first_chunk::<HEADER>()?;
    (header[0] >> 4 == 4).then(|| Ipv4Addr::new(header[16], header[17], header[18], header[19]))
}
