//! What an object says, of the kinds that matter here.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::convert;
use super::fault::Fault;
use super::object::{Kind, Object};
use super::typed::{Unknown, typed};

/// Reads a whole policy strictly, and of the others only what is needed: a pod's volumes are no matter of ours.
pub(super) fn interpret(kind: Kind, value: &Value) -> Result<Object, Vec<Fault>> {
    match kind {
        Kind::NetworkPolicy => {
            // Exports of Kubernetes 1.24 to 1.27 carry a status, which says nothing.
            let mut value = Cow::Borrowed(value);
            if value.get("status").is_some()
                && let Some(map) = value.to_mut().as_object_mut()
            {
                map.remove("status");
            }
            read(&value, Unknown::Fault, |typed| convert::policy(&typed).map(Object::Policy))
        }
        Kind::Pod => {
            let spec = value.get("spec").map(|spec| {
                let mut spec = only(spec, &["nodeName", "hostNetwork", "containers", "initContainers"]);
                for list in ["containers", "initContainers"] {
                    if let Some(containers) = spec.get_mut(list) {
                        *containers = each(containers, &["ports"]);
                    }
                }
                spec
            });
            let status = value.get("status").map(|status| only(status, &["phase", "podIP", "podIPs"]));
            read(&pruned(value, spec, status), Unknown::Ignore, |typed| convert::pod(&typed).map(Object::Pod))
        }
        Kind::Node => {
            let status = value.get("status").map(|status| only(status, &["addresses"]));
            read(&pruned(value, None, status), Unknown::Ignore, |typed| {
                convert::node(&typed).map(|(_, addresses)| Object::Node(addresses))
            })
        }
        Kind::Namespace => read(&pruned(value, None, None), Unknown::Ignore, |typed| {
            convert::namespace(&typed).map(|(_, labels)| Object::Namespace(labels))
        }),
    }
}

fn pruned(value: &Value, spec: Option<Value>, status: Option<Value>) -> Value {
    let metadata =
        value.get("metadata").map(|m| only(m, &["name", "namespace", "uid", "labels", "annotations"]));
    let field = |name: &str| value.get(name).cloned();
    let fields = [
        ("apiVersion", field("apiVersion")),
        ("kind", field("kind")),
        ("metadata", metadata),
        ("spec", spec),
        ("status", status),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn read<T: DeserializeOwned>(
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
