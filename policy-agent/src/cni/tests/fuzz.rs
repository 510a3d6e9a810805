//! No input panics, takes long, or gets an answer that a runtime cannot read.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::config::Input;
use super::super::plugin::answer;
use super::config;

const NOBODY: &str = "/nonexistent/agent.sock";
const COMMANDS: [&str; 8] = ["ADD", "CHECK", "DEL", "GC", "STATUS", "VERSION", "NONSENSE", ""];
const KEYS: [&str; 9] = [
    "cniVersion",
    "socket",
    "timeout",
    "unready",
    "prevResult",
    "cni.dev/valid-attachments",
    "type",
    "runtimeConfig",
    "interfaces",
];

/// Whether the plugin would ask nobody: a socket or a time that came out of chance may be somebody's, or long.
fn asks_nobody(input: &[u8]) -> bool {
    let settings = Input::parse(input).and_then(|input| input.settings());
    settings.map_or(true, |s| s.timeout.is_zero() && s.socket == Path::new(NOBODY))
}

fn check(variables: &[(String, OsString)], input: &[u8]) -> Result<(), TestCaseError> {
    let variable = |name: &str| variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    let answer = answer(variable, input);
    if answer.failed {
        let object: Value = serde_json::from_str(&answer.output)
            .map_err(|error| TestCaseError::fail(format!("{error}: {}", answer.output)))?;
        let code = object["code"].as_u64().unwrap_or(0);
        prop_assert!([1, 4, 5, 6, 7, 11, 50, 100].contains(&code), "{}", object);
        prop_assert!(object["msg"].as_str().is_some_and(|words| !words.is_empty()), "{}", object);
    } else if !answer.output.is_empty() {
        prop_assert!(serde_json::from_str::<Value>(&answer.output).is_ok(), "{}", answer.output);
    }
    Ok(())
}

fn bytes() -> impl Strategy<Value = OsString> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(OsString::from_vec),
        "[A-Za-z0-9_=;./-]{0,40}".prop_map(OsString::from),
        Just("K8S_POD_NAMESPACE=dev;K8S_POD_NAME=web".into()),
        Just("/var/run/netns/x".into()),
        Just("eth0".into()),
    ]
}

fn environment() -> impl Strategy<Value = Vec<(String, OsString)>> {
    let command = proptest::sample::select(COMMANDS.as_slice());
    (command, bytes(), bytes(), bytes(), bytes()).prop_map(|(command, id, netns, ifname, args)| {
        let all = [("CNI_COMMAND", command.into()), ("CNI_CONTAINERID", id), ("CNI_NETNS", netns)];
        let more = [("CNI_IFNAME", ifname), ("CNI_ARGS", args)];
        all.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value)).collect()
    })
}

/// An environment that gets past its own checks.
fn good() -> Vec<(String, OsString)> {
    let mut all: Vec<(String, OsString)> =
        super::VARIABLES.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    all.push(("CNI_COMMAND".to_owned(), "ADD".into()));
    all
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        proptest::sample::select(["1.0.0", "1.1.0", "0ms", "open", "/x", "10.0.0.1/8", "::1/128"].as_slice())
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = proptest::sample::select(
            ["ips", "interfaces", "address", "interface", "sandbox", "containerID"].as_slice(),
        );
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..4)
                .prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_bytes(environment in environment(), input in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&environment, &input)?;
        check(&good(), &input)?;
    }

    #[test]
    fn any_configuration(
        environment in environment(),
        all in proptest::collection::vec((proptest::sample::select(KEYS.as_slice()), value()), 0..6),
    ) {
        let mut object = json!({ "cniVersion": "1.1.0", "timeout": "0ms", "socket": NOBODY });
        for (key, value) in all {
            object[key] = value;
        }
        let input = object.to_string();
        prop_assume!(asks_nobody(input.as_bytes()));
        check(&environment, input.as_bytes())?;
        check(&good(), input.as_bytes())?;
    }

    #[test]
    fn a_configuration_with_a_wrong_byte(place in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut input = config(Path::new(NOBODY), &json!({ "timeout": "0ms" }));
        let n = place.index(input.len());
        if cut { input.truncate(n) } else { input[n] = byte }
        prop_assume!(asks_nobody(&input));
        check(&good(), &input)?;
    }
}
