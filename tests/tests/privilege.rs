//! The agent with the capabilities that the DaemonSet grants and no others: as root without privileges, as in the
//! container, and as a user who is not root. `image.rs` does the same with the container's mounts.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use policy_agent::cni::Unready;
use policy_agent::cni::protocol::{Attachment, CniRequest, PodName};
use serde_json::Value;
use sluice_netns::{NodeSpec, PodSpec, Process, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, complaints, endpoint, eventually, policy, policy_file};
use sluice_tests::deploy;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(15);
const ROOT: u32 = 0;
const NOBODY: u32 = 65534;
const POLICY: &str = "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress], \
                      ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 80}]}]";

fn village() -> WorldBuilder {
    World::builder("slpriv")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("dev", "web", "node1").label("app", "web").serve_tcp(80).serve_tcp(81))
        .pod(PodSpec::new("dev", "client", "node1").label("app", "client"))
}

fn granted() -> Result<Vec<String>> {
    let objects = deploy::objects_of("install.yaml")?;
    let names = deploy::capabilities(deploy::container(deploy::find(&objects, "DaemonSet")?, "agent")?)?;
    Ok(names.iter().map(|name| name.to_lowercase()).collect())
}

/// An agent of a user with some capabilities. Fields are dropped in their order: the process before its world.
struct Confined {
    user: u32,
    capabilities: Vec<String>,
    attach: &'static str,
    process: Option<Process>,
    folder: TempDir,
    lab: Lab,
}

impl Drop for Confined {
    fn drop(&mut self) {
        drop(self.process.take());
        let Ok(node) = self.lab.world.node("node1") else { return };
        let mut command = Command::new(&self.lab.binary);
        command.arg("uninstall").arg("--bpffs").arg(node.bpffs()).arg("--socket").arg("/nonexistent");
        if let Err(error) = node.ns().output(&mut command) {
            eprintln!("uninstalling: {error:#}");
        }
    }
}

impl Confined {
    fn start(user: u32, capabilities: &[String], attach: &'static str) -> Result<Self> {
        let lab = Lab::without_agents(village())?;
        lab.manifests.write(&policy_file("dev/web"), &policy("dev/web", POLICY))?;
        fs::set_permissions(lab.manifests.path(), Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(lab.manifests.path())? {
            fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
        }
        let folder = tempfile::tempdir()?;
        chown(folder.path(), Some(user), Some(user))?;
        let program = folder.path().join("policy-agent");
        fs::copy(&lab.binary, &program)?;
        fs::set_permissions(&program, Permissions::from_mode(0o755))?;
        let capabilities = capabilities.to_vec();
        let mut confined = Self { user, capabilities, attach, process: None, folder, lab };
        confined.spawn()?;
        Ok(confined)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn spawn(&mut self) -> Result<()> {
        let list: String = self.capabilities.iter().map(|name| format!(",+{name}")).collect();
        let mut command = Command::new("setpriv");
        command.arg(format!("--bounding-set=-all{list}")).arg("--no-new-privs");
        if self.user == ROOT {
            command.arg("--inh-caps=-all");
        } else {
            // What isn't root keeps across exec only what is ambient.
            let (user, group) = (format!("--reuid={}", self.user), format!("--regid={}", self.user));
            command.args([user, group, "--clear-groups".to_owned()]);
            command.arg(format!("--inh-caps=-all{list}")).arg(format!("--ambient-caps=-all{list}"));
        }
        let node = self.lab.world.node("node1")?;
        command.arg(self.path("policy-agent")).arg("run").args(["--node", "node1", "--attach", self.attach]);
        command.arg("--manifests").arg(self.lab.manifests.path()).arg("--bpffs").arg(node.bpffs());
        command.arg("--socket").arg(self.path("agent.sock"));
        command.env("SLUICE_HEALTH_ADDRESS", "off").env("SLUICE_CNI_BIN_DIR", "/nonexistent");
        let log = File::options().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.process = Some(Process::spawn(node.ns(), &mut command)?);
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Asks the agent, as its own user: a socket answers nobody else but root.
    fn ask(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={}", self.user), format!("--regid={}", self.user));
        command
            .args([user, group, "--clear-groups".to_owned()])
            .arg(self.path("policy-agent"))
            .args(arguments);
        Ok(command.arg("--socket").arg(self.path("agent.sock")).output()?)
    }

    fn sync(&self) -> Result<()> {
        // Files that were written since belong to root, and are root's alone.
        for entry in fs::read_dir(self.lab.manifests.path())? {
            fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
        }
        let output = self.ask(&["sync", "--timeout", "15s"])?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{told}; {}", self.log());
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.ask(&["status", "--output", "json"])?.stdout)?)
    }

    fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("there is no agent")
    }
}

#[test]
fn what_the_daemon_set_grants_is_enough_for_all_it_does() -> Result<()> {
    for (user, attach) in [(ROOT, "tcx"), (ROOT, "clsact"), (NOBODY, "tcx")] {
        story(user, attach).with_context(|| format!("user {user}, {attach}"))?;
    }
    Ok(())
}

fn story(user: u32, attach: &'static str) -> Result<()> {
    let mut agent = Confined::start(user, &granted()?, attach)?;
    agent.sync()?;
    let id = agent.process()?.id();
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // NET_BROADCAST, NET_ADMIN, SYS_ADMIN: include/uapi/linux/capability.h.
    let mask = format!("{:016x}", 1_u64 << 11 | 1 << 12 | 1 << 21);
    assert_eq!([field("CapEff:"), field("CapBnd:")], [Some(mask.as_str()); 2]);
    assert_eq!(field("Uid:"), Some(format!("{user}\t{user}\t{user}\t{user}").as_str()));
    agent.lab.expect("dev/client dev/web tcp/80 opens\ndev/client dev/web tcp/81 hangs");
    // A change, and a connection that it ends for new ones alone.
    agent.lab.manifests.write(&policy_file("dev/web"), &policy("dev/web", &POLICY.replace("80", "81")))?;
    agent.sync()?;
    agent.lab.expect("dev/client dev/web tcp/81 opens\ndev/client dev/web tcp/80 hangs");
    let flows = agent.ask(&["flows", "--output", "json"])?;
    let flows: Vec<Value> = serde_json::from_slice(&flows.stdout)?;
    assert!(flows.iter().any(|flow| flow["pod"] == "dev/web"), "{flows:?}");
    // It dies, and the next one takes over.
    agent.process()?.kill()?;
    agent.lab.expect_probes("dev/client dev/web tcp/80 hangs");
    agent.spawn()?;
    eventually(PATIENCE, || Ok(agent.sync().err().map(|error| format!("{error:#}"))))?;
    agent.lab.expect("dev/client dev/web tcp/81 opens\ndev/client dev/web tcp/80 hangs");
    // A pod that comes later, announced by the network plugin before the API server knows its addresses.
    let late = PodSpec::new("dev", "late", "node1").label("app", "web").serve_tcp(80).serve_tcp(81);
    let late = agent.lab.world.add_pod(late)?.clone();
    let attachment = Attachment {
        container_id: "late".to_owned(),
        netns: late.ns.path(),
        ifname: "eth0".to_owned(),
        pod: PodName { namespace: "dev".to_owned(), name: "late".to_owned() },
        uid: None,
        addresses: vec![late.ipv4.into(), late.ipv6.into()],
    };
    agent.lab.manifests.pod(&late)?;
    agent.sync()?;
    let request = CniRequest::Add { attachment, timeout_ms: 5000, unready: Unready::Closed };
    let mut stream = UnixStream::connect(agent.path("agent.sock"))?;
    stream.write_all(request.to_line()?.as_bytes())?;
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply)?;
    assert!(reply.contains("\"enforced\""), "{reply}");
    agent.lab.expect("dev/client dev/late tcp/81 opens\ndev/client dev/late tcp/80 hangs");
    assert_eq!(agent.status()?["errors"], serde_json::json!([]));
    assert_eq!(complaints(agent.lab.world.id(), &agent.log()), Vec::<String>::new(), "{}", agent.log());
    // In order, this time.
    assert!(agent.process()?.stop(PATIENCE)?);
    agent.lab.expect_probes("dev/client dev/late tcp/80 hangs");
    Ok(())
}

/// One is taken away, and what then fails says so.
#[test]
fn without_one_of_them_something_fails_and_says_so() -> Result<()> {
    for user in [ROOT, NOBODY] {
        let without = |name: &str| -> Result<Vec<String>> {
            let mut all = granted()?;
            all.retain(|granted| granted != name);
            ensure!(all.len() + 1 == granted()?.len(), "{name} is not granted at all");
            Ok(all)
        };
        let mut agent = Confined::start(user, &without("sys_admin")?, "tcx")?;
        eventually(PATIENCE, || {
            let ended = agent.process()?.exit_status()?.is_some();
            Ok((!ended).then(|| "it runs".to_owned()))
        })?;
        assert!(agent.log().contains("Operation not permitted"), "{}", agent.log());
        drop(agent);
        // Its parts for BPF alone don't let it into the pods' namespaces.
        let parts = [without("sys_admin")?, vec!["bpf".to_owned(), "perfmon".to_owned()]].concat();
        let agent = Confined::start(user, &parts, "tcx")?;
        eventually(PATIENCE, || {
            let told = agent.status().map(|status| status["errors"].to_string()).unwrap_or_default();
            Ok((!told.contains("entering it: Operation not permitted")).then_some(told))
        })?;
        drop(agent);
        let agent = Confined::start(user, &without("net_admin")?, "clsact")?;
        eventually(PATIENCE, || {
            let status = agent.status().unwrap_or_default();
            let failed = endpoint(&status, "dev/web")["state"] == "failed";
            let named = status["errors"].to_string().contains("pod dev/web: ");
            Ok((!failed || !named).then(|| status.to_string()))
        })?;
        drop(agent);
        let agent = Confined::start(user, &without("net_broadcast")?, "tcx")?;
        eventually(PATIENCE, || Ok(agent.sync().err().map(|error| format!("{error:#}"))))?;
        agent.lab.expect_probes("dev/client dev/web tcp/81 hangs");
        assert!(agent.log().contains("addresses added inside pods are not announced"), "{}", agent.log());
    }
    Ok(())
}
