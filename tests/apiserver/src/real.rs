//! The real API server with its etcd, where the environment names a folder that has them (the envtest convention).

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::cluster::Cluster;

/// Names a folder with `kube-apiserver` and `etcd`.
pub const ASSETS: &str = "KUBEBUILDER_ASSETS";

const TOKEN: &str = "sluice-tests";
const PATIENCE: Duration = Duration::from_secs(90);

/// A kube-apiserver and an etcd on ports of loopback; they end with this value.
#[derive(Debug)]
pub struct RealServer {
    url: String,
    // In this order they are stopped.
    _api_server: Process,
    _etcd: Process,
    folder: TempDir,
}

#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl RealServer {
    /// `None` where the environment names no folder.
    pub fn start() -> Result<Option<Self>> {
        let Some(assets) = env::var_os(ASSETS).filter(|value| !value.is_empty()).map(PathBuf::from) else {
            return Ok(None);
        };
        for program in ["kube-apiserver", "etcd"] {
            ensure!(
                assets.join(program).is_file(),
                "{ASSETS} is {}, and there is no {program}",
                assets.display()
            );
        }
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (client, peer, secure) = (free_port()?, free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{client}");
        let etcd = start(
            &assets.join("etcd"),
            folder.path(),
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls={etcd_url}"),
                format!("--advertise-client-urls={etcd_url}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                "--unsafe-no-fsync".to_owned(),
            ],
        )?;
        fs::write(folder.path().join("tokens.csv"), format!("{TOKEN},admin,1,system:masters\n"))?;
        let key = at("service-account.key");
        let made =
            Command::new("openssl").args(["genrsa", "-out", &key, "2048"]).stderr(Stdio::null()).status();
        ensure!(made.context("openssl makes the service accounts' key")?.success(), "openssl failed");
        let api_server = start(
            &assets.join("kube-apiserver"),
            folder.path(),
            &[
                format!("--etcd-servers={etcd_url}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={secure}"),
                format!("--cert-dir={}", at("certificates")),
                format!("--token-auth-file={}", at("tokens.csv")),
                "--authorization-mode=RBAC".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/24".to_owned(),
                "--service-account-issuer=https://sluice.test".to_owned(),
                format!("--service-account-key-file={key}"),
                format!("--service-account-signing-key-file={key}"),
                // No controller makes the service accounts that pods would need.
                "--disable-admission-plugins=ServiceAccount".to_owned(),
            ],
        )?;
        let url = format!("https://127.0.0.1:{secure}");
        let mut server = Self { url, _api_server: api_server, _etcd: etcd, folder };
        server.wait()?;
        Ok(Some(server))
    }

    /// Until it answers that it is ready.
    fn wait(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            let authorization = format!("Authorization: Bearer {TOKEN}");
            let url = format!("{}/readyz", self.url);
            let asked = Command::new("curl").args(["-sfk", "-m", "5", "-H", &authorization, &url]).output();
            if asked.context("curl asks whether the server is ready")?.status.success() {
                return Ok(());
            }
            if let Some(status) = self._api_server.0.try_wait()? {
                let log =
                    fs::read_to_string(self.folder.path().join("kube-apiserver.log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                anyhow::bail!("kube-apiserver ended with {status}:\n{}", end.join("\n"));
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "kube-apiserver was not ready within {} s",
                PATIENCE.as_secs()
            );
            thread::sleep(Duration::from_millis(250));
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub const fn token(&self) -> &'static str {
        TOKEN
    }

    /// Must be called within a runtime.
    pub fn cluster(&self) -> Result<Cluster> {
        Cluster::connect(&self.url, Some(TOKEN))
    }
}

fn start(program: &Path, folder: &Path, arguments: &[String]) -> Result<Process> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let log = fs::File::create(folder.join(format!("{name}.log")))?;
    let child = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("{} can't be started", program.display()))?;
    Ok(Process(child))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
