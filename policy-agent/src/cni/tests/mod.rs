mod fuzz;
mod install;
mod plugin;
mod watch;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::plugin::{Answer, answer};
use super::protocol::CniReply;

/// Listens as the agent does and answers as it is told.
struct FakeAgent {
    folder: TempDir,
    asked: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeAgent {
    /// `line` makes an answer of a request's number, from 0; without one the connection is closed.
    fn saying(line: impl Fn(usize) -> Option<String> + Send + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (to, seen) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = String::new();
                BufReader::new(&stream).read_line(&mut request).unwrap();
                if seen.load(Ordering::Relaxed) {
                    return;
                }
                let number = {
                    let mut asked = to.lock().unwrap();
                    asked.push(serde_json::from_str(&request).unwrap());
                    asked.len() - 1
                };
                if let Some(line) = line(number) {
                    let _ = stream.write_all(line.as_bytes());
                }
            }
        });
        Self { folder, asked, stop, thread: Some(thread) }
    }

    fn answering(reply: CniReply) -> Self {
        Self::saying(move |_| Some(serde_json::to_string(&reply).unwrap() + "\n"))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn asked(&self) -> Vec<Value> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeAgent {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(self.socket());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const VARIABLES: [(&str, &str); 5] = [
    ("CNI_CONTAINERID", "c0ffee"),
    ("CNI_NETNS", "/var/run/netns/cni-1234"),
    ("CNI_IFNAME", "eth0"),
    ("CNI_PATH", "/opt/cni/bin"),
    (
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=dev;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c0ffee;K8S_POD_UID=u-1",
    ),
];

/// Calls the plugin with a whole environment, of which `changes` replaces some; an empty value unsets.
fn call(command: &str, changes: &[(&str, &str)], input: &[u8]) -> Answer {
    let variable = |name: &str| {
        let all =
            changes.iter().chain(&VARIABLES).chain(&[("CNI_COMMAND", command)]).copied().collect::<Vec<_>>();
        all.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    };
    answer(variable, input)
}

/// What the bridge plugin answers under 1.0.0, written as it writes it.
const RESULT: &str = r#"{
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "cni0", "mac": "02:00:00:00:00:01"},
        {"name": "veth12345678", "mac": "02:00:00:00:00:02"},
        {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/var/run/netns/cni-1234"}
    ],
    "ips": [
        {"interface": 2, "address": "10.244.1.2/24", "gateway": "10.244.1.1"},
        {"interface": 2, "address": "fd00:10:244:1::2/64", "gateway": "fd00:10:244:1::1"},
        {"interface": 0, "address": "10.244.1.1/24"}
    ],
    "routes": [{"dst": "0.0.0.0/0"}],
    "dns": {}
}"#;

/// Our entry as a runtime hands it over, with a result of the plugins before.
fn config(socket: &std::path::Path, more: &Value) -> Vec<u8> {
    let mut head = json!({
        "cniVersion": "1.1.0", "name": "cbr0", "type": "sluice", "socket": socket, "timeout": "300ms",
    });
    if let (Some(head), Some(more)) = (head.as_object_mut(), more.as_object()) {
        head.extend(more.clone());
    }
    // As text: the result has to come out as it went in, spaces and all.
    let text = head.to_string();
    format!("{},\"prevResult\":{RESULT}}}", text.strip_suffix('}').unwrap()).into_bytes()
}

fn error(answer: &Answer) -> (u64, String) {
    assert!(answer.failed, "{answer:?}");
    let object: Value = serde_json::from_str(&answer.output).expect("an error is an object");
    let words =
        format!("{} {}", object["msg"].as_str().unwrap(), object["details"].as_str().unwrap_or_default());
    (object["code"].as_u64().unwrap(), words)
}
