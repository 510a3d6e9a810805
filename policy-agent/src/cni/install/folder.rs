//! The folder of network configurations: what a runtime takes of it, and files that change whole or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::InstallError;

/// What no configuration is larger than, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// What runtimes read, by the end of the name.
const SUFFIXES: [&str; 3] = [".conf", ".conflist", ".json"];

/// A folder that no other process of ours changes meanwhile.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, InstallError> {
        let opened = || {
            let real = path.canonicalize()?;
            let folder = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&real)?;
            folder.lock()?;
            Ok((real, folder))
        };
        let (real, lock) = opened().map_err(|error| InstallError::io("opening the folder", path, error))?;
        Ok(Self { path: real, _lock: lock })
    }

    /// What runtimes read, in their order: the first is the one in use.
    pub(super) fn configurations(&self) -> Result<Vec<OsString>, InstallError> {
        let failed = |error| InstallError::io("reading the folder", &self.path, error);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let read = SUFFIXES.iter().any(|suffix| name.as_encoded_bytes().ends_with(suffix.as_bytes()));
            if read && !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    pub(super) fn path(&self, name: &OsStr) -> PathBuf {
        self.path.join(name)
    }

    /// Where a file really is. A link may only lead to another file of the folder: what is elsewhere isn't the runtime's.
    pub(super) fn resolve(&self, name: &OsStr) -> Result<PathBuf, InstallError> {
        let path = self.path(name);
        let real = path.canonicalize().map_err(|error| InstallError::io("reading", &path, error))?;
        if real.parent() == Some(&self.path) { Ok(real) } else { Err(InstallError::LeadsOut { path, real }) }
    }

    /// Makes renames and removals last.
    pub(super) fn settle(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

/// A file as it was read.
#[derive(Debug)]
pub(super) struct Snapshot {
    file: File,
    stamp: Stamp,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    size: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            place: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What came of [`Snapshot::replace`].
#[derive(Debug)]
pub(super) enum Replaced {
    Done,
    /// Somebody else had changed the file: nothing was done.
    Stale,
    /// Somebody wrote into the file while it was replaced: this is what it says now, and the path has our text.
    Overtaken(Snapshot),
}

impl Snapshot {
    pub(super) fn take(path: &Path) -> io::Result<Self> {
        // Without O_NONBLOCK, opening a pipe waits for its writer.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("is no file"));
        }
        let text = content(&mut file)?;
        Ok(Self { stamp: Stamp::of(&metadata), file, text })
    }

    /// Puts `text` in the place of what was read, with the same owner and mode: whole, or not at all.
    pub(super) fn replace(mut self, path: &Path, text: &str) -> io::Result<Replaced> {
        let metadata = self.file.metadata()?;
        let unfinished = Unfinished::write(path, text.as_bytes(), metadata.mode())?;
        if (metadata.uid(), metadata.gid()) != owner(&unfinished.file)? {
            fchown(&unfinished.file, Some(metadata.uid()), Some(metadata.gid()))?;
        }
        match fs::symlink_metadata(path) {
            Ok(now) if Stamp::of(&now) == self.stamp => {}
            Ok(_) => return Ok(Replaced::Stale),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Replaced::Stale),
            Err(error) => return Err(error),
        }
        unfinished.persist()?;
        // Who had opened the file before the rename writes into what nobody finds any more.
        let now = content(&mut self.file).unwrap_or_default();
        if now == self.text {
            return Ok(Replaced::Done);
        }
        self.text = now;
        self.stamp = Stamp::of(&fs::symlink_metadata(path)?);
        Ok(Replaced::Overtaken(self))
    }

    /// Reads an overtaken file again, whose writer may not have been done.
    pub(super) fn reread(&mut self) {
        self.text = content(&mut self.file).unwrap_or_default();
    }
}

fn owner(file: &File) -> io::Result<(u32, u32)> {
    let metadata = file.metadata()?;
    Ok((metadata.uid(), metadata.gid()))
}

fn content(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(read).is_ok_and(|read| read <= FILE_BYTES) {
        return Ok(text);
    }
    Err(io::Error::other(format!("has more than {FILE_BYTES} bytes")))
}

/// A file beside the one that it is to become. It is removed unless it does.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) file: File,
    own: PathBuf,
    path: PathBuf,
    persisted: bool,
}

impl Unfinished {
    /// Its name is always the same: what a killed process left is used again. The folder's lock keeps two apart.
    pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let own = path.with_file_name(format!(".{}.sluice-new", name.to_string_lossy()));
        match fs::remove_file(&own) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&own)?;
        let mut unfinished = Self { file, own, path: path.to_owned(), persisted: false };
        unfinished.file.write_all(bytes)?;
        unfinished.file.set_permissions(Permissions::from_mode(mode & 0o7777))?;
        unfinished.file.sync_all()?;
        Ok(unfinished)
    }

    pub(super) fn persist(mut self) -> io::Result<()> {
        fs::rename(&self.own, &self.path)?;
        self.persisted = true;
        let folder = self.path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        File::open(folder)?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.persisted {
            let _ = fs::remove_file(&self.own);
        }
    }
}
