//! Label selectors (SEMANTICS rows 2 and 3), in a canonical form: equal selectors are equal values.

use std::sync::Arc;

use super::Labels;

/// Sorted, each once. A tree of strings takes 300 bytes for one value, and clusters have ten thousands of selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Values(Box<[Box<str>]>);

impl Values {
    pub fn contains(&self, value: &str) -> bool {
        self.0.binary_search_by(|own| (**own).cmp(value)).is_ok()
    }
}

impl FromIterator<String> for Values {
    fn from_iter<I: IntoIterator<Item = String>>(values: I) -> Self {
        let mut values: Vec<Box<str>> = values.into_iter().map(String::into_boxed_str).collect();
        values.sort_unstable();
        values.dedup();
        Self(values.into())
    }
}

impl<const N: usize> From<[String; N]> for Values {
    fn from(values: [String; N]) -> Self {
        values.into_iter().collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Requirement {
    In { key: String, values: Values },
    NotIn { key: String, values: Values },
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
    /// Sorted, each once; shared, because the compiler keeps selectors of its own.
    requirements: Arc<[Requirement]>,
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
        let mut requirements: Vec<Requirement> = requirements.into_iter().collect();
        requirements.sort_unstable();
        requirements.dedup();
        Self { requirements: requirements.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn values(list: &[&str]) -> Values {
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
