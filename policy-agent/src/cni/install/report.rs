//! What was done, for people and for programs.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Plugins that call others by themselves.
const META: [&str; 2] = ["multus", "multus-shim"];

/// One file that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "change")]
pub enum Change {
    ProgramInstalled {
        file: PathBuf,
    },
    ProgramRemoved {
        file: PathBuf,
    },
    EntryAdded {
        file: PathBuf,
        /// The types of the plugins before it.
        after: Vec<String>,
    },
    EntryUpdated {
        file: PathBuf,
    },
    EntryRemoved {
        file: PathBuf,
    },
    /// A list stands in for a single-plugin file.
    Wrapped {
        original: PathBuf,
        file: PathBuf,
    },
    /// The single-plugin file is back, and the list is gone.
    Unwrapped {
        original: PathBuf,
        file: PathBuf,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProgramInstalled { file } => write!(f, "installed {}", file.display()),
            Self::ProgramRemoved { file } => write!(f, "removed {}", file.display()),
            Self::EntryAdded { file, after } => {
                write!(f, "chained behind {} in {}", after.join(", "), file.display())
            }
            Self::EntryUpdated { file } => write!(f, "updated the entry in {}", file.display()),
            Self::EntryRemoved { file } => write!(f, "removed the entry from {}", file.display()),
            Self::Wrapped { original, file } => {
                write!(f, "chained in {}, made of the file kept as {}", file.display(), original.display())
            }
            Self::Unwrapped { original, file } => {
                write!(f, "removed {}, put {} back", file.display(), original.display())
            }
        }
    }
}

/// All that was done; empty where everything was as wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub changes: Vec<Change>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl Changed {
    pub(super) fn push(&mut self, change: Change) {
        self.changes.push(change);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.changes.extend(other.changes);
        self.notes.extend(other.notes);
    }

    pub(super) fn note_meta(&mut self, plugins: &[String]) {
        for plugin in plugins.iter().filter(|plugin| META.contains(&plugin.as_str())) {
            self.notes.push(format!(
                "{plugin} calls further plugins by itself: chained behind it, sluice sees the pod's default interface; \
                 networks that {plugin} adds to a pod are not enforced"
            ));
        }
    }
}
