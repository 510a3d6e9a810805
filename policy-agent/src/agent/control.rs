//! The control socket: one JSON object a line in, one out. Only root reaches it: the socket's mode is 0600, others must not be
//! able to put theirs in its place, and each side looks who the other one is.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::status::{FlowStatus, Status};
use crate::cni::protocol::{CniReply, CniRequest, REQUEST_BYTES};
use crate::crowd::{Crowd, Place};
use crate::logging::LogFilter;

/// A client that neither asks nor reads is let go.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// Clients that have not asked yet, beyond whom the first one goes; and those that wait for their answer.
const CLIENTS: usize = 128;
/// How soon `ask` tries again while the agent is starting.
const CONNECT_RETRY: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum Request {
    /// Read the sources now, and answer when that is enforced.
    Sync,
    Status,
    /// The same, with the flow table.
    Flows,
    /// Stop; enforcement stays.
    Shutdown,
    /// The network plugin asks.
    Cni(CniRequest),
    /// What is logged; with a filter, from now on. Answered with [`LogReply`], even while the agent is busy.
    LogLevel {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
    },
}

/// The filter in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReply {
    pub filter: String,
}

/// What is answered: which, the request tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    Agent(Reply),
    Cni(CniReply),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowStatus>,
}

impl Reply {
    pub(super) fn of(status: &Status) -> Self {
        Self { status: status.clone(), flows: Vec::new() }
    }
}

pub(super) struct Question {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Removes the socket file when the agent stops.
pub(super) struct Server {
    path: PathBuf,
    /// Device and inode: somebody else may have taken the name since.
    file: (u64, u64),
}

impl Drop for Server {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

impl Server {
    pub(super) async fn bind(
        path: &Path,
        log: LogFilter,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Question>)> {
        let named = || format!("the control socket {}", path.display());
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).with_context(named)?;
            guarded(folder).with_context(named)?;
        }
        clear(path).await.with_context(named)?;
        // Nobody else can connect between bind and chmod: the socket is made in a private mode.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(mask);
        let listener = bound.with_context(named)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(named)?;
        let file = identity(path).with_context(named)?;
        let (sender, receiver) = mpsc::channel(CLIENTS);
        tokio::spawn(accept(listener, sender, log));
        Ok((Self { path: path.to_owned(), file }, receiver))
    }
}

/// A socket file of an agent that died is in the way; one of an agent that lives is an error.
async fn clear(path: &Path) -> anyhow::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    anyhow::ensure!(meta.file_type().is_socket(), "there is a file that is no socket");
    anyhow::ensure!(UnixStream::connect(path).await.is_err(), "another agent is running on it");
    Ok(std::fs::remove_file(path)?)
}

/// Whoever can write to the folder can put a socket of its own there, and tell the network plugin that pods are enforced.
fn guarded(folder: &Path) -> anyhow::Result<()> {
    let meta = std::fs::metadata(folder)?;
    let (mode, owner) = (meta.mode() & 0o7777, meta.uid());
    let shared = mode & 0o022 != 0 && mode & 0o1000 == 0;
    anyhow::ensure!(
        !shared,
        "{} can be written by others (mode {mode:o}): `chmod go-w` it",
        folder.display()
    );
    anyhow::ensure!(is_trusted(owner), "{} belongs to user {owner}", folder.display());
    Ok(())
}

/// Root may do everything here anyway.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == nix::unistd::geteuid().as_raw()
}

async fn accept(listener: UnixListener, questions: mpsc::Sender<Question>, log: LogFilter) {
    let crowd = Crowd::new(CLIENTS);
    let asking = Arc::new(Semaphore::new(CLIENTS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let client = Client {
                    place: crowd.enter(),
                    asking: Arc::clone(&asking),
                    questions: questions.clone(),
                    log: log.clone(),
                };
                tokio::spawn(async move {
                    if let Err(error) = client.serve(stream).await {
                        tracing::debug!("control client: {error}");
                    }
                });
                // Who has just come and has asked already is heard before the next one can take its place.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!("accepting a control client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One that came to the socket.
struct Client {
    place: Place,
    asking: Arc<Semaphore>,
    questions: mpsc::Sender<Question>,
    log: LogFilter,
}

impl Client {
    async fn serve(self, stream: UnixStream) -> anyhow::Result<()> {
        let Self { mut place, asking, questions, log } = self;
        let uid = stream.peer_cred()?.uid();
        anyhow::ensure!(is_trusted(uid), "user {uid} has no business here");
        let (reading, mut writing) = stream.into_split();
        let request = async {
            let line = read_line(reading).await?;
            anyhow::Ok((line, asking.acquire().await?))
        };
        let (line, asking) = tokio::select! {
            biased;
            request = request => request?,
            () = place.lost() => anyhow::bail!("let go, others wait"),
        };
        drop(place);
        let reply = answer(&line, &questions, &log).await?;
        drop(asking);
        let bytes = format!("{reply}\n");
        tokio::time::timeout(CLIENT_PATIENCE, writing.write_all(bytes.as_bytes())).await??;
        Ok(())
    }
}

/// As far as it may be long: what is longer is no request.
async fn read_line(reading: OwnedReadHalf) -> anyhow::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(reading.take(REQUEST_BYTES));
    tokio::time::timeout(CLIENT_PATIENCE, reader.read_until(b'\n', &mut line)).await??;
    Ok(line)
}

async fn answer(line: &[u8], questions: &mpsc::Sender<Question>, log: &LogFilter) -> anyhow::Result<String> {
    let refusal =
        |error: &dyn std::fmt::Display| serde_json::json!({ "error": error.to_string() }).to_string();
    Ok(match serde_json::from_slice(line.trim_ascii()) {
        Ok(Request::LogLevel { filter }) => match filter.map_or(Ok(()), |filter| log.set(&filter)) {
            Ok(()) => serde_json::to_string(&LogReply { filter: log.current()? })?,
            Err(error) => refusal(&error),
        },
        Ok(request) => {
            let (answer, reply) = oneshot::channel();
            questions.send(Question { request, answer }).await?;
            serde_json::to_string(&reply.await?)?
        }
        Err(error) => refusal(&error),
    })
}

/// Asks a running agent. Until `timeout` an agent that is not there yet is waited for.
pub async fn ask(socket: &Path, request: Request, timeout: Duration) -> anyhow::Result<Reply> {
    ask_for(socket, &request, timeout).await
}

/// Asks a running agent what it logs, or changes that; returns the filter in force.
pub async fn log_level(socket: &Path, filter: Option<String>, timeout: Duration) -> anyhow::Result<String> {
    let reply: LogReply = ask_for(socket, &Request::LogLevel { filter }, timeout).await?;
    Ok(reply.filter)
}

/// The same, for requests that are answered in another way.
pub async fn ask_for<R: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<R> {
    let exchange = async {
        let stream = connect(socket).await?;
        let (reading, mut writing) = stream.into_split();
        writing.write_all(format!("{}\n", serde_json::to_string(request)?).as_bytes()).await?;
        let mut line = String::new();
        BufReader::new(reading).read_line(&mut line).await?;
        anyhow::ensure!(!line.is_empty(), "the agent closed the connection");
        serde_json::from_str(&line).with_context(|| format!("the agent answered {}", line.trim()))
    };
    let named = || format!("asking the agent at {}", socket.display());
    match tokio::time::timeout(timeout, exchange).await {
        Ok(reply) => reply.with_context(named),
        Err(_) if socket.exists() => Err(anyhow::anyhow!("no answer within {timeout:?}")).with_context(named),
        Err(_) => Err(anyhow::anyhow!("no agent is running there")).with_context(named),
    }
}

async fn connect(socket: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(socket).await {
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                tokio::time::sleep(CONNECT_RETRY).await;
            }
            Ok(stream) => {
                let uid = stream.peer_cred()?.uid();
                if is_trusted(uid) {
                    return Ok(stream);
                }
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("user {uid} answers there, who is not root"),
                ));
            }
            Err(error) => return Err(error),
        }
    }
}
