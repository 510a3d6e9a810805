//! The plugin in its place: the program in the runtime's folder of plugins, and an entry in the network configuration that
//! the runtime uses.

mod binary;
mod conflist;
mod folder;
mod report;
mod unchain;
mod watch;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

pub use conflist::Fault;
pub use report::{Change, Changed};
pub use watch::keep_installed;

use super::PLUGIN;
use super::protocol::Unready;
use conflist::{Conflist, wrap};
use folder::{Folder, Replaced, Snapshot, Unfinished};

/// How often a file is read again that somebody else is writing, and how soon: a tenth of a second in all.
const ATTEMPTS: u32 = 10;
const AGAIN: Duration = Duration::from_millis(10);
/// How often `wait` looks for a network configuration.
const LOOK: Duration = Duration::from_millis(200);
/// What is put behind the name of a single-plugin file while a list stands in for it. No runtime reads such names.
const ASIDE: &str = ".sluice-original";

/// What our entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub socket: PathBuf,
    pub timeout: Duration,
    pub unready: Unready,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            socket: PathBuf::from(super::DEFAULT_SOCKET),
            timeout: super::config::DEFAULT_TIMEOUT,
            unready: Unready::default(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Installer {
    /// Where the runtime looks for network configurations.
    pub conf_dir: PathBuf,
    /// Where the runtime looks for plugins.
    pub bin_dir: PathBuf,
    pub entry: Entry,
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{}: there is no network configuration yet: install a network such as flannel, or wait for it with --wait", .0.display())]
    NoNetwork(PathBuf),
    #[error("{}: {fault}", path.display())]
    Configuration { path: PathBuf, fault: Fault },
    #[error("{}: leads out of the folder, to {}", path.display(), real.display())]
    LeadsOut { path: PathBuf, real: PathBuf },
    #[error("{}: is a link, which can't be kept aside", .0.display())]
    Link(PathBuf),
    #[error("{}: is in the way, and not of our making", .0.display())]
    Foreign(PathBuf),
    #[error("{}: somebody else keeps changing it", .0.display())]
    Busy(PathBuf),
    #[error("{}: the program is not installed: an entry for it would stop every pod", .0.display())]
    NoProgram(PathBuf),
}

impl InstallError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

impl Installer {
    /// Puts the program in its place, then the entry. Done already, it changes nothing.
    pub fn install(&self, program: &Path) -> Result<Changed, InstallError> {
        let mut changed = Changed::default();
        self.install_program(program, &mut changed)?;
        changed.extend(self.ensure()?);
        Ok(changed)
    }

    /// As [`install`](Self::install); where there is no network configuration, waits for one.
    pub fn install_and_wait(&self, program: &Path) -> Result<Changed, InstallError> {
        let mut changed = Changed::default();
        self.install_program(program, &mut changed)?;
        loop {
            match self.ensure() {
                Ok(more) => {
                    changed.extend(more);
                    return Ok(changed);
                }
                Err(InstallError::NoNetwork(_)) => {}
                Err(InstallError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            thread::sleep(LOOK);
        }
    }

    fn install_program(&self, program: &Path, changed: &mut Changed) -> Result<(), InstallError> {
        let _folder = Folder::open(&self.bin_dir)?;
        let target = self.program();
        if binary::install(program, &target)? {
            changed.push(Change::ProgramInstalled { file: target });
        }
        Ok(())
    }

    fn program(&self) -> PathBuf {
        self.bin_dir.join(PLUGIN)
    }

    /// Puts the entry into the network configuration that the runtime uses, where it isn't there. A network that rewrites its
    /// configuration takes the entry out: call it again then.
    pub fn ensure(&self) -> Result<Changed, InstallError> {
        let folder = Folder::open(&self.conf_dir)?;
        let target = self.program();
        // Under the lock: `uninstall` takes the program away while it has it.
        if !target.is_file() {
            return Err(InstallError::NoProgram(target));
        }
        let names = folder.configurations()?;
        let Some(first) = names.first() else {
            return Err(InstallError::NoNetwork(self.conf_dir.clone()));
        };
        if first.as_encoded_bytes().ends_with(b".conflist") {
            // The file that the list stands in for was written anew: runtimes read `.conflist` before `.json`.
            let anew = Snapshot::take(&folder.resolve(first)?).ok().and_then(|list| {
                let wraps = Conflist::parse(&list.text).ok()?.wraps()?;
                names.iter().find(|name| *name.as_os_str() == *wraps)
            });
            match anew {
                Some(single) => self.wrap(&folder, single, &names),
                None => self.chain(&folder, first),
            }
        } else {
            self.wrap(&folder, first, &names)
        }
    }

    fn chain(&self, folder: &Folder, name: &OsStr) -> Result<Changed, InstallError> {
        let path = folder.resolve(name)?;
        let mut changed = Changed::default();
        edit(&path, |text| {
            let list = Conflist::parse(text)?;
            changed = Changed::default();
            let edited = list.with(&self.entry)?;
            if edited.is_some() {
                let (file, after) = (folder.path(name), list.others());
                changed.note_meta(&after);
                changed.push(if list.has_ours() {
                    Change::EntryUpdated { file }
                } else {
                    Change::EntryAdded { file, after }
                });
            }
            Ok(edited)
        })?;
        Ok(changed)
    }

    /// Runtimes can't chain behind a single-plugin file: a list of the same name stands in for it.
    fn wrap(&self, folder: &Folder, name: &OsStr, names: &[OsString]) -> Result<Changed, InstallError> {
        let path = folder.path(name);
        if path.is_symlink() {
            return Err(InstallError::Link(path));
        }
        let original = name.to_string_lossy().into_owned();
        let list_name = OsString::from(format!("{}.conflist", stem(&original)));
        let list = folder.path(&list_name);
        let wrapped = |text: &str| {
            let configuration = |fault| InstallError::Configuration { path: path.clone(), fault };
            wrap(text, &original, &self.entry).map_err(configuration)
        };
        let failed = |error| InstallError::io("writing", &list, error);
        // Another list of that name is somebody's; one that we made of an earlier version of the file is replaced.
        if names.contains(&list_name) {
            let old = Snapshot::take(&list).map_err(|error| InstallError::io("reading", &list, error))?;
            let ours = Conflist::parse(&old.text).is_ok_and(|old| old.wraps().as_deref() == Some(&original));
            if !ours {
                return Err(InstallError::Foreign(list));
            }
        }
        // The list has to be the first when the file is gone.
        if names.iter().any(|other| other != name && *other < list_name) {
            return Err(InstallError::Foreign(folder.path(&list_name)));
        }
        let settled = |path: &Path| read_settled(path, |text| wrap(text, &original, &self.entry).map(drop));
        let stand_in = |text: &str| {
            let text = wrapped(text)?;
            Unfinished::write(&list, text.as_bytes(), 0o644).and_then(Unfinished::persist).map_err(failed)
        };
        let before = settled(&path)?.text;
        // As long as both are there, the file is the first, or both say the same.
        stand_in(&before)?;
        let aside = folder.path(&aside(&original));
        std::fs::rename(&path, &aside).and_then(|()| folder.settle()).map_err(failed)?;
        let after = settled(&aside)?.text;
        if after != before {
            stand_in(&after)?;
        }
        let kind = Conflist::parse(&wrapped(&after)?).map(|list| list.others()).unwrap_or_default();
        let mut changed = Changed::default();
        changed.note_meta(&kind);
        changed.push(Change::Wrapped { original: aside, file: list });
        Ok(changed)
    }

    /// Takes the entry out of every network configuration, then the program away. Nothing else is touched.
    pub fn uninstall(&self, keep_program: bool) -> Result<Changed, InstallError> {
        let mut changed = Changed::default();
        // The lock holds until the program is gone: `ensure` would put the entry back.
        let folder = match Folder::open(&self.conf_dir) {
            Ok(folder) => Some(folder),
            Err(InstallError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(folder) = &folder {
            unchain::all(folder, &mut changed)?;
        }
        if !keep_program && self.bin_dir.is_dir() {
            let target = self.program();
            let bin =
                self.bin_dir.canonicalize().map_err(|e| InstallError::io("opening", &self.bin_dir, e))?;
            let same = folder.as_ref().is_some_and(|folder| folder.path(OsStr::new("")) == bin.join(""));
            let _bin = if same { None } else { Some(Folder::open(&self.bin_dir)?) };
            if binary::remove(&target)? {
                changed.push(Change::ProgramRemoved { file: target });
            }
        }
        Ok(changed)
    }
}

/// `name` without the end that makes it a configuration.
fn stem(name: &str) -> &str {
    name.strip_suffix(".conf").or_else(|| name.strip_suffix(".json")).unwrap_or(name)
}

fn aside(original: &str) -> OsString {
    OsString::from(format!("{original}{ASIDE}"))
}

/// Reads a file that may be half-written until `check` is content with it, or time is up.
fn read_settled(path: &Path, check: impl Fn(&str) -> Result<(), Fault>) -> Result<Snapshot, InstallError> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let snapshot = Snapshot::take(path).map_err(|error| InstallError::io("reading", path, error))?;
        match check(&snapshot.text) {
            Ok(()) => return Ok(snapshot),
            Err(Fault::Json(_)) if attempt < ATTEMPTS => thread::sleep(AGAIN),
            Err(fault) => return Err(InstallError::Configuration { path: path.to_owned(), fault }),
        }
    }
}

/// Replaces a file's text by what `change` makes of it, while others may be writing it. `None`: it stays.
fn edit(
    path: &Path,
    mut change: impl FnMut(&str) -> Result<Option<String>, Fault>,
) -> Result<(), InstallError> {
    let reading = |error| InstallError::io("reading", path, error);
    let mut snapshot = Snapshot::take(path).map_err(reading)?;
    // What others wrote while we replaced the file is newer than what we put there.
    let mut overtaken = false;
    for attempt in 1..=ATTEMPTS {
        match change(&snapshot.text) {
            // Half-written, most likely.
            Err(Fault::Json(_)) if attempt < ATTEMPTS => {
                thread::sleep(AGAIN);
                if overtaken {
                    snapshot.reread();
                } else {
                    snapshot = Snapshot::take(path).map_err(reading)?;
                }
            }
            Err(fault) => return Err(InstallError::Configuration { path: path.to_owned(), fault }),
            Ok(None) if !overtaken => return Ok(()),
            Ok(edited) => {
                let text = edited.unwrap_or_else(|| snapshot.text.clone());
                match snapshot.replace(path, &text).map_err(|e| InstallError::io("writing", path, e))? {
                    Replaced::Done => return Ok(()),
                    Replaced::Stale => {
                        overtaken = false;
                        snapshot = Snapshot::take(path).map_err(reading)?;
                    }
                    Replaced::Overtaken(newer) => {
                        overtaken = true;
                        snapshot = newer;
                    }
                }
            }
        }
    }
    Err(InstallError::Busy(path.to_owned()))
}
