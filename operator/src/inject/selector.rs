//! Label selectors, as the API server reads them.
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use steno_crds::{LabelOperator, LabelSelector};

/// Whether a selector selects an object with these labels. No selector selects all.
pub fn matches(selector: Option<&LabelSelector>, labels: Option<&Value>) -> bool {
    let Some(selector) = selector else { return true };
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).and_then(Value::as_str);
    selector.match_labels.iter().all(|(name, wanted)| label(name) == Some(wanted))
        && selector.match_expressions.iter().all(|expression| {
            let found = label(&expression.key);
            let is_one = found.is_some_and(|found| expression.values.iter().any(|value| value == found));
            match expression.operator {
                LabelOperator::In => is_one,
                LabelOperator::NotIn => !is_one,
                LabelOperator::Exists => found.is_some(),
                LabelOperator::DoesNotExist => found.is_none(),
            }
        })
}

/// Whether there may be an object that both select.
pub fn may_share(a: Option<&LabelSelector>, b: Option<&LabelSelector>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return true };
    let mut keys: BTreeMap<&str, Values<'_>> = BTreeMap::new();
    for selector in [a, b] {
        for (key, value) in &selector.match_labels {
            keys.entry(key).or_default().only(std::iter::once(value.as_str()));
        }
        for expression in &selector.match_expressions {
            let key = keys.entry(&expression.key).or_default();
            let values = expression.values.iter().map(String::as_str);
            match expression.operator {
                LabelOperator::In => key.only(values),
                LabelOperator::NotIn => key.not.extend(values),
                LabelOperator::Exists => key.is_there = true,
                LabelOperator::DoesNotExist => key.is_absent = true,
            }
        }
    }
    keys.values().all(Values::may_be)
}

/// What a label may be.
#[derive(Default)]
struct Values<'v> {
    only: Option<BTreeSet<&'v str>>,
    not: BTreeSet<&'v str>,
    is_there: bool,
    is_absent: bool,
}

impl<'v> Values<'v> {
    fn only(&mut self, values: impl Iterator<Item = &'v str>) {
        let values: BTreeSet<&str> = values.collect();
        self.only = Some(match self.only.take() {
            Some(known) => known.intersection(&values).copied().collect(),
            None => values,
        });
        self.is_there = true;
    }

    fn may_be(&self) -> bool {
        !(self.is_there && self.is_absent)
            && self.only.as_ref().is_none_or(|only| only.iter().any(|value| !self.not.contains(value)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_to_the_api_server() {
        let selector = |value: Value| serde_json::from_value::<LabelSelector>(value).unwrap();
        let labels = json!({"app": "shop", "tier": "web"});
        let with = |value: Value| matches(Some(&selector(value)), Some(&labels));
        assert!(matches(None, None) && with(json!({})));
        assert!(with(json!({"matchLabels": {"app": "shop"}})) && !with(json!({"matchLabels": {"app": "other"}})));
        for (operator, values, app, absent) in [
            ("In", json!(["shop", "x"]), true, false),
            ("NotIn", json!(["shop"]), false, true),
            ("Exists", json!([]), true, false),
            ("DoesNotExist", json!([]), false, true),
        ] {
            let expression = |key: &str| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            assert_eq!((with(expression("app")), with(expression("absent"))), (app, absent), "{operator}");
        }
    }

    #[test]
    fn selectors_share_an_object_unless_they_exclude_each_other() {
        let selector = |value: Value| serde_json::from_value::<LabelSelector>(value).unwrap();
        let shop = selector(json!({"matchLabels": {"app": "shop"}}));
        for (other, wanted) in [
            (json!({}), true),
            (json!({"matchLabels": {"app": "pay"}}), false),
            (json!({"matchLabels": {"tier": "web"}}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["pay", "shop"]}]}), true),
            (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["shop"]}]}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist", "values": []}]}), false),
            (json!({"matchExpressions": [{"key": "app", "operator": "Exists", "values": []}]}), true),
        ] {
            assert_eq!(may_share(Some(&shop), Some(&selector(other.clone()))), wanted, "{other}");
        }
        assert!(may_share(None, Some(&shop)));
    }
}
