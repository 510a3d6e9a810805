//! What a file was when it was looked at.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::document::Format;

/// Another stamp, another content. The kernel's clock is coarse: two writes of one length within a tick look the same, so
/// the watcher waits for writers to close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The file that a path leads to.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::of(&metadata))
    }
}

/// Whether a name is a manifest's, by its extension as for `kubectl`.
pub(super) fn format(name: &OsStr) -> Option<Format> {
    match Path::new(name).extension()?.to_str()? {
        "json" => Some(Format::Json),
        "yaml" | "yml" => Some(Format::Yaml),
        _ => None,
    }
}

/// Emacs marks a file that it edits by a link that leads nowhere.
pub(super) fn is_lock(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".#")
}

/// What the manifests of a folder lead to; `None` for links to nowhere. Where the kernel tells of the folder's own
/// entries, only the links matter: nothing tells when the file behind one changes.
pub(super) fn stamps(dir: &Path, only_links: bool) -> BTreeMap<OsString, Option<Stamp>> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeMap::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| format(&entry.file_name()).is_some())
        .filter(|entry| !only_links || entry.file_type().is_ok_and(|t| t.is_symlink()))
        .map(|entry| (entry.file_name(), Stamp::at(&entry.path()).ok()))
        .collect()
}
