//! The program as a runtime and as an administrator meet it.
#![expect(clippy::unwrap_used, reason = "a test may fail so")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_policy-agent");
const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}"#;

fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who doesn't read its input has nothing to say against more.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn cni(operation: &str, host: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["cni", operation, "--conf-dir"])
        .arg(host.join("net.d"))
        .arg("--bin-dir")
        .arg(host.join("bin"));
    command
}

fn host() -> tempfile::TempDir {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir(host.path().join("net.d")).unwrap();
    fs::create_dir(host.path().join("bin")).unwrap();
    fs::write(host.path().join("net.d/10-net.conflist"), LIST).unwrap();
    host
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn installed_it_is_a_plugin_and_uninstalled_it_is_gone() {
    let host = host();
    let output = run(cni("install", host.path()).args(["--output", "json"]), b"");
    assert!(output.status.success(), "{output:?}");
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let changes: Vec<&str> =
        done["changes"].as_array().unwrap().iter().map(|change| change["change"].as_str().unwrap()).collect();
    assert_eq!(changes, ["program-installed", "entry-added"]);

    let plugin = host.path().join("bin/sluice");
    let versions = run(Command::new(&plugin).env("CNI_COMMAND", "VERSION"), b"{\"cniVersion\": \"1.0.0\"}");
    assert!(versions.status.success(), "{versions:?}");
    let told: Value = serde_json::from_slice(&versions.stdout).unwrap();
    assert_eq!(told["supportedVersions"], json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]));

    // More than it reads, and an error that is JSON alone on standard output.
    let flooded = run(Command::new(&plugin).env("CNI_COMMAND", "ADD"), &vec![b' '; 3 << 20]);
    assert_eq!(flooded.status.code(), Some(1), "{flooded:?}");
    let error: Value = serde_json::from_slice(&flooded.stdout).unwrap();
    assert_eq!(error["code"], 6);
    assert!(text(&flooded.stderr).starts_with("sluice: "), "{flooded:?}");

    let about = run(Command::new(&plugin).env_remove("CNI_COMMAND"), b"");
    assert!(about.status.success() && text(&about.stderr).contains("CNI plugin"), "{about:?}");
    assert_eq!(text(&about.stdout), "");

    let output = run(&mut cni("install", host.path()), b"");
    assert_eq!(text(&output.stdout), "already installed\n");
    let output = run(&mut cni("uninstall", host.path()), b"");
    assert_eq!(text(&output.stdout).lines().count(), 2, "{output:?}");
    assert_eq!(fs::read_to_string(host.path().join("net.d/10-net.conflist")).unwrap(), LIST);
    assert!(!plugin.exists());
    let output = run(&mut cni("uninstall", host.path()), b"");
    assert_eq!((output.status.success(), text(&output.stdout).as_str()), (true, "not installed\n"));
}

#[test]
fn it_waits_for_a_network_where_it_is_told_to() {
    let host = host();
    let list = host.path().join("net.d/10-net.conflist");
    fs::remove_file(&list).unwrap();
    let output = run(&mut cni("install", host.path()), b"");
    assert!(!output.status.success() && text(&output.stderr).contains("--wait"), "{output:?}");
    let mut waiting = cni("install", host.path())
        .arg("--wait")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(waiting.try_wait().unwrap().is_none());
    fs::write(&list, LIST).unwrap();
    assert!(waiting.wait().unwrap().success());
    assert!(fs::read_to_string(&list).unwrap().contains("sluice"));
}

/// Root writes where modes forbid it, so the folder is on a read-only mount of a mount namespace of the test's own.
#[test]
fn a_folder_that_cannot_be_written_is_named_and_nothing_is_half_done() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "a read-only mount needs root (nothing is skipped without it, it fails)"
    );
    let host = host();
    let script = "mount --bind \"$1/net.d\" \"$1/net.d\" && mount -o remount,bind,ro \"$1/net.d\" && shift && exec \"$@\"";
    for operation in ["install", "uninstall"] {
        if operation == "uninstall" {
            assert!(run(&mut cni("install", host.path()), b"").status.success());
        }
        let list = || fs::read_to_string(host.path().join("net.d/10-net.conflist")).unwrap();
        let before = list();
        let inner = cni(operation, host.path());
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-ec", script, "sh"])
            .arg(host.path())
            .arg(PROGRAM)
            .args(inner.get_args());
        let output = run(&mut command, b"");
        let words = text(&output.stderr);
        assert!(!output.status.success(), "{output:?}");
        assert!(words.contains("10-net.conflist") && words.contains("Read-only file system"), "{words}");
        assert_eq!(list(), before);
        assert_eq!(fs::read_dir(host.path().join("net.d")).unwrap().count(), 1);
        // Without its entry gone, the program stays: pods could not start otherwise.
        assert!(host.path().join("bin/sluice").exists());
    }
}
