//! Values that many objects have in common, kept once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Shared<T: ?Sized> {
    values: HashSet<Arc<T>>,
    /// At this size, those that nobody has any more are thrown out.
    sweep_at: usize,
}

const SMALLEST_SWEEP: usize = 1024;

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self { values: HashSet::new(), sweep_at: SMALLEST_SWEEP }
    }
}

impl<T: ?Sized + Eq + Hash> Shared<T> {
    /// The value that is equal, if there is one.
    pub(super) fn share(&mut self, value: &mut Arc<T>) {
        if let Some(known) = self.values.get(value) {
            *value = Arc::clone(known);
            return;
        }
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = SMALLEST_SWEEP.max(self.values.len() * 2);
        }
        self.values.insert(Arc::clone(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_dropped_with_their_last_owner() {
        let mut shared = Shared::<str>::default();
        let (mut one, mut two): (Arc<str>, Arc<str>) = ("n1".into(), "n1".into());
        shared.share(&mut one);
        shared.share(&mut two);
        assert!(Arc::ptr_eq(&one, &two));
        for n in 0..10 * SMALLEST_SWEEP {
            shared.share(&mut format!("gone {n}").into());
        }
        assert!(shared.values.len() <= SMALLEST_SWEEP + 1, "{}", shared.values.len());
        let mut three: Arc<str> = "n1".into();
        shared.share(&mut three);
        assert!(Arc::ptr_eq(&one, &three));
    }
}
