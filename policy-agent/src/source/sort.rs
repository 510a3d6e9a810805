//! Documents to objects: which of them matter here, and what they are called.

use serde_json::{Map, Value};

use super::document::{Document, State};
use super::fault::{Fault, Problem, printable, short_json};
use super::interpret::interpret;
use super::object::{Found, Kind, Object, ObjectKey, StandIn};
use super::{closed, convert};
use crate::model::ObjectName;

/// The objects of a document.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) found: Vec<Found>,
    /// Of objects whose name cannot be told.
    pub(super) problems: Vec<Problem>,
    /// Some object of the document could be any.
    pub(super) unknown: bool,
}

/// One object of a document.
#[derive(Clone, Copy)]
struct Item<'a> {
    value: &'a Value,
    map: &'a Map<String, Value>,
    source: &'a str,
    state: State,
}

pub(super) fn objects(document: &Document) -> Objects {
    let mut objects = Objects { unknown: document.state != State::Whole, ..Objects::default() };
    objects.value(&document.value, &document.source, document.state);
    objects
}

impl Objects {
    fn value(&mut self, value: &Value, source: &str, state: State) {
        match value {
            Value::Object(map) => self.item(Item { value, map, source, state }),
            Value::Null => {}
            other => self.stranger(source, state, "", fault("", other, "must be an object")),
        }
    }

    fn item(&mut self, item: Item<'_>) {
        let (Some(version), Some(kind)) = (item.text("apiVersion"), item.text("kind")) else {
            for field in ["apiVersion", "kind"] {
                if item.text(field).is_none() {
                    let value = item.map.get(field).unwrap_or(&Value::Null);
                    let message = if value.is_null() { "is required" } else { "must be text" };
                    self.stranger(item.source, item.state, &item.describe(), fault(field, value, message));
                }
            }
            return;
        };
        if let Some(of) = list_of(version, kind) {
            return self.list(item, of, version);
        }
        match classify(version, kind) {
            Class::Ours(kind) => self.object(kind, item, interpret(kind, item.value), true),
            Class::WrongVersion(kind) => {
                // It would have no effect, and its author thinks that it has.
                let effect = match kind {
                    Kind::Service | Kind::EndpointSlice => "read",
                    Kind::Namespace | Kind::Node | Kind::Pod | Kind::NetworkPolicy => "enforced",
                };
                let message = format!("must be {}: this {} is not {effect}", kind.api_version(), kind.name());
                let faults = vec![fault("apiVersion", &version.into(), message)];
                // Another project's NetworkPolicy selects in another way: there is nothing to close by.
                let same = matches!(version.split('/').next(), Some("networking.k8s.io" | "extensions"));
                self.object(kind, item, Err(faults), same || kind != Kind::NetworkPolicy);
            }
            Class::Misspelt => {
                let fault = fault("kind", &kind.into(), "is no kind of networking.k8s.io");
                self.stranger(item.source, item.state, &item.describe(), fault);
            }
            Class::Other => tracing::debug!(item.source, version, kind, "an object of no matter here"),
        }
    }

    /// The items of a typed list need not say what they are.
    fn list(&mut self, list: Item<'_>, of: Option<Kind>, version: &str) {
        let items = match list.map.get("items") {
            None | Some(Value::Null) => return,
            Some(Value::Array(items)) => items,
            Some(other) => {
                let fault = fault("items", other, "must be a list");
                return self.stranger(list.source, list.state, &list.describe(), fault);
            }
        };
        for (at, item) in items.iter().enumerate() {
            let source = format!("{} items[{at}]", list.source);
            match (item, of) {
                (Value::Object(item), Some(kind)) if !item.contains_key("kind") => {
                    let mut item = item.clone();
                    item.insert("kind".to_owned(), kind.name().into());
                    item.entry("apiVersion").or_insert_with(|| version.into());
                    self.value(&Value::Object(item), &source, list.state);
                }
                (Value::Null, _) => {
                    self.stranger(&source, list.state, "", fault("", item, "must be an object"));
                }
                _ => self.value(item, &source, list.state),
            }
        }
    }

    fn object(&mut self, kind: Kind, item: Item<'_>, said: Result<Object, Vec<Fault>>, closes: bool) {
        let Item { value, source, state, .. } = item;
        let namespace = item.namespace(kind);
        let name = item.metadata("name").and_then(Value::as_str).filter(|n| convert::is_dns_subdomain(n));
        let id = match (namespace, name) {
            (Some(namespace), Some(name)) => Some(ObjectName::new(namespace, name)),
            // A policy without a usable name closes what it selects all the same.
            (Some(namespace), None) if kind == Kind::NetworkPolicy => {
                Some(ObjectName::new(namespace, ObjectKey::stand_in_name(source)))
            }
            _ => None,
        };
        let key = id.map(|id| ObjectKey { kind, id });
        let named = key.as_ref().filter(|key| key.is_named());
        let told = named.map_or_else(|| kind.name().to_owned(), ToString::to_string);
        let named = named.is_some();
        let (object, faults) = match said {
            Ok(object) => (Some(object).filter(|_| named && state == State::Whole), Vec::new()),
            // What is missing from half a document is no fault of its own.
            Err(_) if state == State::Beginning => (None, Vec::new()),
            Err(faults) => (None, faults),
        };
        let problems: Vec<Problem> = faults.into_iter().map(|fault| fault.problem(source, &told)).collect();
        self.unknown |= !named;
        let Some(key) = key else { return self.problems.extend(problems) };
        let content = object.ok_or_else(|| match closes {
            true => closed::stand_in(key.kind, &key.id, value, state),
            false => StandIn::Nothing,
        });
        self.found.push(Found { source: source.to_owned(), key, content, problems });
    }

    fn stranger(&mut self, source: &str, state: State, object: &str, fault: Fault) {
        self.unknown = true;
        if state != State::Beginning {
            self.problems.push(fault.problem(source, object));
        }
    }
}

impl Item<'_> {
    fn text(&self, field: &str) -> Option<&str> {
        self.map.get(field)?.as_str().filter(|text| !text.is_empty())
    }

    fn metadata(&self, field: &str) -> Option<&Value> {
        let value = self.map.get("metadata")?.get(field)?;
        Some(value).filter(|value| !value.is_null() && value.as_str() != Some(""))
    }

    fn namespace(&self, kind: Kind) -> Option<String> {
        if !kind.is_namespaced() {
            return Some(String::new());
        }
        match self.metadata("namespace") {
            Some(value) => value.as_str().filter(|name| convert::is_dns_label(name)).map(str::to_owned),
            // Where the rest is missing, the namespace may be in it.
            None if self.state == State::Beginning => None,
            None => match self.map.get("metadata") {
                None | Some(Value::Null | Value::Object(_)) => Some(convert::DEFAULT_NAMESPACE.to_owned()),
                Some(_) => None,
            },
        }
    }

    /// By what a reader recognises an object that has no key.
    fn describe(&self) -> String {
        let names = [self.metadata("namespace"), self.metadata("name")];
        let name: Vec<&str> = names.into_iter().flatten().filter_map(Value::as_str).collect();
        let text = format!("{} {}", self.text("kind").unwrap_or("object"), name.join("/"));
        printable(text.trim_end(), usize::MAX)
    }
}

fn fault(field: &str, value: &Value, message: impl Into<String>) -> Fault {
    let value = if value.is_null() { String::new() } else { short_json(value) };
    Fault { field: field.to_owned(), value, message: message.into() }
}

enum Class {
    Ours(Kind),
    WrongVersion(Kind),
    Misspelt,
    Other,
}

/// What else is in the group: a kind that isn't is a NetworkPolicy that nobody would miss until it is needed.
const NETWORKING: [&str; 4] = ["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"];

fn classify(version: &str, kind: &str) -> Class {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match Kind::ALL.into_iter().find(|k| k.name() == kind) {
        Some(ours) if version == ours.api_version() => Class::Ours(ours),
        // Other groups have their own Pods, Nodes and Services, which are other things.
        Some(ours) if group.is_empty() || group == ours.group() || ours == Kind::NetworkPolicy => {
            Class::WrongVersion(ours)
        }
        Some(_) => Class::Other,
        None if group != "networking.k8s.io" => Class::Other,
        None if NETWORKING.contains(&kind.strip_suffix("List").unwrap_or(kind)) => Class::Other,
        None => Class::Misspelt,
    }
}

/// Whether it is a list, and of which kind if its type says so.
fn list_of(version: &str, kind: &str) -> Option<Option<Kind>> {
    if kind == "List" && version == "v1" {
        return Some(None);
    }
    let of = kind.strip_suffix("List")?;
    Kind::ALL.into_iter().find(|k| k.name() == of).map(Some)
}
