//! The traffic. The client's side has the first processor for itself, with all that the kernel does between the pods on its
//! behalf, the server's the second.
//!
//! Two things are measured: how much passes in a second, and how much processor time each piece takes. The second holds
//! on a machine that others use too: the time of a thread is its own, and what the kernel does in it for the packets that
//! it has just sent (Linux counts softirqs to the thread that they interrupt, unless CONFIG_IRQ_TIME_ACCOUNTING is on).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::time::{ClockId, clock_gettime};
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
    /// Of the rate.
    pub unit: &'static str,
    /// What the processor time is for.
    pub each: &'static str,
    pub measure: fn(&Ends) -> anyhow::Result<Sample>,
}

pub(crate) const KINDS: [Kind; 4] = [
    Kind { title: "TCP stream", unit: "Gbit/s", each: "MB", measure: Ends::stream },
    Kind { title: "small datagrams", unit: "k/s", each: "datagram", measure: Ends::datagrams },
    Kind { title: "new connections", unit: "k/s", each: "connection", measure: Ends::connections },
    Kind { title: "denied datagrams", unit: "k/s", each: "datagram", measure: Ends::denied },
];

#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Sample {
    /// In the kind's unit, by the clock on the wall.
    pub rate: f64,
    /// Processor time for each, in microseconds.
    pub cost: f64,
}

/// One round of one variant, and of no policy beside it: a sample of each kind.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Pair {
    pub nobody: [Sample; KINDS.len()],
    pub own: [Sample; KINDS.len()],
}

impl Sample {
    /// Of `count` pieces; `scale` makes the unit of the rate.
    fn new(count: f64, scale: f64, took: Duration, processor: Duration) -> Self {
        Self { rate: count * scale / took.as_secs_f64(), cost: processor.as_secs_f64() * 1e6 / count }
    }
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
    /// What the client calls, where that is another address than the servers' own.
    pub called: Option<SocketAddr>,
}

impl Ends {
    /// One TCP stream, as the receiver has it. The processor time is that of both ends.
    fn stream(&self) -> anyhow::Result<Sample> {
        let mut sender = self.connect()?;
        let (mut receiver, _) = self.tcp.accept()?;
        receiver.set_read_timeout(Some(PATIENCE))?;
        sender.set_write_timeout(Some(PATIENCE))?;
        let receive = move || -> anyhow::Result<u64> {
            let (mut buffer, mut bytes) = (vec![0; CHUNK], 0);
            loop {
                match receiver.read(&mut buffer)? {
                    0 => return Ok(bytes),
                    read => bytes += read as u64,
                }
            }
        };
        let send = move || -> anyhow::Result<()> {
            let (begin, buffer) = (Instant::now(), vec![0; CHUNK]);
            while begin.elapsed() < WINDOW {
                sender.write_all(&buffer)?;
            }
            Ok(())
        };
        let (sent, received) = both(send, receive)?;
        let megabytes = received.result as f64 / 1e6;
        Ok(Sample::new(megabytes, 8e-3, received.took, sent.processor + received.processor))
    }

    /// Small datagrams of one flow, and the processor time of the sender, in which they go the whole way; those for which
    /// the server's queue had no room did so too.
    fn datagrams(&self) -> anyhow::Result<Sample> {
        let sender = self.datagram_sender(self.called.map_or_else(|| self.udp.local_addr(), Ok)?)?;
        self.udp.set_read_timeout(Some(PATIENCE))?;
        sender.set_read_timeout(Some(PATIENCE))?;
        // Answered once: what nobody answers is no connection to netfilter, and would meet the rules each time.
        sender.send(&DATAGRAM)?;
        let own = sender.local_addr()?;
        // Something of the round before may still be in the queue.
        while self.udp.recv_from(&mut [0; 64])?.1 != own {}
        self.udp.send_to(&DATAGRAM, own)?;
        sender.recv(&mut [0; 64])?;
        self.udp.set_read_timeout(Some(LULL))?;
        let over = AtomicBool::new(false);
        let receive = || -> anyhow::Result<u64> {
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
        let (sent, received) = both(send, receive)?;
        ensure!(received.result > 0, "no datagram arrived");
        Ok(sent.of_datagrams())
    }

    /// Connections one after the other: opened, closed by the server, closed by the client. The processor time is that of
    /// both.
    fn connections(&self) -> anyhow::Result<Sample> {
        let address = self.called.map_or_else(|| self.tcp.local_addr(), Ok)?;
        SockRef::from(&self.tcp).set_read_timeout(Some(PATIENCE))?;
        let serve = || -> anyhow::Result<()> {
            for _ in 0..CONNECTIONS {
                drop(self.tcp.accept()?);
            }
            Ok(())
        };
        let connect = || -> anyhow::Result<()> {
            for _ in 0..CONNECTIONS {
                let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
                // Until the server has closed: it keeps the port, the client can use it again.
                ensure!(connection.read(&mut [0])? == 0, "the server has something to say");
            }
            Ok(())
        };
        let (client, server) = self.client.run(|| both(connect, serve))??;
        let processor = client.processor + server.processor;
        Ok(Sample::new(f64::from(CONNECTIONS), 1e-3, client.took, processor))
    }

    /// Datagrams to the port that policy closes, and the processor time of the sender, in which they are dropped.
    fn denied(&self) -> anyhow::Result<Sample> {
        let sender = self.datagram_sender(self.denied_udp.local_addr()?)?;
        let (sent, _) = both(|| flood(&sender), || Ok(()))?;
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
        Ok(sent.of_datagrams())
    }

    fn connect(&self) -> anyhow::Result<TcpStream> {
        let address = self.called.map_or_else(|| self.tcp.local_addr(), Ok)?;
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

/// Sends as much as this processor can, and counts it.
fn flood(socket: &UdpSocket) -> anyhow::Result<u32> {
    let (begin, mut packets) = (Instant::now(), 0);
    while begin.elapsed() < WINDOW {
        for _ in 0..64 {
            socket.send(&DATAGRAM)?;
            packets += 1;
        }
    }
    Ok(packets)
}

/// What one end did.
struct Done<T> {
    result: T,
    took: Duration,
    /// Its thread's processor time.
    processor: Duration,
}

impl Done<u32> {
    fn of_datagrams(&self) -> Sample {
        Sample::new(f64::from(self.result), 1e-3, self.took, self.processor)
    }
}

/// Runs both ends, each on a thread and a processor of its own.
fn both<A: Send, B: Send>(
    client: impl FnOnce() -> anyhow::Result<A> + Send,
    server: impl FnOnce() -> anyhow::Result<B> + Send,
) -> anyhow::Result<(Done<A>, Done<B>)> {
    thread::scope(|scope| {
        let client = scope.spawn(|| timed(CLIENT_CPU, client));
        let server = scope.spawn(|| timed(SERVER_CPU, server));
        let client = client.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        let server = server.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        Ok((client?, server?))
    })
}

fn timed<T>(cpu: usize, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Done<T>> {
    let mut set = CpuSet::new();
    // Where there is only one, on that.
    set.set(cpu % thread::available_parallelism()?.get())?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    let processor = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let (begin, before) = (Instant::now(), processor()?);
    let result = work()?;
    Ok(Done { result, took: begin.elapsed(), processor: processor()?.saturating_sub(before) })
}

fn is_lull(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
