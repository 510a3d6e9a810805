//! The first process of a virtual machine: mounts what tests expect, loads modules, runs the suites of the plan, and powers
//! the machine off. It never returns: a first process that ends is a kernel panic.

mod kernel_log;
mod machine;
mod suite;

use std::fs::{self, File};
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sys::reboot::{RebootMode, reboot};
use sluice_guest::{Event, PLAN, PORT, Plan};

fn main() -> Result<()> {
    // On a machine that is in use, mounting over /proc and powering off would be a disaster.
    anyhow::ensure!(
        std::process::id() == 1,
        "this is the first process of a virtual machine: it is of no use elsewhere"
    );
    if let Err(error) = serve() {
        // The port is what could not be opened: the console is all that is left.
        eprintln!("the guest can't report: {error:#}");
    }
    let error = reboot(RebootMode::RB_POWER_OFF);
    eprintln!("the machine does not power off: {error:?}");
    loop {
        std::thread::park();
    }
}

fn serve() -> Result<()> {
    let started = Instant::now();
    machine::mount_all()?;
    let mut port =
        Port(File::options().write(true).open(PORT).with_context(|| format!("can't open {PORT}"))?);
    match run(&mut port, started) {
        Ok(()) => port.say(&Event::End),
        Err(error) => port.say(&Event::Broken { reason: format!("{error:#}") }),
    }
}

fn run(port: &mut Port, started: Instant) -> Result<()> {
    let text = fs::read_to_string(PLAN).with_context(|| format!("can't read {PLAN}"))?;
    let plan: Plan = serde_json::from_str(&text).with_context(|| format!("{PLAN} is no plan"))?;
    machine::load_modules(&plan.modules)?;
    machine::settle()?;
    port.say(&Event::Booted { release: machine::release()?, milliseconds: machine::uptime()? })?;
    println!("set up in {:?}", started.elapsed());
    for suite in &plan.suites {
        println!("suite {}", suite.name);
        port.say(&suite::run(suite))?;
    }
    for text in kernel_log::complaints()? {
        port.say(&Event::Complaint { text })?;
    }
    Ok(())
}

/// Where events go.
struct Port(File);

impl Port {
    fn say(&mut self, event: &Event) -> Result<()> {
        let mut line = serde_json::to_string(event).context("an event that is no JSON")?;
        line.push('\n');
        self.0.write_all(line.as_bytes()).with_context(|| format!("can't write to {PORT}"))
    }
}
