//! Whether the agent lives and is ready: what its loop says of itself, for whoever asks over HTTP.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long the loop may be at one thing. The largest plans take seconds; a minute is a loop that hangs.
pub const LIVE_WITHIN: Duration = Duration::from_secs(60);
/// How often the loop has to beat, however little there is to do.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);

/// The loop's sign of life. The clones of one are one.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    began: Instant,
    /// Milliseconds since `began`.
    last: Arc<AtomicU64>,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { began: Instant::now(), last: Arc::default() }
    }
}

impl Heartbeat {
    /// To be called once in each turn of the loop.
    pub fn beat(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// How long ago the last beat was.
    pub fn age(&self) -> Duration {
        self.began.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

/// What has to be so before the agent is ready: named conditions, each kept by whoever knows. The clones of one are one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Result<(), String>>>>);

/// One condition of a [`Readiness`].
#[derive(Clone, Debug)]
pub struct Condition {
    name: String,
    of: Readiness,
}

impl Readiness {
    /// A new condition, which does not hold yet because of `reason`. All are to be made before the agent begins: what is
    /// not there is not waited for.
    #[must_use]
    pub fn condition(&self, name: &str, reason: &str) -> Condition {
        self.lock().insert(name.to_owned(), Err(reason.to_owned()));
        Condition { name: name.to_owned(), of: self.clone() }
    }

    pub fn is_ready(&self) -> bool {
        let conditions = self.lock();
        // Nothing has been said yet.
        !conditions.is_empty() && conditions.values().all(Result::is_ok)
    }

    /// One line for each condition, as the API server's own `/readyz?verbose` has it.
    pub fn report(&self) -> String {
        let mut report = String::new();
        for (name, state) in &*self.lock() {
            let _ = match state {
                Ok(()) => writeln!(report, "[+]{name} ok"),
                Err(reason) => writeln!(report, "[-]{name} failed: {reason}"),
            };
        }
        report
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Result<(), String>>> {
        // Whoever panicked under the lock left a map that is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Condition {
    /// It holds, or it does not for a reason.
    pub fn set(&self, state: Result<(), String>) {
        let before = self.of.lock().insert(self.name.clone(), state.clone());
        match (before, state) {
            (Some(Ok(())), Err(reason)) => tracing::warn!(condition = self.name, "not ready: {reason}"),
            (Some(Err(_)) | None, Ok(())) => tracing::info!(condition = self.name, "ready"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_condition_holds() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready(), "nothing has been said yet");
        let pods = readiness.condition("watch-pods", "not listed yet");
        let plan = readiness.condition("first-plan", "nothing is enforced yet");
        assert!(!readiness.is_ready());
        pods.set(Ok(()));
        assert_eq!(readiness.report(), "[-]first-plan failed: nothing is enforced yet\n[+]watch-pods ok\n");
        plan.set(Ok(()));
        assert!(readiness.is_ready());
        pods.set(Err("silent for 301 s".to_owned()));
        assert!(!readiness.is_ready());
        assert!(readiness.report().contains("[-]watch-pods failed: silent for 301 s"));
    }

    #[test]
    fn a_heart_that_stops_is_noticed() {
        let heart = Heartbeat::default();
        std::thread::sleep(Duration::from_millis(30));
        assert!(heart.age() >= Duration::from_millis(30));
        heart.clone().beat();
        assert!(heart.age() < Duration::from_millis(30));
    }
}
