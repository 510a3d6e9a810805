//! Documents to objects: which of them matter here, what they are called, and what they say.

use std::fmt;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::document::{Document, State};
use super::fault::{Fault, Problem, short_json};
use super::typed::{Unknown, typed};
use super::{closed, convert};
use crate::model::{Labels, ObjectName, Pod, Policy};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Namespace,
    Node,
    Pod,
    NetworkPolicy,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Namespace, Self::Node, Self::Pod, Self::NetworkPolicy];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    const fn api_version(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::Namespace | Self::Node | Self::Pod => "v1",
        }
    }

    const fn is_namespaced(self) -> bool {
        matches!(self, Self::Pod | Self::NetworkPolicy)
    }
}

/// Which object; the namespace of what is in none is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub kind: Kind,
    pub id: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ObjectName { namespace, name } = &self.id;
        match namespace.is_empty() {
            true => write!(f, "{} {name}", self.kind.name()),
            false => write!(f, "{} {namespace}/{name}", self.kind.name()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    Namespace(Labels),
    Node(Vec<IpAddr>),
    Pod(Pod),
    Policy(Policy),
}

/// What stands for a broken object that has no last good version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandIn {
    Policy(Policy),
    /// A pod that is not in the cluster, and where its interfaces may be found.
    Pod(Vec<IpAddr>),
    Nothing,
}

/// An object of a folder, whole or broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub source: String,
    pub key: ObjectKey,
    pub content: Result<Object, StandIn>,
    /// Why it is broken; may be empty where its document already says so.
    pub problems: Vec<Problem>,
}

/// The objects of a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) found: Vec<Found>,
    /// Of objects whose name cannot be told.
    pub(super) problems: Vec<Problem>,
    /// Some object of the document could be any.
    pub(super) unknown: bool,
}

impl Objects {
    pub(super) fn read(document: &Document) -> Self {
        let mut objects = Self { unknown: document.state != State::Whole, ..Self::default() };
        objects.value(&document.value, &document.source, document.state);
        objects
    }

    fn value(&mut self, value: &Value, source: &str, state: State) {
        let Value::Object(map) = value else {
            if !value.is_null() {
                self.stranger(state, source, "", value, "", "must be an object");
            }
            return;
        };
        let (Some(version), Some(kind)) = (text(map, "apiVersion"), text(map, "kind")) else {
            for field in ["apiVersion", "kind"] {
                match map.get(field) {
                    Some(Value::String(text)) if !text.is_empty() => {}
                    None | Some(Value::Null) => {
                        self.stranger(state, source, &describe(map), &Value::Null, field, "is required");
                    }
                    Some(other) => {
                        self.stranger(state, source, &describe(map), other, field, "must be the name of one");
                    }
                }
            }
            return;
        };
        if let Some(items) = list_of(version, kind) {
            return self.list(map, items, source, state);
        }
        match classify(version, kind) {
            Class::Ours(kind) => self.object(kind, value, map, source, state),
            Class::WrongVersion(kind) => self.wrong_version(kind, version, value, map, source, state),
            Class::Misspelt => {
                self.stranger(state, source, &describe(map), &map["kind"], "kind", "is unknown in networking.k8s.io");
            }
            Class::Other => tracing::debug!(source, version, kind, "an object of no matter here"),
        }
    }

    fn list(&mut self, map: &Map<String, Value>, of: Option<Kind>, source: &str, state: State) {
        let items = match map.get("items") {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(other) => return self.stranger(state, source, "", other, "items", "must be a list"),
        };
        for (at, item) in items.iter().enumerate() {
            let source = format!("{source} items[{at}]");
            match (item, of) {
                // The items of a typed list need not say what they are.
                (Value::Object(item), Some(kind)) if !item.contains_key("kind") => {
                    let mut item = item.clone();
                    item.insert("kind".to_owned(), kind.name().into());
                    item.entry("apiVersion").or_insert_with(|| kind.api_version().into());
                    self.value(&Value::Object(item), &source, state);
                }
                (Value::Null, _) => self.stranger(state, &source, "", item, "", "must be an object"),
                _ => self.value(item, &source, state),
            }
        }
    }

    fn object(&mut self, kind: Kind, value: &Value, map: &Map<String, Value>, source: &str, state: State) {
        let Some(key) = key(kind, map, state) else {
            let faults = convert(kind, value).err().unwrap_or_default();
            return self.nameless(kind, value, map, source, state, faults);
        };
        let (content, faults) = match convert(kind, value) {
            Ok(object) if state == State::Whole => (Ok(object), Vec::new()),
            Ok(_) => (Err(stand_in(&key, value, state)), Vec::new()),
            Err(faults) => (Err(stand_in(&key, value, state)), faults),
        };
        let name = key.to_string();
        // What is missing from half a document is no fault of its own.
        let faults = if state == State::Beginning { Vec::new() } else { faults };
        let problems = faults.into_iter().map(|fault| fault.problem(source, &name)).collect();
        self.found.push(Found { source: source.to_owned(), key, content, problems });
    }

    /// A policy without a usable name closes what it selects all the same, if its namespace can be told.
    fn nameless(
        &mut self,
        kind: Kind,
        value: &Value,
        map: &Map<String, Value>,
        source: &str,
        state: State,
        faults: Vec<Fault>,
    ) {
        self.unknown = true;
        let told = if state == State::Beginning { Vec::new() } else { faults };
        self.problems.extend(told.into_iter().map(|fault| fault.problem(source, kind.name())));
        if let (Kind::NetworkPolicy, Some(namespace)) = (kind, namespace(kind, map, state)) {
            // No object can have this name: '#', ' ' and '/' are in none.
            let key = ObjectKey { kind, id: ObjectName::new(namespace, format!("#{source}")) };
            let content = Err(stand_in(&key, value, state));
            self.found.push(Found { source: source.to_owned(), key, content, problems: Vec::new() });
        }
    }

    /// It would not be enforced, and its author thinks that it is.
    fn wrong_version(
        &mut self,
        kind: Kind,
        version: &str,
        value: &Value,
        map: &Map<String, Value>,
        source: &str,
        state: State,
    ) {
        let fault = Fault {
            field: "apiVersion".to_owned(),
            value: short_json(version),
            message: format!("must be {}: this {} is not enforced", kind.api_version(), kind.name()),
        };
        let Some(key) = key(kind, map, state) else {
            return self.nameless(kind, value, map, source, state, vec![fault]);
        };
        let ours = matches!(version.split('/').next(), Some("networking.k8s.io" | "extensions"));
        let policy = kind == Kind::NetworkPolicy;
        // Another project's NetworkPolicy selects in another way: there is nothing to close by.
        let content = if policy && !ours { StandIn::Nothing } else { stand_in(&key, value, state) };
        let problems = vec![fault.problem(source, &key.to_string())];
        self.found.push(Found { source: source.to_owned(), key, content: Err(content), problems });
    }

    fn stranger(&mut self, state: State, source: &str, object: &str, value: &Value, field: &str, message: &str) {
        self.unknown = true;
        if state != State::Beginning {
            let value = if value.is_null() { String::new() } else { short_json(value) };
            let fault = Fault { field: field.to_owned(), value, message: message.to_owned() };
            self.problems.push(fault.problem(source, object));
        }
    }
}

enum Class {
    Ours(Kind),
    WrongVersion(Kind),
    Misspelt,
    Other,
}

fn classify(version: &str, kind: &str) -> Class {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if let Some(ours) = Kind::ALL.into_iter().find(|k| k.name() == kind) {
        return match ours {
            _ if version == ours.api_version() => Class::Ours(ours),
            Kind::NetworkPolicy => Class::WrongVersion(ours),
            // Other groups have kinds of these names that are other things.
            _ if group.is_empty() => Class::WrongVersion(ours),
            _ => Class::Other,
        };
    }
    const NETWORKING: [&str; 4] = ["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"];
    let kind = kind.strip_suffix("List").unwrap_or(kind);
    if group == "networking.k8s.io" && !NETWORKING.contains(&kind) { Class::Misspelt } else { Class::Other }
}

/// Whether it is a list, and of which kind if its type says so.
fn list_of(version: &str, kind: &str) -> Option<Option<Kind>> {
    if kind == "List" && version == "v1" {
        return Some(None);
    }
    let of = kind.strip_suffix("List")?;
    Kind::ALL.into_iter().find(|k| k.name() == of && k.api_version() == version).map(Some)
}

fn text<'v>(map: &'v Map<String, Value>, field: &str) -> Option<&'v str> {
    map.get(field)?.as_str().filter(|text| !text.is_empty())
}

fn metadata<'v>(map: &'v Map<String, Value>, field: &str) -> Option<&'v Value> {
    map.get("metadata")?.get(field).filter(|value| !value.is_null() && value.as_str() != Some(""))
}

fn namespace(kind: Kind, map: &Map<String, Value>, state: State) -> Option<String> {
    if !kind.is_namespaced() {
        return Some(String::new());
    }
    match metadata(map, "namespace") {
        Some(value) => value.as_str().filter(|name| convert::is_dns_label(name)).map(str::to_owned),
        // Where the rest is missing, the namespace may be in it.
        None if state == State::Beginning => None,
        None if map.get("metadata").is_none_or(|m| m.is_object() || m.is_null()) => {
            Some(convert::DEFAULT_NAMESPACE.to_owned())
        }
        None => None,
    }
}

fn key(kind: Kind, map: &Map<String, Value>, state: State) -> Option<ObjectKey> {
    let name = metadata(map, "name")?.as_str().filter(|name| convert::is_dns_subdomain(name))?;
    Some(ObjectKey { kind, id: ObjectName::new(namespace(kind, map, state)?, name) })
}

/// What a reader recognises an object by whose kind isn't known.
fn describe(map: &Map<String, Value>) -> String {
    let kind = text(map, "kind").unwrap_or("object");
    let names = [metadata(map, "namespace"), metadata(map, "name")];
    let name: Vec<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
    let name = name.join("/");
    super::fault::printable(format!("{kind} {name}").trim_end(), usize::MAX)
}

fn stand_in(key: &ObjectKey, value: &Value, state: State) -> StandIn {
    match key.kind {
        Kind::NetworkPolicy => StandIn::Policy(closed::policy(key.id.clone(), value, state)),
        Kind::Pod => StandIn::Pod(closed::pod_addresses(value)),
        Kind::Namespace | Kind::Node => StandIn::Nothing,
    }
}

/// Reads a whole policy strictly, and of the others only what is needed: a pod's volumes are no matter of ours.
fn convert(kind: Kind, value: &Value) -> Result<Object, Vec<Fault>> {
    let meta = ["name", "namespace", "uid", "labels"];
    let head = |value: &Value| -> Value {
        json!({"apiVersion": value["apiVersion"], "kind": value["kind"], "metadata": only(&value["metadata"], &meta)})
    };
    match kind {
        Kind::NetworkPolicy => {
            // Exports of Kubernetes 1.24 to 1.27 carry a status, which says nothing.
            let mut value = value.clone();
            if let Some(map) = value.as_object_mut() {
                map.remove("status");
            }
            read(&value, Unknown::Fault, |typed| convert::policy(&typed).map(Object::Policy))
        }
        Kind::Pod => {
            let mut pruned = head(value);
            pruned["spec"] = only(&value["spec"], &["nodeName", "hostNetwork"]);
            for list in ["containers", "initContainers"] {
                if let (Some(all), true) = (value["spec"].get(list), pruned["spec"].is_object()) {
                    pruned["spec"][list] = each(all, &["ports"]);
                }
            }
            pruned["status"] = only(&value["status"], &["phase", "podIP", "podIPs"]);
            read(&pruned, Unknown::Ignore, |typed| convert::pod(&typed).map(Object::Pod))
        }
        Kind::Node => {
            let mut pruned = head(value);
            pruned["status"] = only(&value["status"], &["addresses"]);
            read(&pruned, Unknown::Ignore, |typed| convert::node(&typed).map(|(_, list)| Object::Node(list)))
        }
        Kind::Namespace => read(&head(value), Unknown::Ignore, |typed| {
            convert::namespace(&typed).map(|(_, labels)| Object::Namespace(labels))
        }),
    }
}

fn read<T: serde::de::DeserializeOwned>(
    value: &Value,
    unknown: Unknown,
    convert: impl FnOnce(T) -> Result<Object, Vec<Fault>>,
) -> Result<Object, Vec<Fault>> {
    let (object, mut faults) = typed::<T>(value, unknown);
    match object.map(convert) {
        Some(Ok(object)) if faults.is_empty() => return Ok(object),
        Some(Err(more)) => faults.extend(more),
        Some(Ok(_)) | None => {}
    }
    Err(faults)
}

/// An object's fields of these names; what is no object stays, for the error that it is.
fn only(value: &Value, fields: &[&str]) -> Value {
    match value {
        Value::Object(map) => fields
            .iter()
            .filter_map(|field| map.get(*field).map(|value| ((*field).to_owned(), value.clone())))
            .collect(),
        other => other.clone(),
    }
}

fn each(value: &Value, fields: &[&str]) -> Value {
    match value {
        Value::Array(items) => items.iter().map(|item| only(item, fields)).collect(),
        other => other.clone(),
    }
}
