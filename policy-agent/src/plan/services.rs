//! Services in the tables: a list of backends for each content, which never changes while a frontend refers to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use policy_common::maps::{
    Addr6, BackendEntry, SERVICE_AFFINITY, SERVICE_CLOSED, SERVICE_MOST, ServiceRef, WORD_BITS, vip_bit,
};

use super::capacity::{Capacity, TableFull};
use super::op::Op;
use super::ranges::Ranges;
use super::{Planner, fits};
use crate::compile::Compiled;
use crate::model::Protocol;
use crate::model::services::{Backend, Frontend, Target};

/// What a list says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Content {
    backends: Arc<[Backend]>,
    /// The seconds that a client keeps its backend, and two words by which the Service's port is known.
    affinity: Option<[u32; 3]>,
}

#[derive(Clone, Debug)]
struct List {
    content: Content,
    users: usize,
}

/// Where lists are.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    places: HashMap<Content, u32>,
    /// By the place of their first backend.
    lists: BTreeMap<u32, List>,
    pub(super) space: Ranges,
    /// Places in use.
    used: usize,
}

impl Content {
    fn of(target: &Target) -> Self {
        let mut hasher = DefaultHasher::new();
        (&target.service, &target.port_name).hash(&mut hasher);
        let number = hasher.finish();
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        let halves = [number as u32, (number >> 32) as u32];
        let affinity = target.affinity.map(|seconds| [seconds, halves[0], halves[1]]);
        Self { backends: Arc::clone(&target.backends), affinity }
    }

    /// The places that it takes, its head included.
    fn length(&self) -> usize {
        self.backends.len() + self.head()
    }

    fn head(&self) -> usize {
        usize::from(self.affinity.is_some())
    }

    fn entries(&self) -> impl Iterator<Item = BackendEntry> {
        let head = self.affinity.map(|[seconds, low, high]| BackendEntry {
            address: Addr6::from_words(&[seconds, low, high, 0]),
            port: 0,
            zero: 0,
        });
        let backends = self.backends.iter().map(|backend| BackendEntry {
            address: Addr6::of(backend.address).0,
            port: backend.port,
            zero: 0,
        });
        head.into_iter().chain(backends)
    }
}

impl Lists {
    pub(super) fn new(capacity: &Capacity) -> Self {
        Self {
            places: HashMap::new(),
            lists: BTreeMap::new(),
            space: Ranges::new(0, capacity.backends),
            used: 0,
        }
    }

    /// Places in use.
    pub(super) const fn places(&self) -> usize {
        self.used
    }

    pub(super) fn rebuild_space(&mut self, capacity: &Capacity) {
        let used = self.lists.iter().map(|(first, list)| extent(*first, &list.content));
        self.space = Ranges::rebuild(0, capacity.backends, used);
        self.used = self.lists.values().map(|list| list.content.length()).sum();
    }
}

/// Where it begins, head included, and how long it is.
fn extent(first: u32, content: &Content) -> (u32, u32) {
    let size = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    (first.saturating_sub(size(content.head())), size(content.length()))
}

/// Whether its list is in a table of so many places.
pub(super) const fn is_within(to: ServiceRef, places: u32) -> bool {
    let head = if to.count & SERVICE_AFFINITY == 0 { 0 } else { 1 };
    match to.first.checked_add(to.count & SERVICE_MOST) {
        Some(end) => to.first >= head && end <= places,
        None => false,
    }
}

/// Whether a frontend has a list.
const fn has_list(to: ServiceRef) -> bool {
    to.count & SERVICE_CLOSED == 0 && to.count & SERVICE_MOST != 0
}

impl Planner {
    /// Brings frontends to what is behind them now: `dirty`, or all.
    pub(super) fn plan_services(
        &mut self,
        compiled: &Compiled,
        dirty: Option<&BTreeSet<Frontend>>,
    ) -> Result<(), TableFull> {
        if self.suspect {
            self.read_services();
            // The plan began with a barrier.
            self.lists.space.release();
        }
        let about: BTreeSet<Frontend> = match dirty {
            Some(dirty) => dirty.clone(),
            None => compiled.frontends.keys().chain(self.shadow.services.keys()).copied().collect(),
        };
        let (wanted, gone): (Vec<Frontend>, Vec<Frontend>) =
            about.into_iter().partition(|frontend| compiled.frontends.contains_key(frontend));
        let mut forsaken = BTreeSet::new();
        for frontend in gone {
            self.leave_list(&frontend, &Content { backends: Arc::default(), affinity: None }, &mut forsaken);
            if self.shadow.services.contains_key(&frontend) {
                self.shadow.emit(Op::Service { frontend, to: None });
            }
        }
        let new = wanted.iter().filter(|frontend| !self.shadow.services.contains_key(frontend)).count();
        fits("services", self.shadow.services.len() + new, self.capacity.services)?;
        for frontend in wanted {
            let Some(target) = compiled.frontends.get(&frontend) else { continue };
            let content = Content::of(target);
            let to = self.list_for(target, &content)?;
            if self.shadow.services.get(&frontend) == Some(&to) {
                continue;
            }
            if has_list(to)
                && let Some(list) = self.lists.lists.get_mut(&to.first)
            {
                list.users += 1;
            }
            self.leave_list(&frontend, &content, &mut forsaken);
            let bit = vip_bit(&Addr6::of(frontend.address).0.words());
            let index = bit / WORD_BITS;
            // Bits stay when a Service goes: that costs a lookup, and what was translated goes on.
            self.shadow.emit(Op::Vips { index, bits: self.shadow.vips(index) | 1 << (bit % WORD_BITS) });
            self.shadow.emit(Op::Service { frontend, to: Some(to) });
        }
        if !forsaken.is_empty() {
            self.shadow.emit(Op::Forsake { gone: Arc::new(forsaken) });
        }
        Ok(())
    }

    /// As `allocate_in`.
    fn allocate_places(&mut self, length: u32) -> Option<u32> {
        let found = self.lists.space.allocate(length);
        if found.is_some() {
            return found;
        }
        self.release_quarantine();
        self.lists.space.allocate(length)
    }

    /// A list with this content, which is written where there is none.
    fn list_for(&mut self, target: &Target, content: &Content) -> Result<ServiceRef, TableFull> {
        if !target.sources.is_empty() {
            return Ok(ServiceRef { first: 0, count: SERVICE_CLOSED });
        }
        if target.backends.is_empty() {
            return Ok(ServiceRef::default());
        }
        let full = || TableFull {
            table: "backends",
            needed: (self.lists.places() + content.length()) as u64,
            capacity: u64::from(self.capacity.backends),
        };
        let affinity = if content.affinity.is_some() { SERVICE_AFFINITY } else { 0 };
        let count = u32::try_from(content.backends.len()).ok().filter(|count| *count <= SERVICE_MOST);
        let count = count.ok_or_else(full)? | affinity;
        if let Some(first) = self.lists.places.get(content) {
            return Ok(ServiceRef { first: *first, count });
        }
        let length = u32::try_from(content.length()).unwrap_or(u32::MAX);
        let needed = full();
        // What is free may lie in pieces: twice as much has room.
        let needed = TableFull { needed: needed.needed.max(needed.capacity + 1), ..needed };
        let start = self.allocate_places(length).ok_or(needed)?;
        self.shadow
            .emit_all((start..).zip(content.entries()).map(|(index, entry)| Op::Backend { index, entry }));
        let first = start + u32::from(content.affinity.is_some());
        let lists = &mut self.lists;
        lists.used += content.length();
        lists.places.insert(content.clone(), first);
        lists.lists.insert(first, List { content: content.clone(), users: 0 });
        Ok(ServiceRef { first, count })
    }

    /// A frontend does not refer to its list any more; which backends it loses, where `to` is what it has then.
    fn leave_list(
        &mut self,
        frontend: &Frontend,
        to: &Content,
        forsaken: &mut BTreeSet<(Frontend, Backend)>,
    ) {
        let Some(old) = self.shadow.services.get(frontend).copied().filter(|old| has_list(*old)) else {
            return;
        };
        let lists = &mut self.lists;
        let Some(list) = lists.lists.get_mut(&old.first) else { return };
        if frontend.protocol == Protocol::Udp || list.content.affinity.is_some() {
            let lost = list.content.backends.iter().filter(|b| to.backends.binary_search(b).is_err());
            forsaken.extend(lost.map(|backend| (*frontend, *backend)));
        }
        list.users = list.users.saturating_sub(1);
        if list.users == 0
            && let Some(list) = lists.lists.remove(&old.first)
        {
            lists.used -= list.content.length();
            lists.places.remove(&list.content);
            self.freed.lists.push(extent(old.first, &list.content));
        }
    }

    /// What the tables hold, whoever wrote it.
    pub(super) fn read_services(&mut self) {
        let mut lists = Lists::new(&self.capacity);
        for (frontend, to) in self.shadow.services.iter().filter(|(_, to)| has_list(**to)) {
            let list = lists.lists.entry(to.first).or_insert_with(|| {
                let content = self.read_list(*to, frontend.address.is_ipv4());
                List { content, users: 0 }
            });
            list.users += 1;
        }
        lists.places = lists.lists.iter().map(|(first, list)| (list.content.clone(), *first)).collect();
        lists.rebuild_space(&self.capacity);
        self.lists = lists;
    }

    fn read_list(&self, to: ServiceRef, v4: bool) -> Content {
        let family = if v4 { 4 } else { 6 };
        let places = to.first..to.first + (to.count & SERVICE_MOST);
        let backends = places
            .filter_map(|index| self.shadow.backend(index))
            .map(|entry| Backend { address: entry.address.ip(family), port: entry.port });
        let head = (to.count & SERVICE_AFFINITY != 0).then(|| self.shadow.backend(to.first.wrapping_sub(1)));
        let affinity = head.flatten().map(|head| {
            let [seconds, low, high, _] = head.address.words();
            [seconds, low, high]
        });
        Content { backends: backends.collect(), affinity }
    }
}
