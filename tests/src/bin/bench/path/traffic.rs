//! The traffic. The client's side has the first processor for itself, with all that the kernel does between the pods on its
//! behalf, the server's the second: what is measured is how much one processor carries.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sluice_netns::Netns;
use socket2::SockRef;

/// How long each kind of traffic flows.
const WINDOW: Duration = Duration::from_millis(200);
/// How many connections are made one after the other.
const CONNECTIONS: u32 = 1_500;
/// Nobody waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the receiver of datagrams waits for one before it looks whether there is any more to come.
const LULL: Duration = Duration::from_millis(20);
/// What a stream is written in.
const CHUNK: usize = 128 * 1024;
/// The smallest Ethernet frame's worth.
const DATAGRAM: [u8; 18] = [0; 18];

const CLIENT_CPU: usize = 0;
const SERVER_CPU: usize = 1;

/// A kind of traffic.
pub(crate) struct Kind {
    pub title: &'static str,
    pub unit: &'static str,
    pub measure: fn(&Ends) -> anyhow::Result<f64>,
}

pub(crate) const KINDS: [Kind; 4] = [
    Kind { title: "one TCP stream", unit: "Gbit/s", measure: Ends::stream },
    Kind { title: "small datagrams", unit: "thousand/s", measure: Ends::datagrams },
    Kind { title: "new connections", unit: "thousand/s", measure: Ends::connections },
    Kind { title: "denied datagrams", unit: "thousand/s", measure: Ends::denied },
];

/// One round of one variant, and of no policy beside it: a figure for each kind.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Pair {
    pub nobody: [f64; KINDS.len()],
    pub own: [f64; KINDS.len()],
}

#[derive(Debug)]
pub(crate) struct Ends {
    pub client: Netns,
    pub tcp: TcpListener,
    pub udp: UdpSocket,
    /// Where nothing may arrive.
    pub denied_udp: UdpSocket,
    /// Whether there is a policy.
    pub denies: bool,
}

impl Ends {
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

    /// Small datagrams of one flow: how many thousands went the whole way in a second. Those for which the server's queue
    /// had no room did so too.
    fn datagrams(&self) -> anyhow::Result<f64> {
        let sender = self.datagram_sender(self.udp.local_addr()?)?;
        self.udp.set_read_timeout(Some(PATIENCE))?;
        sender.set_read_timeout(Some(PATIENCE))?;
        // Answered once: what nobody answers is no connection to netfilter, and would meet the rules each time.
        sender.send(&DATAGRAM)?;
        let own = sender.local_addr()?;
        // Something of the round before may still be in the queue.
        while self.udp.recv_from(&mut [0; 64])?.1 != own {}
        self.udp.send_to(&DATAGRAM, own)?;
        sender.recv(&mut [0; 64])?;
        let over = AtomicBool::new(false);
        self.udp.set_read_timeout(Some(LULL))?;
        let receive = || -> anyhow::Result<u64> {
            pin(SERVER_CPU)?;
            let (mut read, mut buffer) = (0, [0; 64]);
            loop {
                match self.udp.recv(&mut buffer) {
                    Ok(_) => read += 1,
                    Err(error) if is_lull(&error) && over.load(Ordering::Relaxed) => return Ok(read),
                    Err(error) if is_lull(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        };
        let send = || {
            let sent = flood(&sender);
            over.store(true, Ordering::Relaxed);
            sent
        };
        let (sent, read) = both(send, receive)?;
        ensure!(read > 0, "no datagram arrived");
        Ok(sent.per_second() / 1e3)
    }

    /// Connections one after the other, opened, closed by the server, closed by the client: thousands a second.
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
                Ok(f64::from(CONNECTIONS) / begin.elapsed().as_secs_f64() / 1e3)
            })?
        };
        Ok(both(connect, serve)?.0)
    }

    /// Datagrams to the port that policy closes, in thousands a second.
    fn denied(&self) -> anyhow::Result<f64> {
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
        if self.denies {
            ensure!(arrived == 0, "{arrived} datagrams arrived that policy denies");
        } else {
            ensure!(arrived > 0, "nothing arrived although nobody denies");
        }
        Ok(sent.per_second() / 1e3)
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
