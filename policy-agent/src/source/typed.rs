//! JSON values to typed Kubernetes objects, with every type error and its place.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment, Track};

use super::fault::{Fault, Faults, Field};

/// Each type error costs one more reading.
const MOST_TYPE_ERRORS: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// A field that the type doesn't have is a fault: a misspelt `ingress` would silently open pods.
    Fault,
    Ignore,
}

/// The object where its types are right, and all that is wrong with it.
pub(super) fn typed<T: DeserializeOwned>(value: &Value, unknown: Unknown) -> (Option<T>, Vec<Fault>) {
    let mut faults = Faults::default();
    let mut strangers = Vec::new();
    let mut patched = None;
    let mut result = None;
    for _ in 0..MOST_TYPE_ERRORS {
        let current = patched.as_ref().unwrap_or(value);
        match read::<T>(current, &mut strangers) {
            Ok(object) => {
                result = Some(object);
                break;
            }
            Err((path, message)) => {
                tell(&mut faults, value, &path, message);
                // The next error hides behind this one: go on without the field.
                let mut next = current.clone();
                if !remove(&mut next, &path) {
                    break;
                }
                patched = Some(next);
            }
        }
    }
    if unknown == Unknown::Fault {
        strangers.sort();
        strangers.dedup();
        for path in &strangers {
            tell(&mut faults, value, path, "unknown field".to_owned());
        }
    }
    (result.filter(|_| patched.is_none()), faults.into_list())
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

fn read<T: DeserializeOwned>(
    value: &Value,
    strangers: &mut Vec<Vec<Step>>,
) -> Result<T, (Vec<Step>, String)> {
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let result = serde_ignored::deserialize(tracked, |path| {
        let mut steps = Vec::new();
        ignored_steps(&path, &mut steps);
        strangers.push(steps);
    });
    result.map_err(|error: serde_json::Error| (steps(&track.path()), message(&error)))
}

fn ignored_steps(path: &serde_ignored::Path<'_>, steps: &mut Vec<Step>) {
    use serde_ignored::Path::{Map, NewtypeStruct, NewtypeVariant, Root, Seq, Some};
    match path {
        Root => {}
        Seq { parent, index } => {
            ignored_steps(parent, steps);
            steps.push(Step::Index(*index));
        }
        Map { parent, key } => {
            ignored_steps(parent, steps);
            steps.push(Step::Key(key.clone()));
        }
        Some { parent } | NewtypeStruct { parent } | NewtypeVariant { parent } => {
            ignored_steps(parent, steps)
        }
    }
}

fn steps(path: &Path) -> Vec<Step> {
    path.iter()
        .filter_map(|segment| match segment {
            Segment::Seq { index } => Some(Step::Index(*index)),
            Segment::Map { key } => Some(Step::Key(key.clone())),
            Segment::Enum { .. } | Segment::Unknown => None,
        })
        .collect()
}

/// serde's "invalid type: map, expected a string" in the words of a manifest.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let Some((found, expected)) = text.split_once(", expected ") else { return text };
    let expected = match expected {
        "IntOrString" => "a port number or a port name",
        "i32" | "i64" => "an integer",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with(|c: char| c.is_ascii_uppercase()) => "an object",
        other => other,
    };
    let found = found.strip_prefix("invalid type: ").or_else(|| found.strip_prefix("invalid value: "));
    let found = match found.unwrap_or(text.as_str()) {
        "map" => "an object",
        "sequence" => "a list",
        other => other.split('`').next().unwrap_or(other).split('"').next().unwrap_or(other).trim(),
    };
    // A number out of range is of the right kind.
    if text.starts_with("invalid value: ") {
        return format!("must be {expected}");
    }
    format!("must be {expected}, not {found}")
}

fn tell(faults: &mut Faults, value: &Value, path: &[Step], message: String) {
    let found = path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(at) => value.get(at),
    });
    descend(&Field::Root, path, &mut |at| match found {
        Some(found) => faults.add(at, found, message.clone()),
        None => faults.add_missing(at, message.clone()),
    });
}

/// A `Field` borrows its parents: they stay on the stack.
fn descend(at: &Field<'_>, path: &[Step], then: &mut dyn FnMut(&Field<'_>)) {
    match path.split_first() {
        None => then(at),
        Some((Step::Key(key), rest)) => descend(&at.key(key), rest, then),
        Some((Step::Index(index), rest)) => descend(&at.index(*index), rest, then),
    }
}

/// Takes away the nearest field around a place.
fn remove(value: &mut Value, path: &[Step]) -> bool {
    let Some(at) = path.iter().rposition(|step| matches!(step, Step::Key(_))) else { return false };
    let (parents, rest) = path.split_at(at);
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(at) => value.get_mut(at),
    });
    match (parent, rest.first()) {
        (Some(Value::Object(map)), Some(Step::Key(key))) => map.remove(key).is_some(),
        _ => false,
    }
}
