//! Configuration, logs and the look at the node, by the agent's binary and the loaded programs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use policy_agent::coexistence::programs;
use policy_agent::datapath::bpf::{AttachMode, BpfDatapath};
use policy_agent::endpoints::interface_name;
use policy_agent::plan::Capacity;
use serde_json::{Value, json};
use sluice_netns::{NodeSpec, PodSpec, World, WorldBuilder};
use sluice_tests::agent_world::{Lab, agent_binary};
use sluice_tests::kernel::Bpffs;

/// The agent with nothing but `environment` of its options in the environment.
fn agent(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
    let mut command = Command::new(agent_binary()?);
    command.args(arguments).env_clear().envs(environment.iter().copied());
    Ok(command.output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Value and origin of one option.
fn effective(option: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<(Value, Value)> {
    let output = agent(&[&["config", "print", "--output", "json"], arguments].concat(), environment)?;
    ensure!(output.status.success(), "{}", text(&output.stderr));
    let printed: Value = serde_json::from_slice(&output.stdout)?;
    let options = printed["options"].as_array().context("no options")?;
    let found = options.iter().find(|o| o["name"] == option).context("no such option")?;
    Ok((found["value"].clone(), found["origin"].clone()))
}

/// What the agent says of arguments that it refuses.
fn refused(arguments: &[&str], environment: &[(&str, &str)]) -> Result<String> {
    let output = agent(arguments, environment)?;
    let told = text(&output.stderr);
    ensure!(!output.status.success() && output.stdout.is_empty(), "{arguments:?} is taken: {told}");
    Ok(told)
}

#[test]
fn a_flag_goes_before_the_environment_before_the_file_before_the_default() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.yaml");
    fs::write(&path, "table-peers: 4096\nlog: debug\nevents: off\n")?;
    let file = path.to_str().context("UTF-8")?;
    let default = |option| effective(option, &[], &[]);
    assert_eq!(default("table-peers")?, (json!("auto"), json!({"kind": "default"})));
    assert_eq!(default("node")?, (Value::Null, json!({"kind": "default"})));
    let from_file = json!({"kind": "file", "name": file});
    for option in [("table-peers", "4096"), ("log", "debug"), ("events", "off")] {
        let named = effective(option.0, &["--config", file], &[])?;
        assert_eq!(named, (json!(option.1), from_file.clone()));
        assert_eq!(effective(option.0, &[], &[("SLUICE_CONFIG", file)])?, named, "{option:?}");
    }
    let environment = [
        ("SLUICE_CONFIG", file),
        ("SLUICE_TABLE_PEERS", "8192"),
        ("SLUICE_LOG", "warn"),
        ("SLUICE_EVENTS", "on"),
    ];
    for (option, variable, value) in [
        ("table-peers", "SLUICE_TABLE_PEERS", "8192"),
        ("log", "SLUICE_LOG", "warn"),
        ("events", "SLUICE_EVENTS", "on"),
    ] {
        let origin = json!({"kind": "environment", "name": variable});
        assert_eq!(effective(option, &[], &environment)?, (json!(value), origin));
    }
    let flags = ["--table-peers", "16384", "--log=error", "--events", "off"];
    for (option, value) in [("table-peers", "16384"), ("log", "error"), ("events", "off")] {
        let origin = json!({"kind": "flag", "name": format!("--{option}")});
        assert_eq!(effective(option, &flags, &environment)?, (json!(value), origin));
    }
    // What is the default in words is no default in origin.
    let said = effective("events", &["--events", "on"], &[])?;
    assert_eq!(said, (json!("on"), json!({"kind": "flag", "name": "--events"})));
    let table = text(&agent(&["config", "print", "--node", "n1"], &[("SLUICE_LOG", "info")])?.stdout);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        vec!["OPTION", "VALUE", "FROM"],
        vec!["node", "n1", "flag", "--node"],
        vec!["log", "info", "environment", "variable", "SLUICE_LOG"],
        vec!["manifests", "-", "default"],
    ] {
        assert!(rows.contains(&row), "{row:?} in {table}");
    }
    Ok(())
}

#[test]
fn kubectls_variable_counts_where_nothing_else_names_a_source() -> Result<()> {
    let variable = [("KUBECONFIG", "/k")];
    let origin = json!({"kind": "environment", "name": "KUBECONFIG"});
    assert_eq!(effective("kubeconfig", &[], &variable)?, (json!("/k"), origin));
    assert_eq!(effective("kubeconfig", &["--manifests", "/m"], &variable)?.0, Value::Null);
    assert_eq!(effective("kubeconfig", &["--kubeconfig", "/own"], &variable)?.0, "/own");
    assert_eq!(effective("kubeconfig", &[], &[("KUBECONFIG", "")])?.0, Value::Null);
    let told = refused(&["run", "--manifests", "/m"], &[("SLUICE_KUBECONFIG", "/k")])?;
    assert!(told.contains("manifests (flag --manifests)"), "{told}");
    assert!(told.contains("kubeconfig (environment variable SLUICE_KUBECONFIG)"), "{told}");
    Ok(())
}

#[test]
fn what_is_wrong_is_named_with_where_it_was_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.yaml");
    let file = path.to_str().context("UTF-8")?;
    for subcommand in [&["run"][..], &["config", "print"]] {
        fs::write(&path, "node: a\nmetrics-adress: ':9878'\n")?;
        let told = refused(&[subcommand, &["--config", file]].concat(), &[])?;
        let expected =
            "line 2, column 1: unknown key \"metrics-adress\"; the nearest known one is \"metrics-address\"";
        assert!(told.contains(&format!("{file}: {expected}")), "{told}");
        let told = refused(&[subcommand, &["--config", "/nowhere.yaml"]].concat(), &[])?;
        assert!(told.contains("/nowhere.yaml: "), "{told}");
        for (variable, value) in [
            ("SLUICE_HEALTH_ADDRESS", "localhost"),
            ("SLUICE_TABLE_FLOW_SETS", "1000"),
            ("SLUICE_NODE", ""),
            ("SLUICE_ATTACH", "xdp"),
            ("SLUICE_CNI_TIMEOUT", "forever"),
            ("SLUICE_LOG", "loud"),
        ] {
            let told = refused(subcommand, &[(variable, value)])?;
            let expected = format!("environment variable {variable}: {value:?}: ");
            assert!(told.contains(&expected), "{told}");
        }
        let told = refused(&[subcommand, &["--metrics-address", "9878"]].concat(), &[])?;
        assert!(told.contains("--metrics-address") && told.contains("ADDRESS:PORT"), "{told}");
    }
    Ok(())
}

#[test]
fn a_file_is_checked_to_its_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("config.yaml");
    let file = path.to_str().context("UTF-8")?;
    fs::write(&path, "node: worker\nhealth-address: ':9879'\n")?;
    let output = agent(&["config", "check", file], &[])?;
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert_eq!(text(&output.stdout), format!("{file}: 2 options, nothing wrong\n"));
    fs::write(&path, "nod: worker\ntable-rows: 5\nevents: sometimes\n")?;
    let told = refused(&["config", "check", file], &[])?;
    let places: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix(file)).collect();
    assert_eq!(places.len(), 3, "{told}");
    for (told, place) in
        places.iter().zip([": line 1, column 1: ", ": line 2, column 13: ", ": line 3, column 9: "])
    {
        assert!(told.starts_with(place), "{told}");
    }
    Ok(())
}

#[test]
fn pages_of_the_documentation_are_those_of_this_binary() -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for page in ["configuration", "metrics"] {
        let printed = text(&agent(&["reference", page], &[])?.stdout);
        assert!(printed == fs::read_to_string(docs.join(format!("{page}.md")))?, "docs/{page}.md is stale");
    }
    Ok(())
}

fn hamlet() -> WorldBuilder {
    World::builder("slops")
        .node(NodeSpec::new("node1"))
        .pod(PodSpec::new("dev", "web", "node1").serve_tcp(80))
        .pod(PodSpec::new("dev", "client", "node1"))
}

#[test]
fn a_log_of_json_has_one_object_a_line_with_fields_that_stay() -> Result<()> {
    let lab = Lab::start_with(hamlet(), &["--log-format", "json"])?;
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    let log = lab.agents[0].log();
    let lines: Vec<Value> =
        log.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(|| log.clone())?;
    assert!(!lines.is_empty());
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    Ok(())
}

/// An agent that cannot start ends its log as it would have gone on.
#[test]
fn the_last_words_are_an_object_too() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (socket, plain) = (folder.path().join("agent.sock"), folder.path().join("pins"));
    let (socket, plain) = (socket.to_string_lossy(), plain.to_string_lossy());
    let arguments =
        ["run", "--manifests", "/m", "--socket", &socket, "--bpffs", &plain, "--log-format", "json"];
    let told = refused(&arguments, &[])?;
    let last: Value =
        serde_json::from_str(told.lines().last().unwrap_or_default()).with_context(|| told.clone())?;
    assert_eq!(last["level"], "ERROR", "{last}");
    assert!(last["message"].as_str().is_some_and(|m| m.contains("not on a BPF file system")), "{last}");
    Ok(())
}

#[test]
fn what_a_running_agent_logs_can_be_changed() -> Result<()> {
    let lab = Lab::start(hamlet())?;
    let socket = lab.agents[0].socket();
    let log_level = |arguments: &[&str]| -> Result<(String, String, Option<i32>)> {
        let output = Command::new(&lab.binary)
            .arg("log-level")
            .args(arguments)
            .arg("--socket")
            .arg(&socket)
            .output()?;
        Ok((text(&output.stdout), text(&output.stderr), output.status.code()))
    };
    assert_eq!(log_level(&[])?, ("info\n".to_owned(), String::new(), Some(0)));
    let dropped = "dropped ingress of dev/web";
    lab.apply("dev/deny", "podSelector: {}, policyTypes: [Ingress]")?;
    lab.expect("dev/client dev/web tcp/80 hangs");
    assert!(!lab.agents[0].log().contains(dropped));
    assert_eq!(log_level(&["policy_agent=debug,warn"])?.2, Some(0));
    let (now, _, _) = log_level(&[])?;
    assert!(now.contains("policy_agent=debug") && now.contains("warn"), "{now}");
    // Dropped packets are told at that level; and no colours in a file.
    lab.expect("dev/client dev/web tcp/80 hangs");
    let log = lab.agents[0].log();
    assert!(log.contains("what is logged changes") && log.contains(dropped), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
    let (_, told, code) = log_level(&["loud"])?;
    assert!(told.contains("\"loud\" is no level") && code == Some(2), "{told}");
    // A client of another make is refused by the agent itself.
    let answer = ask(&socket, "{\"request\": \"log-level\", \"filter\": \"loud\"}\n")?;
    assert!(answer["error"].as_str().is_some_and(|error| error.contains("\"loud\"")), "{answer}");
    assert_eq!(log_level(&[])?.0, now, "what is refused changes nothing");
    Ok(())
}

fn ask(socket: &Path, line: &str) -> Result<Value> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

#[test]
fn programs_of_others_are_seen_and_our_own_are_not_among_them() {
    for mode in [AttachMode::Tcx, AttachMode::Clsact] {
        sluice_tests::namespace::with_interfaces(2, |pool| {
            let names: Vec<String> = pool.iter().filter_map(|index| interface_name(*index)).collect();
            let pins = Bpffs::new("coexistence");
            let mut kernel = BpfDatapath::load(pins.path(), &Capacity::default(), mode)?;
            let nothing = BTreeSet::new();
            let seen = |ours: &BTreeSet<u32>| programs(&names, ours).map_err(anyhow::Error::msg);
            assert_eq!(seen(&nothing)?, []);
            kernel.attach(pool[0], &names[0])?;
            let ours = kernel.program_ids()?;
            assert_eq!(ours.len(), 2);
            // To somebody who is not us, ours are another's.
            let foreign = seen(&nothing)?;
            let told: BTreeSet<(&str, &str, &str)> =
                foreign.iter().map(|p| (p.interface.as_str(), p.hook, p.name.as_str())).collect();
            let expected = [("ingress", "from_pod"), ("egress", "to_pod")];
            assert_eq!(told, expected.map(|(hook, name)| (names[0].as_str(), hook, name)).into(), "{mode:?}");
            assert_eq!(foreign.iter().map(|p| p.id).collect::<BTreeSet<_>>(), ours, "{mode:?}");
            assert_eq!(seen(&ours)?, [], "{mode:?}");
            Ok(())
        })
        .unwrap();
    }
}
