//! bpf-linker and the LLVM that it is built with, which must be able to read what rustc's LLVM wrote.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step;
use crate::version::Version;
use crate::workspace::{self, Workspace};

/// The version that setup installs.
pub(crate) const VERSION: &str = "0.13.0";
/// The LLVM majors that this version has features for.
pub(crate) const OLDEST_LLVM: u32 = 21;
pub(crate) const NEWEST_LLVM: u32 = 23;

/// An installed bpf-linker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub(crate) path: PathBuf,
    pub(crate) llvm: LinkedLlvm,
}

/// The LLVM that an installed bpf-linker uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkedLlvm {
    Shared(u32),
    /// Linked into the program, as in bpf-linker's own release binaries: there is no asking which.
    Static,
    /// The library isn't there any more.
    Lost,
}

/// An installed LLVM with what is needed to link against it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Llvm {
    pub(crate) major: u32,
    pub(crate) prefix: PathBuf,
}

impl Installed {
    /// Finds it in PATH and among cargo's programs.
    pub(crate) fn find() -> Option<Self> {
        let path = workspace::which("bpf-linker")?;
        let libraries = step::output(Command::new("ldd").arg(&path).env_remove("LD_LIBRARY_PATH"));
        let llvm = linked_llvm(&libraries.unwrap_or_default());
        Some(Self { path, llvm })
    }

    /// Newer LLVMs read the bitcode of older ones, not the other way round.
    pub(crate) fn serves(&self, rustc_llvm: u32) -> bool {
        match self.llvm {
            LinkedLlvm::Shared(major) => major >= rustc_llvm,
            LinkedLlvm::Static => true,
            LinkedLlvm::Lost => false,
        }
    }

    pub(crate) fn describe(&self) -> String {
        let llvm = match self.llvm {
            LinkedLlvm::Shared(major) => format!("LLVM {major}"),
            LinkedLlvm::Static => "LLVM inside".to_owned(),
            LinkedLlvm::Lost => "its LLVM library is gone".to_owned(),
        };
        format!("{} ({llvm})", self.path.display())
    }
}

/// The majors to try for a rustc, best first: its own, then newer ones.
pub(crate) fn wanted_llvms(rustc_llvm: u32) -> impl Iterator<Item = u32> {
    rustc_llvm.max(OLDEST_LLVM)..=NEWEST_LLVM
}

/// The best LLVM of this machine that a bpf-linker for this rustc can be built with.
pub(crate) fn find_llvm(rustc_llvm: u32) -> Option<Llvm> {
    wanted_llvms(rustc_llvm).find_map(|major| {
        let prefix = prefixes(major).into_iter().find(|prefix| is_development_prefix(prefix, major))?;
        Some(Llvm { major, prefix })
    })
}

/// The cargo command that builds and installs it.
pub(crate) fn install_command(workspace: &Workspace, llvm: &Llvm) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--no-default-features"])
        .arg("--features")
        .arg(format!("llvm-{}", llvm.major))
        // Without it the build takes the first llvm-config in PATH, which is often another LLVM's.
        .env("LLVM_PREFIX", &llvm.prefix)
        // A shared target directory would keep 100 MB of another project.
        .env_remove("CARGO_TARGET_DIR");
    command
}

fn prefixes(major: u32) -> Vec<PathBuf> {
    let asked = |program: String| {
        let answer =
            step::output(Command::new(program).arg("--prefix").env("PATH", workspace::search_path()))?;
        Some(PathBuf::from(answer.trim()))
    };
    env::var_os("LLVM_PREFIX")
        .map(PathBuf::from)
        .into_iter()
        .chain([PathBuf::from(format!("/usr/lib/llvm-{major}"))])
        .chain(asked(format!("llvm-config-{major}")))
        .chain(asked("llvm-config".to_owned()))
        .collect()
}

/// Whether programs can be linked against LLVM `major` there: the bare libLLVM.so comes with the -dev package.
fn is_development_prefix(prefix: &Path, major: u32) -> bool {
    let config = prefix.join("bin").join("llvm-config");
    let same_major = step::output(Command::new(config).arg("--version"))
        .and_then(|text| text.trim().parse::<Version>().ok())
        .is_some_and(|version| version.major == major);
    same_major && ["lib", "lib64"].iter().any(|lib| prefix.join(lib).join("libLLVM.so").exists())
}

/// Reads `ldd`'s lines: `libLLVM.so.22.1 => /usr/lib/... (0x...)`, or `=> not found`.
fn linked_llvm(ldd: &str) -> LinkedLlvm {
    let Some(line) = ldd.lines().map(str::trim).find(|line| line.starts_with("libLLVM")) else {
        return LinkedLlvm::Static;
    };
    if line.contains("not found") {
        return LinkedLlvm::Lost;
    }
    // Debian has both libLLVM.so.22.1 and, up to 17, libLLVM-17.so.1.
    let digits: String =
        line.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().map_or(LinkedLlvm::Lost, LinkedLlvm::Shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_tells_the_llvm() {
        let ldd =
            "\tlinux-vdso.so.1 (0x1)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x2)\n";
        assert_eq!(linked_llvm(ldd), LinkedLlvm::Shared(22));
        assert_eq!(linked_llvm("libLLVM-17.so.1 => /usr/lib/libLLVM-17.so.1 (0x1)"), LinkedLlvm::Shared(17));
        assert_eq!(linked_llvm("\tlibLLVM.so.22.1 => not found\n"), LinkedLlvm::Lost);
        assert_eq!(linked_llvm("\tstatically linked\n"), LinkedLlvm::Static);
    }

    #[test]
    fn a_linker_serves_its_own_llvm_and_older_ones() {
        let linker = |llvm| Installed { path: PathBuf::from("bpf-linker"), llvm };
        assert!(linker(LinkedLlvm::Shared(22)).serves(22));
        assert!(linker(LinkedLlvm::Shared(23)).serves(22));
        assert!(!linker(LinkedLlvm::Shared(21)).serves(22));
        assert!(linker(LinkedLlvm::Static).serves(22));
        assert!(!linker(LinkedLlvm::Lost).serves(22));
    }

    #[test]
    fn the_same_llvm_is_wanted_first() {
        assert_eq!(wanted_llvms(22).collect::<Vec<_>>(), [22, 23]);
        assert_eq!(wanted_llvms(20).collect::<Vec<_>>(), [21, 22, 23]);
        assert_eq!(wanted_llvms(24).count(), 0);
    }
}
