//! Taking our entry out again.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Path;

use super::conflist::Conflist;
use super::folder::{Folder, Snapshot};
use super::{Change, Changed, InstallError, aside, edit};

/// Out of every list of the folder: the one in use when it was put in need not be the one in use now.
pub(super) fn all(folder: &Folder, changed: &mut Changed) -> Result<(), InstallError> {
    for name in folder.configurations()? {
        if !name.as_encoded_bytes().ends_with(b".conflist") {
            continue;
        }
        let path = match folder.resolve(&name) {
            Ok(path) => path,
            // Nothing of ours is behind a link that leads out or nowhere.
            Err(InstallError::LeadsOut { .. }) => continue,
            Err(InstallError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let list = Snapshot::take(&path).map_err(|error| InstallError::io("reading", &path, error))?;
        let wraps = match Conflist::parse(&list.text) {
            Ok(list) if !list.has_ours() => continue,
            Ok(list) => list.wraps(),
            Err(fault) => {
                // A broken list that may have our entry, perhaps because it is being written, is for its owner to mend.
                changed.notes.push(format!("{}: {fault}: left as it is", path.display()));
                continue;
            }
        };
        match wraps.filter(|original| is_plain(original)) {
            Some(original) => unwrap(folder, &path, &list, &original, changed)?,
            None => remove_entry(&path, changed)?,
        }
    }
    Ok(())
}

fn remove_entry(path: &Path, changed: &mut Changed) -> Result<(), InstallError> {
    let mut edited = false;
    edit(path, |text| {
        let without = Conflist::parse(text)?.without()?;
        edited = without.is_some();
        Ok(without)
    })?;
    if edited {
        changed.push(Change::EntryRemoved { file: path.to_owned() });
    }
    Ok(())
}

/// A list that we made of a single-plugin file goes, and the file comes back: unless somebody has changed the list since,
/// which then stays without our entry.
fn unwrap(
    folder: &Folder,
    path: &Path,
    list: &Snapshot,
    original: &str,
    changed: &mut Changed,
) -> Result<(), InstallError> {
    let (aside, place) = (folder.path(&aside(original)), folder.path(&OsString::from(original)));
    let kept = match Snapshot::take(&aside) {
        Ok(kept) => kept.text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return remove_entry(path, changed),
        Err(error) => return Err(InstallError::io("reading", &aside, error)),
    };
    if !Conflist::parse(&list.text).is_ok_and(|list| list.is_wrapped(&kept)) {
        changed.notes.push(format!(
            "{}: changed since it was made of {}: it stays, without the entry",
            path.display(),
            aside.display()
        ));
        return remove_entry(path, changed);
    }
    let failed = |error| InstallError::io("putting back", &place, error);
    // Its owner may have written it anew meanwhile: then that is the newer.
    let back = if place.exists() { fs::remove_file(&aside) } else { fs::rename(&aside, &place) };
    back.and_then(|()| fs::remove_file(path)).and_then(|()| folder.settle()).map_err(failed)?;
    changed.push(Change::Unwrapped { original: place, file: path.to_owned() });
    Ok(())
}

/// A name in a file that anybody may have edited must not lead out of the folder.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}
