//! Running one test program, with its output in a file and a limit to its time.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sluice_guest::{Event, Outcome, Suite};

const OUTPUT: &str = "/run/suite-output";
/// A failing test's words are at the end; the port is slow.
const KEPT: u64 = 64 * 1024;

/// Runs it to its end.
pub(crate) fn run(suite: &Suite) -> Event {
    let started = Instant::now();
    let outcome = start(suite)
        .and_then(|child| wait(child, Duration::from_secs(suite.seconds)))
        .unwrap_or_else(|error| Outcome::NotStarted(format!("{error:#}")));
    let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let output = output().unwrap_or_else(|error| format!("(its output is lost: {error:#})"));
    Event::Suite { name: suite.name.clone(), outcome, milliseconds, output }
}

fn start(suite: &Suite) -> Result<Child> {
    fs::create_dir_all("/run/work").context("can't make the folder that suites run in")?;
    let output = File::create(OUTPUT).context("can't make the output's file")?;
    Command::new(&suite.program)
        .args(&suite.arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin")
        .env("HOME", "/root")
        .envs(&suite.environment)
        .current_dir("/run/work")
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("can't share the output's file")?)
        .stderr(output)
        // A group of its own, so that a suite that hangs ends with what it has started.
        .process_group(0)
        .spawn()
        .with_context(|| format!("can't run {}", suite.program))
}

fn wait(mut child: Child, limit: Duration) -> Result<Outcome> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().context("can't wait for it")? {
            return Ok(outcome(status));
        }
        if Instant::now() > deadline {
            let group = Pid::from_raw(i32::try_from(child.id()).context("its id is out of range")?);
            match killpg(group, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).context("can't kill it after its time"),
            }
            child.wait().context("can't wait for it after it was killed")?;
            return Ok(Outcome::TimedOut);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(code), _) => Outcome::Exited(code),
        (None, Some(signal)) => Outcome::Killed(signal),
        (None, None) => Outcome::NotStarted(format!("it has ended with neither status nor signal: {status}")),
    }
}

fn output() -> Result<String> {
    let mut file = File::open(OUTPUT)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(KEPT)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
