//! The chained CNI plugin: a pod's containers start when its policy is in force (DESIGN section 4).
//!
//! The runtime executes the plugin once for each pod, so it starts without clap, tokio and tracing: it reads its
//! environment and its input, asks the agent one question on its socket, and answers.

mod client;
mod config;
mod environment;
mod error;
mod install;
mod plugin;
pub mod protocol;
mod version;

#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

pub use config::parse_timeout;
pub use install::{Change, Changed, Entry, Fault, InstallError, Installer, keep_installed};
pub use plugin::ABOUT;
pub use protocol::Unready;

use error::{CniError, Code};
use plugin::Answer;

/// The plugin's `type`, and the name of its program.
pub const PLUGIN: &str = "sluice";
/// Where the agent's control socket is unless something else is configured.
pub const DEFAULT_SOCKET: &str = "/run/sluice/agent.sock";
/// The most that is read of a configuration, in bytes. GC's lists every attachment of the node.
const INPUT_BYTES: u64 = 1 << 20;

/// Whether the program was called as the plugin: as `sluice` without arguments, which is what runtimes do, or as
/// `policy-agent cni`.
pub fn is_plugin_call(arguments: impl IntoIterator<Item = OsString>) -> bool {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    match (arguments.next(), arguments.next()) {
        (None, _) => Path::new(&program).file_name() == Some(OsStr::new(PLUGIN)),
        (Some(only), None) => only == "cni",
        _ => false,
    }
}

/// Does what `CNI_COMMAND` says. The answer is on standard output, everything else on standard error.
pub fn run_plugin() -> ExitCode {
    let variable = |name: &str| std::env::var_os(name);
    if variable("CNI_COMMAND").is_none() {
        eprintln!("{ABOUT}");
        return ExitCode::SUCCESS;
    }
    let mut input = Vec::new();
    let answer = match std::io::stdin().lock().take(INPUT_BYTES + 1).read_to_end(&mut input) {
        Ok(_) => plugin::answer(variable, &input),
        Err(error) => Answer::from(CniError::new(Code::Io, format!("reading standard input: {error}"))),
    };
    for note in &answer.notes {
        eprintln!("{PLUGIN}: {note}");
    }
    let mut output = std::io::stdout().lock();
    let written = output.write_all(answer.output.as_bytes()).and_then(|()| output.flush());
    if answer.failed || written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
