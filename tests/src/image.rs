//! The container image, read as a container runtime would, and run without one: with the DaemonSet's mounts,
//! capabilities and read-only root.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The image that `cargo xtask test` names.
pub fn image_file() -> Result<PathBuf> {
    let path = std::env::var_os("SLUICE_IMAGE").map(PathBuf::from).unwrap_or_default();
    ensure!(
        path.is_file(),
        "there is no image at {:?}: make one by `cargo xtask image` and name it by SLUICE_IMAGE (nothing is skipped without it)",
        path
    );
    Ok(path)
}

/// An unpacked image for this machine.
#[derive(Debug)]
pub struct Image {
    folder: TempDir,
    /// What `index.json` says of it.
    pub root: Value,
    pub config: Value,
}

impl Image {
    /// Reads the layout, checks every digest on the way from the index to the layer, and unpacks the layer.
    pub fn unpack(file: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sluice-image-").tempdir()?;
        let layout = folder.path().join("layout");
        let open = File::open(file).with_context(|| format!("opening {}", file.display()))?;
        tar::Archive::new(open).unpack(&layout)?;
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let root = index["manifests"][0].clone();
        let manifest: Value = serde_json::from_slice(&blob(&layout, &root)?)?;
        let config: Value = serde_json::from_slice(&blob(&layout, &manifest["config"])?)?;
        let layers = manifest["layers"].as_array().context("layers")?;
        let rootfs = folder.path().join("rootfs");
        fs::create_dir(&rootfs)?;
        for (layer, id) in layers.iter().zip(config["rootfs"]["diff_ids"].as_array().context("diff_ids")?) {
            let mut tar = Vec::new();
            GzDecoder::new(blob(&layout, layer)?.as_slice()).read_to_end(&mut tar)?;
            ensure!(digest(&tar) == *id, "the layer is not what the config says");
            tar::Archive::new(tar.as_slice()).unpack(&rootfs)?;
        }
        Ok(Self { folder, root, config })
    }

    /// The root folder of its containers.
    #[must_use]
    pub fn rootfs(&self) -> PathBuf {
        self.folder.path().join("rootfs")
    }

    /// A program that runs `run` and `uninstall` of the agent in a container with these capabilities, and everything else
    /// as it is. In the container is what the DaemonSet mounts; /tmp, where a test has manifests and sockets, stands
    /// for the folders of configuration and socket.
    pub fn program(&self, capabilities: &[String], bpffs: bool) -> Result<PathBuf> {
        let names: Vec<String> =
            capabilities.iter().map(|name| format!("cap_{}", name.to_lowercase())).collect();
        let entrypoint = self.config["config"]["Entrypoint"][0].as_str().context("the image's entrypoint")?;
        let script = SCRIPT
            .replace("@ROOTFS@", &self.rootfs().display().to_string())
            .replace("@ENTRYPOINT@", entrypoint)
            .replace("@CAPABILITIES@", &names.join(" "))
            .replace("@BPFFS@", if bpffs { "yes" } else { "no" });
        let path = self.folder.path().join(format!("agent-{}-{bpffs}", names.join("-")));
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }
}

/// capsh drops from the bounding set what isn't named, as runtimes do, and sets no_new_privs.
const SCRIPT: &str = r#"#!/bin/bash
set -eu
root=@ROOTFS@
case "$1" in
run | uninstall) ;;
*) exec $root@ENTRYPOINT@ "$@" ;;
esac
if [ -z "${SLUICE_TEST_INSIDE:-}" ]; then
    SLUICE_TEST_INSIDE=yes exec unshare --mount --propagation slave "$0" "$@"
fi
unset SLUICE_TEST_INSIDE
base=$(mktemp -d -p $root/..)
mount -t tmpfs tmpfs "$base"
cp -a $root/. "$base"
mkdir -p "$base"/proc "$base"/sys "$base"/tmp "$base"/var/run/netns
mount -t proc proc "$base"/proc
mount -t sysfs -o ro sysfs "$base"/sys
if [ @BPFFS@ = yes ]; then mount --rbind /sys/fs/bpf "$base"/sys/fs/bpf; fi
mount --rbind /var/run/netns "$base"/var/run/netns
mount --bind /tmp "$base"/tmp
mount -o remount,bind,ro "$base"
keep=" @CAPABILITIES@ "
drop=""
for name in $(capsh --print | sed -n 's/^Bounding set =//p' | tr , ' '); do
    case "$keep" in *" $name "*) ;; *) drop="$drop,$name" ;; esac
done
exec capsh --chroot="$base" --no-new-privs --drop="${drop#,}" --caps="$(echo $keep | tr ' ' ,)=ep" \
    --shell=@ENTRYPOINT@ -- "$@"
"#;

fn blob(layout: &Path, descriptor: &Value) -> Result<Vec<u8>> {
    let name = descriptor["digest"].as_str().context("a descriptor without digest")?;
    let bytes = fs::read(layout.join("blobs").join(name.replacen(':', "/", 1)))?;
    ensure!(digest(&bytes) == name, "a blob is not {name}");
    ensure!(descriptor["size"] == bytes.len(), "{name} has not {} bytes", descriptor["size"]);
    Ok(bytes)
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
