//! Pods' interfaces by the CNI plugins themselves (CNI 0.3.1, as flannel's settings have it): `bridge` where the network has a
//! bridge, `ptp` where pods are routed, and `host-local` for their addresses.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::bridge::BRIDGE;
use super::{Link, NodeNet};
use crate::netns::Netns;

/// Where Debian's, Kubernetes' own and Fedora's packages have them.
const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
const INTERFACE: &str = "eth0";

/// The plugins, and where `host-local` keeps its addresses.
#[derive(Debug)]
pub(crate) struct Plugins {
    programs: PathBuf,
    data: TempDir,
}

/// A pod as a container runtime names it to the plugins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Container<'a> {
    pub(crate) id: &'a str,
    pub(crate) ns: &'a Netns,
}

/// What ADD answers, as far as it is read.
#[derive(Debug, Deserialize)]
struct Added {
    interfaces: Vec<Interface>,
    ips: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    name: String,
    /// Only the pod's own end has one.
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Address {
    /// With the length of its network.
    address: String,
}

impl Plugins {
    /// Finds the plugins; fails where there are none.
    pub(crate) fn find() -> Result<Self> {
        let complete =
            |folder: &&Path| ["bridge", "ptp", "host-local"].iter().all(|name| folder.join(name).is_file());
        let Some(programs) = FOLDERS.iter().map(Path::new).find(complete) else {
            bail!("no CNI plugins in {} (package containernetworking-plugins)", FOLDERS.join(" or "));
        };
        let data = tempfile::Builder::new().prefix("sluice-cni-").tempdir();
        Ok(Self { programs: programs.to_owned(), data: data.context("making a folder for host-local")? })
    }

    /// Makes a pod's interface with the addresses that are asked for, or those that `host-local` chooses.
    pub(crate) fn add(
        &self,
        node: &NodeNet,
        pod: Container<'_>,
        (ipv4, ipv6): (Option<Ipv4Addr>, Option<Ipv6Addr>),
    ) -> Result<Link> {
        let wanted4 = ipv4.map(|address| format!("{address}/{}", node.cidr4.prefix_len()));
        let wanted6 = ipv6.map(|address| format!("{address}/{}", node.cidr6.prefix_len()));
        let wanted: Vec<String> = wanted4.into_iter().chain(wanted6).collect();
        let answer = self.call("ADD", node, pod, &wanted)?;
        let added: Added = serde_json::from_slice(&answer).context("the answer of ADD")?;
        let host_end = added.interfaces.iter().find(|end| end.sandbox.is_empty() && end.name != BRIDGE);
        let parsed = added.ips.iter().map(|ip| ip.address.parse::<IpNet>().map(|net| net.addr()));
        let addresses: Vec<IpAddr> = parsed.collect::<Result<_, _>>().context("the addresses of ADD")?;
        let ipv4 = addresses.iter().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
        let ipv6 = addresses.iter().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
        Ok(Link {
            host_interface: host_end.context("ADD names no end on the node")?.name.clone(),
            ipv4: ipv4.context("ADD gave no IPv4 address")?,
            ipv6: ipv6.context("ADD gave no IPv6 address")?,
        })
    }

    /// Removes what [`Plugins::add`] made. As the specification wants it, what is gone already is no error.
    pub(crate) fn del(&self, node: &NodeNet, pod: Container<'_>) -> Result<()> {
        self.call("DEL", node, pod, &[]).map(drop)
    }

    fn call(
        &self,
        operation: &str,
        node: &NodeNet,
        pod: Container<'_>,
        addresses: &[String],
    ) -> Result<Vec<u8>> {
        let plugin = if node.network.has_bridge() { "bridge" } else { "ptp" };
        let mut command = Command::new(self.programs.join(plugin));
        command
            .env("CNI_COMMAND", operation)
            .env("CNI_CONTAINERID", pod.id)
            .env("CNI_NETNS", pod.ns.path())
            .env("CNI_IFNAME", INTERFACE)
            .env("CNI_PATH", &self.programs)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = || format!("{plugin} {operation} of {} on {}", pod.ns.name(), node.ns.name());
        let mut child = node.ns.spawn(&mut command).with_context(what)?;
        if let Some(mut input) = child.stdin.take() {
            serde_json::to_writer(&mut input, &self.configuration(plugin, node, addresses))
                .with_context(what)?;
            input.flush().with_context(what)?;
        }
        let output = child.wait_with_output().with_context(what)?;
        if !output.status.success() {
            // A plugin tells its error on standard output.
            let words =
                [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
            bail!("{}: {}: {}", what(), output.status, words.join(" ").trim());
        }
        Ok(output.stdout)
    }

    /// What flannel's plugin gives its delegate.
    fn configuration(&self, plugin: &str, node: &NodeNet, addresses: &[String]) -> Value {
        let (subnet4, subnet6) = (node.cidr4.trunc().to_string(), node.cidr6.trunc().to_string());
        let mut network = json!({
            "cniVersion": "0.3.1",
            "name": "cbr0",
            "type": plugin,
            "mtu": node.network.pod_mtu(),
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": self.data.path().join(node.ns.name()),
                "ranges": [[{ "subnet": subnet4 }], [{ "subnet": subnet6 }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
            "runtimeConfig": { "ips": addresses },
        });
        if plugin == "bridge" {
            network["bridge"] = json!(BRIDGE);
            network["isGateway"] = json!(true);
            network["hairpinMode"] = json!(true);
        }
        network
    }
}
