//! One object of an answer to what the store needs of it.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::super::document::State;
use super::super::fault::{Fault, Problem};
use super::super::interpret::interpret;
use super::super::object::{Kind, Object, ObjectKey, StandIn};
use super::super::{closed, convert, slim};
use super::event::{Departure, Sighting, Version};
use crate::model::ObjectName;

/// The object in `json`, whole or broken. An error is the server's: no object, or one without a name.
pub(super) fn sighting(kind: Kind, json: &str) -> Result<Sighting, String> {
    let (Departure { key, uid, version }, content, faults) = match quick(kind, json) {
        Some((object, about)) => (about, Ok(object), Vec::new()),
        None => {
            let about = about(kind, json)?;
            let (content, faults) = thorough(kind, &about.key, json)?;
            (about, content, faults)
        }
    };
    let object = key.to_string();
    let problems: Vec<Problem> = faults.into_iter().map(|fault| fault.problem("", &object)).collect();
    Ok(Sighting { key, uid, version, content, problems })
}

/// What nearly every object is: whole, and of the few fields that are read.
fn quick(kind: Kind, json: &str) -> Option<(Object, Departure)> {
    let (object, metadata) = match kind {
        Kind::Pod => {
            let pod: slim::Object<slim::Pod> = serde_json::from_str(json).ok()?;
            (Object::Pod(convert::pod(&pod).ok()?), pod.into_inner().metadata)
        }
        Kind::Node => {
            let node: slim::Object<slim::Node> = serde_json::from_str(json).ok()?;
            (Object::Node(convert::node(&node).ok()?.1), node.into_inner().metadata)
        }
        Kind::Namespace => {
            let namespace: slim::Object<slim::Namespace> = serde_json::from_str(json).ok()?;
            (Object::Namespace(convert::namespace(&namespace).ok()?.1), namespace.into_inner().metadata)
        }
        Kind::Service => {
            let service: slim::Object<slim::Service> = serde_json::from_str(json).ok()?;
            (Object::Service(convert::service(&service).ok()?), service.into_inner().metadata)
        }
        Kind::EndpointSlice => {
            let slice: slim::Object<slim::EndpointSlice> = serde_json::from_str(json).ok()?;
            (Object::EndpointSlice(convert::endpoint_slice(&slice).ok()?), slice.into_inner().metadata)
        }
        // Which of its fields nobody knows is only seen on the whole value.
        Kind::NetworkPolicy => return None,
    };
    let slim::Metadata { name, namespace, uid, resource_version, .. } = metadata?.into_inner();
    Some((object, departure(kind, Name { name, namespace, uid, resource_version }).ok()?))
}

type Content = Result<Object, StandIn>;

fn thorough(kind: Kind, key: &ObjectKey, json: &str) -> Result<(Content, Vec<Fault>), String> {
    let mut value: Value = serde_json::from_str(json).map_err(|error| format!("no JSON object: {error}"))?;
    if kind == Kind::NetworkPolicy {
        forget_metadata(&mut value);
    }
    Ok(match interpret(kind, &value) {
        Ok(object) => (Ok(object), Vec::new()),
        Err(faults) => (Err(closed::stand_in(kind, &key.id, &value, State::Whole)), faults),
    })
}

/// A server newer than we are may write metadata that we don't know: that is no misspelt rule.
fn forget_metadata(policy: &mut Value) {
    let Some(metadata) = policy.get_mut("metadata") else { return };
    let names = ["name", "namespace"];
    let kept: Map<String, Value> =
        names.iter().filter_map(|name| Some(((*name).to_owned(), metadata.get(name)?.clone()))).collect();
    *metadata = Value::Object(kept);
}

/// Which object it is, and which version of it.
pub(super) fn about(kind: Kind, json: &str) -> Result<Departure, String> {
    let Named { metadata } = serde_json::from_str(json).map_err(|error| format!("no object: {error}"))?;
    departure(kind, metadata)
}

fn departure(kind: Kind, metadata: Name) -> Result<Departure, String> {
    let name = metadata.name.filter(|name| !name.is_empty()).ok_or("an object without a name")?;
    let namespace = match kind.is_namespaced() {
        true => metadata.namespace.filter(|n| !n.is_empty()).ok_or("an object without a namespace")?,
        false => String::new(),
    };
    let version = Version::parse(metadata.resource_version.as_deref().unwrap_or_default());
    let key = ObjectKey { kind, id: ObjectName::new(namespace, name) };
    Ok(Departure { key, uid: metadata.uid.unwrap_or_default(), version })
}

#[derive(Deserialize)]
struct Named {
    metadata: Name,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Name {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
}
