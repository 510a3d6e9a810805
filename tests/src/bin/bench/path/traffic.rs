//! The traffic. The client's side has the first processor for itself, with all that the kernel does between the pods on its
//! behalf, the server's the second: what is measured is how much one processor carries.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sluice_netns::Netns;
use socket2::SockRef;

/// How long each kind of traffic flows.
const WINDOW: Duration = Duration::from_millis(300);
/// How many connections are made one after the other.
const CONNECTIONS: u32 = 4_000;
/// Nobody waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the receiver of datagrams waits for one before it looks whether there is any more to come.
const LULL: Duration = Duration::from_millis(50);
/// What a stream is written in.
const CHUNK: usize = 128 * 1024;
/// The smallest Ethernet frame's worth.
const DATAGRAM: [u8; 18] = [0; 18];

const CLIENT_CPU: usize = 0;
const SERVER_CPU: usize = 1;

/// One round of one variant.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(crate) struct Figures {
    pub gigabits: f64,
    /// Per second, sent: each went the whole way.
    pub packets: f64,
    /// Of those, how many the server had time to read.
    pub delivered: f64,
    pub connections: f64,
    /// Packets of a flood to a port that policy closes, per second.
    pub denied: f64,
}

#[derive(Debug)]
pub(crate) struct Ends {
    pub client: Netns,
    pub tcp: TcpListener,
    pub udp: UdpSocket,
    /// Where nothing may arrive.
    pub denied_udp: UdpSocket,
}

impl Ends {
    pub(crate) fn measure(&self, denies: bool) -> anyhow::Result<Figures> {
        let gigabits = self.stream().context("one stream")?;
        let (packets, delivered) = self.datagrams().context("datagrams")?;
        let connections = self.connections().context("connections")?;
        let denied = self.denied(denies).context("denied datagrams")?;
        Ok(Figures { gigabits, packets, delivered, connections, denied })
    }

    /// One TCP stream, in Gbit/s as the receiver has them.
    fn stream(&self) -> anyhow::Result<f64> {
        let mut sender = self.connect()?;
        let (mut receiver, _) = self.tcp.accept()?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        sender.set_write_timeout(Some(PATIENCE))?;
        let begin = Instant::now();
        let receive = move || -> anyhow::Result<u64> {
            pin(SERVER_CPU)?;
            let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
            loop {
                match receiver.read(&mut buffer)? {
                    0 => return Ok(bytes),
                    read => bytes += read as u64,
                }
            }
        };
        let send = move || -> anyhow::Result<()> {
            pin(CLIENT_CPU)?;
            let buffer = vec![0; CHUNK];
            while begin.elapsed() < WINDOW {
                sender.write_all(&buffer)?;
            }
            Ok(())
        };
        let bytes = both(send, receive)?.1;
        Ok(bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9)
    }

    /// Small datagrams: how many were sent in a second, and the share of them that was read.
    fn datagrams(&self) -> anyhow::Result<(f64, f64)> {
        let sender = self.datagram_sender(self.udp.local_addr()?)?;
        self.udp.set_read_timeout(Some(LULL))?;
        let receive = || -> anyhow::Result<u64> {
            pin(SERVER_CPU)?;
            let (begin, mut read) = (Instant::now(), 0);
            let mut buffer = [0; 64];
            loop {
                match self.udp.recv(&mut buffer) {
                    Ok(_) => read += 1,
                    Err(error) if is_lull(&error) && begin.elapsed() > WINDOW => return Ok(read),
                    Err(error) if is_lull(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let (sent, read) = both(|| flood(&sender), receive)?;
        ensure!(read > 0, "no datagram arrived");
        Ok((sent.per_second(), read as f64 / sent.packets as f64))
    }

    /// Connections one after the other: opened, closed by the server, closed by the client.
    fn connections(&self) -> anyhow::Result<f64> {
        let address = self.tcp.local_addr()?;
        SockRef::from(&self.tcp).set_read_timeout(Some(PATIENCE))?;
        let serve = || -> anyhow::Result<()> {
            pin(SERVER_CPU)?;
            for _ in 0..CONNECTIONS {
                drop(self.tcp.accept()?);
            }
            Ok(())
        };
        let connect = || -> anyhow::Result<f64> {
            self.client.run(|| {
                pin(CLIENT_CPU)?;
                let begin = Instant::now();
                for _ in 0..CONNECTIONS {
                    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
                    // Until the server has closed: it keeps the port, the client can use it again.
                    ensure!(connection.read(&mut [0])? == 0, "the server has something to say");
                }
                Ok(f64::from(CONNECTIONS) / begin.elapsed().as_secs_f64())
            })?
        };
        Ok(both(connect, serve)?.0)
    }

    /// Datagrams to the port that policy closes.
    fn denied(&self, denies: bool) -> anyhow::Result<f64> {
        let sender = self.datagram_sender(self.denied_udp.local_addr()?)?;
        let sent = thread::scope(|scope| {
            let thread = scope.spawn(|| {
                pin(CLIENT_CPU)?;
                flood(&sender)
            });
            thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload))
        })?;
        self.denied_udp.set_read_timeout(Some(LULL))?;
        let mut arrived = 0_u32;
        while self.denied_udp.recv(&mut [0; 64]).is_ok() {
            arrived += 1;
        }
        if denies {
            ensure!(arrived == 0, "{arrived} datagrams arrived that policy denies");
        } else {
            ensure!(arrived > 0, "nothing arrived although nobody denies");
        }
        Ok(sent.per_second())
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let address = self.tcp.local_addr()?;
        self.client.run(|| TcpStream::connect_timeout(&address, PATIENCE))?.context("connecting")
    }

    fn datagram_sender(&self, to: SocketAddr) -> anyhow::Result<UdpSocket> {
        let socket = self.client.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(to).map(|()| socket)
        })?;
        socket.context("a UDP client")
    }
}

struct Sent {
    packets: u64,
    duration: Duration,
}

impl Sent {
    fn per_second(&self) -> f64 {
        self.packets as f64 / self.duration.as_secs_f64()
    }
}

/// Sends as much as this processor can.
fn flood(socket: &UdpSocket) -> anyhow::Result<Sent> {
    pin(CLIENT_CPU)?;
    let (begin, mut packets) = (Instant::now(), 0);
    while begin.elapsed() < WINDOW {
        for _ in 0..64 {
            socket.send(&DATAGRAM)?;
            packets += 1;
        }
    }
    Ok(Sent { packets, duration: begin.elapsed() })
}

/// Runs both ends, each on a thread of its own.
fn both<A: Send, B: Send>(
    client: impl FnOnce() -> anyhow::Result<A> + Send,
    server: impl FnOnce() -> anyhow::Result<B> + Send,
) -> anyhow::Result<(A, B)> {
    thread::scope(|scope| {
        let (client, server) = (scope.spawn(client), scope.spawn(server));
        let client = client.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let server = server.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        Ok((client?, server?))
    })
}

/// Keeps the calling thread on one processor; where there is only one, on that.
fn pin(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu % thread::available_parallelism()?.get())?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn is_lull(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
