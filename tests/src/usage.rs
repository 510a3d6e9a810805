//! What a process has of the machine.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Open descriptors, by what they are open on.
    pub descriptors: Vec<String>,
    pub threads: usize,
    /// Bytes of memory that are its own: resident, and resident at most since [`Usage::forget_peak`].
    pub resident: u64,
    pub peak: u64,
    /// Its BPF maps and programs, by their numbers.
    pub bpf: BTreeSet<String>,
    pub processor: Duration,
    /// Times that it was woken up, over all threads.
    pub switches: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| -> Result<u64> {
            let field = field(&status, name).with_context(|| format!("{name} of process {pid}"))?;
            Ok(field.trim_end_matches("kB").trim().parse::<u64>()? << 10)
        };
        let (mut descriptors, mut bpf) = (Vec::new(), BTreeSet::new());
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let entry = entry?;
            // It may have been closed since.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            if target.contains("bpf-") {
                let path = format!("/proc/{pid}/fdinfo/{}", entry.file_name().to_string_lossy());
                let Ok(info) = fs::read_to_string(path) else { continue };
                let number = ["map_id:", "prog_id:", "link_id:"]
                    .into_iter()
                    .find_map(|name| field(&info, name).map(|number| format!("{name}{number}")));
                bpf.extend(number);
            }
            descriptors.push(target);
        }
        descriptors.sort();
        let (mut threads, mut switches) = (0, 0);
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
            threads += 1;
            switches += field(&status, "voluntary_ctxt_switches:").map_or(Ok(0), str::parse::<u64>)?;
        }
        Ok(Self {
            descriptors,
            threads,
            resident: kib("RssAnon:")?,
            peak: kib("VmHWM:")?,
            bpf,
            processor: processor(pid)?,
            switches,
        })
    }

    /// The peak is counted from here on.
    pub fn forget_peak(pid: u32) -> Result<()> {
        fs::write(format!("/proc/{pid}/clear_refs"), "5").context("resetting the peak of resident memory")
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// User and system time, to a hundredth of a second (`USER_HZ`).
fn processor(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, in brackets, may contain anything.
    let (_, rest) = stat.rsplit_once(") ").context("a line of stat")?;
    let ticks = |at: usize| rest.split(' ').nth(at).and_then(|word| word.parse::<u64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("times in stat")?;
    Ok(Duration::from_millis((user + system) * 10))
}
