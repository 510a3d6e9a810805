//! Whole frames in and out of one interface (packet(7)).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use sluice_netns::Netns;

/// Frames wait here while the test is busy with other things.
const BUFFER: usize = 8 << 20;
/// Larger than any frame, a super-packet of segmentation offload too.
const LARGEST: usize = 1 << 18;

/// A socket that sends frames as they are, and sees every frame of its interface, in both directions.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    /// The interface's own address.
    pub mac: [u8; 6],
}

impl Wire {
    /// On `interface` of `ns`.
    pub fn open(ns: &Netns, interface: &str) -> Result<Self> {
        ns.run(|| Self::open_here(interface))?.with_context(|| format!("{interface} in {}", ns.name()))
    }

    fn open_here(interface: &str) -> Result<Self> {
        let link = link_address(interface)?;
        let mac = link.addr().context("an interface without a hardware address")?;
        let protocol = SockProtocol::EthAll;
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        setsockopt(&socket, RcvBufForce, &BUFFER)?;
        // The address names no protocol: the socket keeps its own.
        bind(socket.as_raw_fd(), &link)?;
        Ok(Self { socket, mac })
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let sent = send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("sending a frame")?;
        anyhow::ensure!(sent == frame.len(), "{sent} of {} bytes were sent", frame.len());
        Ok(())
    }

    /// Forgets what has come so far.
    pub fn drain(&self) -> Result<()> {
        let mut buffer = vec![0; LARGEST];
        while self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT)?.is_some() {}
        Ok(())
    }

    /// The frames up to the first that `last` is true of, and that one. Fails where it doesn't come in time.
    pub fn until(&self, timeout: Duration, mut last: impl FnMut(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0; LARGEST];
        let mut frames = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            let patience = left.max(Duration::from_millis(1));
            let micros = i64::try_from(patience.as_micros())?;
            let seconds = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
            setsockopt(&self.socket, ReceiveTimeout, &seconds)?;
            if let Some(length) = self.receive(&mut buffer, MsgFlags::empty())? {
                let frame = buffer.get(..length).unwrap_or_default().to_vec();
                let done = last(&frame);
                frames.push(frame);
                if done {
                    return Ok(frames);
                }
            }
            anyhow::ensure!(
                !left.is_zero(),
                "the awaited frame did not come within {timeout:?}; {} others did",
                frames.len()
            );
        }
    }

    fn receive(&self, buffer: &mut [u8], flags: MsgFlags) -> Result<Option<usize>> {
        match recv(self.socket.as_raw_fd(), buffer, flags) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(io::Error::from(error)).context("receiving frames"),
        }
    }
}

fn link_address(interface: &str) -> Result<LinkAddr> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no interface {interface}"))
}

/// The hardware address of an interface.
pub fn mac(ns: &Netns, interface: &str) -> Result<[u8; 6]> {
    ns.run(|| link_address(interface))??.addr().context("an interface without a hardware address")
}
