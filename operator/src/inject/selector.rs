//! Label selectors, as the API server reads them.
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
}
