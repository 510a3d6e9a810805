//! What the process costs, under the names that every exporter gives it (`process_...`). The crates that do this want an
//! older `prometheus-client` than ours.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use super::registrar::{Fraction, Registrar};

/// Ticks of /proc/PID/stat in a second: `USER_HZ`, the same on every machine that Linux runs containers on.
const TICKS: f64 = 100.0;

#[derive(Clone, Debug)]
pub(super) struct Process {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    virtual_memory: Gauge,
    fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Fraction,
}

impl Process {
    pub(super) fn register(registrar: &mut Registrar) -> Self {
        let bytes = || Some(Unit::Bytes);
        let seconds = || Some(Unit::Seconds);
        Self {
            cpu: registrar.counter("process_cpu", seconds(), "Processor time that the agent used"),
            resident: registrar.gauge("process_resident_memory", bytes(), "Memory of the agent"),
            virtual_memory: registrar.gauge("process_virtual_memory", bytes(), "Address space of the agent"),
            fds: registrar.gauge("process_open_fds", None, "File descriptors that the agent has open"),
            max_fds: registrar.gauge("process_max_fds", None, "File descriptors that the agent may open"),
            threads: registrar.gauge("process_threads", None, "Threads of the agent"),
            start: registrar.gauge("process_start_time", seconds(), "When the agent started, since 1970"),
        }
    }

    /// What cannot be read stays as it was.
    pub(super) fn refresh(&self) {
        let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
        let status = read("/proc/self/status");
        let kilobytes = |name| number(&status, name).map(|kilobytes| kilobytes.saturating_mul(1024));
        set(&self.resident, kilobytes("VmRSS:"));
        set(&self.virtual_memory, kilobytes("VmSize:"));
        set(&self.threads, number(&status, "Threads:"));
        set(&self.max_fds, number(&read("/proc/self/limits"), "Max open files"));
        let fds = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
        set(&self.fds, fds.ok().and_then(|count| i64::try_from(count).ok()));
        let Some(times) = times(&read("/proc/self/stat")) else { return };
        self.cpu.inner().store((times.cpu / TICKS).to_bits(), Ordering::Relaxed);
        if let Some(boot) = number(&read("/proc/stat"), "btime ").and_then(|boot| u32::try_from(boot).ok()) {
            self.start.set(f64::from(boot) + times.start / TICKS);
        }
    }
}

fn set(gauge: &Gauge, value: Option<i64>) {
    if let Some(value) = value {
        gauge.set(value);
    }
}

/// The number behind a name at the beginning of a line.
fn number(text: &str, name: &str) -> Option<i64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// In ticks.
#[derive(Debug, PartialEq)]
struct Times {
    cpu: f64,
    /// Since the machine's start.
    start: f64,
}

/// `/proc/PID/stat` (proc_pid_stat(5)): the program's name, in parentheses, can contain anything; fields are counted
/// from what follows it, which is the third.
fn times(stat: &str) -> Option<Times> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some(Times { cpu: field(14)? + field(15)?, start: field(22)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_nothing() {
        let stat = "7 (a) b) (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 1234 5 6 7";
        assert_eq!(times(stat), Some(Times { cpu: 300.0, start: 1234.0 }));
        assert_eq!(times("7 (short) S 1"), None);
        assert_eq!(times(""), None);
    }

    #[test]
    fn this_process_is_measured() {
        let mut registrar = Registrar::default();
        let process = Process::register(&mut registrar);
        process.refresh();
        assert!(process.resident.get() > 1 << 20 && process.virtual_memory.get() >= process.resident.get());
        assert!(process.fds.get() > 2 && process.max_fds.get() >= process.fds.get());
        assert!(process.threads.get() >= 1);
        // 2020 began then.
        assert!(process.start.get() > 1_577_836_800.0);
    }
}
