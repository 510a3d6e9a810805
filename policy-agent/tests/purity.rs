//! The core is pure: what decides verdicts cannot name the kernel, the cluster's API, the clock or the network.

use std::path::{Path, PathBuf};

const PURE: [&str; 3] = ["model", "compile", "plan"];
const FOREIGN: [&str; 9] = [
    "aya",
    "kube::",
    "k8s_openapi",
    "tokio",
    "rtnetlink",
    "std::fs",
    "std::net::Tcp",
    "std::time",
    "std::process",
];

/// What events of a watch become, and in which order.
const PURE_FILES: [&str; 2] = ["source/cluster/event.rs", "source/cluster/live.rs"];

/// Those of the folders inside too.
fn add_files(folder: &Path, paths: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { add_files(&path, paths)? } else { paths.push(path) }
    }
    Ok(())
}

#[test]
fn the_pure_modules_name_nothing_foreign() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths: Vec<_> = PURE_FILES.iter().map(|file| source.join(file)).collect();
    for module in PURE {
        add_files(&source.join(module), &mut paths).unwrap();
    }
    assert!(paths.len() > 10);
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in (1..).zip(text.lines()) {
            let comment = line.trim_start().starts_with("//");
            let foreign = FOREIGN.iter().find(|name| line.contains(*name));
            assert!(comment || foreign.is_none(), "{}:{number}: {line}", path.display());
        }
    }
}
