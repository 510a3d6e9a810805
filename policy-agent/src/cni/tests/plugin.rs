use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::is_plugin_call;
use super::super::protocol::CniReply;
use super::{FakeAgent, RESULT, call, config, error};

fn because() -> String {
    "nothing is known of it".to_owned()
}

fn none() -> Value {
    json!({})
}

const NOBODY: &str = "/nonexistent/agent.sock";

#[test]
fn add_asks_for_the_pod_and_passes_the_result_on_as_it_was_written() {
    let agent = FakeAgent::answering(CniReply::Enforced { generation: 7, waited_ms: 3 });
    let answer = call("ADD", &[], &config(&agent.socket(), &none()));
    assert!(!answer.failed, "{answer:?}");
    assert_eq!(answer.output, format!("{RESULT}\n"));
    assert_eq!(answer.notes, Vec::<String>::new());
    let asked = agent.asked();
    let [request] = asked.as_slice() else { panic!("{asked:?}") };
    let timeout = request["timeout_ms"].as_u64().unwrap();
    assert!((1..=300).contains(&timeout), "{request}");
    let mut request = request.clone();
    request["timeout_ms"] = json!(0);
    assert_eq!(
        request,
        json!({
            "request": "cni",
            "operation": "add",
            "attachment": {
                "container_id": "c0ffee",
                "netns": "/var/run/netns/cni-1234",
                "ifname": "eth0",
                "pod": { "namespace": "dev", "name": "web" },
                "uid": "u-1",
                // Not the bridge's own.
                "addresses": ["10.244.1.2", "fd00:10:244:1::2"],
            },
            "timeout_ms": 0,
            "unready": "closed",
        })
    );
}

#[test]
fn a_pod_starts_as_the_agent_says_and_whoever_reads_the_log_learns_why() {
    let cases =
        [(CniReply::Closed { reason: because() }, "closed"), (CniReply::Open { reason: because() }, "open")];
    for (reply, word) in cases {
        let agent = FakeAgent::answering(reply);
        let answer = call("ADD", &[], &config(&agent.socket(), &none()));
        assert!(!answer.failed && answer.output.contains("10.244.1.2"), "{answer:?}");
        assert_eq!(answer.notes, [format!("pod dev/web starts {word}: {}", because())]);
    }
}

#[test]
fn without_an_agent_that_can_do_it_add_is_to_be_tried_again_unless_open_is_configured() {
    let agents = [
        FakeAgent::answering(CniReply::Missing { reason: because() }),
        FakeAgent::answering(CniReply::NotReady { reason: because() }),
        FakeAgent::answering(CniReply::Ready),
        FakeAgent::saying(|_| Some("{\"error\": \"unknown variant `cni`\"}\n".to_owned())),
        FakeAgent::saying(|_| Some("hello\n".to_owned())),
        FakeAgent::saying(|_| None),
    ];
    let sockets = agents.iter().map(FakeAgent::socket).chain([Path::new(NOBODY).to_owned()]);
    for socket in sockets {
        let closed = call("ADD", &[], &config(&socket, &none()));
        let (code, words) = error(&closed);
        assert_eq!(code, 11, "{words}");
        assert!(words.contains("dev/web"), "{words}");
        let open = call("ADD", &[], &config(&socket, &json!({ "unready": "open" })));
        assert!(!open.failed, "{open:?}");
        assert_eq!(open.output, format!("{RESULT}\n"));
        assert!(open.notes.iter().any(|note| note.contains("dev/web starts OPEN")), "{open:?}");
    }
}

#[test]
fn an_agent_that_restarts_is_waited_for() {
    let agent = FakeAgent::saying(|n| {
        (n >= 2).then(|| "{\"reply\":\"enforced\",\"generation\":1,\"waited_ms\":1}\n".to_owned())
    });
    let answer = call("ADD", &[], &config(&agent.socket(), &none()));
    assert!(!answer.failed, "{answer:?}");
    assert_eq!(agent.asked().len(), 3);
}

#[test]
fn an_agent_that_never_answers_is_given_up() {
    let agent = FakeAgent::saying(|_| {
        std::thread::sleep(Duration::from_secs(4));
        None
    });
    let started = Instant::now();
    let answer = call("ADD", &[], &config(&agent.socket(), &none()));
    let (code, words) = error(&answer);
    assert_eq!((code, words.contains("no answer within")), (11, true), "{words}");
    assert!(started.elapsed() < Duration::from_millis(3500), "{:?}", started.elapsed());
}

#[test]
fn what_is_no_pod_passes_through_and_asks_nobody() {
    let input = config(Path::new(NOBODY), &none());
    for arguments in ["", "IgnoreUnknown=1", "FOO=BAR;"] {
        let answer = call("ADD", &[("CNI_ARGS", arguments)], &input);
        assert_eq!((answer.failed, answer.output), (false, format!("{RESULT}\n")));
        let answer = call("CHECK", &[("CNI_ARGS", arguments)], &input);
        assert_eq!((answer.failed, answer.output), (false, String::new()));
    }
}

#[test]
fn the_environment_is_checked() {
    let agent = FakeAgent::answering(CniReply::Enforced { generation: 1, waited_ms: 0 });
    let input = config(&agent.socket(), &none());
    let wrong = [
        ("CNI_COMMAND", "add"),
        ("CNI_COMMAND", ""),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "../x"),
        ("CNI_CONTAINERID", "-x"),
        ("CNI_CONTAINERID", "a b"),
        ("CNI_IFNAME", ""),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "a:b"),
        ("CNI_IFNAME", "a b"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_NETNS", ""),
        ("CNI_NETNS", "relative/path"),
        ("CNI_ARGS", "K8S_POD_NAME"),
        ("CNI_ARGS", "K8S_POD_NAME=web"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=dev"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=;K8S_POD_NAME=web"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a/b;K8S_POD_NAME=web"),
    ];
    for (name, value) in wrong {
        let answer = call("ADD", &[(name, value)], &input);
        let (code, words) = error(&answer);
        assert_eq!(code, 4, "{name}={value}: {words}");
        assert!(words.starts_with(name), "{name}={value}: {words}");
    }
    assert_eq!(agent.asked(), Vec::<Value>::new());
}

#[test]
fn the_configuration_is_checked() {
    let socket = Path::new(NOBODY);
    let wrong = [
        (json!({ "timeout": 5 }), "timeout"),
        (json!({ "timeout": "5" }), "timeout"),
        (json!({ "timeout": "-5s" }), "timeout"),
        (json!({ "timeout": "1h" }), "timeout"),
        (json!({ "timeout": "61s" }), "timeout"),
        (json!({ "timeout": "99999999999999999999s" }), "timeout"),
        (json!({ "timeout": "18446744073709551615m" }), "timeout"),
        (json!({ "unready": "ajar" }), "unready"),
        (json!({ "socket": "agent.sock" }), "socket"),
        (json!({ "socket": format!("/{}", "x".repeat(200)) }), "socket"),
        (json!({ "socket": 1 }), "socket"),
    ];
    for (more, key) in wrong {
        let answer = call("ADD", &[], &config(socket, &more));
        let (code, words) = error(&answer);
        assert_eq!(code, 7, "{more}: {words}");
        assert!(words.starts_with(key), "{more}: {words}");
    }
}

#[test]
fn input_that_is_no_configuration_is_said_to_be_none() {
    for input in ["", "{", "[]", "null", "\"text\"", "\u{feff}{}"] {
        let (code, _) = error(&call("ADD", &[], input.as_bytes()));
        assert_eq!(code, 6, "{input:?}");
    }
    let (code, words) = error(&call("ADD", &[], &vec![b' '; (1 << 20) + 1]));
    assert_eq!((code, words.contains("more than 1048576 bytes")), (6, true), "{words}");
}

#[test]
fn a_previous_result_is_needed_and_its_addresses_must_be_some() {
    let results = [
        "",
        ",\"prevResult\": null",
        ",\"prevResult\": 5",
        ",\"prevResult\": {\"ips\": [{\"address\": \"x\"}]}",
    ];
    for result in results {
        for command in ["ADD", "CHECK"] {
            let input = format!(
                "{{\"cniVersion\": \"1.0.0\", \"type\": \"sluice\", \"socket\": \"{NOBODY}\"{result}}}"
            );
            let (code, words) = error(&call(command, &[], input.as_bytes()));
            assert_eq!(code, 7, "{command} {input}: {words}");
            assert!(words.starts_with("prevResult"), "{words}");
        }
    }
}

#[test]
fn versions_are_told_and_kept_to() {
    for spoken in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let answer = call("VERSION", &[], format!("{{\"cniVersion\": \"{spoken}\"}}").as_bytes());
        let told: Value = serde_json::from_str(&answer.output).unwrap();
        let supported = json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
        assert_eq!(told, json!({ "cniVersion": spoken, "supportedVersions": supported }));
    }
    for refused in ["0.2.0", "2.0.0", "", "1.1"] {
        let input = config(Path::new(NOBODY), &json!({ "cniVersion": refused }));
        for command in ["ADD", "CHECK", "DEL", "GC", "STATUS"] {
            let (code, words) = error(&call(command, &[], &input));
            assert_eq!((code, words.contains("0.3.1, 0.4.0")), (1, true), "{words}");
        }
    }
    for (command, spoken) in [("CHECK", "0.3.1"), ("GC", "1.0.0"), ("STATUS", "1.0.0")] {
        let input = config(Path::new(NOBODY), &json!({ "cniVersion": spoken }));
        let answer = call(command, &[], &input);
        assert_eq!(error(&answer).0, 1, "{command} {spoken}");
        // An error is in the version that the runtime speaks.
        let told: Value = serde_json::from_str(&answer.output).unwrap();
        assert_eq!(told["cniVersion"], spoken);
    }
}

#[test]
fn check_tells_whether_policy_is_in_force() {
    let good = [
        CniReply::Enforced { generation: 1, waited_ms: 0 },
        CniReply::Closed { reason: because() },
        CniReply::Open { reason: because() },
    ];
    for reply in good {
        let agent = FakeAgent::answering(reply);
        let answer = call("CHECK", &[], &config(&agent.socket(), &none()));
        assert_eq!((answer.failed, answer.output), (false, String::new()));
        assert_eq!(agent.asked()[0]["operation"], "check");
        assert_eq!(agent.asked()[0]["addresses"], json!(["10.244.1.2", "fd00:10:244:1::2"]));
    }
    for (reply, code) in
        [(CniReply::Missing { reason: because() }, 100), (CniReply::NotReady { reason: because() }, 11)]
    {
        let agent = FakeAgent::answering(reply);
        let (told, words) = error(&call("CHECK", &[], &config(&agent.socket(), &none())));
        assert_eq!((told, words.contains(&because())), (code, true), "{words}");
    }
    let (code, words) = error(&call("CHECK", &[], &config(Path::new(NOBODY), &none())));
    assert_eq!((code, words.contains(NOBODY)), (11, true), "{words}");
}

#[test]
fn del_and_gc_tell_the_agent_and_never_fail_for_want_of_one() {
    let agent = FakeAgent::answering(CniReply::Done);
    // DEL may lack what is gone already: namespace, pod, result.
    let input = format!("{{\"cniVersion\": \"0.3.1\", \"socket\": {}}}", json!(agent.socket()));
    let answer = call("DEL", &[("CNI_NETNS", ""), ("CNI_ARGS", "")], input.as_bytes());
    assert_eq!((answer.failed, answer.output.as_str(), answer.notes.len()), (false, "", 0));
    let valid = json!({ "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }] });
    let answer = call("GC", &[], &config(&agent.socket(), &valid));
    assert_eq!((answer.failed, answer.output.as_str(), answer.notes.len()), (false, "", 0));
    assert_eq!(
        agent.asked(),
        [
            json!({ "request": "cni", "operation": "delete", "container_id": "c0ffee", "ifname": "eth0" }),
            json!({ "request": "cni", "operation": "gc", "valid": [{ "container_id": "c1", "ifname": "eth0" }] }),
        ]
    );
    let started = Instant::now();
    for (command, more) in [("DEL", none()), ("GC", valid)] {
        let answer = call(command, &[], &config(Path::new(NOBODY), &more));
        assert!(!answer.failed, "{answer:?}");
        assert!(answer.notes[0].contains(NOBODY), "{answer:?}");
    }
    assert!(started.elapsed() < Duration::from_millis(500), "nobody waits for an agent to forget something");
}

#[test]
fn gc_without_a_list_would_remove_everything_and_is_refused() {
    let agent = FakeAgent::answering(CniReply::Done);
    for more in [none(), json!({ "cni.dev/valid-attachments": [{ "ifname": "eth0" }] })] {
        let (code, words) = error(&call("GC", &[], &config(&agent.socket(), &more)));
        assert_eq!((code, words.contains("cni.dev/valid-attachments")), (7, true), "{words}");
    }
    assert_eq!(agent.asked(), Vec::<Value>::new());
}

#[test]
fn status_says_whether_pods_can_be_added() {
    let agent = FakeAgent::answering(CniReply::Ready);
    let answer = call("STATUS", &[], &config(&agent.socket(), &none()));
    assert_eq!((answer.failed, answer.output.as_str()), (false, ""));
    let agent = FakeAgent::answering(CniReply::NotReady { reason: because() });
    for socket in [agent.socket(), NOBODY.into()] {
        assert_eq!(error(&call("STATUS", &[], &config(&socket, &none()))).0, 50);
        let open = call("STATUS", &[], &config(&socket, &json!({ "unready": "open" })));
        assert!(!open.failed && !open.notes.is_empty(), "{open:?}");
    }
}

#[test]
fn a_program_called_sluice_is_the_plugin() {
    let call = |words: &[&str]| is_plugin_call(words.iter().map(std::ffi::OsString::from));
    assert!(call(&["/opt/cni/bin/sluice"]));
    assert!(call(&["sluice"]));
    assert!(call(&["policy-agent", "cni"]));
    assert!(!call(&[]));
    assert!(!call(&["policy-agent"]));
    assert!(!call(&["sluice", "--help"]));
    assert!(!call(&["sluice", "cni", "uninstall"]));
    assert!(!call(&["policy-agent", "cni", "install"]));
}
