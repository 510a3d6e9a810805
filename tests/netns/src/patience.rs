//! How long is long: on a machine that is slower than others, as an emulated one, whatever must come comes later.

use std::sync::LazyLock;
use std::time::Duration;

/// So many times slower than an ordinary machine.
const VARIABLE: &str = "SLUICE_TEST_SLOW";

static FACTOR: LazyLock<u32> = LazyLock::new(|| factor(std::env::var(VARIABLE).ok().as_deref()));

/// A time that suffices on an ordinary machine, as this one needs it. For what must happen; what must not is watched for as
/// long everywhere.
#[must_use]
pub fn patience(ordinary: Duration) -> Duration {
    ordinary.saturating_mul(*FACTOR)
}

#[expect(clippy::panic, reason = "a variable that means nothing must not be taken for one that is not set")]
fn factor(value: Option<&str>) -> u32 {
    match value.map(str::parse) {
        None => 1,
        Some(Ok(factor @ 1..=100)) => factor,
        Some(_) => panic!("{VARIABLE}={}: not a number from 1 to 100", value.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_machine_gets_a_multiple() {
        assert_eq!(factor(None), 1);
        assert_eq!(factor(Some("6")), 6);
    }

    #[test]
    #[should_panic(expected = "not a number from 1 to 100")]
    fn what_is_no_number_is_refused() {
        factor(Some("0"));
    }
}
