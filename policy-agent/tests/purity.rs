//! The core is pure: what decides verdicts cannot name the kernel, the cluster's API, the clock or the network.

use std::path::Path;

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

#[test]
fn the_pure_modules_name_nothing_foreign() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut looked_at = 0;
    for module in PURE {
        for entry in std::fs::read_dir(source.join(module)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            for (number, line) in (1..).zip(text.lines()) {
                let comment = line.trim_start().starts_with("//");
                let foreign = FOREIGN.iter().find(|name| line.contains(*name));
                assert!(comment || foreign.is_none(), "{}:{number}: {line}", path.display());
            }
            looked_at += 1;
        }
    }
    assert!(looked_at > 10);
}
