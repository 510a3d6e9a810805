//! What the kernel complained of while the suites ran: a program that makes the kernel warn has failed, whatever its tests say.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};
use nix::fcntl::OFlag;

/// How the kernel begins a complaint about itself.
const BEGINNINGS: &[&str] =
    &["WARNING:", "BUG:", "Oops", "INFO: task ", "general protection fault", "refcount_t:"];
/// The lines after it that tell where it comes from.
const CONTEXT: usize = 30;

/// The complaints in the kernel's log, each with the lines after it.
pub(crate) fn complaints() -> Result<Vec<String>> {
    let lines = read().context("can't read /dev/kmsg")?;
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(line) = lines.get(at) {
        if BEGINNINGS.iter().any(|beginning| line.contains(beginning)) {
            let end = (at + CONTEXT).min(lines.len());
            found.push(lines.get(at..end).unwrap_or_default().join("\n"));
            at = end;
        } else {
            at += 1;
        }
    }
    Ok(found)
}

fn read() -> Result<Vec<String>> {
    // Without O_NONBLOCK the end of the log is where the next line is waited for.
    let mut log = File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open("/dev/kmsg")?;
    let mut lines = Vec::new();
    let mut buffer = vec![0; 8192];
    loop {
        match log.read(&mut buffer) {
            Ok(0) => return Ok(lines),
            Ok(length) => {
                let record = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
                // `priority,sequence,microseconds,flags;text`, and lines about devices after it.
                let text = record.split_once(';').map_or("", |(_, text)| text);
                lines.extend(text.lines().next().map(str::to_owned));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(lines),
            // Overwritten while it was read: the next one is there.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
