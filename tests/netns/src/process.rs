//! A child process that never outlives its owner.

use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context as _, Result};

use crate::netns::Netns;
use crate::sys;

/// A running program; dropping it kills it and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` inside `ns`.
    pub fn spawn(ns: &Netns, command: &mut Command) -> Result<Self> {
        Ok(Self { child: ns.spawn(command)? })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has ended.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("waiting for a child process")
    }

    /// Asks it to end with SIGTERM; kills it when `grace` has passed. True if it ended by itself.
    pub fn stop(&mut self, grace: Duration) -> Result<bool> {
        if self.exit_status()?.is_some() {
            return Ok(true);
        }
        sys::send_signal(self.child.id(), libc::SIGTERM).context("sending SIGTERM")?;
        let deadline = Instant::now() + grace;
        while Instant::now() < deadline {
            if self.exit_status()?.is_some() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.kill()?;
        Ok(false)
    }

    /// Ends it at once with SIGKILL, as a crash would.
    pub fn kill(&mut self) -> Result<()> {
        match self.child.kill() {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(()),
            Err(error) => return Err(error).context("sending SIGKILL"),
        }
        self.child.wait().context("waiting for a killed process")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("process {} may be left running: {error:#}", self.child.id());
        }
    }
}
