//! One agent on one node.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::explain::successful;
use crate::netns::Netns;
use crate::patience::patience;
use crate::process::Process;
use crate::sys;
use crate::world::Node;

const START_TIMEOUT: Duration = Duration::from_secs(15);
/// A machine that builds at the same time may stand still for seconds.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How an agent is started.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// The program.
    pub binary: PathBuf,
    /// The folder of manifests; without one, `arguments` name an API server.
    pub manifests: Option<PathBuf>,
    /// `--node`, where given.
    pub node: Option<String>,
    /// The directory for its pins.
    pub bpffs: PathBuf,
    /// More arguments of `run`.
    pub arguments: Vec<String>,
    /// More environment, as `RUST_LOG`.
    pub environment: Vec<(String, String)>,
    /// A program in front of it, with its arguments. It must become the agent, as `exec`, or `strace -D`, does.
    pub wrapper: Vec<String>,
}

impl AgentOptions {
    /// An agent for the pods of `node`, with the node's own directory for pins.
    #[must_use]
    pub fn new(binary: &Path, manifests: &Path, node: &Node) -> Self {
        Self {
            binary: binary.to_owned(),
            manifests: Some(manifests.to_owned()),
            node: Some(node.name().to_owned()),
            bpffs: node.bpffs().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }
}

/// A running `policy-agent run`. Dropping it stops it and uninstalls what it enforced.
#[derive(Debug)]
pub struct Agent {
    ns: Netns,
    options: AgentOptions,
    /// Its socket and its log.
    folder: TempDir,
    process: Process,
    installed: bool,
}

impl Agent {
    /// Starts the agent in the network namespace `ns` and waits until it answers on its socket.
    pub fn spawn(ns: &Netns, options: AgentOptions) -> Result<Self> {
        let mut agent = Self::launch(ns, options)?;
        agent.wait_for_socket()?;
        Ok(agent)
    }

    /// Starts the agent and waits for nothing.
    pub fn launch(ns: &Netns, options: AgentOptions) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sluice-agent-").tempdir().context("making a folder")?;
        let process = start(ns, &options, folder.path())?;
        Ok(Self { ns: ns.clone(), options, folder, process, installed: true })
    }

    /// How it is started the next time.
    pub fn options_mut(&mut self) -> &mut AgentOptions {
        &mut self.options
    }

    /// What is in the kernel is somebody else's: dropping this agent takes nothing away.
    pub const fn leave_installed(&mut self) {
        self.installed = false;
    }

    /// Starts it again after [`Agent::stop`] or [`Agent::kill`], on what it left in the kernel.
    pub fn restart(&mut self) -> Result<()> {
        self.relaunch()?;
        self.wait_for_socket()
    }

    /// As [`Agent::restart`], and waits for nothing. A killed agent's socket is in its place, as it is on a node.
    pub fn relaunch(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = start(&self.ns, &self.options, self.folder.path())?;
        self.installed = true;
        Ok(())
    }

    /// Waits until somebody listens on its socket; fails where it ended meanwhile.
    pub fn wait_for_socket(&mut self) -> Result<()> {
        let limit = patience(START_TIMEOUT);
        let deadline = Instant::now() + limit;
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = self.process.exit_status()? {
                bail!("the agent ended at its start ({status}); its log:\n{}", self.log());
            }
            if sys::interrupted() {
                bail!("interrupted");
            }
            if Instant::now() > deadline {
                bail!("the agent has no socket after {limit:?}; its log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Where it listens for `sync` and `status`.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("agent.log")).unwrap_or_default()
    }

    /// Its exit status, once it has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.process.exit_status()
    }

    /// Waits until everything that is in the folder now is enforced; gives the generation.
    pub fn sync(&self) -> Result<u64> {
        let limit = format!("{}s", patience(SYNC_TIMEOUT).as_secs());
        let output = self.ask(&["sync", "--timeout", &limit])?;
        let output = String::from_utf8_lossy(&output).into_owned();
        let number = output.split(|c: char| !c.is_ascii_digit()).rfind(|word| !word.is_empty());
        number
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("policy-agent sync printed no generation: {output:?}"))
    }

    /// Has it read its sources now. The answer is what comes on the stream, or its end where the agent dies before.
    pub fn prompt(&self) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(self.socket()).context("connecting to the agent")?;
        stream.write_all(b"{\"request\": \"sync\"}\n").context("asking the agent")?;
        Ok(stream)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        sys::send_signal(self.process.id(), signal).with_context(|| format!("sending signal {signal}"))
    }

    /// What it says about itself.
    pub fn status(&self) -> Result<Value> {
        let output = self.ask(&["status", "--output", "json"])?;
        serde_json::from_slice(&output).context("policy-agent status: not JSON")
    }

    fn ask(&self, arguments: &[&str]) -> Result<Vec<u8>> {
        let [subcommand, rest @ ..] = arguments else { bail!("no subcommand") };
        let mut command = Command::new(&self.options.binary);
        command.arg(subcommand).arg("--socket").arg(self.socket()).args(rest);
        let output =
            command.output().with_context(|| format!("cannot run {}", self.options.binary.display()))?;
        let answer = successful(&output).with_context(|| {
            format!("policy-agent {subcommand}; the agent's log ends:\n{}", self.log_end())
        })?;
        Ok(answer.to_vec())
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
    }

    /// Ends it in an orderly way, SIGTERM first. What it enforces stays. True if it ended by itself.
    pub fn stop(&mut self) -> Result<bool> {
        self.process.stop(patience(STOP_GRACE))
    }

    /// Kills it, as a crash would. What it enforces stays.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Runs `policy-agent uninstall`, which leaves nothing of it in the kernel.
    pub fn uninstall(&mut self) -> Result<()> {
        let mut command = Command::new(&self.options.binary);
        command
            .arg("uninstall")
            .arg("--bpffs")
            .arg(&self.options.bpffs)
            .arg("--socket")
            .arg(self.socket())
            .process_group(0);
        let output = self.ns.output(&mut command)?;
        successful(&output).context("policy-agent uninstall")?;
        self.installed = false;
        Ok(())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stopping the agent: {error:#}");
        }
        if self.installed
            && let Err(error) = self.uninstall()
        {
            eprintln!("uninstalling the agent: {error:#}");
        }
        // A failing test's only witness goes with the folder.
        if thread::panicking() {
            eprintln!("--- log of the agent in {} ---\n{}", self.ns.name(), self.log_end());
        }
    }
}

fn start(ns: &Netns, options: &AgentOptions, folder: &Path) -> Result<Process> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("agent.log"))
        .context("opening the log")?;
    let mut command = match options.wrapper.split_first() {
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&options.binary);
            command
        }
        None => Command::new(&options.binary),
    };
    command.arg("run");
    if let Some(manifests) = &options.manifests {
        command.arg("--manifests").arg(manifests);
    }
    if let Some(node) = &options.node {
        command.args(["--node", node]);
    }
    command.arg("--bpffs").arg(&options.bpffs).arg("--socket").arg(folder.join("agent.sock"));
    command.args(&options.arguments);
    // Several agents share a namespace in some tests, and none is to look after this machine's own plugins.
    command.env("SLUICE_HEALTH_ADDRESS", "off").env("SLUICE_CNI_BIN_DIR", "/nonexistent");
    command.envs(options.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A group of its own: Ctrl-C is for the program that started it, which stops it in order.
    command.process_group(0);
    Process::spawn(ns, &mut command)
}
