//! Which modules the guest loads, in which order, and their contents.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::kernel::Kernel;

/// What Sluice and its tests use, so that nothing is left to a loader that the guest doesn't have.
const WANTED: &[&str] = &[
    // Pods, nodes and the networks between them.
    "veth",
    "bridge",
    "br_netfilter",
    "tun",
    "vxlan",
    "ipip",
    // Where Sluice hangs its programs.
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    // Connections from before the agent.
    "nf_conntrack",
    "nf_conntrack_netlink",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    // What kube-proxy and the tests' own rules use.
    "nf_tables",
    "nft_ct",
    "nft_nat",
    "nft_chain_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_limit",
    "nft_log",
    "nft_numgen",
    "nft_fib",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    // Real SCTP sockets.
    "sctp",
    "sctp_diag",
];
/// Modules that some kernels have as a part of another.
const UNTIL_MERGED: &[&str] = &["nft_counter"];

/// The modules in the order in which they can be loaded, as paths below the folder of modules.
pub(crate) fn in_order(kernel: &Kernel) -> Result<Vec<String>> {
    let read = |name: &str| {
        let path = kernel.modules.join(name);
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))
    };
    let dependencies = read("modules.dep")?;
    let index = Index::parse(&dependencies, &read("modules.builtin")?);
    let mut order = Vec::new();
    let optional = UNTIL_MERGED.iter().filter(|name| index.paths.contains_key(**name));
    for name in WANTED.iter().chain(optional) {
        index.add(name, &mut order).with_context(|| format!("kernel {}", kernel.release))?;
    }
    Ok(order)
}

/// A module's file as the kernel takes it: not compressed.
pub(crate) fn contents(path: &Path) -> Result<Vec<u8>> {
    let unpack = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("can't read {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{} is compressed in a way that is not known here", path.display()),
    };
    let output =
        Command::new(unpack).arg("-dc").arg(path).output().with_context(|| format!("can't run {unpack}"))?;
    ensure!(
        output.status.success(),
        "{unpack} can't read {}: {}",
        path.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}

/// What depmod has found.
struct Index<'a> {
    paths: BTreeMap<String, &'a str>,
    /// For each path all that must be loaded before it, the first of them last.
    needs: BTreeMap<&'a str, Vec<&'a str>>,
    builtin: Vec<String>,
}

impl<'a> Index<'a> {
    fn parse(dependencies: &'a str, builtin: &str) -> Self {
        let mut index = Self {
            paths: BTreeMap::new(),
            needs: BTreeMap::new(),
            builtin: builtin.lines().map(name_of).collect(),
        };
        for (path, needs) in dependencies.lines().filter_map(|line| line.split_once(':')) {
            index.paths.insert(name_of(path), path);
            index.needs.insert(path, needs.split_whitespace().collect());
        }
        index
    }

    fn add(&self, name: &str, order: &mut Vec<String>) -> Result<()> {
        let Some(&path) = self.paths.get(name) else {
            ensure!(
                self.builtin.iter().any(|built| built == name),
                "it has no module {name}, and none built in"
            );
            return Ok(());
        };
        let needs = self.needs.get(path).map(Vec::as_slice).unwrap_or_default();
        for path in needs.iter().rev().chain([&path]) {
            if !order.iter().any(|known| known == path) {
                order.push((*path).to_owned());
            }
        }
        Ok(())
    }
}

/// `kernel/net/sctp/sctp_diag.ko.xz` is `sctp_diag`; a dash in a file's name is an underscore elsewhere.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_comes_first() {
        let index = Index::parse(
            "kernel/a-x.ko.xz: kernel/b.ko.xz kernel/c.ko.xz\nkernel/b.ko.xz: kernel/c.ko.xz\nkernel/c.ko.xz:\n",
            "kernel/net/built-in.ko\n",
        );
        let mut order = Vec::new();
        index.add("b", &mut order).unwrap();
        index.add("a_x", &mut order).unwrap();
        index.add("built_in", &mut order).unwrap();
        assert_eq!(order, ["kernel/c.ko.xz", "kernel/b.ko.xz", "kernel/a-x.ko.xz"]);
        let error = index.add("sctp", &mut order).unwrap_err().to_string();
        assert!(error.contains("no module sctp"), "{error}");
    }
}
