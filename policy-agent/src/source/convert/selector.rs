//! Label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::super::fault::{Faults, Field};
use super::{check_labels, names};
use crate::model::{Requirement, Selector};

/// All of `matchLabels` and all of `matchExpressions` (SEMANTICS rows 2 and 3).
pub fn selector(typed: &LabelSelector, at: &Field<'_>, faults: &mut Faults) -> Selector {
    let labels = typed.match_labels.iter().flatten();
    if let Some(labels) = &typed.match_labels {
        check_labels(labels, &at.key("matchLabels"), faults);
    }
    let expressions = typed.match_expressions.iter().flatten().enumerate();
    let place = at.key("matchExpressions");
    labels
        .map(|(key, value)| Requirement::In { key: key.clone(), values: [value.clone()].into() })
        .chain(expressions.filter_map(|(i, typed)| requirement(typed, &place.index(i), faults)))
        .collect()
}

fn requirement(typed: &LabelSelectorRequirement, at: &Field<'_>, faults: &mut Faults) -> Option<Requirement> {
    let LabelSelectorRequirement { key, operator, values } = typed;
    if let Err(message) = names::label_key(key) {
        faults.add(&at.key("key"), key, message);
    }
    let values = values.as_deref().unwrap_or_default();
    let value_list = at.key("values");
    for (i, value) in values.iter().enumerate() {
        if let Err(message) = names::label_value(value) {
            faults.add(&value_list.index(i), value, message);
        }
    }
    let key = key.clone();
    let set = || values.iter().cloned().collect();
    let requirement = match operator.as_str() {
        "In" => Requirement::In { key, values: set() },
        "NotIn" => Requirement::NotIn { key, values: set() },
        "Exists" => Requirement::Exists { key },
        "DoesNotExist" => Requirement::DoesNotExist { key },
        _ => {
            faults.add(&at.key("operator"), operator, "must be In, NotIn, Exists or DoesNotExist");
            return None;
        }
    };
    match requirement {
        Requirement::In { .. } | Requirement::NotIn { .. } if values.is_empty() => {
            faults.add(&value_list, values, format!("must not be empty when the operator is {operator}"));
        }
        Requirement::Exists { .. } | Requirement::DoesNotExist { .. } if !values.is_empty() => {
            faults.add(&value_list, values, format!("must be empty when the operator is {operator}"));
        }
        _ => {}
    }
    Some(requirement)
}
