//! Who may do what: RBAC rules, and a record of what was done.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// One use of the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Access {
    pub verb: &'static str,
    pub group: String,
    pub resource: String,
    /// Empty for the object itself.
    pub subresource: String,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, group, .. } = self;
        write!(f, "{verb} {} ({})", self.path(), if group.is_empty() { "core" } else { group })
    }
}

impl Access {
    fn path(&self) -> String {
        match self.subresource.is_empty() {
            true => self.resource.clone(),
            false => format!("{}/{}", self.resource, self.subresource),
        }
    }
}

/// The rules of one ClusterRole, or of several.
#[derive(Clone, Debug, Default)]
pub struct Role {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    api_groups: Vec<String>,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    _urls: Vec<String>,
}

#[derive(Deserialize)]
struct ClusterRole {
    kind: String,
    #[serde(default)]
    rules: Vec<Rule>,
}

impl Role {
    /// A ClusterRole's manifest.
    pub fn from_yaml(text: &str) -> Result<Self> {
        let role: ClusterRole = serde_saphyr::from_str(text).context("no ClusterRole")?;
        ensure!(role.kind == "ClusterRole", "a ClusterRole is wanted, not a {}", role.kind);
        Ok(Self { rules: role.rules })
    }

    pub fn grants(&self, access: &Access) -> bool {
        let has = |list: &[String], item: &str| list.iter().any(|entry| entry == item || entry == "*");
        self.rules.iter().any(|rule| {
            has(&rule.api_groups, &access.group)
                && has(&rule.resources, &access.path())
                && has(&rule.verbs, access.verb)
        })
    }
}
