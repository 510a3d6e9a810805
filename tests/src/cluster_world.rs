//! Agents on the nodes of a world that read the cluster from an API server: the double, which holds what the lab's folder
//! of manifests says.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sluice_apiserver::{ApiServer, Role};
use sluice_netns::{Agent, AgentOptions, Netns, WorldBuilder};
use tempfile::TempDir;

use crate::agent_world::{Lab, eventually};

/// What the service account of the agents shows.
const TOKEN: &str = "the-agents-token";
/// How soon what was written to the server is enforced, at the latest: on a machine that does other things, too.
const ENFORCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Dropped in their order: agents before nodes.
#[derive(Debug)]
pub struct ClusterLab {
    pub lab: Lab,
    pub server: ApiServer,
    credentials: TempDir,
    /// Where the server listens.
    home: Netns,
    mirrored: BTreeMap<String, Value>,
}

impl ClusterLab {
    /// The server is on the first node; it grants what `deploy/install.yaml` asks for, and nothing more.
    pub fn without_agents(builder: WorldBuilder) -> Result<Self> {
        let lab = Lab::without_agents(builder)?;
        let node = lab.world.nodes().first().context("a world without nodes")?;
        let home = node.ns().clone();
        let [address, _] = node.addresses();
        let listener = home.run(|| TcpListener::bind(SocketAddr::new(address, 0)))?.context("binding")?;
        let server = ApiServer::on(listener)?;
        server.require_token(TOKEN);
        server.enforce(role()?);
        let credentials = tempfile::Builder::new().prefix("sluice-kubeconfig-").tempdir()?;
        let kubeconfig = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "world",
            "clusters": [{ "name": "world", "cluster": { "server": server.url() } }],
            "users": [{ "name": "agent", "user": { "token": TOKEN } }],
            "contexts": [{ "name": "world", "context": { "cluster": "world", "user": "agent" } }],
        });
        fs::write(credentials.path().join("config"), kubeconfig.to_string())?;
        Ok(Self { lab, server, credentials, home, mirrored: BTreeMap::new() })
    }

    /// With the server as the folder says, and an agent on each node.
    pub fn start(builder: WorldBuilder, arguments: &[&str]) -> Result<Self> {
        let mut cluster = Self::without_agents(builder)?;
        cluster.write()?;
        cluster.start_agents(arguments)?;
        Ok(cluster)
    }

    pub fn start_agents(&mut self, arguments: &[&str]) -> Result<()> {
        for node in self.lab.world.nodes() {
            let options = AgentOptions {
                manifests: None,
                arguments: self.arguments(arguments),
                ..self.lab.options(node)
            };
            self.lab.agents.push(Agent::spawn(node.ns(), options)?);
        }
        Ok(())
    }

    /// How an agent is started on the first node.
    pub fn options(&self) -> Result<AgentOptions> {
        let node = self.lab.world.nodes().first().context("a world without nodes")?;
        Ok(AgentOptions { manifests: None, arguments: self.arguments(&[]), ..self.lab.options(node) })
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let kubeconfig = self.credentials.path().join("config").display().to_string();
        let own = ["--kubeconfig".to_owned(), kubeconfig];
        own.into_iter().chain(more.iter().map(|&argument| argument.to_owned())).collect()
    }

    /// Writes to the server what the folder of manifests says, and deletes what it no longer does.
    pub fn write(&mut self) -> Result<()> {
        let now = objects(self.lab.manifests.path())?;
        for (file, object) in &now {
            if self.mirrored.get(file) != Some(object) {
                self.server.put(object.clone()).with_context(|| format!("putting {file}"))?;
            }
        }
        for (file, object) in &self.mirrored {
            if !now.contains_key(file) {
                let of = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
                self.server.delete(resource(object)?, &of("namespace"), &of("name"))?;
            }
        }
        self.mirrored = now;
        Ok(())
    }

    /// The same, and waits until the table of expectations holds.
    pub fn settle(&mut self, table: &str) -> Result<()> {
        self.write()?;
        self.wait_for(table)
    }

    pub fn wait_for(&self, table: &str) -> Result<()> {
        eventually(ENFORCE_TIMEOUT, || {
            let wrong = self.lab.mismatches(table)?;
            Ok((!wrong.is_empty()).then(|| format!("{wrong:#?}")))
        })
        .with_context(|| self.lab.agents.iter().map(Agent::log).collect::<Vec<_>>().join("\n"))
    }

    pub fn go_away(&mut self) {
        self.server.go_away();
    }

    pub fn come_back(&mut self) -> Result<()> {
        let Self { server, home, .. } = self;
        home.run(|| server.come_back())?
    }

    /// The server's uses that the role does not grant would have failed; these are all that were made.
    pub fn check_role_is_used_up(&self) -> Result<()> {
        let role = role()?;
        let used = self.server.used();
        ensure!(!used.is_empty(), "the agents used nothing");
        for access in used.keys() {
            ensure!(role.grants(access), "the agents used {access:?}, which their role does not grant");
        }
        Ok(())
    }

    /// An address of the server's node that pods know.
    pub fn server_address(&self) -> Result<IpAddr> {
        let node = self.lab.world.nodes().first().context("a world without nodes")?;
        Ok(node.addresses()[0])
    }
}

/// The role that the DaemonSet's service account has.
pub fn role() -> Result<Role> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/install.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let document = text
        .split("\n---")
        .find(|document| document.contains("\nkind: ClusterRole\n"))
        .context("deploy/install.yaml has no ClusterRole")?;
    Role::from_yaml(document)
}

/// The objects of a folder by their files.
fn objects(folder: &Path) -> Result<BTreeMap<String, Value>> {
    let mut objects = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let object = serde_saphyr::from_str(&text).with_context(|| format!("reading {name}"))?;
        objects.insert(name, object);
    }
    Ok(objects)
}

fn resource(object: &Value) -> Result<&'static str> {
    Ok(match object["kind"].as_str().unwrap_or_default() {
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "Pod" => "pods",
        "Service" => "services",
        "EndpointSlice" => "endpointslices",
        "NetworkPolicy" => "networkpolicies",
        other => bail!("a {other} is none of the double's objects"),
    })
}
