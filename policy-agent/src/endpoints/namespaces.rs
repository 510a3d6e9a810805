//! Where network namespaces are found, and what tells them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ProcScan, ScanError};

const OWN: &str = "/proc/thread-self/ns/net";

/// A file may wait this long for a namespace to be mounted on it before it is a problem: `ip netns add` and container
/// runtimes make the file first.
const MOUNT_TIME: Duration = Duration::from_secs(1);

/// What identifies a namespace as long as somebody holds it: device and inode of its file.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// Opens the calling thread's network namespace.
pub(super) fn open_own() -> io::Result<(File, Identity)> {
    let file = File::open(OWN)?;
    let identity = identity(&file.metadata()?);
    Ok((file, identity))
}

/// What lies in a directory of namespaces and is none, and since when that is known.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<PathBuf, Instant>);

impl Suspects {
    /// Notes that `path` is no namespace; true when it has been so for long enough to be told.
    fn note(&mut self, path: &Path, now: Instant) -> bool {
        let since = *self.0.entry(path.to_owned()).or_insert(now);
        now.duration_since(since) >= MOUNT_TIME
    }
}

/// The namespaces of one scan, each once, other than the agent's own.
pub(super) struct Finder<'a> {
    own: Identity,
    seen: BTreeSet<Identity>,
    suspects: &'a mut Suspects,
    pub(super) problems: Vec<String>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(own: Identity, suspects: &'a mut Suspects) -> Self {
        Self { own, seen: BTreeSet::from([own]), suspects, problems: Vec::new() }
    }

    /// Calls `visit` with each namespace. They are open one at a time: an open file keeps a removed pod's namespace, and so
    /// its interface, alive.
    pub(super) fn each(
        &mut self,
        directory: &Path,
        proc_scan: ProcScan,
        mut visit: impl FnMut(&Path, &File) -> io::Result<()>,
    ) -> Result<(), ScanError> {
        let failed = |source| ScanError::Directory { path: directory.to_owned(), source };
        let mut paths = Vec::new();
        match fs::read_dir(directory) {
            Ok(entries) => {
                for entry in entries {
                    paths.push(entry.map_err(failed)?.path());
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        // The order decides under which of its names a namespace is reported.
        paths.sort();
        self.suspects.0.retain(|path, _| paths.binary_search(path).is_ok());
        for path in &paths {
            self.file(path, &mut visit);
        }
        let nothing_found = self.seen.len() == 1;
        if proc_scan == ProcScan::Always || (proc_scan == ProcScan::IfNoneNamed && nothing_found) {
            self.processes(&mut visit)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, visit: &mut impl FnMut(&Path, &File) -> io::Result<()>) {
        // Without O_NONBLOCK, opening a pipe waits for its writer.
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let found = opened.and_then(|file| Ok((identity(&file.metadata()?), file)));
        match found {
            // All namespaces are files of one filesystem.
            Ok((identity, _)) if identity.0 != self.own.0 => {
                if self.suspects.note(path, Instant::now()) {
                    self.problems.push(format!("{} is no network namespace", path.display()));
                }
            }
            Ok((identity, file)) => {
                self.suspects.0.remove(path);
                if self.seen.insert(identity)
                    && let Err(error) = visit(path, &file)
                {
                    self.problems.push(format!("{}: {error}", path.display()));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // `ip netns add` makes it without any permission: to an agent without CAP_DAC_OVERRIDE it opens only when the
            // namespace is mounted on it.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                if self.suspects.note(path, Instant::now()) {
                    self.problems.push(format!("opening {}: {error}", path.display()));
                }
            }
            Err(error) => self.problems.push(format!("opening {}: {error}", path.display())),
        }
    }

    fn processes(&mut self, visit: &mut impl FnMut(&Path, &File) -> io::Result<()>) -> Result<(), ScanError> {
        let directory = Path::new("/proc");
        let failed = |source| ScanError::Directory { path: directory.to_owned(), source };
        for entry in fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let process = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
            let Some(process) = process else { continue };
            let path = directory.join(process).join("ns/net");
            // Most processes share a namespace that is known: their file needn't be opened. One that ends meanwhile, or that
            // may not be looked into, is no problem: others of its pod tell the same.
            let known = fs::metadata(&path).map(|metadata| self.seen.contains(&identity(&metadata)));
            if let Ok(false) = known
                && let Ok(file) = File::open(&path)
                && let Ok(metadata) = file.metadata()
                && self.seen.insert(identity(&metadata))
                && let Err(error) = visit(&path, &file)
            {
                self.problems.push(format!("{}: {error}", path.display()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_given_time_to_become_a_namespace() {
        let mut suspects = Suspects::default();
        let start = Instant::now();
        let path = Path::new("/run/netns/x");
        assert!(!suspects.note(path, start));
        assert!(!suspects.note(path, start + MOUNT_TIME / 2));
        assert!(suspects.note(path, start + MOUNT_TIME));
        assert!(!suspects.note(Path::new("/run/netns/y"), start + MOUNT_TIME));
    }
}
