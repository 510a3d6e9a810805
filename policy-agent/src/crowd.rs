//! Who waits at a door that not everybody fits through: when it is full, whoever has been there longest goes. An honest
//! client is served in a moment; those that say nothing cannot keep it out, however many they are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// The clones of one are one.
#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    most: usize,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// The one that came first is in front. Who is taken out of here is told so by its sender's end.
    queue: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A place in the crowd; dropped, it is free.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    of: Crowd,
    gone: oneshot::Receiver<()>,
}

impl Crowd {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, inside: Arc::default() }
    }

    /// Takes one in, if need be in place of the one that has been here longest.
    #[must_use]
    pub(crate) fn enter(&self) -> Place {
        let (here, gone) = oneshot::channel();
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        while inside.queue.len() >= self.most && inside.queue.pop_front().is_some() {}
        inside.next += 1;
        let id = inside.next;
        inside.queue.push_back((id, here));
        Place { id, of: self.clone(), gone }
    }
}

impl Place {
    /// Returns when somebody else has been given the place.
    pub(crate) async fn lost(&mut self) {
        let _ = (&mut self.gone).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.of.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(at) = inside.queue.binary_search_by_key(&self.id, |(id, _)| *id) {
            inside.queue.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_lost(place: &mut Place) -> bool {
        place.gone.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn the_one_that_came_first_makes_room() {
        let crowd = Crowd::new(2);
        let (mut first, mut second) = (crowd.enter(), crowd.enter());
        assert!(!is_lost(&mut first) && !is_lost(&mut second));
        let mut third = crowd.enter();
        assert!(is_lost(&mut first) && !is_lost(&mut second));
        drop(second);
        let mut fourth = crowd.enter();
        assert!(!is_lost(&mut third) && !is_lost(&mut fourth), "a place that was left is free");
        drop(first);
        assert!(!is_lost(&mut third), "who has lost its place leaves nobody else's");
    }
}
