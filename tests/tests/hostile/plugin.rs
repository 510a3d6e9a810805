//! The CNI plugin's standard input, which a runtime writes from files that others left in its folder.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::Value;
use sluice_tests::agent_world::agent_binary;

use super::alone;

/// What the plugin answers to these bytes, and how long that takes.
fn answer(variables: &[(&str, &str)], input: &[u8]) -> Result<(Value, Duration)> {
    let began = Instant::now();
    let mut command = Command::new(agent_binary()?);
    command.arg("cni").env_clear().envs(variables.iter().copied());
    let mut plugin = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdin = plugin.stdin.take().context("standard input")?;
    // It stops to read where it has had enough.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = plugin.wait_with_output()?;
    assert!(!output.status.success());
    let object = serde_json::from_slice(&output.stdout);
    Ok((object.with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?, began.elapsed()))
}

#[test]
fn absurd_configurations_are_refused_in_words_that_a_runtime_reads() -> Result<()> {
    let _alone = alone();
    let call = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", "/nonexistent"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=dev;K8S_POD_NAME=\u{1b}[31mweb"),
        ("CNI_PATH", "/nonexistent"),
    ];
    let config = |more: &str| {
        format!(r#"{{"cniVersion": "1.0.0", "name": "n", "type": "sluice"{more}}}"#).into_bytes()
    };
    let addresses = r#"{"address": "10.0.0.1/24"},"#.repeat(30_000);
    let inputs = [
        vec![b' '; 100 << 20],
        "[".repeat(1 << 19).into_bytes(),
        b"\xff\xfe".to_vec(),
        Vec::new(),
        config(&format!(r#", "socket": "{}""#, "x".repeat(1 << 20))),
        config(r#", "socket": "/nonexistent", "timeout": "999999999h""#),
        config(
            r#", "socket": "/dev/zero", "timeout": "10ms", "prevResult": {"cniVersion": "1.0.0", "ips": []}"#,
        ),
        config(&format!(r#", "prevResult": {{"ips": [{}]}}"#, addresses.trim_end_matches(','))),
        config(r#", "name": "twice", "name": "thrice""#),
    ];
    for (at, input) in inputs.iter().enumerate() {
        let (error, taken) = answer(&call, input)?;
        assert!(
            error["code"].is_u64() && error["msg"].as_str().is_some_and(|m| !m.is_empty()),
            "{at}: {error}"
        );
        assert!(error.to_string().len() < 4096, "{at}: {} bytes of words", error.to_string().len());
        assert!(taken < Duration::from_secs(10), "{at}: {taken:?}");
    }
    Ok(())
}
