//! The program counts time in jiffies, which cost nothing to read; how many make a second is the kernel's CONFIG_HZ,
//! and nothing tells it to user space. So it is measured.

use std::time::{Duration, Instant};

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};

use super::BpfError;

/// The values that kernels are built with (kernel/Kconfig.hz; 1024 on Alpha is none of ours).
const KNOWN: [u32; 4] = [100, 250, 300, 1000];
/// Long enough to tell 250 from 300 with one jiffy of error at each end.
const WINDOW: Duration = Duration::from_millis(120);

/// Measurements that may disagree with the one before.
const ATTEMPTS: u32 = 8;

pub(super) fn ticks_per_second(program: &mut SchedClassifier) -> Result<u32, BpfError> {
    // A machine that stands still between two readings tells nonsense: what two measurements agree on is so.
    let mut before = measure(program)?;
    for _ in 0..ATTEMPTS {
        let again = measure(program)?;
        if again == before {
            break;
        }
        before = again;
    }
    Ok(before)
}

fn measure(program: &mut SchedClassifier) -> Result<u32, BpfError> {
    let start = Instant::now();
    let first = run(program, &[0; 14])?;
    std::thread::sleep(WINDOW);
    let second = run(program, &[0; 14])?;
    Ok(nearest(second.wrapping_sub(first), start.elapsed()))
}

/// Runs a program of ours once on a frame; what it returns is its answer.
pub(super) fn run(program: &mut SchedClassifier, frame: &[u8]) -> Result<u32, BpfError> {
    let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::new() };
    Ok(program.test_run(options)?.return_value)
}

fn nearest(ticks: u32, elapsed: Duration) -> u32 {
    let millis = u32::try_from(elapsed.as_millis()).unwrap_or(u32::MAX).max(1);
    let measured = u64::from(ticks) * 1000 / u64::from(millis);
    KNOWN.into_iter().min_by_key(|hz| measured.abs_diff(u64::from(*hz))).unwrap_or(KNOWN[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_with_an_error_of_two_jiffies_names_the_right_value() {
        for hz in KNOWN {
            let exact = hz * 120 / 1000;
            for ticks in exact.saturating_sub(1)..=exact + 1 {
                assert_eq!(nearest(ticks, WINDOW), hz, "{ticks} ticks in 120 ms at {hz} Hz");
            }
        }
    }
}
