//! Whether what was hung still hangs: somebody else may have taken it off, put something else in its place, or removed
//! its pin.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::attach::{Hold, Hook, filter_mark, link_pin};
use super::qdisc::Filters;
use super::tcx;
use crate::endpoints::interface_name;

/// What should hang on one hook.
#[derive(Clone, Debug)]
pub struct Expected {
    ifindex: u32,
    hook: Hook,
    program: u32,
    /// Of a tcx link; without one it is a filter.
    link: Option<u32>,
}

impl Expected {
    pub(super) fn new(ifindex: u32, hook: Hook, hold: &Hold) -> Self {
        Self { ifindex, hook, program: hold.program, link: hold.link.as_ref().map(|link| link.id) }
    }

    pub(super) const fn ifindex(&self) -> u32 {
        self.ifindex
    }
}

/// Something that is not as the agent left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub ifindex: u32,
    pub hook: Hook,
    pub loss: Loss,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    Detached,
    Deleted,
    Replaced(String),
    /// The program hangs, and would not outlive the agent.
    Unpinned,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = self.hook.program();
        match &self.loss {
            Loss::Detached => write!(f, "the link of {program} was detached"),
            Loss::Deleted => write!(f, "the filter of {program} was deleted"),
            Loss::Replaced(other) => write!(f, "{program} was replaced by {other}"),
            Loss::Unpinned => write!(f, "the pin of {program} was removed"),
        }
    }
}

/// Asks the kernel, about a microsecond for each hook. It has no part in the datapath: a thread of its own may have it,
/// in the same network namespace.
#[derive(Debug)]
pub struct Inspector {
    /// Where the pins are.
    links: PathBuf,
    filters: Option<Filters>,
}

impl Inspector {
    pub(super) const fn new(links: PathBuf) -> Self {
        Self { links, filters: None }
    }

    /// What of `expected` is not there. What hung on an interface that is gone is not missed.
    pub fn look(&mut self, expected: &[Expected]) -> io::Result<Vec<Lost>> {
        let pins = match expected.is_empty() {
            true => return Ok(Vec::new()),
            false => self.pins()?,
        };
        let mut lost = Vec::new();
        for expected in expected {
            if let Some(loss) = self.loss(expected, &pins)?
                && interface_name(expected.ifindex).is_some()
            {
                lost.push(Lost { ifindex: expected.ifindex, hook: expected.hook, loss });
            }
        }
        Ok(lost)
    }

    fn loss(&mut self, expected: &Expected, pins: &BTreeSet<OsString>) -> io::Result<Option<Loss>> {
        let Expected { ifindex, hook, program, link } = *expected;
        let (pin, loss) = match link {
            Some(link) => (link_pin(hook, ifindex), missing_link(ifindex, hook, program, link)?),
            None => (filter_mark(hook, ifindex), self.missing_filter(ifindex, hook, program)?),
        };
        let unpinned = || (!pins.contains(&OsString::from(pin))).then_some(Loss::Unpinned);
        Ok(loss.or_else(unpinned))
    }

    fn missing_filter(&mut self, ifindex: u32, hook: Hook, program: u32) -> io::Result<Option<Loss>> {
        let filters = match &mut self.filters {
            Some(filters) => filters,
            None => self.filters.insert(Filters::open()?),
        };
        let found = filters.ours(ifindex, hook);
        if found.is_err() {
            // What is left of an answer must not be taken for the next one's.
            self.filters = None;
        }
        Ok(match found? {
            Some(filter) if filter.program == Some(program) => None,
            Some(filter) => Some(Loss::Replaced(match filter.program {
                Some(id) => format!("program {} (id {id})", filter.name),
                None => format!("a filter of kind {}", filter.kind),
            })),
            None => Some(Loss::Deleted),
        })
    }

    fn pins(&self) -> io::Result<BTreeSet<OsString>> {
        match std::fs::read_dir(&self.links) {
            Ok(entries) => entries.map(|entry| entry.map(|entry| entry.file_name())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error),
        }
    }
}

fn missing_link(ifindex: u32, hook: Hook, program: u32, link: u32) -> io::Result<Option<Loss>> {
    let hanging = match tcx::hanging(ifindex, hook) {
        Ok(hanging) => hanging,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Vec::new(),
        Err(error) => return Err(error),
    };
    Ok(match hanging.iter().find(|hanging| hanging.link == link) {
        Some(hanging) if hanging.program == program => None,
        Some(hanging) => Some(Loss::Replaced(format!("program id {}", hanging.program))),
        None => Some(Loss::Detached),
    })
}
