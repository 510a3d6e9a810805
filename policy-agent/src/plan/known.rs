//! What a compilation stands for in the tables, kept from one to the next: indices of a compilation that follows from
//! another name the same contents, and new ones come behind.

use std::collections::BTreeSet;

use super::classes::lengths;
use super::names::{Numbers, SetKey, Sizes};
use super::{LocalEndpoint, Planner, TableFull, Wanted};
use crate::compile::Compiled;

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) numbers: Numbers,
    pub(super) sets: Vec<SetKey>,
    /// Class of each signature.
    pub(super) classes: Vec<u32>,
    /// Lengths of the prefixes in use.
    pub(super) lengths: BTreeSet<u8>,
    pub(super) endpoints: Vec<LocalEndpoint>,
}

impl Known {
    pub(super) fn sizes(&self) -> (Sizes, usize, usize) {
        (self.numbers.sizes(), self.sets.len(), self.classes.len())
    }

    /// Forgets what came later.
    pub(super) fn truncate(&mut self, (numbers, sets, classes): (Sizes, usize, usize)) {
        self.numbers.truncate(numbers);
        self.sets.truncate(sets);
        self.classes.truncate(classes);
    }

    /// A plan for this compilation is made.
    pub(super) fn finish(self, compiled: &Compiled, endpoints: &[LocalEndpoint]) -> Self {
        Self { lengths: lengths(compiled.prefixes.keys()), endpoints: endpoints.to_vec(), ..self }
    }
}

impl Planner {
    /// Gives the compilation's new contents their numbers.
    pub(super) fn number_contents(&mut self, wanted: &mut Wanted<'_>) {
        let Wanted { compiled, known, .. } = wanted;
        self.layout.contents.extend(&mut known.numbers, compiled);
        let from = known.sets.len();
        known.sets.extend(compiled.sets.iter().skip(from).map(|set| known.numbers.set(set)));
    }

    /// Gives the compilation's new signatures their classes; returns the signatures whose classes are new to the
    /// tables.
    pub(super) fn number_classes(&mut self, wanted: &mut Wanted<'_>) -> Result<Vec<u32>, TableFull> {
        let mut fresh = Vec::new();
        let from = wanted.known.classes.len();
        for (signature, content) in (0_u32..).zip(wanted.compiled.signatures.iter()).skip(from) {
            let key = wanted.known.numbers.signature(content);
            let class = match self.layout.classes.get(&key) {
                Some(class) => *class,
                None => {
                    let class = self.allocate_class()?;
                    self.layout.classes.insert(key, class);
                    fresh.push(signature);
                    class
                }
            };
            wanted.known.classes.push(class);
        }
        Ok(fresh)
    }
}
