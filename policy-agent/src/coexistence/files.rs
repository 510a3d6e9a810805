//! CNI configurations, and what is pinned where other engines pin.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Observed, PINS};

/// A configuration has a few kilobytes.
const MOST_BYTES: u64 = 1 << 20;

/// Looks through the folder of CNI configurations and, below the BPF file system, at the places of other engines.
/// A folder that is not there has nothing in it.
pub fn files(cni: &Path, bpffs: &Path) -> Observed {
    let mut observed = Observed::default();
    for file in list(cni, &mut observed.problems) {
        let extension = file.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conf" | "conflist" | "json")) {
            match plugins(&file) {
                Ok(types) => observed.plugins.extend(types.into_iter().map(|kind| (file.clone(), kind))),
                Err(problem) => observed.problems.push(format!("{}: {problem}", file.display())),
            }
        }
    }
    let mut folders: Vec<&str> = PINS.iter().map(|(folder, ..)| *folder).collect();
    folders.dedup();
    for folder in folders {
        // `join("")` would end in a slash.
        let path = if folder.is_empty() { bpffs.to_owned() } else { bpffs.join(folder) };
        observed.pins.extend(list(&path, &mut observed.problems));
    }
    observed
}

/// In the order of their names.
fn list(folder: &Path, problems: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>());
    match entries {
        Ok(mut paths) => {
            paths.sort();
            paths
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            problems.push(format!("{}: {error}", folder.display()));
            Vec::new()
        }
    }
}

/// The types in a list of plugins, or that of the only one.
fn plugins(file: &Path) -> Result<Vec<String>, String> {
    let length = std::fs::metadata(file).map_err(|error| error.to_string())?.len();
    if length > MOST_BYTES {
        return Err(format!("it has {length} bytes: more than {MOST_BYTES}"));
    }
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let config: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let listed = config.get("plugins").and_then(Value::as_array).into_iter().flatten();
    let types = listed.chain([&config]).filter_map(|plugin| plugin.get("type")?.as_str());
    Ok(types.map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::coexistence::judge;

    #[test]
    fn a_node_as_its_files_show_it() {
        let node = tempfile::tempdir().unwrap();
        let (cni, bpffs) = (node.path().join("net.d"), node.path().join("bpf"));
        assert_eq!(files(&cni, &bpffs), Observed::default(), "neither is there");
        std::fs::create_dir_all(&cni).unwrap();
        std::fs::create_dir_all(bpffs.join("tc/globals")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(cni.join(name), text).unwrap();
        write(
            "10-flannel.conflist",
            r#"{"name": "cbr0", "plugins": [{"type": "flannel"}, {"type": "portmap"}]}"#,
        );
        write("99-loopback.conf", r#"{"type": "loopback"}"#);
        write("10-calico.conflist.bak", r#"{"plugins": [{"type": "calico"}]}"#);
        write("README", "calico");
        let observed = files(&cni, &bpffs);
        let types: Vec<&str> = observed.plugins.iter().map(|(_, kind)| kind.as_str()).collect();
        assert_eq!((types, judge(&observed).len()), (vec!["flannel", "portmap", "loopback"], 0));
        write("20-weave.conf", r#"{"type": "weave-net"}"#);
        std::fs::write(bpffs.join("tc/globals/cilium_ipcache"), "").unwrap();
        std::fs::create_dir(bpffs.join("calico")).unwrap();
        let engines: Vec<&str> = judge(&files(&cni, &bpffs)).iter().map(|finding| finding.engine).collect();
        assert_eq!(engines, ["calico", "cilium", "weave"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_is_read() {
        let node = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(node.path().join(name), text).unwrap();
        for (name, text) in
            [("a.conf", "{"), ("b.conf", "[1, 2]"), ("c.conf", r#"{"plugins": 7, "type": []}"#)]
        {
            write(name, text);
        }
        write("z.conflist", r#"{"plugins": [7, {"type": "antrea"}]}"#);
        std::fs::create_dir(node.path().join("y.conf")).unwrap();
        let observed = files(node.path(), &node.path().join("a.conf"));
        assert_eq!(observed.plugins, [(node.path().join("z.conflist"), "antrea".to_owned())]);
        let told = observed.problems.join("\n");
        assert!(told.contains("a.conf: EOF") && told.contains("y.conf: "), "{told}");
    }
}
