//! Reading a folder of manifests.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::document::{self, Format};
use super::fault::{Problem, printable};
use super::object::Found;
use super::sort;
use super::stamp::{Stamp, format, is_lock};

/// The largest objects that an API server stores are 1.5 MB; a folder's file may hold a whole cluster.
const LARGEST_FILE: u64 = 64 << 20;
/// All files together; what is read of them takes up to ten times as much memory for a moment.
const LARGEST_FOLDER: u64 = 256 << 20;
/// How often a file, and a folder, is read again because it changed meanwhile.
const ATTEMPTS: usize = 5;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

#[derive(Clone, Debug, Default)]
pub struct FolderRead {
    /// By name.
    pub files: Vec<FileRead>,
    /// Why the folder could not be read; what was read of it before stays.
    pub problem: Option<Problem>,
}

#[derive(Clone, Debug, Default)]
pub struct FileRead {
    pub name: String,
    pub found: Vec<Found>,
    /// Of the file, its documents, and objects that cannot be named.
    pub problems: Vec<Problem>,
    /// Something in it could be any object: one that was in it before may be in it still.
    pub unknown: bool,
}

/// Every manifest directly in `dir`. Blocks; takes a folder that is being changed as it is after the change.
pub fn read_folder(dir: &Path) -> FolderRead {
    let failed = |error: &io::Error| FolderRead {
        files: Vec::new(),
        problem: Some(Problem {
            source: printable(&dir.to_string_lossy(), usize::MAX),
            message: format!("the folder can't be read: {error}"),
            ..Problem::default()
        }),
    };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let names = match list(dir) {
            Ok(names) => names,
            Err(error) => return failed(&error),
        };
        let mut files = Vec::new();
        let mut stamps = Vec::new();
        let mut room = LARGEST_FOLDER;
        for name in &names {
            let path = dir.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => continue,
                Err(_) if is_lock(name) => continue,
                _ => {}
            }
            // What can't be read need not be tried again either, unless it has changed.
            let seen = Stamp::at(&path).ok();
            let read = read_file(&path, room);
            stamps.push((path, read.as_ref().map_or(seen, |(_, stamp)| Some(*stamp))));
            room = room.saturating_sub(read.as_ref().map_or(0, |(bytes, _)| bytes.len() as u64));
            files.push(interpret(name, read.map(|(bytes, _)| bytes)));
        }
        // One moment's folder: a ConfigMap's swap, or an editor's, may fall between two files.
        let same = || stamps.iter().all(|(path, stamp)| Stamp::at(path).ok() == *stamp);
        if attempt == ATTEMPTS || (list(dir).is_ok_and(|now| now == names) && same()) {
            return FolderRead { files, problem: None };
        }
        thread::sleep(BETWEEN_ATTEMPTS);
    }
}

/// A file's content, by its name's extension; a name without one that is known is YAML.
pub fn read_text(name: &str, bytes: Vec<u8>) -> FileRead {
    interpret(&OsString::from(name), Ok(bytes))
}

fn interpret(name: &OsString, bytes: io::Result<Vec<u8>>) -> FileRead {
    let shown = printable(&name.to_string_lossy(), usize::MAX);
    let text = match bytes.and_then(document::decode) {
        Ok(text) => text,
        Err(error) => {
            let message = format!("can't be read: {error}");
            let problem = Problem { source: shown.clone(), message, ..Problem::default() };
            return FileRead { name: shown, problems: vec![problem], unknown: true, found: Vec::new() };
        }
    };
    let (documents, problems) = document::documents(&shown, format(name).unwrap_or(Format::Yaml), &text);
    let mut file = FileRead { name: shown, problems, ..FileRead::default() };
    for document in &documents {
        let objects = sort::objects(document);
        file.found.extend(objects.found);
        file.problems.extend(objects.problems);
        file.unknown |= objects.unknown;
    }
    file
}

fn list(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if format(&name).is_some() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// A file that nobody wrote to while it was read.
fn read_file(path: &Path, room: u64) -> io::Result<(Vec<u8>, Stamp)> {
    // To open a device does something to it.
    regular(&fs::metadata(path)?)?;
    for _ in 0..ATTEMPTS {
        // A pipe that took the file's name since it was looked at must not hold the agent.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let before = Stamp::of(&file.metadata()?);
        let bytes = read_all(&file, room)?;
        if before == Stamp::of(&file.metadata()?) && before == Stamp::at(path)? {
            return Ok((bytes, before));
        }
        thread::sleep(BETWEEN_ATTEMPTS);
    }
    Err(io::Error::other("it is being written to all the time"))
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(io::Error::other("it is no regular file")) }
}

fn read_all(file: &File, room: u64) -> io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let fits = |length: u64| {
        if length > LARGEST_FILE {
            return Err(io::Error::other(format!("it is larger than {} MiB", LARGEST_FILE >> 20)));
        }
        if length > room {
            let most = LARGEST_FOLDER >> 20;
            return Err(io::Error::other(format!("the folder's files are larger than {most} MiB together")));
        }
        Ok(())
    };
    fits(metadata.len())?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    fits(bytes.len() as u64)?;
    Ok(bytes)
}
