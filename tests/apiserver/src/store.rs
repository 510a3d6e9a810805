//! The objects, and how they came to be.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::access::{Access, Role};
use crate::faults::Faults;
use crate::resources::Resource;

#[derive(Debug, Default)]
pub(crate) struct Store {
    pub(crate) version: u64,
    /// Versions before this one are forgotten.
    pub(crate) compacted: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    pub(crate) log: Vec<Change>,
    snapshots: HashMap<u64, Snapshot>,
    next_snapshot: u64,
    /// Watches of an earlier one end.
    pub(crate) epoch: u64,
    pub(crate) faults: Faults,
    pub(crate) role: Option<Role>,
    pub(crate) token: Option<String>,
    pub(crate) used: BTreeMap<Access, u64>,
}

/// Resource, namespace, name.
type Key = (&'static str, String, String);

#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) version: u64,
    pub(crate) resource: &'static str,
    pub(crate) event: String,
    pub(crate) object: Arc<Value>,
}

/// A list that is read page by page.
#[derive(Clone, Debug)]
struct Snapshot {
    version: u64,
    items: Arc<[Arc<Value>]>,
}

pub(crate) struct Page {
    pub(crate) version: u64,
    pub(crate) items: Vec<Arc<Value>>,
    pub(crate) next: Option<String>,
    pub(crate) remaining: usize,
}

impl Store {
    pub(crate) fn objects(&self, resource: &str) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.iter().filter(move |((of, ..), _)| *of == resource).map(|(_, object)| object)
    }

    pub(crate) fn get(&self, resource: &'static str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(&(resource, namespace.to_owned(), name.to_owned()))
    }

    pub(crate) fn put(&mut self, mut object: Value) -> Result<u64> {
        let kind = object.get("kind").and_then(Value::as_str).context("an object without a kind")?;
        let resource = Resource::of_kind(kind).with_context(|| format!("no {kind} is served"))?;
        object["apiVersion"] = resource.api_version().into();
        let metadata = object.get_mut("metadata").and_then(Value::as_object_mut).context("no metadata")?;
        let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let namespace = if resource.namespaced { text("namespace") } else { String::new() };
        let key = (resource.name, namespace, text("name"));
        let before = self.objects.get(&key);
        self.version += 1;
        let version = self.version;
        metadata.insert("resourceVersion".to_owned(), version.to_string().into());
        let was = |field: &str| before.and_then(|object| object["metadata"].get(field).cloned());
        let uid = || json!(format!("00000000-0000-4000-8000-{version:012x}"));
        metadata.entry("uid").or_insert_with(|| was("uid").unwrap_or_else(uid));
        let time = || json!("2026-01-01T00:00:00Z");
        metadata.entry("creationTimestamp").or_insert_with(|| was("creationTimestamp").unwrap_or_else(time));
        let event = if before.is_some() { "MODIFIED" } else { "ADDED" };
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        self.log.push(Change { version, resource: resource.name, event: event.to_owned(), object });
        Ok(version)
    }

    pub(crate) fn delete(&mut self, resource: &str, namespace: &str, name: &str) -> Result<u64> {
        let resource = Resource::find(resource).context("no such resource")?.name;
        let key = (resource, namespace.to_owned(), name.to_owned());
        let object = self
            .objects
            .remove(&key)
            .with_context(|| format!("{resource} {namespace}/{name} is not there"))?;
        self.version += 1;
        let version = self.version;
        let mut object = Value::clone(&object);
        object["metadata"]["resourceVersion"] = version.to_string().into();
        self.log.push(Change { version, resource, event: "DELETED".to_owned(), object: Arc::new(object) });
        Ok(version)
    }

    pub(crate) fn inject(&mut self, resource: &str, event: &str, object: Value) -> Result<()> {
        let resource = Resource::find(resource).context("no such resource")?.name;
        let version = self.version;
        self.log.push(Change { version, resource, event: event.to_owned(), object: Arc::new(object) });
        Ok(())
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.version;
        self.snapshots.clear();
    }

    /// A page of a list, or `None` where the token is of a list that is forgotten.
    pub(crate) fn page(
        &mut self,
        resource: &'static str,
        namespace: Option<&str>,
        limit: usize,
        token: Option<&str>,
    ) -> Option<Page> {
        let (id, from) = match token {
            Some(token) => {
                let (id, from) = token.split_once('.')?;
                (id.parse().ok()?, from.parse().ok()?)
            }
            None => {
                let of = self.objects(resource).filter(|object| {
                    namespace.is_none_or(|wanted| object["metadata"]["namespace"].as_str() == Some(wanted))
                });
                let snapshot = Snapshot { version: self.version, items: of.cloned().collect() };
                self.next_snapshot += 1;
                self.snapshots.insert(self.next_snapshot, snapshot);
                (self.next_snapshot, 0)
            }
        };
        let Snapshot { version, items } = self.snapshots.get(&id)?.clone();
        let to = if limit == 0 { items.len() } else { items.len().min(from + limit) };
        let remaining = items.len() - to;
        if remaining == 0 {
            self.snapshots.remove(&id);
        }
        let next = (remaining > 0).then(|| format!("{id}.{to}"));
        Some(Page { version, items: items.get(from..to)?.to_vec(), next, remaining })
    }
}
