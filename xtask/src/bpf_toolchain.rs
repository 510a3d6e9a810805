//! Finds a rustc that can build for BPF: any one whose library source lies in its sysroot, because `core`
//! has no prebuilt BPF version and must be compiled along.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, anyhow, bail};

use crate::bpf_linker;
use crate::step;
use crate::version::Version;
use crate::workspace;

/// Names a rustc to be used whatever the others are.
pub(crate) const OVERRIDE: &str = "SLUICE_BPF_RUSTC";

/// A compiler that may serve, and what decides whether it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) rustc: PathBuf,
    pub(crate) origin: Origin,
    pub(crate) release: Release,
    pub(crate) has_source: bool,
}

/// Where a candidate was found, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Named by [`OVERRIDE`].
    Chosen,
    RustupNightly,
    Rustup,
    System,
}

/// What `rustc -vV` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) version: Version,
    pub(crate) nightly: bool,
    pub(crate) llvm: Version,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Release { version, nightly, llvm } = &self.release;
        let channel = if *nightly { "-nightly" } else { "" };
        write!(f, "{} ({version}{channel}, LLVM {llvm})", self.rustc.display())
    }
}

impl Candidate {
    /// The cargo of the same toolchain; the system's rustc often comes without one, and any recent one will do.
    pub(crate) fn cargo(&self) -> Option<PathBuf> {
        self.sibling("cargo")
    }

    /// A program that lies beside this rustc.
    pub(crate) fn sibling(&self, program: &str) -> Option<PathBuf> {
        let path = self.rustc.with_file_name(program);
        path.is_file().then_some(path)
    }

    /// Why it can't be used, if it can't.
    fn fault(&self, oldest: Version) -> Option<String> {
        if !self.has_source {
            return Some(format!(
                "{self} has no library source (lib/rustlib/src/rust/library) in its sysroot"
            ));
        }
        if self.release.version < oldest {
            return Some(format!("{self} is older than {oldest}, which Sluice needs"));
        }
        if self.release.llvm.major > bpf_linker::NEWEST_LLVM {
            return Some(format!("{self} has a newer LLVM than bpf-linker {}", bpf_linker::VERSION));
        }
        None
    }

    /// Why it was preferred, in words.
    pub(crate) fn reason(&self) -> &'static str {
        match self.origin {
            Origin::Chosen => "named by SLUICE_BPF_RUSTC",
            Origin::RustupNightly => "rustup's nightly, with rust-src",
            Origin::Rustup => "a rustup toolchain with rust-src",
            Origin::System => "the system's, with its library source; no rustup toolchain here has rust-src",
        }
    }
}

/// The best compiler of this machine.
pub(crate) fn find() -> Result<Candidate> {
    let candidates = candidates()?;
    choose(&candidates, oldest_rust()?).cloned().map_err(|faults| {
        anyhow!(
            "no rustc here can build for BPF{}",
            faults.iter().map(|fault| format!("\n    - {fault}")).collect::<String>()
        )
    })
}

/// The workspace's `rust-version`.
pub(crate) fn oldest_rust() -> Result<Version> {
    env!("CARGO_PKG_RUST_VERSION").parse().map_err(|error: String| anyhow!(error))
}

/// Picks the first usable one by origin, then the newest; or tells what is wrong with each.
fn choose(candidates: &[Candidate], oldest: Version) -> Result<&Candidate, Vec<String>> {
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by(|a, b| a.origin.cmp(&b.origin).then(b.release.version.cmp(&a.release.version)));
    let mut faults = Vec::new();
    for candidate in sorted {
        match candidate.fault(oldest) {
            None => return Ok(candidate),
            Some(fault) => faults.push(fault),
        }
    }
    Err(faults)
}

fn candidates() -> Result<Vec<Candidate>> {
    if let Some(rustc) = env::var_os(OVERRIDE).map(PathBuf::from) {
        let Some(candidate) = probe(&rustc, Origin::Chosen) else {
            bail!("{OVERRIDE} names {}, which doesn't answer `-vV` as a rustc does", rustc.display());
        };
        return Ok(vec![candidate]);
    }
    let mut found = Vec::new();
    for rustc in rustup_compilers() {
        if let Some(mut candidate) = probe(&rustc, Origin::Rustup) {
            if candidate.release.nightly {
                candidate.origin = Origin::RustupNightly;
            }
            found.push(candidate);
        }
    }
    found.extend(system_compilers().iter().filter_map(|rustc| probe(rustc, Origin::System)));
    Ok(found)
}

/// Each installed rustup toolchain's own rustc: asked directly, rustup can't redirect or download anything.
fn rustup_compilers() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| workspace::home().map(|home| home.join(".rustup")))
        .unwrap_or_default();
    compilers_below(&home.join("toolchains"))
}

/// Distributions' compilers: the plain one, and Ubuntu's versioned ones (/usr/lib/rust-1.89/bin/rustc).
fn system_compilers() -> Vec<PathBuf> {
    let plain = PathBuf::from("/usr/bin/rustc");
    let versioned = compilers_below(Path::new("/usr/lib"));
    plain.is_file().then_some(plain).into_iter().chain(versioned).collect()
}

/// The `*/bin/rustc` below a folder, each real one once (rustup names one toolchain twice by a symlink).
fn compilers_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .filter_map(|entry| fs::canonicalize(entry.ok()?.path().join("bin").join("rustc")).ok())
        .collect();
    found.sort();
    found.dedup();
    found
}

fn probe(rustc: &Path, origin: Origin) -> Option<Candidate> {
    let ask = |argument: &[&str]| {
        step::output(
            Command::new(rustc).args(argument).env_remove("LD_LIBRARY_PATH").env_remove("RUSTUP_TOOLCHAIN"),
        )
    };
    let release = parse_verbose_version(&ask(&["-vV"])?)?;
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    let library = sysroot.join("lib/rustlib/src/rust/library");
    let has_source = library.join("core/src/lib.rs").is_file();
    Some(Candidate { rustc: rustc.to_path_buf(), origin, release, has_source })
}

fn parse_verbose_version(text: &str) -> Option<Release> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let release = field("release")?;
    Some(Release {
        version: release.parse().ok()?,
        nightly: release.contains("-nightly"),
        llvm: field("LLVM version")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(rustc: &str, origin: Origin, version: &str, llvm: &str, has_source: bool) -> Candidate {
        let release = Release {
            version: version.parse().unwrap(),
            nightly: version.contains("nightly"),
            llvm: llvm.parse().unwrap(),
        };
        Candidate { rustc: PathBuf::from(rustc), origin, release, has_source }
    }

    fn oldest() -> Version {
        "1.89".parse().unwrap()
    }

    #[test]
    fn reads_what_rustc_says() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n\
                    release: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        let release = parse_verbose_version(text).unwrap();
        assert_eq!(release.version.to_string(), "1.97.0");
        assert!(release.nightly);
        assert_eq!(release.llvm.major, 22);
        assert_eq!(parse_verbose_version("rustc 1.97.0"), None);
    }

    #[test]
    fn a_nightly_with_source_is_preferred() {
        let all = [
            candidate("/usr/bin/rustc", Origin::System, "1.99.0", "22.1", true),
            candidate("/stable/rustc", Origin::Rustup, "1.96.0", "22.1", true),
            candidate("/nightly/rustc", Origin::RustupNightly, "1.95.0-nightly", "22.1", true),
        ];
        assert_eq!(choose(&all, oldest()).unwrap().rustc, Path::new("/nightly/rustc"));
        assert_eq!(choose(&all[..2], oldest()).unwrap().rustc, Path::new("/stable/rustc"));
    }

    #[test]
    fn the_newest_of_one_origin_is_preferred() {
        let all = [
            candidate("/a/rustc", Origin::Rustup, "1.90.0", "21.1", true),
            candidate("/b/rustc", Origin::Rustup, "1.96.0", "22.1", true),
        ];
        assert_eq!(choose(&all, oldest()).unwrap().rustc, Path::new("/b/rustc"));
    }

    #[test]
    fn what_cannot_build_is_passed_over_and_named() {
        let all = [
            candidate("/nightly/rustc", Origin::RustupNightly, "1.97.0-nightly", "22.1", false),
            candidate("/future/rustc", Origin::Rustup, "1.120.0", "25.1", true),
            candidate("/usr/bin/rustc", Origin::System, "1.63.0", "14.0", true),
        ];
        let faults = choose(&all, oldest()).unwrap_err();
        assert_eq!(faults.len(), 3);
        assert!(
            faults[0].contains("/nightly/rustc (1.97.0-nightly, LLVM 22.1.0) has no library source"),
            "{faults:?}"
        );
        assert!(faults[1].contains("newer LLVM"), "{faults:?}");
        assert!(faults[2].contains("older than 1.89.0"), "{faults:?}");
        let debian = candidate("/usr/bin/rustc", Origin::System, "1.96.0", "22.1.8", true);
        let with_debian = [all[0].clone(), debian];
        assert_eq!(choose(&with_debian, oldest()).unwrap().rustc, Path::new("/usr/bin/rustc"));
    }

    #[test]
    fn a_toolchain_with_two_names_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("stable").join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("rustc"), "").unwrap();
        std::os::unix::fs::symlink(dir.path().join("stable"), dir.path().join("1.95.0")).unwrap();
        fs::create_dir_all(dir.path().join("broken")).unwrap();
        assert_eq!(compilers_below(dir.path()).len(), 1);
        assert_eq!(compilers_below(&dir.path().join("none")), Vec::<PathBuf>::new());
    }
}
