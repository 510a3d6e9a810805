//! Equal contents get one small index, in the order in which they are first seen.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Index;
use std::sync::Arc;

/// Indices stay what they are while the interner lives; a full compilation begins with new ones.
#[derive(Clone, Debug)]
pub struct Interner<T> {
    ids: HashMap<Arc<T>, u32>,
    items: Vec<Arc<T>>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { ids: HashMap::new(), items: Vec::new() }
    }
}

impl<T> Interner<T> {
    pub fn get(&self, id: u32) -> Option<&T> {
        self.items.get(id as usize).map(Arc::as_ref)
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// In the order of their indices.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.items.iter()
    }
}

impl<T: Eq + Hash> Interner<T> {
    pub(super) fn intern(&mut self, item: T) -> u32 {
        if let Some(id) = self.ids.get(&item) {
            return *id;
        }
        let id = u32::try_from(self.items.len()).unwrap_or(u32::MAX);
        let item = Arc::new(item);
        self.items.push(Arc::clone(&item));
        self.ids.insert(item, id);
        id
    }

    pub fn find(&self, item: &T) -> Option<u32> {
        self.ids.get(item).copied()
    }
}

/// The indexes follow from the items.
impl<T: PartialEq> PartialEq for Interner<T> {
    fn eq(&self, other: &Self) -> bool {
        self.items == other.items
    }
}

impl<T: Eq> Eq for Interner<T> {}

impl<T> Index<usize> for Interner<T> {
    type Output = T;

    fn index(&self, id: usize) -> &T {
        &self.items[id]
    }
}
