//! One probe from a namespace to an address, and what came of it.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;

/// How long to wait for an answer that must come: a slow machine must not fail a test.
pub const ALLOW_TIMEOUT: Duration = Duration::from_secs(4);
/// How long to wait for an answer that must not come; below the second after which TCP asks again.
pub const DENY_TIMEOUT: Duration = Duration::from_millis(700);

/// What came of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other end answered.
    Open,
    /// Nothing listens there: the packet arrived and its answer came back.
    Refused,
    /// No answer.
    TimedOut,
    /// A router or the own host said that there is no way.
    Unreachable(String),
    /// The probe could not be made.
    Failed(String),
}

impl Outcome {
    /// What the result of work inside a namespace means.
    #[must_use]
    pub fn of(result: Result<io::Result<()>>) -> Self {
        match result {
            Ok(Ok(())) => Self::Open,
            Ok(Err(error)) => Self::of_error(&error),
            Err(error) => Self::Failed(format!("{error:#}")),
        }
    }

    pub(crate) fn of_error(error: &io::Error) -> Self {
        use io::ErrorKind;
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::TimedOut,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                Self::Unreachable(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open => f.write_str("open"),
            Self::Refused => f.write_str("refused"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// Opens and closes a TCP connection.
#[must_use]
pub fn tcp_connect(ns: &Netns, to: SocketAddr, timeout: Duration) -> Outcome {
    Outcome::of(ns.run(|| TcpStream::connect_timeout(&to, timeout).map(drop)))
}

/// As [`tcp_connect`] from a source address of the namespace's own, where it has several.
#[must_use]
pub fn tcp_connect_from(ns: &Netns, source: IpAddr, to: SocketAddr, timeout: Duration) -> Outcome {
    Outcome::of(ns.run(|| stream_from(source, to, timeout, socket2::Protocol::TCP)))
}

/// As [`sctp_connect`] from a source address of the namespace's own.
#[must_use]
pub fn sctp_connect_from(ns: &Netns, source: IpAddr, to: SocketAddr, timeout: Duration) -> Outcome {
    Outcome::of(ns.run(|| stream_from(source, to, timeout, socket2::Protocol::SCTP)))
}

fn stream_from(
    source: IpAddr,
    to: SocketAddr,
    timeout: Duration,
    protocol: socket2::Protocol,
) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(protocol))?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect_timeout(&to.into(), timeout)
}

/// Whether this kernel has SCTP.
#[must_use]
pub fn sctp_supported() -> bool {
    Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::SCTP)).is_ok()
}

/// Opens and closes an SCTP association.
#[must_use]
pub fn sctp_connect(ns: &Netns, to: SocketAddr, timeout: Duration) -> Outcome {
    Outcome::of(ns.run(|| {
        Socket::new(Domain::for_address(to), Type::STREAM, Some(socket2::Protocol::SCTP))?
            .connect_timeout(&to.into(), timeout)
    }))
}

/// How long a datagram's answer is waited for before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Sends a datagram and waits for it to come back.
#[must_use]
pub fn udp_exchange(ns: &Netns, to: SocketAddr, timeout: Duration) -> Outcome {
    udp_exchange_from(ns, any(to.ip()), to, timeout)
}

/// As [`udp_exchange`] from a source address of the namespace's own, where it has several.
#[must_use]
pub fn udp_exchange_from(ns: &Netns, source: IpAddr, to: SocketAddr, timeout: Duration) -> Outcome {
    Outcome::of(ns.run(|| {
        let socket = UdpSocket::bind((source, 0))?;
        // Connected, it hears of a port that nobody listens on.
        socket.connect(to)?;
        let deadline = Instant::now() + timeout;
        let mut buffer = [0; 16];
        // Asked again as a resolver does: a datagram that waits for a neighbour's address among too many others is lost.
        let length = loop {
            socket.send(b"sluice")?;
            let left = deadline.saturating_duration_since(Instant::now());
            socket.set_read_timeout(Some(left.clamp(Duration::from_millis(1), ASK_AGAIN)))?;
            match socket.recv(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
                result => break result?,
            }
        };
        if buffer.get(..length) == Some(b"sluice") {
            Ok(())
        } else {
            Err(io::Error::other("another datagram"))
        }
    }))
}

/// Sends one echo request.
#[must_use]
pub fn ping(ns: &Netns, to: IpAddr, timeout: Duration) -> Outcome {
    ping_from(ns, any(to), to, timeout)
}

/// As [`ping`] from a source address of the namespace's own, where it has several.
#[must_use]
pub fn ping_from(ns: &Netns, source: IpAddr, to: IpAddr, timeout: Duration) -> Outcome {
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, socket2::Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, socket2::Protocol::ICMPV6, 128, 129),
    };
    Outcome::of(ns.run(|| {
        // The kernel fills in the identifier and the checksum, and hands over only replies to this socket.
        let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
        socket.bind(&SocketAddr::from((source, 0)).into())?;
        socket.connect(&SocketAddr::from((to, 0)).into())?;
        socket.set_read_timeout(Some(timeout))?;
        socket.write_all(&[request, 0, 0, 0, 0, 0, 0, 1, b's', b'l', b'u', b'i', b'c', b'e', 0, 0])?;
        let mut buffer = [0; 64];
        let length = socket.read(&mut buffer)?;
        match buffer.get(..length) {
            Some([kind, ..]) if *kind == reply => Ok(()),
            _ => Err(io::Error::other("another ICMP message")),
        }
    }))
}

pub(crate) fn any(family_of: IpAddr) -> IpAddr {
    match family_of {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A program that was run as a probe.
#[derive(Clone, Debug)]
pub struct CommandProbe {
    /// The command, as one would type it.
    pub command: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer, or the program's own words about the failure.
    pub answer: String,
}

/// Fetches `http://TO/` with `curl`, which gives up after one second.
#[must_use]
pub fn http_get(ns: &Netns, to: SocketAddr) -> CommandProbe {
    let url = if to.port() == 80 {
        match to.ip() {
            IpAddr::V4(address) => format!("http://{address}/"),
            IpAddr::V6(address) => format!("http://[{address}]/"),
        }
    } else {
        format!("http://{to}/")
    };
    // Only its verbose words tell a refused connection from another failure.
    let arguments = ["-sv", "-m", "1", &url];
    let mut curl = Command::new("curl");
    // `-q` and the environment: a proxy of the user's would answer instead of the pod.
    curl.arg("-q").args(arguments).env_clear();
    if let Some(path) = std::env::var_os("PATH") {
        curl.env("PATH", path);
    }
    let command = format!("curl {}", arguments.join(" "));
    let output = match ns.output(&mut curl) {
        Ok(output) => output,
        Err(error) => return failed(command, &error),
    };
    let words = String::from_utf8_lossy(&output.stderr);
    let last = |needle: &str| {
        words
            .lines()
            .rev()
            .find(|line| line.contains(needle))
            .unwrap_or_default()
            .trim_matches(['*', ' '])
            .to_owned()
    };
    let (outcome, answer) = match output.status.code() {
        Some(0) => (Outcome::Open, String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Some(7) if words.contains("Connection refused") => (Outcome::Refused, last("Connection refused")),
        Some(7) => (Outcome::Unreachable(last("failed:")), last("failed:")),
        Some(28) => (Outcome::TimedOut, last("timed out")),
        _ => (Outcome::Failed(words.trim().to_owned()), String::new()),
    };
    CommandProbe { command, outcome, answer }
}

/// Sends one echo request with `ping`, which gives up after one second.
#[must_use]
pub fn ping_command(ns: &Netns, to: IpAddr) -> CommandProbe {
    let to = to.to_string();
    let arguments = ["-n", "-c", "1", "-W", "1", &to];
    let command = format!("ping {}", arguments.join(" "));
    let output = match ns.output(Command::new("ping").args(arguments).env("LC_ALL", "C")) {
        Ok(output) => output,
        Err(error) => return failed(command, &error),
    };
    let words = String::from_utf8_lossy(&output.stdout);
    let find =
        |needle: &str| words.lines().find(|line| line.contains(needle)).unwrap_or_default().trim().to_owned();
    let (outcome, answer) = match output.status.code() {
        Some(0) => (Outcome::Open, find("bytes from")),
        Some(1) if words.contains("nreachable") => {
            (Outcome::Unreachable(find("nreachable")), find("nreachable"))
        }
        Some(1) => (Outcome::TimedOut, find("packet loss")),
        _ => (Outcome::Failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()), String::new()),
    };
    CommandProbe { command, outcome, answer }
}

fn failed(command: String, error: &anyhow::Error) -> CommandProbe {
    CommandProbe { command, outcome: Outcome::Failed(format!("{error:#}")), answer: String::new() }
}
