//! A network configuration list as text: our entry goes in and out, and every other byte stays as it was.

use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::super::PLUGIN;
use super::super::config::format_timeout;
use super::super::version::Version;
use super::Entry;

/// The key of our entry that names the single-plugin file which the list was made from.
const WRAPS: &str = "wraps";

/// Why a configuration cannot take our entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is no JSON that a runtime would read: {0}")]
    Json(String),
    #[error("has no plugins to be chained behind")]
    NoPlugins,
    #[error("plugins[{0}] has no type")]
    NoType(usize),
    #[error("has no name")]
    NoName,
    #[error("cniVersion {0} is none that the plugin speaks ({supported})", supported = Version::names())]
    Version(String),
    #[error(
        "is a list of plugins under the name of a single plugin: runtimes read lists from .conflist files"
    )]
    ListInConf,
    #[error("has no other plugin than ours")]
    OnlyOurs,
}

#[derive(Debug)]
pub(super) struct Conflist<'a> {
    text: &'a str,
    plugins: Vec<Plugin<'a>>,
    /// Why runtimes could not call our plugin with it.
    version: Result<(), Fault>,
}

#[derive(Debug)]
struct Plugin<'a> {
    kind: String,
    raw: &'a str,
    range: Range<usize>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(rename = "cniVersions")]
    versions: Option<Vec<String>>,
    name: Option<String>,
    #[serde(borrow)]
    plugins: Option<&'a RawValue>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl Head<'_> {
    fn parse(text: &str) -> Result<Head<'_>, Fault> {
        serde_json::from_str(text).map_err(json)
    }

    /// Of several versions a runtime takes the highest.
    fn check_version(&self) -> Result<(), Fault> {
        let number = |text: &str| -> Vec<u64> { text.split('.').map(|n| n.parse().unwrap_or(0)).collect() };
        let all = self.version.iter().chain(self.versions.iter().flatten());
        match all.max_by_key(|text| number(text)) {
            Some(text) if Version::parse(text).is_some() => Ok(()),
            Some(text) => Err(Fault::Version(text.clone())),
            None => Err(Fault::Version("(none)".to_owned())),
        }
    }
}

fn json(error: serde_json::Error) -> Fault {
    Fault::Json(error.to_string())
}

impl<'a> Conflist<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Fault> {
        let head = Head::parse(text)?;
        let array = head.plugins.ok_or(Fault::NoPlugins)?;
        let raws: Vec<&'a RawValue> = serde_json::from_str(array.get()).map_err(json)?;
        let mut plugins = Vec::new();
        for (n, raw) in raws.into_iter().enumerate() {
            #[derive(Deserialize)]
            struct Kind {
                #[serde(rename = "type")]
                kind: Option<String>,
            }
            let kind: Kind = serde_json::from_str(raw.get()).map_err(json)?;
            let kind = kind.kind.filter(|kind| !kind.is_empty()).ok_or(Fault::NoType(n))?;
            // A raw value is a piece of the text that it was read from.
            let start = raw.get().as_ptr().addr().wrapping_sub(text.as_ptr().addr());
            plugins.push(Plugin { kind, raw: raw.get(), range: start..start.wrapping_add(raw.get().len()) });
        }
        if plugins.is_empty() {
            return Err(Fault::NoPlugins);
        }
        Ok(Self { text, plugins, version: head.check_version() })
    }

    /// The types of the others, in their order.
    pub(super) fn others(&self) -> Vec<String> {
        self.plugins.iter().filter(|plugin| plugin.kind != PLUGIN).map(|plugin| plugin.kind.clone()).collect()
    }

    pub(super) fn has_ours(&self) -> bool {
        self.plugins.iter().any(|plugin| plugin.kind == PLUGIN)
    }

    /// The file that the list was made from.
    pub(super) fn wraps(&self) -> Option<String> {
        let ours = self.plugins.iter().find(|plugin| plugin.kind == PLUGIN)?;
        let value: Value = serde_json::from_str(ours.raw).ok()?;
        Some(value.get(WRAPS)?.as_str()?.to_owned())
    }

    /// Whether the list is still what [`wrap`] made of `original`, whatever our own entry says.
    pub(super) fn is_wrapped(&self, original: &str) -> bool {
        let mut others = self.plugins.iter().filter(|plugin| plugin.kind != PLUGIN);
        others.next().is_some_and(|plugin| plugin.raw == original.trim()) && others.next().is_none()
    }

    /// The text with our entry behind the others, once; `None` where it is so already.
    pub(super) fn with(&self, entry: &Entry) -> Result<Option<String>, Fault> {
        self.version.clone()?;
        let mut text = self.text.to_owned();
        let ours: Vec<usize> = self.ours();
        let Some((first, more)) = ours.split_first() else {
            // As the last two are separated, or as the only one is from its bracket.
            let separator = match self.plugins.as_slice() {
                [.., before, last] => self.between(before.range.end, last.range.start).to_owned(),
                [only] => format!(",{}", self.space_before(only.range.start)),
                [] => return Err(Fault::NoPlugins),
            };
            let end = self.plugins.last().map_or(0, |last| last.range.end);
            splice(&mut text, end..end, &format!("{separator}{}", entry.to_json(None)));
            return Ok(Some(text));
        };
        for n in more.iter().rev() {
            splice(&mut text, self.with_separator(*n)?, "");
        }
        let wraps = self.wraps();
        if let Some(plugin) = self.plugins.get(*first) {
            let wanted = entry.to_json(wraps.as_deref());
            let same =
                |a: &str, b: &str| serde_json::from_str::<Value>(a).ok() == serde_json::from_str(b).ok();
            if !same(plugin.raw, &wanted) {
                splice(&mut text, plugin.range.clone(), &wanted);
            }
        }
        Ok(Some(text).filter(|text| text != self.text))
    }

    /// The text without any entry of ours; `None` where there is none.
    pub(super) fn without(&self) -> Result<Option<String>, Fault> {
        let ours = self.ours();
        if ours.is_empty() {
            return Ok(None);
        }
        if ours.len() == self.plugins.len() {
            return Err(Fault::OnlyOurs);
        }
        let mut text = self.text.to_owned();
        // From the back, so that the places of those before stay right. Of entries at the front, each takes the separator
        // behind it.
        for n in ours.into_iter().rev() {
            splice(&mut text, self.with_separator(n)?, "");
        }
        Ok(Some(text))
    }

    fn ours(&self) -> Vec<usize> {
        self.plugins.iter().enumerate().filter(|(_, p)| p.kind == PLUGIN).map(|(n, _)| n).collect()
    }

    /// An entry with the separator that it needs no more: the one before it, and for those before the first of the others
    /// the one behind.
    fn with_separator(&self, n: usize) -> Result<Range<usize>, Fault> {
        let others_before = self.plugins.iter().take(n).any(|plugin| plugin.kind != PLUGIN);
        let range = |n: usize| self.plugins.get(n).map(|plugin| plugin.range.clone());
        let own = range(n).ok_or(Fault::NoPlugins)?;
        if others_before {
            let before = n.checked_sub(1).and_then(range).ok_or(Fault::OnlyOurs)?;
            Ok(before.end..own.end)
        } else {
            let behind = range(n + 1).ok_or(Fault::OnlyOurs)?;
            Ok(own.start..behind.start)
        }
    }

    fn between(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or(",")
    }

    fn space_before(&self, place: usize) -> &'a str {
        let head = self.text.get(..place).unwrap_or_default();
        head.get(head.trim_end().len()..).unwrap_or_default()
    }
}

fn splice(text: &mut String, range: Range<usize>, with: &str) {
    if text.get(range.clone()).is_some() {
        text.replace_range(range, with);
    }
}

/// A list of the one plugin of `text`, the file called `name`, and of ours.
pub(super) fn wrap(text: &str, name: &str, entry: &Entry) -> Result<String, Fault> {
    let head = Head::parse(text)?;
    if head.plugins.is_some() {
        return Err(Fault::ListInConf);
    }
    if head.kind.as_deref().is_none_or(|kind| kind.is_empty() || kind == PLUGIN) {
        return Err(Fault::NoType(0));
    }
    head.check_version()?;
    let network = head.name.filter(|network| !network.is_empty()).ok_or(Fault::NoName)?;
    let quoted = |text: &str| Value::from(text).to_string();
    Ok(format!(
        "{{\n  \"cniVersion\": {},\n  \"name\": {},\n  \"plugins\": [\n    {},\n    {}\n  ]\n}}\n",
        quoted(&head.version.unwrap_or_default()),
        quoted(&network),
        text.trim(),
        entry.to_json(Some(name)),
    ))
}

impl Entry {
    /// On one line, its keys in the order of the documentation.
    pub(super) fn to_json(&self, wraps: Option<&str>) -> String {
        let quoted = |text: &str| Value::from(text).to_string();
        let mut json = format!(
            r#"{{"type": "{PLUGIN}", "socket": {}, "timeout": "{}", "unready": {}"#,
            quoted(&self.socket.to_string_lossy()),
            format_timeout(self.timeout),
            serde_json::to_value(self.unready).unwrap_or_default(),
        );
        if let Some(name) = wraps {
            json += &format!(r#", "{WRAPS}": {}"#, quoted(name));
        }
        json + "}"
    }
}
