//! The control socket: one JSON object a line in, one out. Only root reaches it (mode 0600).

use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::status::{FlowStatus, Status};
use crate::cni::protocol::{CniReply, CniRequest, REQUEST_BYTES};
use crate::logging::LogFilter;

/// A client that neither asks nor reads is let go.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
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
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Server {
    pub(super) async fn bind(
        path: &Path,
        log: LogFilter,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Question>)> {
        let named = || format!("the control socket {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(named)?;
        }
        clear(path).await.with_context(named)?;
        // Nobody else can connect between bind and chmod: the socket is made in a private mode.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(path);
        nix::sys::stat::umask(mask);
        let listener = bound.with_context(named)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(named)?;
        let (sender, receiver) = mpsc::channel(CLIENTS);
        tokio::spawn(accept(listener, sender, log));
        Ok((Self { path: path.to_owned() }, receiver))
    }
}

/// A socket file of an agent that died is in the way; one of an agent that lives is an error.
async fn clear(path: &Path) -> anyhow::Result<()> {
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(()) };
    anyhow::ensure!(meta.file_type().is_socket(), "there is a file that is no socket");
    anyhow::ensure!(UnixStream::connect(path).await.is_err(), "another agent is running on it");
    Ok(std::fs::remove_file(path)?)
}

async fn accept(listener: UnixListener, questions: mpsc::Sender<Question>, log: LogFilter) {
    let places = std::sync::Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (questions, log) = (questions.clone(), log.clone());
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &questions, &log).await {
                        tracing::debug!("control client: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!("accepting a control client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    stream: UnixStream,
    questions: &mpsc::Sender<Question>,
    log: &LogFilter,
) -> anyhow::Result<()> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    let mut reader = BufReader::new(reading.take(REQUEST_BYTES));
    tokio::time::timeout(CLIENT_PATIENCE, reader.read_line(&mut line)).await??;
    let refusal =
        |error: &dyn std::fmt::Display| serde_json::json!({ "error": error.to_string() }).to_string();
    let reply = match serde_json::from_str(line.trim()) {
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
    };
    let bytes = format!("{reply}\n");
    tokio::time::timeout(CLIENT_PATIENCE, writing.write_all(bytes.as_bytes())).await??;
    Ok(())
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
            result => return result,
        }
    }
}
