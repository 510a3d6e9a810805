//! A container runtime's part, as libcni has it: plugins one after the other, each with the result of the one before.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sluice_netns::{Netns, Node};
use sluice_tests::agent_world::shell;
use tempfile::TempDir;

/// Where Debian's, Kubernetes' own and Fedora's packages have the network's plugins.
const FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];
const FILE: &str = "10-cbr0.conflist";

/// The plugins and the configuration of one node, with ours installed.
pub(crate) struct Runtime {
    node: Netns,
    folder: TempDir,
    programs: PathBuf,
}

/// A pod's sandbox: a namespace, and what the runtime has chosen for it.
pub(crate) struct Sandbox {
    pub(crate) ns: Netns,
    pub(crate) name: String,
    pub(crate) addresses: [IpAddr; 2],
    pub(crate) mac: String,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(error) = Command::new("ip").args(["netns", "del", self.ns.name()]).output() {
            eprintln!("removing {}: {error}", self.ns.name());
        }
    }
}

/// What a plugin answered.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) plugin: String,
    pub(crate) output: String,
    pub(crate) log: String,
    pub(crate) took: Duration,
}

/// What a plugin refused.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) plugin: String,
    pub(crate) code: u64,
    pub(crate) words: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: code {}: {}", self.plugin, self.code, self.words)
    }
}

impl std::error::Error for Refusal {}

impl Runtime {
    /// A network of `bridge` and `host-local`, and `binary`'s plugin installed behind it, which asks the agent at `socket`.
    pub(crate) fn new(node: &Node, binary: &Path, socket: &Path, options: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sluice-cni-").tempdir()?;
        let complete = |path: &&Path| ["bridge", "host-local"].iter().all(|name| path.join(name).is_file());
        let programs = FOLDERS.iter().map(Path::new).find(complete);
        let programs = programs.context("no CNI plugins (package containernetworking-plugins)")?.to_owned();
        let (conf, bin) = (folder.path().join("net.d"), folder.path().join("bin"));
        fs::create_dir(&conf)?;
        fs::create_dir(&bin)?;
        let (cidr4, cidr6) = node.cidrs();
        let network = json!({
            "cniVersion": "1.0.0",
            "name": "cbr0",
            "plugins": [{
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "capabilities": { "ips": true, "mac": true },
                "ipam": {
                    "type": "host-local",
                    "dataDir": folder.path().join("addresses"),
                    "ranges": [[{ "subnet": cidr4.trunc().to_string() }], [{ "subnet": cidr6.trunc().to_string() }]],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            }],
        });
        fs::write(conf.join(FILE), format!("{network:#}\n"))?;
        let mut install = Command::new(binary);
        install.args(["cni", "install", "--conf-dir"]).arg(&conf).arg("--bin-dir").arg(&bin);
        let output = install.arg("--socket").arg(socket).args(options).output()?;
        ensure!(output.status.success(), "cni install: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { node: node.ns().clone(), folder, programs })
    }

    /// Makes a sandbox whose addresses end in `host`.
    pub(crate) fn sandbox(&self, world: &str, node: &Node, name: &str, host: u8) -> Result<Sandbox> {
        let ns = Netns::named(&format!("{world}-cni.{name}"));
        let output = Command::new("ip").args(["netns", "add", ns.name()]).output()?;
        ensure!(output.status.success(), "ip netns add: {}", String::from_utf8_lossy(&output.stderr));
        let (cidr4, cidr6) = node.cidrs();
        let ipv4 = Ipv4Addr::from_bits(cidr4.network().to_bits() | u32::from(host));
        let ipv6 = Ipv6Addr::from_bits(cidr6.network().to_bits() | u128::from(host));
        let sandbox = Sandbox {
            name: name.to_owned(),
            addresses: [ipv4.into(), ipv6.into()],
            mac: format!("02:73:6c:00:99:{host:02x}"),
            ns,
        };
        // Duplicate address detection keeps an address unusable for a second or more.
        sandbox.ns.sysctl(&[
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv4/ping_group_range", "0 2147483647"),
        ])?;
        shell(&sandbox.ns, "ip link set lo up")?;
        Ok(sandbox)
    }

    pub(crate) fn list(&self) -> Result<Value> {
        let text = fs::read_to_string(self.folder.path().join("net.d").join(FILE))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// ADD of every plugin in turn, until one refuses.
    pub(crate) fn add(&self, sandbox: &Sandbox) -> Result<Vec<Call>> {
        let list = self.list()?;
        let mut calls: Vec<Call> = Vec::new();
        for plugin in list["plugins"].as_array().context("no plugins")? {
            let before = calls.last().map(|call| serde_json::from_str::<Value>(&call.output)).transpose()?;
            calls.push(self.call("ADD", &list, plugin, Some(sandbox), before, &json!({}))?);
        }
        Ok(calls)
    }

    /// DEL of every plugin, the last first.
    pub(crate) fn del(&self, sandbox: &Sandbox, result: Option<&Value>) -> Result<()> {
        let list = self.list()?;
        for plugin in list["plugins"].as_array().context("no plugins")?.iter().rev() {
            self.call("DEL", &list, plugin, Some(sandbox), result.cloned(), &json!({}))?;
        }
        Ok(())
    }

    /// Our plugin alone, under 1.1.0, which Debian's plugins don't know.
    pub(crate) fn ours(
        &self,
        operation: &str,
        sandbox: Option<&Sandbox>,
        result: Option<&Value>,
        more: &Value,
    ) -> Result<Call> {
        let mut list = self.list()?;
        list["cniVersion"] = json!("1.1.0");
        let plugins = list["plugins"].as_array().context("no plugins")?;
        let ours = plugins.iter().find(|plugin| plugin["type"] == "sluice").context("not installed")?;
        self.call(operation, &list, ours, sandbox, result.cloned(), more)
    }

    fn call(
        &self,
        operation: &str,
        list: &Value,
        plugin: &Value,
        sandbox: Option<&Sandbox>,
        before: Option<Value>,
        more: &Value,
    ) -> Result<Call> {
        let kind = plugin["type"].as_str().context("a plugin without a type")?.to_owned();
        let mut input = plugin.clone();
        input["cniVersion"] = list["cniVersion"].clone();
        input["name"] = list["name"].clone();
        for (key, value) in more.as_object().into_iter().flatten() {
            input[key] = value.clone();
        }
        if let Some(before) = before {
            input["prevResult"] = before;
        }
        let bin = self.folder.path().join("bin");
        let paths = [bin, self.programs.clone()];
        let program = paths.iter().map(|path| path.join(&kind)).find(|path| path.is_file());
        let mut command = Command::new(program.with_context(|| format!("no plugin {kind}"))?);
        command.env_clear().env("CNI_COMMAND", operation).env("CNI_PATH", std::env::join_paths(&paths)?);
        if let Some(sandbox) = sandbox {
            if plugin["capabilities"]["ips"] == true {
                let [ipv4, ipv6] = sandbox.addresses;
                input["runtimeConfig"] =
                    json!({ "ips": [format!("{ipv4}/24"), format!("{ipv6}/64")], "mac": sandbox.mac });
            }
            let arguments = format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=dev;K8S_POD_NAME={};K8S_POD_UID={}",
                sandbox.name,
                sandbox.uid()
            );
            command
                .env("CNI_CONTAINERID", sandbox.id())
                .env("CNI_NETNS", sandbox.ns.path())
                .env("CNI_IFNAME", "eth0")
                .env("CNI_ARGS", arguments);
            // `bridge` looks for iptables there.
            command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self.node.spawn(&mut command)?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        let took = started.elapsed();
        let [text, log] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if output.status.success() {
            return Ok(Call { plugin: kind, output: text, log, took });
        }
        let Ok(error) = serde_json::from_str::<Value>(&text) else {
            bail!("{kind} {operation} failed without an error object: {text} {log}");
        };
        let words = format!("{} {}", error["msg"], error["details"]);
        Err(Refusal { plugin: kind, code: error["code"].as_u64().unwrap_or(0), words }.into())
    }
}

impl Sandbox {
    pub(crate) fn id(&self) -> String {
        format!("c-{}", self.name)
    }

    pub(crate) fn uid(&self) -> String {
        format!("00000000-0000-4000-8000-0000{:0>8}", self.mac.replace(':', "").split_off(4))
    }

    /// The pod's object: `Pending` and without addresses, as it is while its sandbox is made, or as the kubelet tells it later.
    pub(crate) fn manifest(&self, node: &str, running: bool) -> String {
        let status = if running {
            let [ipv4, ipv6] = self.addresses;
            json!({ "phase": "Running", "podIP": ipv4, "podIPs": [{ "ip": ipv4 }, { "ip": ipv6 }] })
        } else {
            json!({ "phase": "Pending" })
        };
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "dev", "name": self.name, "uid": self.uid(), "labels": { "app": self.name } },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "example.org/main:1" }] },
            "status": status,
        });
        format!("{object:#}\n")
    }
}

/// The refusal that a call failed with.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T>) -> Refusal {
    match result {
        Err(error) => error.downcast().unwrap_or_else(|error| unreachable!("no refusal: {error:#}")),
        Ok(answer) => unreachable!("no refusal: {answer:?}"),
    }
}

/// The final result of an ADD.
pub(crate) fn result(calls: &[Call]) -> Result<Value> {
    Ok(serde_json::from_str(&calls.last().context("no plugin was called")?.output)?)
}
