//! Connections that live for a while, to see what a change of policy does to them.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;
use crate::probe::{Outcome, any};

/// A TCP connection to a pod's echo server. Packets that a policy drops are sent again by the kernel, so that a connection
/// that is allowed again goes on.
#[derive(Debug)]
pub struct TcpConn {
    stream: BufReader<TcpStream>,
    sent: u64,
    partial: Vec<u8>,
}

impl TcpConn {
    /// Connects from inside `ns`.
    pub fn open(ns: &Netns, to: SocketAddr, timeout: Duration) -> Result<Self> {
        let stream = ns
            .run(|| TcpStream::connect_timeout(&to, timeout))?
            .with_context(|| format!("connecting from {} to {to}", ns.name()))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), sent: 0, partial: Vec::new() })
    }

    /// The same over SCTP: an association that is read and written as a stream of lines. Fails where the kernel has none.
    pub fn open_sctp(ns: &Netns, to: SocketAddr, timeout: Duration) -> Result<Self> {
        let connect = || -> io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(socket2::Protocol::SCTP))?;
            socket.connect_timeout(&to.into(), timeout)?;
            Ok(socket.into())
        };
        let stream = ns.run(connect)?.with_context(|| format!("SCTP from {} to {to}", ns.name()))?;
        Ok(Self { stream: BufReader::new(stream), sent: 0, partial: Vec::new() })
    }

    /// Sends a line and waits for that very line to come back, past answers to earlier ones.
    pub fn echo(&mut self, timeout: Duration) -> Outcome {
        self.sent += 1;
        let line = format!("{}\n", self.sent);
        match self.exchange(line.as_bytes(), Instant::now() + timeout) {
            Ok(()) => Outcome::Open,
            Err(error) => Outcome::of_error(&error),
        }
    }

    /// Sends a line, while it reads, and waits for that very line to come back.
    pub fn echo_line(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let line = format!("{text}\n").into_bytes();
        let mut writer = self.stream.get_ref().try_clone()?;
        let deadline = Instant::now() + timeout;
        std::thread::scope(|scope| {
            let written = scope.spawn(|| writer.write_all(&line));
            let read = self.await_line(&line, deadline);
            if read.is_err() {
                // Or the writer would wait for ever.
                let _ = self.stream.get_ref().shutdown(std::net::Shutdown::Both);
            }
            let written = written.join().map_err(|_| io::Error::other("the writer panicked"));
            read.and(written.and_then(|written| written))
        })
        .with_context(|| format!("a line of {} bytes", line.len()))
    }

    fn exchange(&mut self, line: &[u8], deadline: Instant) -> io::Result<()> {
        self.stream.get_mut().write_all(line)?;
        self.await_line(line, deadline)
    }

    fn await_line(&mut self, line: &[u8], deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            if self.stream.read_until(b'\n', &mut self.partial)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let complete = self.partial.ends_with(b"\n");
            let answered = self.partial == line;
            if complete {
                self.partial.clear();
            }
            if answered {
                return Ok(());
            }
        }
    }

    /// The local address, for tests that look for the flow.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.stream.get_ref().local_addr()?)
    }
}

/// Datagrams from one port to a pod's echo server: one flow.
#[derive(Debug)]
pub struct UdpConn {
    socket: UdpSocket,
    sent: u64,
}

impl UdpConn {
    /// Takes a port inside `ns`. Nothing is sent yet.
    pub fn open(ns: &Netns, to: SocketAddr) -> Result<Self> {
        let bind = || {
            let socket = UdpSocket::bind((any(to.ip()), 0))?;
            socket.connect(to)?;
            Ok::<_, io::Error>(socket)
        };
        Ok(Self { socket: ns.run(bind)?.with_context(|| format!("UDP in {}", ns.name()))?, sent: 0 })
    }

    /// Sends a datagram and waits for that very one to come back.
    pub fn echo(&mut self, timeout: Duration) -> Outcome {
        self.sent += 1;
        match self.exchange(&self.sent.to_be_bytes(), Instant::now() + timeout) {
            Ok(()) => Outcome::Open,
            Err(error) => Outcome::of_error(&error),
        }
    }

    fn exchange(&self, datagram: &[u8], deadline: Instant) -> io::Result<()> {
        self.socket.send(datagram)?;
        let mut buffer = [0; 16];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.socket.set_read_timeout(Some(left))?;
            let length = self.socket.recv(&mut buffer)?;
            if buffer.get(..length) == Some(datagram) {
                return Ok(());
            }
        }
    }
}
