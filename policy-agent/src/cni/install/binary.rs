//! The plugin's program: a copy of the agent's.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use super::InstallError;
use super::folder::Unfinished;

/// In every build of the program, and in no other: what has it may be replaced and removed.
#[used]
static MARK: [u8; 40] = *b"sluice.dev: this program is ours (8f3a1)";

const MODE: u32 = 0o755;

/// Whether there was anything to do.
pub(super) fn install(source: &Path, target: &Path) -> Result<bool, InstallError> {
    let read = |path: &Path| fs::read(path).map_err(|error| InstallError::io("reading", path, error));
    let new = read(source)?;
    if present(target)? && read(target)? == new && mode(target)? == MODE {
        return Ok(false);
    }
    Unfinished::write(target, &new, MODE)
        .and_then(Unfinished::persist)
        .map_err(|error| InstallError::io("writing", target, error))?;
    Ok(true)
}

/// Whether there was anything to do.
pub(super) fn remove(target: &Path) -> Result<bool, InstallError> {
    if !present(target)? {
        return Ok(false);
    }
    fs::remove_file(target).map_err(|error| InstallError::io("removing", target, error))?;
    Ok(true)
}

/// Whether our program is there. Another's under its name is an error.
pub(super) fn present(target: &Path) -> Result<bool, InstallError> {
    let failed = |error| InstallError::io("reading", target, error);
    match fs::symlink_metadata(target) {
        Ok(metadata) if !metadata.is_file() => Err(InstallError::Foreign(target.to_owned())),
        Ok(_) if is_ours(target).map_err(failed)? => Ok(true),
        Ok(_) => Err(InstallError::Foreign(target.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

fn is_ours(path: &Path) -> io::Result<bool> {
    let mark = std::hint::black_box(&MARK);
    let mut file = File::open(path)?;
    let mut window = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(false);
        }
        // What may be the mark's beginning stays for the next piece.
        let keep = window.len().saturating_sub(mark.len() - 1);
        window.drain(..keep);
        window.extend_from_slice(piece.get(..read).unwrap_or_default());
        if window.windows(mark.len()).any(|bytes| bytes == mark) {
            return Ok(true);
        }
    }
}

fn mode(path: &Path) -> Result<u32, InstallError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::symlink_metadata(path).map_err(|error| InstallError::io("reading", path, error))?;
    Ok(metadata.mode() & 0o7777)
}
