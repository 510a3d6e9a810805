//! The archive that an initramfs is: `newc`, as the kernel's Documentation/driver-api/early-userspace/buffer-format.rst has it.

use std::collections::BTreeSet;
use std::io::{Result, Write};
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is written as it grows. Folders come by themselves.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    inode: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0, folders: BTreeSet::new() }
    }

    /// A file that everybody may read and run.
    pub(crate) fn file(&mut self, path: &str, contents: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, PROGRAM, contents)
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.parents(path)?;
        self.entry(path, LINK, target.as_bytes())
    }

    /// An empty folder.
    pub(crate) fn folder(&mut self, path: &str) -> Result<()> {
        self.parents(path)?;
        self.make(path)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parents(&mut self, path: &str) -> Result<()> {
        let all: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
        for folder in all.into_iter().rev().filter_map(Path::to_str) {
            self.make(folder)?;
        }
        Ok(())
    }

    fn make(&mut self, folder: &str) -> Result<()> {
        let known = folder.trim_matches('/').is_empty() || !self.folders.insert(folder.to_owned());
        if known { Ok(()) } else { self.entry(folder, FOLDER, &[]) }
    }

    fn entry(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        let name = path.trim_start_matches('/');
        let length = u32::try_from(contents.len()).map_err(std::io::Error::other)?;
        let name_length = u32::try_from(name.len() + 1).map_err(std::io::Error::other)?;
        self.inode += 1;
        let links = 1;
        let fields = [self.inode, mode, 0, 0, links, 0, length, 0, 0, 0, 0, name_length, 0]
            .map(|n| format!("{n:08x}"));
        let header = format!("070701{}", fields.concat());
        write!(self.out, "{header}{name}\0")?;
        self.pad(header.len() + name.len() + 1)?;
        self.out.write_all(contents)?;
        self.pad(contents.len())
    }

    /// Names and contents begin at multiples of four.
    fn pad(&mut self, written: usize) -> Result<()> {
        let zeros = written.next_multiple_of(4) - written;
        self.out.write_all([0; 3].get(..zeros).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads names, modes and contents back.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + n * 8..][..8]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, length, name_length) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&bytes[110..][..name_length - 1]).unwrap().to_owned();
            let at = (110 + name_length).next_multiple_of(4);
            all.push((name, u32::try_from(mode).unwrap(), bytes[at..][..length].to_vec()));
            bytes = &bytes[(at + length).next_multiple_of(4)..];
        }
        all
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut archive = Archive::new(Vec::new());
        archive.file("/init", b"12345").unwrap();
        archive.file("/usr/bin/a", b"x").unwrap();
        archive.file("/usr/bin/b", b"").unwrap();
        archive.link("/bin", "usr/bin").unwrap();
        archive.folder("/proc").unwrap();
        let all = read(&archive.finish().unwrap());
        let names: Vec<&str> = all.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["init", "usr", "usr/bin", "usr/bin/a", "usr/bin/b", "bin", "proc", "TRAILER!!!"]);
        assert_eq!(all[0].2, b"12345");
        assert_eq!((all[1].1, all[5].1), (FOLDER, LINK));
        assert_eq!(all[5].2, b"usr/bin");
    }
}
