//! The agent's command line and control socket, as a person or a script meets them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_netns::{ALLOW_TIMEOUT, NodeSpec, Outcome, PodSpec, UdpConn, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, agent_binary, shell};

fn village() -> WorldBuilder {
    let pod = |namespace, name, node| {
        PodSpec::new(namespace, name, node).serve_tcp(80).serve_udp(5300).label("app", name).port(
            Some("http"),
            80,
            "TCP",
        )
    };
    World::builder("slcli")
        .node(NodeSpec::new("node1"))
        .pod(pod("dev", "web", "node1"))
        .pod(pod("prod", "web", "node1"))
}

/// Standard output, standard error and the exit status.
fn told(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// Asks the lab's agent over its socket.
fn ask(lab: &Lab, arguments: &[&str]) -> Result<(String, String, Option<i32>)> {
    let output =
        Command::new(&lab.binary).args(arguments).arg("--socket").arg(lab.agents[0].socket()).output()?;
    Ok(told(&output))
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().map(|object| object.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn status_as_json_has_the_documented_shape() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.apply("dev/also", "podSelector: {}, policyTypes: [Ingress], ingress: [{}]")?;
    let (out, err, code) = ask(&lab, &["status", "--output", "json"])?;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let mut status: Value = serde_json::from_str(&out)?;
    assert!(status["generation"].as_u64().is_some_and(|generation| generation > 0), "{out}");
    status["generation"] = json!(1);
    let memory = status.as_object_mut().and_then(|status| status.remove("table_memory"));
    assert!(memory.as_ref().and_then(Value::as_u64).is_some_and(|bytes| bytes > 0), "{out}");
    let tables = status.as_object_mut().and_then(|status| status.remove("tables"));
    for table in tables.as_ref().and_then(Value::as_array).context("no tables")? {
        assert_eq!(keys(table), BTreeSet::from(["bytes", "capacity", "full", "table", "used"]));
    }
    let interface = |pod: &str| Ok::<_, anyhow::Error>(lab.world.pod(pod)?.host_interface.clone());
    assert_eq!(
        status,
        json!({
            "synced": true,
            "generation": 1,
            "endpoints": [
                {"pod": "dev/web", "interface": interface("dev/web")?, "state": "enforcing",
                 "ingress_isolated": true, "egress_isolated": false, "policies": ["dev/also", "dev/deny"]},
                {"pod": "prod/web", "interface": interface("prod/web")?, "state": "enforcing",
                 "ingress_isolated": false, "egress_isolated": false, "policies": []},
            ],
            "errors": [],
        })
    );
    lab.apply("dev/also", "podSelector: {}, policyTypes: [ingress]")?;
    let (out, _, code) = ask(&lab, &["status", "-o", "json"])?;
    let status: Value = serde_json::from_str(&out)?;
    assert_eq!(
        (status["errors"].as_array().map(Vec::len), &status["synced"]),
        (Some(1), &json!(true)),
        "{out}"
    );
    assert_eq!(code, Some(0), "what is wrong is no failure of asking");
    assert_eq!(ask(&lab, &["status", "--check"])?.2, Some(1));
    Ok(())
}

#[test]
fn status_as_text_is_a_table_with_the_errors_below() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.apply("prod/bad", "podSelector: {}, policyTypes: [egress]")?;
    let (out, err, code) = ask(&lab, &["status"])?;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    let generation = lines[0].get(1).context("no generation")?.trim_end_matches(',');
    assert!(lines[0].first() == Some(&"generation") && generation.parse::<u64>().is_ok(), "{out}");
    assert_eq!(lines[0].last(), Some(&"synced"), "{out}");
    assert_eq!(lines[1], ["POD", "INTERFACE", "STATE", "INGRESS", "EGRESS", "POLICIES"]);
    let interface = &lab.world.pod("dev/web")?.host_interface;
    assert_eq!(lines[2], ["dev/web", interface, "enforcing", "isolated", "open", "dev/deny"]);
    let error = out.lines().last().unwrap_or_default();
    assert!(error.starts_with("error: policy-prod-bad.yaml: NetworkPolicy prod/bad:"), "{out}");
    assert!(!out.contains('\u{1b}'), "colours in a pipe: {out:?}");
    Ok(())
}

#[test]
fn sync_prints_the_generation_which_grows_with_changes_alone() -> Result<()> {
    let lab = Lab::start(village())?;
    let sync = |arguments: &[&str]| -> Result<u64> {
        let (out, err, code) = ask(&lab, arguments)?;
        ensure!(err.is_empty() && code == Some(0), "{out} {err} {code:?}");
        Ok(out.trim_end().parse()?)
    };
    let first = sync(&["sync"])?;
    assert_eq!(sync(&["sync", "--timeout", "500ms"])?, first, "nothing has changed");
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    assert!(sync(&["sync", "--timeout", "2"])? > first);
    let (out, _, _) = ask(&lab, &["sync", "--output", "json"])?;
    let json: Value = serde_json::from_str(&out)?;
    assert_eq!(keys(&json), BTreeSet::from(["generation", "synced"]));
    // Bad input is named, and is no failure: everything else is enforced.
    lab.manifests.write("bad.yaml", "kind: [\n")?;
    let (out, err, code) = ask(&lab, &["sync"])?;
    assert!(
        out.trim_end().parse::<u64>().is_ok() && err.contains("bad.yaml") && code == Some(0),
        "{out} {err}"
    );
    let (_, err, code) = ask(&lab, &["sync", "--timeout", "soon"])?;
    assert!(err.contains("--timeout") && code == Some(2), "{err}");
    Ok(())
}

#[test]
fn without_an_agent_sync_and_status_fail_in_time_and_say_so() -> Result<()> {
    let binary = agent_binary()?;
    let folder = tempfile::tempdir()?;
    let run = |socket: &Path, arguments: &[&str]| -> Result<(String, Duration)> {
        let began = Instant::now();
        let output = Command::new(&binary).args(arguments).arg("--socket").arg(socket).output()?;
        let (out, err, code) = told(&output);
        ensure!(out.is_empty() && code == Some(1), "{out} {err} {code:?}");
        Ok((err, began.elapsed()))
    };
    let nobody = folder.path().join("agent.sock");
    let (err, took) = run(&nobody, &["sync", "--timeout", "300ms"])?;
    assert!(err.contains("agent.sock") && err.contains("no agent is running"), "{err}");
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(2), "{took:?}");
    let (err, _) = run(&nobody, &["status"])?;
    assert!(err.contains("no agent is running"), "{err}");
    // The socket of an agent that was killed.
    drop(UnixListener::bind(&nobody)?);
    let (err, _) = run(&nobody, &["sync", "--timeout", "200ms"])?;
    assert!(err.contains("agent.sock") && err.contains("200ms"), "{err}");
    // Something that listens and never answers.
    let silent = folder.path().join("silent.sock");
    let _listener = UnixListener::bind(&silent)?;
    let (err, took) = run(&silent, &["sync", "--timeout", "300ms"])?;
    assert!(err.contains("no answer within 300ms") && took < Duration::from_secs(2), "{err} {took:?}");
    Ok(())
}

#[test]
fn sync_waits_for_an_agent_that_is_still_starting() -> Result<()> {
    let mut lab = Lab::start(village())?;
    lab.agent().kill()?;
    let socket = lab.agent().socket();
    let waiting = Command::new(&lab.binary)
        .args(["sync", "--timeout", "10s", "--socket"])
        .arg(socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    lab.agent().restart()?;
    let (out, err, code) = told(&waiting.wait_with_output()?);
    assert!(out.trim_end().parse::<u64>().is_ok_and(|n| n > 0) && code == Some(0), "{out} {err}");
    Ok(())
}

#[test]
fn the_socket_is_roots_alone_and_garbage_does_it_no_harm() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    let socket = lab.agents[0].socket();
    assert_eq!(fs::metadata(&socket)?.permissions().mode() & 0o7777, 0o600);
    let noise: Vec<u8> = (0..1_u32 << 20).map(|n| u8::try_from(n % 4099 % 256).unwrap_or_default()).collect();
    let messages: [&[u8]; 9] = [
        b"",
        b"\n",
        b"hello\n",
        b"{\"request\":\"destroy\"}\n",
        b"{\"request\":7}\n",
        b"{\"request\":\"sync\"",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        b"\xff\xfe\x00\x00\n",
        &noise,
    ];
    for message in messages {
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        // It may hang up before it has read everything.
        let _ = stream.write_all(message);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    // Some who ask nothing and don't go, and some who don't wait for their answer.
    let idle: Vec<UnixStream> = (0..16).map(|_| UnixStream::connect(&socket)).collect::<Result<_, _>>()?;
    for _ in 0..100 {
        UnixStream::connect(&socket)?.write_all(b"{\"request\":\"status\"}\n")?;
    }
    lab.apply("prod/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    assert_eq!(ask(&lab, &["status", "--check"])?.2, Some(0));
    lab.expect("prod/web dev/web tcp/80 hangs\ndev/web prod/web tcp/80 hangs");
    drop(idle);
    // A good question gets its answer in one line, whoever asks.
    let mut stream = UnixStream::connect(&socket)?;
    stream.write_all(b"{\"request\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let reply: Value = serde_json::from_str(&line)?;
    assert_eq!(reply["status"]["synced"], true, "{line}");
    Ok(())
}

/// `explain` with the lab's manifests.
fn explain(lab: &Lab, arguments: &[&str]) -> Result<(String, String, Option<i32>)> {
    let mut command = Command::new(&lab.binary);
    command.arg("explain").arg("--manifests").arg(lab.manifests.path()).args(arguments);
    Ok(told(&command.output()?))
}

fn question<'a>(from: &'a str, to: &'a str, port: &'a str) -> [&'a str; 6] {
    ["--from", from, "--to", to, "--port", port]
}

#[test]
fn explain_names_the_policy_and_the_rule() -> Result<()> {
    let lab = Lab::without_agents(village())?;
    lab.apply("dev/allow", "podSelector: {}, ingress: [{ports: [{port: 443}]}, {ports: [{port: http}]}]")?;
    lab.apply("prod/out", "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}]")?;
    let (out, err, code) =
        explain(&lab, &[&question("prod/web", "dev/web", "80/TCP")[..], &["--output", "json"]].concat())?;
    assert_eq!((err.as_str(), code), ("", Some(0)));
    let answer: Value = serde_json::from_str(&out)?;
    assert_eq!(keys(&answer), BTreeSet::from(["verdict", "egress", "ingress"]));
    for (side, policy, rule) in [("egress", "prod/out", "egress[0]"), ("ingress", "dev/allow", "ingress[1]")]
    {
        let side = &answer[side];
        assert_eq!(keys(side), BTreeSet::from(["verdict", "policy", "rule", "reason"]));
        assert_eq!(
            (&side["verdict"], &side["policy"], &side["rule"]),
            (&json!("allow"), &json!(policy), &json!(rule))
        );
    }
    assert_eq!(answer["verdict"], "allow");
    // Port, family and who asks: each as people write it.
    let address = lab.world.pod("dev/web")?.ipv6.to_string();
    for (port, to, verdict) in [
        ("http/TCP", "dev/web", "allow"),
        ("80", "dev/web", "allow"),
        ("80/tcp", address.as_str(), "allow"),
        ("81/TCP", "dev/web", "deny"),
        ("80/UDP", "dev/web", "deny"),
        ("443/TCP", "dev/web", "deny"),
        ("ICMP", "dev/web", "deny"),
        ("80/TCP", "203.0.113.1", "allow"),
    ] {
        let (out, err, code) = explain(&lab, &question("prod/web", to, port))?;
        assert_eq!((out.lines().next(), code), (Some(verdict), Some(0)), "{port}: {out} {err}");
    }
    let (out, _, _) = explain(&lab, &question("203.0.113.1", "dev/web", "81/TCP"))?;
    assert!(out.contains("dev/allow"), "who isolates it is named: {out}");
    // The pod's own node is told by who sends, not by an address that anybody could bear.
    for (from, verdict) in [("node:node1", "allow"), ("192.0.2.1", "deny")] {
        let (out, err, _) = explain(&lab, &question(from, "dev/web", "81/TCP"))?;
        assert_eq!(out.lines().next(), Some(verdict), "{from}: {out} {err}");
    }
    Ok(())
}

#[test]
fn explain_says_what_it_does_not_understand() -> Result<()> {
    let lab = Lab::without_agents(village())?;
    for (from, to, port, word) in [
        ("dev/nobody", "dev/web", "80/TCP", "dev/nobody"),
        ("node:nowhere", "dev/web", "80/TCP", "no node nowhere"),
        ("web", "dev/web", "80/TCP", "web"),
        ("dev/web", "prod/web", "80/SMTP", "80/SMTP"),
        ("dev/web", "prod/web", "70000/TCP", "70000"),
        ("dev/web", "prod/web", "smtp/TCP", "smtp"),
        ("10.0.0.1", "fd00::1", "80/TCP", "famil"),
    ] {
        let (out, err, code) = explain(&lab, &question(from, to, port))?;
        assert!(
            out.is_empty() && err.contains(word) && code.is_some_and(|code| code != 0),
            "{word}: {out} {err} {code:?}"
        );
    }
    let (_, err, code) = explain(&lab, &["--from", "dev/web"])?;
    assert!(err.contains("--to") && code == Some(2), "{err}");
    let missing = Command::new(&lab.binary)
        .args(["explain", "--manifests", "/nowhere/at/all"])
        .args(question("10.0.0.1", "10.0.0.2", "80/TCP"))
        .output()?;
    let (_, err, _) = told(&missing);
    assert!(err.contains("/nowhere/at/all"), "{err}");
    Ok(())
}

#[test]
fn a_batch_of_questions_gets_one_answer_a_line() -> Result<()> {
    let lab = Lab::without_agents(village())?;
    lab.apply("dev/allow", "podSelector: {}, ingress: [{ports: [{port: 80}]}]")?;
    let mut child = Command::new(&lab.binary)
        .args(["explain", "--batch", "--manifests"])
        .arg(lab.manifests.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no standard input")?;
    let mut answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let mut next = |line: &str| -> Result<Value> {
        // Whoever waits for each answer gets it.
        writeln!(input, "{line}")?;
        Ok(serde_json::from_str(&answers.next().context("no answer")??)?)
    };
    let allow = next(r#"{"from": "prod/web", "to": "dev/web", "port": 80, "protocol": "TCP"}"#)?;
    assert_eq!((&allow["verdict"], &allow["ingress"]["policy"]), (&json!("allow"), &json!("dev/allow")));
    assert_eq!(keys(&allow), BTreeSet::from(["verdict", "egress", "ingress"]));
    let deny = next(r#"{"from": "10.9.9.9", "to": "dev/web", "port": 81, "protocol": "TCP"}"#)?;
    assert_eq!(deny["verdict"], "deny");
    assert_eq!(next(r#"{"from": "prod/web", "to": "dev/web", "protocol": "ICMP"}"#)?["verdict"], "deny");
    for bad in ["nonsense", "{}", r#"{"from": "no/pod", "to": "dev/web", "port": 80, "protocol": "TCP"}"#] {
        let answer = next(bad)?;
        assert_eq!(keys(&answer), BTreeSet::from(["error"]), "{bad}: {answer}");
    }
    assert_eq!(
        next(r#"{"from": "dev/web", "to": "prod/web", "port": 1, "protocol": "UDP"}"#)?["verdict"],
        "allow"
    );
    drop(input);
    assert_eq!(child.wait()?.code(), Some(1), "questions that were none make it fail at the end");
    Ok(())
}

/// Field names that the dump of each map must show, where it has entries.
const MAP_FIELDS: &[(&str, &[&str])] = &[
    ("SLOTS", &["slot_plus_one"]),
    ("SLOTS_HIGH", &[]),
    ("ENDPOINTS", &["ifindex", "slot", "v4", "v6", "watch"]),
    ("SETS", &["egress", "ingress"]),
    ("PEERS4", &["addr", "class"]),
    ("PEERS6", &["addr", "class"]),
    ("CIDRS4", &["prefix_len", "addr", "class"]),
    ("CIDRS6", &["prefix_len", "addr", "class"]),
    ("INDEX4", &["class"]),
    ("PORTS", &["class"]),
    ("ROWS", &["word"]),
    ("BITS", &[]),
    ("FLOWS", &["entries", "remote", "remote_port", "local_port", "opener", "state", "seen", "until"]),
    ("FLOW_SEED", &[]),
    ("FLOW_SHAPE", &["set", "head", "entry", "remote", "opener", "until"]),
    // Of pods with the annotation alone: tests/tests/sources.rs looks into it.
    ("SOURCES", &[]),
    ("VIPS", &[]),
    ("SERVICES", &["address", "addr", "port", "protocol", "family", "first", "count"]),
    ("BACKENDS", &["address", "addr", "port"]),
    ("TRANSLATIONS", &["remote", "remote_port", "tracked", "address", "port", "flags", "seen"]),
    ("DATAGRAMS", &["remote", "remote_port", "tracked", "address", "port", "flags", "seen"]),
    ("TRANSLATES", &["set"]),
    ("COUNTS", &["packets", "bytes"]),
    ("SETTINGS", &["ticks_per_second", "events_per_tick", "flow_mask", "flow_seed"]),
    ("SCRATCH", &["src", "dst"]),
    ("EVENT_BUDGET", &["tick", "sent", "suppressed"]),
];

#[test]
fn a_dump_of_every_pinned_map_shows_named_fields() -> Result<()> {
    let lab = Lab::start(village())?;
    lab.apply(
        "dev/deny",
        "podSelector: {}, policyTypes: [Ingress, Egress], egress: [{}],
         ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8::/32'}}], ports: [{port: 80}]}]",
    )?;
    lab.expect("prod/web dev/web tcp/80 hangs");
    // Flows that need an entry each, and fragments.
    let ns = lab.ns("dev/web")?;
    let mut kept = Vec::new();
    for (tcp, udp) in lab.sockets("prod/web", 80)?.into_iter().zip(lab.sockets("prod/web", 5300)?) {
        let mut conn = UdpConn::open(&ns, udp)?;
        assert_eq!(conn.echo(ALLOW_TIMEOUT), Outcome::Open);
        kept.push((lab.connect("dev/web", tcp)?, conn));
    }
    shell(&ns, &format!("ping -c 1 -W 2 -s 3000 {}", lab.world.pod("prod/web")?.ipv4))?;
    // A Service: the agent translates by itself.
    let server = lab.world.pod("prod/web")?.ipv4;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "prod", "name": "web"},
        "spec": {
            "clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"],
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "http", "port": 8080, "protocol": "TCP"},
            ],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "prod", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "endpoints": [{"addresses": [server], "conditions": {"ready": true}}],
        "ports": [
            {"name": "dns", "port": 5300, "protocol": "UDP"},
            {"name": "http", "port": 80, "protocol": "TCP"},
        ],
    });
    lab.manifests.write("service.json", &service.to_string())?;
    lab.manifests.write("slice.json", &slice.to_string())?;
    lab.sync()?;
    assert_eq!(UdpConn::open(&ns, "10.96.0.10:53".parse()?)?.echo(ALLOW_TIMEOUT), Outcome::Open);
    kept.push((
        lab.connect("dev/web", "10.96.0.10:8080".parse()?)?,
        UdpConn::open(&ns, "10.96.0.10:53".parse()?)?,
    ));
    let bpffs = lab.world.node("node1")?.bpffs();
    let mut seen = BTreeSet::new();
    for folder in ["v1/maps", "v1/kept", "flows-v1"] {
        for entry in fs::read_dir(bpffs.join(folder))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name == "EVENTS" {
                continue;
            }
            let (_, fields) = MAP_FIELDS
                .iter()
                .find(|(known, _)| *known == name)
                .with_context(|| format!("{name} is no map that this test knows"))?;
            let dump = beginning_of_dump(&path)?;
            for field in *fields {
                ensure!(dump.contains(&format!("\"{field}\":")), "{name} shows no {field}: {dump:.600}");
            }
            seen.insert(name);
        }
    }
    let all: BTreeSet<String> = MAP_FIELDS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(seen, all, "pinned maps");
    Ok(())
}

/// Enough of it: the larger arrays have a million entries.
fn beginning_of_dump(pin: &Path) -> Result<String> {
    let mut child = Command::new("bpftool")
        .args(["map", "dump", "pinned"])
        .arg(pin)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run bpftool")?;
    let mut text = Vec::new();
    child.stdout.take().context("no standard output")?.take(64 << 10).read_to_end(&mut text)?;
    child.kill()?;
    child.wait()?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn run_refuses_what_it_cannot_use() -> Result<()> {
    let lab = Lab::without_agents(village())?;
    let folder = tempfile::tempdir()?;
    let node = lab.world.node("node1")?;
    let run = |extra: &[&str]| -> Result<(String, Option<i32>)> {
        let mut command = Command::new(&lab.binary);
        command.args(["run", "--manifests"]).arg(lab.manifests.path()).args(extra);
        let (_, err, code) = told(&node.ns().output(&mut command)?);
        Ok((err, code))
    };
    let socket = folder.path().join("agent.sock");
    let (socket, plain) = (socket.to_string_lossy().into_owned(), folder.path().join("pins"));
    let (err, code) = run(&["--socket", &socket, "--bpffs", &plain.to_string_lossy()])?;
    assert!(err.contains("not on a BPF file system") && code == Some(1), "{err}");
    let file = folder.path().join("file");
    fs::write(&file, "precious")?;
    let bpffs = node.bpffs().display().to_string();
    let (err, code) = run(&["--socket", &file.to_string_lossy(), "--bpffs", &bpffs])?;
    assert!(err.contains("no socket") && code == Some(1), "{err}");
    assert_eq!(fs::read_to_string(&file)?, "precious");
    let (err, code) = run(&["--attach", "sideways"])?;
    assert!(err.contains("sideways") && code == Some(2), "{err}");
    Ok(())
}
