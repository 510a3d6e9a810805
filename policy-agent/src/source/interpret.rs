//! What an object says, of the kinds that matter here.

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::convert;
use super::fault::Fault;
use super::object::{Kind, Object};
use super::slim;
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
        Kind::Pod => read(value, Unknown::Ignore, |pod: slim::Object<_>| convert::pod(&pod).map(Object::Pod)),
        Kind::Node => read(value, Unknown::Ignore, |node: slim::Object<_>| {
            convert::node(&node).map(|(_, node)| Object::Node(node))
        }),
        Kind::Namespace => read(value, Unknown::Ignore, |namespace: slim::Object<_>| {
            convert::namespace(&namespace).map(|(_, labels)| Object::Namespace(labels))
        }),
        Kind::Service => read(value, Unknown::Ignore, |service: slim::Object<_>| {
            convert::service(&service).map(Object::Service)
        }),
        Kind::EndpointSlice => read(value, Unknown::Ignore, |slice: slim::Object<_>| {
            convert::endpoint_slice(&slice).map(Object::EndpointSlice)
        }),
    }
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
