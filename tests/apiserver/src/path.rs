//! URLs to what they ask for.

use std::collections::BTreeMap;

use crate::resources::Resource;

#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) resource: &'static Resource,
    /// `None`: all namespaces, or of no namespace.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) subresource: String,
}

pub(crate) fn target(segments: &[&str]) -> Option<Target> {
    let (group, rest) = match segments {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, "v1", rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (namespace, rest) = match rest {
        // The namespaces themselves, and what is of them.
        ["namespaces"] | ["namespaces", _] | ["namespaces", _, "status"] => (None, rest),
        ["namespaces", namespace, rest @ ..] => (Some((*namespace).to_owned()), rest),
        rest => (None, rest),
    };
    let (name, rest) = rest.split_first()?;
    let resource = Resource::find(name).filter(|resource| resource.group == group)?;
    let subresource = rest.get(1).copied().unwrap_or_default().to_owned();
    Some(Target { resource, namespace, name: rest.first().map(|name| (*name).to_owned()), subresource })
}

/// A query's parameters. Values that matter here need no decoding beyond `%3A` and its like in tokens, which we don't make.
pub(crate) fn parameters(query: &str) -> BTreeMap<String, String> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
