//! The file format as it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde::Deserialize;
use serde_json::Value;

use crate::model::Labels;

/// The version of the format that this reader knows.
const VERSION: u32 = 1;

#[derive(Clone, Debug)]
pub struct CasesFile {
    pub worlds: BTreeMap<String, World>,
    pub cases: Vec<Case>,
    /// Cases that say what this reader doesn't know: whoever runs the others must count them as failed.
    pub unreadable: Vec<Unreadable>,
}

/// A case that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Its id, or its place in the file where it has none.
    pub id: String,
    /// The field and what is wrong with it.
    pub error: String,
}

/// The file with its cases still untyped: one that can't be read must not take the others with it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Outline {
    version: u32,
    worlds: BTreeMap<String, World>,
    cases: Vec<Value>,
}

/// What exists before the first step. Pods are keyed `ns/name`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    pub namespaces: BTreeMap<String, Labels>,
    pub nodes: BTreeMap<String, WorldNode>,
    pub pods: BTreeMap<String, WorldPod>,
    #[serde(default)]
    pub serve: Serve,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldNode {
    #[serde(default)]
    pub labels: Labels,
    #[serde(default)]
    pub ips: Vec<IpAddr>,
}

/// A pod, or in a `pod` action the fields of it to set.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldPod {
    pub labels: Option<Labels>,
    pub node: Option<String>,
    pub ips: Option<Vec<IpAddr>>,
    #[serde(rename = "hostNetwork")]
    pub host_network: Option<bool>,
    pub ports: Option<Vec<Served>>,
    pub phase: Option<String>,
}

/// The ports on which every pod listens that has no list of its own; they are its container ports as well.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serve {
    #[serde(default)]
    pub pods: Vec<Served>,
    #[serde(default, rename = "hostNetwork")]
    pub host_network: Vec<Served>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    /// Empty: unnamed.
    #[serde(default)]
    pub name: String,
    #[serde(alias = "protocol")]
    pub proto: String,
    #[serde(alias = "containerPort")]
    pub port: u16,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    pub id: String,
    pub suite: String,
    pub title: String,
    #[serde(default)]
    pub src: String,
    pub world: String,
    /// Just these pods of the world exist.
    pub only_pods: Option<Vec<String>>,
    #[serde(default)]
    pub tags: Vec<String>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(default, rename = "do")]
    pub actions: Vec<Action>,
    #[serde(default)]
    pub grids: Vec<Grid>,
    #[serde(default)]
    pub probes: Vec<Probe>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grid {
    pub pp: Vec<String>,
    pub grid: String,
    pub pods: Option<Vec<String>>,
    pub via: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Probe {
    pub from: String,
    pub to: String,
    pub pp: String,
    pub want: String,
    pub oracle: Option<bool>,
    pub kind: Option<String>,
    pub via: Option<String>,
    pub src_ip: Option<IpAddr>,
    /// What the format's description does not name; such a probe may mean more than its known fields say.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Value")]
pub enum Action {
    Policy {
        ns: String,
        name: String,
        spec: NetworkPolicySpec,
    },
    DeletePolicy {
        ns: String,
        name: String,
    },
    ClusterPolicy {
        name: String,
        spec: Value,
    },
    DeleteClusterPolicy {
        name: String,
    },
    Namespace {
        name: String,
        labels: Labels,
    },
    DeleteNamespace {
        name: String,
    },
    Pod {
        ns: String,
        name: String,
        set: WorldPod,
    },
    DeletePod {
        ns: String,
        name: String,
    },
    Node {
        name: String,
        labels: Labels,
    },
    /// restart_agent, open, note: an instruction in words.
    Words {
        verb: String,
        text: Value,
    },
}

impl CasesFile {
    pub fn read(path: &Path) -> Result<CasesFile> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        CasesFile::parse(&text).with_context(|| format!("parsing {}", path.display()))
    }

    /// Fails where the file as a whole can't be read; single cases that can't are in `unreadable`.
    pub fn parse(text: &str) -> Result<CasesFile> {
        // Cases are read untyped first, and there a namespace called `y` must not become `true`.
        let options = serde_saphyr::options! { strict_booleans: true };
        let outline: Outline = serde_saphyr::from_str_with_options(text, options)?;
        ensure!(
            outline.version == VERSION,
            "version: {}: this reader knows version {VERSION}",
            outline.version
        );
        let mut file = CasesFile { worlds: outline.worlds, cases: Vec::new(), unreadable: Vec::new() };
        let mut ids = BTreeSet::new();
        for (index, case) in outline.cases.into_iter().enumerate() {
            let id = case.get("id").and_then(Value::as_str);
            let id = id.map_or_else(|| format!("cases[{index}]"), str::to_owned);
            match serde_path_to_error::deserialize::<_, Case>(case) {
                Ok(_) if !ids.insert(id.clone()) => {
                    file.unreadable.push(Unreadable { error: format!("id: {id}: another case has it"), id });
                }
                Ok(case) => file.cases.push(case),
                Err(error) => file.unreadable.push(Unreadable { id, error: error.to_string() }),
            }
        }
        Ok(file)
    }
}

/// An action is a map of one verb to its object, or a bare verb.
impl TryFrom<Value> for Action {
    type Error = String;

    fn try_from(action: Value) -> Result<Action, String> {
        let (verb, body) = match action {
            Value::String(verb) => (verb, Value::Null),
            Value::Object(fields) if fields.len() == 1 => {
                fields.into_iter().next().ok_or("an empty action")?
            }
            other => return Err(format!("an action is one verb with its object, not {other}")),
        };
        read_action(&verb, body).map_err(|error| format!("action {verb}: {error:#}"))
    }
}

fn read_action(verb: &str, body: Value) -> Result<Action> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Named {
        ns: Option<String>,
        name: String,
        labels: Option<Labels>,
        spec: Option<Value>,
    }
    if matches!(verb, "restart_agent" | "open" | "note") {
        return Ok(Action::Words { verb: verb.to_owned(), text: body });
    }
    if verb == "pod" {
        let Value::Object(mut fields) = body else {
            bail!("wants a map");
        };
        let ns = serde_json::from_value(fields.remove("ns").context("no ns")?)?;
        let name = serde_json::from_value(fields.remove("name").context("no name")?)?;
        return Ok(Action::Pod { ns, name, set: serde_json::from_value(Value::Object(fields))? });
    }
    let Named { ns, name, labels, spec } = serde_json::from_value(body)?;
    Ok(match verb {
        "np" => Action::Policy {
            ns: ns.context("no ns")?,
            name,
            spec: serde_json::from_value(spec.context("no spec")?)?,
        },
        "del_np" => Action::DeletePolicy { ns: ns.context("no ns")?, name },
        "cnp" => Action::ClusterPolicy { name, spec: spec.context("no spec")? },
        "del_cnp" => Action::DeleteClusterPolicy { name },
        "ns" => Action::Namespace { name, labels: labels.unwrap_or_default() },
        "del_ns" => Action::DeleteNamespace { name },
        "del_pod" => Action::DeletePod { ns: ns.context("no ns")?, name },
        "node" => Action::Node { name, labels: labels.unwrap_or_default() },
        _ => bail!("unknown"),
    })
}
