//! Progress and sub-commands: one line for each step, output kept in a log and shown only when it fails.

use std::fs::{self, File};
use std::io::{IsTerminal as _, Write as _, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

const GREEN: &str = "\x1b[1;32m";
const YELLOW: &str = "\x1b[1;33m";
const RESET: &str = "\x1b[0m";
/// Enough of a failing command's end to see its error without scrolling.
const TAIL_LINES: usize = 30;

/// A step under way: its line gets the time it took when it ends.
#[derive(Debug)]
pub(crate) struct Step {
    title: String,
    started: Instant,
    spinner: Option<ProgressBar>,
}

impl Step {
    /// Announces a step whose commands print nothing themselves.
    pub(crate) fn start(title: impl Into<String>) -> Self {
        let title = title.into();
        let spinner = if stderr().is_terminal() {
            let bar = ProgressBar::new_spinner().with_message(title.clone());
            if let Ok(style) = ProgressStyle::with_template("{spinner:.green} {msg} ... ({elapsed})") {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(120));
            Some(bar)
        } else {
            // The line is finished by `end`; whoever reads a CI log sees what is being waited for.
            anstream::eprint!("{GREEN}==>{RESET} {title} ...");
            let _ = stderr().flush();
            None
        };
        Self { title, started: Instant::now(), spinner }
    }

    /// Ends the step well.
    pub(crate) fn done(self) {
        self.end("");
    }

    /// Ends the step with a word on how it went.
    pub(crate) fn end(self, outcome: &str) {
        let took = seconds(self.started.elapsed());
        match self.spinner {
            Some(bar) => {
                bar.finish_and_clear();
                anstream::eprintln!("{GREEN}==>{RESET} {} ...{outcome} ({took})", self.title);
            }
            None => anstream::eprintln!("{outcome} ({took})"),
        }
    }
}

/// Says something that is true at this point of a run.
pub(crate) fn note(text: &str) {
    anstream::eprintln!("    {text}");
}

/// Says something that the user should know although nothing failed.
pub(crate) fn warn(text: &str) {
    anstream::eprintln!("{YELLOW}warning:{RESET} {text}");
}

/// Runs a command quietly as one step. On failure the error holds the command, its last lines and the log's path.
pub(crate) fn run(title: &str, logs: &Path, log_name: &str, command: &mut Command) -> Result<()> {
    let log = logs.join(format!("{log_name}.log"));
    let step = Step::start(title);
    let outcome = run_logged(&log, command);
    step.end(if outcome.is_ok() { "" } else { " failed" });
    outcome
}

/// Runs a command that talks to the user itself.
pub(crate) fn stream(title: &str, command: &mut Command) -> Result<()> {
    anstream::eprintln!("{GREEN}==>{RESET} {title}");
    let started = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("can't start `{}`", command_line(command)))?;
    let took = seconds(started.elapsed());
    if !status.success() {
        bail!("`{}` failed after {took} ({status})", command_line(command));
    }
    anstream::eprintln!("{GREEN}==>{RESET} {title}: passed ({took})");
    Ok(())
}

/// Runs a command with its output in `log` alone.
pub(crate) fn run_logged(log: &Path, command: &mut Command) -> Result<()> {
    let file = create_log(log)?;
    let also = file.try_clone().context("can't share the log file")?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(also)
        .status()
        .with_context(|| format!("can't start `{}`", command_line(command)))?;
    if status.success() {
        return Ok(());
    }
    let output = fs::read(log).unwrap_or_default();
    bail!(
        "`{}` failed ({status}); its last lines:\n{}\n(all of it: {})",
        command_line(command),
        tail(&String::from_utf8_lossy(&output), TAIL_LINES),
        log.display()
    )
}

/// What a command prints on standard output, or `None` where it can't run or fails.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn create_log(log: &Path) -> Result<File> {
    let dir: PathBuf = log.parent().map(Path::to_path_buf).unwrap_or_default();
    fs::create_dir_all(&dir).with_context(|| format!("can't create {}", dir.display()))?;
    File::create(log).with_context(|| format!("can't write {}", log.display()))
}

/// The command as one would type it, without the environment.
fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

/// The last lines of a text, indented.
fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    all.iter().skip(from).map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

fn seconds(elapsed: Duration) -> String {
    if elapsed < Duration::from_secs(10) {
        format!("{:.1} s", elapsed.as_secs_f64())
    } else {
        format!("{} s", elapsed.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_shows_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("logs").join("x.log");
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 100; echo the-cause >&2; exit 3"]);
        let error = run_logged(&log, &mut command).unwrap_err().to_string();
        assert!(error.contains("seq 1 100"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("    the-cause"), "{error}");
        assert!(!error.contains("    50\n"), "{error}");
        assert!(error.contains(&log.display().to_string()), "{error}");
    }

    #[test]
    fn tail_of_a_short_text_is_the_text() {
        assert_eq!(tail("a\nb", 5), "    a\n    b");
        assert_eq!(tail("a\nb\nc", 2), "    b\n    c");
        assert_eq!(tail("", 2), "");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(seconds(Duration::from_millis(72_900)), "72 s");
    }
}
