//! The plugin's side of the control socket, without a runtime.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::Deserialize;

use super::protocol::{CniReply, CniRequest};

/// How soon to look again for an agent that is not there.
const CONNECT_RETRY: Duration = Duration::from_millis(20);
/// What an answer may take beyond the time that the agent itself was given.
const GRACE: Duration = Duration::from_secs(2);
/// Answers are a line.
const REPLY_BYTES: u64 = 1 << 16;

/// Asks the agent, and waits `patience` for one that is starting or stopping. `request` is told how much of that is left.
///
/// The error says in words why there is no answer.
pub(super) fn ask(
    socket: &Path,
    patience: Duration,
    request: impl Fn(Duration) -> CniRequest + Send + 'static,
) -> Result<CniReply, String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = socket.to_owned();
    let deadline = Instant::now() + patience;
    // On a thread of its own: connecting to an agent that accepts nobody has no timeout.
    let spawned = thread::Builder::new().spawn(move || {
        let reply = until(deadline, || {
            let stream = UnixStream::connect(&path)?;
            trusted(&stream)?;
            exchange(stream, &request(deadline.saturating_duration_since(Instant::now())))
        });
        // Who asked may have lost its patience.
        let _ = sender.send(reply);
    });
    let answer = match spawned {
        Err(error) => Err(error),
        Ok(_) => match receiver.recv_timeout(patience + GRACE) {
            Ok(answer) => answer,
            Err(_) => Err(io::Error::other(format!("no answer within {:?}", patience + GRACE))),
        },
    };
    answer.map_err(|error| format!("the agent at {}: {error}", socket.display()))
}

/// Tries again where there is no agent yet, or where it stops in the middle: another takes its place.
fn until(deadline: Instant, mut attempt: impl FnMut() -> io::Result<CniReply>) -> io::Result<CniReply> {
    loop {
        match attempt() {
            Err(error) if absent(error.kind()) && Instant::now() < deadline => thread::sleep(CONNECT_RETRY),
            result => return result,
        }
    }
}

const fn absent(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof
    )
}

/// An answer lets a pod start: it must be the agent's.
fn trusted(stream: &UnixStream) -> io::Result<()> {
    let uid = getsockopt(stream, PeerCredentials)?.uid();
    if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {uid} answers there, who is not root")))
}

fn exchange(mut stream: UnixStream, request: &CniRequest) -> io::Result<CniReply> {
    stream.write_all(request.to_line()?.as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream.take(REPLY_BYTES)).read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"));
    }
    /// What an agent answers that doesn't understand the question.
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    match (serde_json::from_str(&line), serde_json::from_str::<Refusal>(&line)) {
        (Ok(reply), _) => Ok(reply),
        (Err(_), Ok(Refusal { error })) => Err(io::Error::other(format!("it refuses: {error}"))),
        (Err(error), Err(_)) => Err(io::Error::other(format!("an answer that is none: {error}"))),
    }
}
