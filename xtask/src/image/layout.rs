//! An OCI image layout with one file in each image's one layer. The same executables give the same bytes.
//!
//! `index.json` is for containerd, skopeo and docker's containerd store; docker's older store reads `manifest.json`.
//! Formats: the OCI image specification 1.1 (layout, index, manifest, config) and `docker save`'s archive.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The executable's name in the image.
const PROGRAM: &str = "policy-agent";

/// A static program for one kind of machine.
#[derive(Debug, Clone)]
pub(crate) struct Executable {
    pub(crate) architecture: &'static str,
    pub(crate) bytes: Vec<u8>,
}

/// The files of a layout, by their path.
#[derive(Debug)]
pub(crate) struct Layout {
    files: BTreeMap<String, Vec<u8>>,
    digest: String,
}

impl Layout {
    /// An image `repository:version`; where there are several executables, one for each kind of machine.
    pub(crate) fn new(repository: &str, version: &str, executables: &[Executable]) -> Result<Self> {
        let mut layout = Self { files: BTreeMap::new(), digest: String::new() };
        let reference = format!("{repository}:{version}");
        let mut images = Vec::new();
        let mut archive = Vec::new();
        for executable in executables {
            let (image, legacy) = layout.image(executable, &reference, version)?;
            images.push(image);
            archive.push(legacy);
        }
        // A tool that loads by name wants one thing under the name.
        let mut root = match images.as_slice() {
            [image] => image.clone(),
            _ => {
                let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": images});
                layout.blob(INDEX, serde_json::to_vec(&index)?)
            }
        };
        root["digest"].as_str().context("a descriptor without digest")?.clone_into(&mut layout.digest);
        root["annotations"] = json!({
            "io.containerd.image.name": reference,
            "org.opencontainers.image.ref.name": version,
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [root]});
        layout.files.insert("index.json".to_owned(), serde_json::to_vec(&index)?);
        layout
            .files
            .insert("oci-layout".to_owned(), serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?);
        // The old archive has no way to say for which machine an image is.
        if let [image] = archive.as_slice() {
            layout.files.insert("manifest.json".to_owned(), serde_json::to_vec(&json!([image]))?);
        }
        Ok(layout)
    }

    /// The digest by which the image can be pinned.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// Writes the layout as a tar file.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(to);
        for (path, bytes) in &self.files {
            append(&mut tar, path, 0o644, bytes)?;
        }
        tar.finish()
    }

    /// Adds one machine's image; gives its descriptor, and its entry of `docker save`'s archive.
    fn image(&mut self, executable: &Executable, reference: &str, version: &str) -> Result<(Value, Value)> {
        let mut tar = tar::Builder::new(Vec::new());
        append(&mut tar, PROGRAM, 0o755, &executable.bytes)?;
        let tar = tar.into_inner()?;
        let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(6));
        gzip.write_all(&tar)?;
        let platform = json!({"architecture": executable.architecture, "os": "linux"});
        let layer = self.blob(LAYER, gzip.finish()?);
        let config = json!({
            "architecture": executable.architecture,
            "os": "linux",
            "config": {
                "User": "0:0",
                // `kubectl exec POD -- policy-agent status`
                "Env": ["PATH=/"],
                "Entrypoint": [format!("/{PROGRAM}")],
                "WorkingDir": "/",
                "Labels": labels(version),
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(&tar)]},
            "history": [{"created_by": "cargo xtask image"}],
        });
        let config = self.blob(CONFIG, serde_json::to_vec(&config)?);
        let legacy = json!({
            "Config": blob_path(&config)?,
            "RepoTags": [reference],
            "Layers": [blob_path(&layer)?],
        });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
            "annotations": labels(version),
        });
        let mut image = self.blob(MANIFEST, serde_json::to_vec(&manifest)?);
        image["platform"] = platform;
        Ok((image, legacy))
    }

    /// Adds a blob and gives its descriptor.
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        self.files.insert(format!("blobs/{}", digest.replacen(':', "/", 1)), bytes);
        descriptor
    }
}

fn labels(version: &str) -> Value {
    json!({
        "org.opencontainers.image.title": "Sluice",
        "org.opencontainers.image.description": "Kubernetes network policy by eBPF: the node's agent",
        "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        "org.opencontainers.image.version": version,
    })
}

fn blob_path(descriptor: &Value) -> Result<String> {
    let digest = descriptor["digest"].as_str().context("a descriptor without digest")?;
    Ok(format!("blobs/{}", digest.replacen(':', "/", 1)))
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Owner root, time 0: nothing of the machine that builds.
fn append(tar: &mut tar::Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(u64::try_from(bytes.len()).map_err(io::Error::other)?);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, path, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(executables: &[Executable]) -> Vec<u8> {
        let mut bytes = Vec::new();
        Layout::new("example.org/agent", "1.2.3", executables).unwrap().write(&mut bytes).unwrap();
        bytes
    }

    fn executable(architecture: &'static str) -> Executable {
        Executable { architecture, bytes: format!("program for {architecture}").into_bytes() }
    }

    fn json_file(layout: &Layout, path: &str) -> Value {
        serde_json::from_slice(&layout.files[path]).unwrap()
    }

    #[test]
    fn the_same_program_gives_the_same_image() {
        let both = [executable("amd64"), executable("arm64")];
        assert_eq!(tar(&both), tar(&both));
        assert_ne!(tar(&both), tar(&both[..1]));
    }

    #[test]
    fn every_blob_is_named_by_its_content_and_referred_to() {
        let layout =
            Layout::new("example.org/agent", "1.2.3", &[executable("amd64"), executable("arm64")]).unwrap();
        let everything: String =
            layout.files.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        let mut blobs = 0;
        for (path, bytes) in &layout.files {
            let Some(name) = path.strip_prefix("blobs/") else { continue };
            assert_eq!(digest(bytes), name.replacen('/', ":", 1));
            assert!(everything.contains(&digest(bytes)), "nothing refers to {path}");
            blobs += 1;
        }
        // An index, and three for each machine.
        assert_eq!(blobs, 7);
        assert!(!layout.files.contains_key("manifest.json"));
    }

    #[test]
    fn the_name_leads_to_the_image() {
        let layout = Layout::new("example.org/agent", "1.2.3", &[executable("arm64")]).unwrap();
        let root = &json_file(&layout, "index.json")["manifests"][0];
        assert_eq!(root["digest"], layout.digest());
        assert_eq!(root["annotations"]["io.containerd.image.name"], "example.org/agent:1.2.3");
        assert_eq!(root["platform"]["architecture"], "arm64");
        assert_eq!(root["mediaType"], MANIFEST);
        let old = &json_file(&layout, "manifest.json")[0];
        assert_eq!(old["RepoTags"][0], "example.org/agent:1.2.3");
        assert!(layout.files.contains_key(old["Layers"][0].as_str().unwrap()));
        let config = json_file(&layout, old["Config"].as_str().unwrap());
        assert_eq!(config["config"]["Entrypoint"], json!(["/policy-agent"]));
    }
}
