//! Label selectors (SEMANTICS rows 2 and 3), in a canonical form: equal selectors are equal values.

use std::collections::BTreeSet;

use super::Labels;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    In { key: String, values: BTreeSet<String> },
    NotIn { key: String, values: BTreeSet<String> },
    Exists { key: String },
    DoesNotExist { key: String },
}

impl Requirement {
    pub fn matches(&self, labels: &Labels) -> bool {
        match self {
            Self::In { key, values } => labels.get(key).is_some_and(|v| values.contains(v)),
            Self::NotIn { key, values } => labels.get(key).is_none_or(|v| !values.contains(v)),
            Self::Exists { key } => labels.contains_key(key),
            Self::DoesNotExist { key } => !labels.contains_key(key),
        }
    }
}

/// All requirements must hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    requirements: BTreeSet<Requirement>,
}

impl Selector {
    pub fn everything() -> Self {
        Self::default()
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl FromIterator<Requirement> for Selector {
    fn from_iter<I: IntoIterator<Item = Requirement>>(requirements: I) -> Self {
        Self { requirements: requirements.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn values(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|v| (*v).to_owned()).collect()
    }

    #[test]
    fn operators_on_absent_present_and_empty_labels() {
        let key = || "app".to_owned();
        // (requirement, absent, app=web, app="")
        let table = [
            (Requirement::In { key: key(), values: values(&["web"]) }, false, true, false),
            (Requirement::In { key: key(), values: values(&[""]) }, false, false, true),
            (Requirement::NotIn { key: key(), values: values(&["web"]) }, true, false, true),
            (Requirement::Exists { key: key() }, false, true, true),
            (Requirement::DoesNotExist { key: key() }, true, false, false),
        ];
        for (requirement, absent, web, empty) in table {
            assert_eq!(requirement.matches(&labels(&[("other", "x")])), absent, "{requirement:?} absent");
            assert_eq!(requirement.matches(&labels(&[("app", "web")])), web, "{requirement:?} web");
            assert_eq!(requirement.matches(&labels(&[("app", "")])), empty, "{requirement:?} empty");
        }
    }

    #[test]
    fn requirements_are_anded_and_none_selects_everything() {
        let both: Selector = [
            Requirement::Exists { key: "a".into() },
            Requirement::In { key: "b".into(), values: values(&["1", "2"]) },
        ]
        .into_iter()
        .collect();
        assert!(both.matches(&labels(&[("a", ""), ("b", "2")])));
        assert!(!both.matches(&labels(&[("a", "")])));
        assert!(Selector::everything().matches(&Labels::new()));
    }
}
