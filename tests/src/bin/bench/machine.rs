//! Where it was measured, and how busy it was there: figures of a shared machine mean little without that.

use std::fs;

use anyhow::Context as _;

#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    /// Of the last minute, before anything was measured.
    load_before: f64,
}

impl Machine {
    pub(crate) fn look() -> anyhow::Result<Self> {
        let info = read("/proc/cpuinfo")?;
        let processor = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            // Not every architecture names a model.
            processor: processor.map_or(std::env::consts::ARCH, |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load_before: load()?,
        })
    }

    /// One line for a page, with the load as it is now.
    pub(crate) fn describe(&self) -> anyhow::Result<String> {
        let Self { processor, processors, kernel, load_before } = self;
        Ok(format!(
            "{processor}, {processors} processors, Linux {kernel}; load {load_before:.1} before, {:.1} at the end \
             (the bench itself is about one)",
            load()?
        ))
    }
}

fn load() -> anyhow::Result<f64> {
    let load = read("/proc/loadavg")?;
    load.split(' ').next().context("no load")?.parse().context("/proc/loadavg")
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {path}"))
}
