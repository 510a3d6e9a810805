//! Servers in pods.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, SockRef, Socket, Type};

use crate::netns::Netns;

/// How long a thread may wait in the kernel before it looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(250);

/// A server on one port, for IPv4 and IPv6. Dropping it closes the port and its connections.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    socket: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// A TCP server: answers an HTTP request with `name`, and sends anything else back as it came.
    pub fn tcp(ns: &Netns, port: u16, name: &str) -> Result<Self> {
        Self::stream(ns, port, name, socket2::Protocol::TCP)
            .with_context(|| format!("TCP server on port {port} in {}", ns.name()))
    }

    /// As [`Server::tcp`] over SCTP; fails where the kernel has none.
    pub fn sctp(ns: &Netns, port: u16, name: &str) -> Result<Self> {
        Self::stream(ns, port, name, socket2::Protocol::SCTP)
            .with_context(|| format!("SCTP server on port {port} in {}", ns.name()))
    }

    /// Sends every datagram back.
    pub fn udp(ns: &Netns, port: u16) -> Result<Self> {
        Self::udp_at(ns, Ipv6Addr::UNSPECIFIED.into(), port)
    }

    /// As [`Server::udp`] on one address alone: where there are several, an answer must come from the one that was asked.
    pub fn udp_at(ns: &Netns, address: IpAddr, port: u16) -> Result<Self> {
        let echo = ns
            .run(|| UdpSocket::bind((address, port)))?
            .with_context(|| format!("UDP server on {address} port {port} in {}", ns.name()))?;
        echo.set_read_timeout(Some(PATIENCE))?;
        let socket = SockRef::from(&echo).try_clone()?;
        Ok(Self::run(socket, move |stop| {
            let mut buffer = vec![0; 65_536];
            while !stop.load(Ordering::Relaxed) {
                // What comes of a shutdown has no sender, and must not be asked for one: look first.
                if echo.peek(&mut buffer).is_err() || stop.load(Ordering::Relaxed) {
                    continue;
                }
                if let Ok((length, sender)) = echo.recv_from(&mut buffer) {
                    // A client that is gone, or that may not be answered, is the client's business.
                    let _ = echo.send_to(buffer.get(..length).unwrap_or_default(), sender);
                }
            }
        }))
    }

    fn stream(ns: &Netns, port: u16, name: &str, protocol: socket2::Protocol) -> Result<Self> {
        let listen = || -> io::Result<Socket> {
            let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(protocol))?;
            socket.set_only_v6(false)?;
            socket.set_reuse_address(true)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
            socket.listen(64)?;
            Ok(socket)
        };
        let listener = ns.run(listen)??;
        let socket = listener.try_clone()?;
        let name = name.to_owned();
        Ok(Self::run(socket, move |stop| {
            while !stop.load(Ordering::Relaxed) {
                let Ok((connection, _)) = listener.accept() else { continue };
                let (stop, name) = (Arc::clone(stop), name.clone());
                thread::spawn(move || {
                    // A connection that breaks off is the client's business.
                    let _ = serve(connection, &stop, &name);
                });
            }
        }))
    }

    fn run(socket: Socket, work: impl FnOnce(&Arc<AtomicBool>) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        Self { stop, socket, thread: Some(thread::spawn(move || work(&seen))) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread at once where the protocol can do that; elsewhere its patience ends soon.
        let _ = self.socket.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(mut connection: Socket, stop: &AtomicBool, name: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    let mut request = Vec::new();
    let mut buffer = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        let length = match connection.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(error) => return Err(error),
        };
        let piece = buffer.get(..length).unwrap_or_default();
        if request.is_empty() && !piece.starts_with(b"GET ") {
            connection.write_all(piece)?;
            continue;
        }
        request.extend_from_slice(piece);
        if request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            let body = format!("{name}\n");
            let head = format!(
                "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            connection.write_all(head.as_bytes())?;
            connection.write_all(body.as_bytes())?;
            return connection.shutdown(Shutdown::Write);
        }
    }
    Ok(())
}
