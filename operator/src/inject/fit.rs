//! Requests and limits with which the API server takes the pod: within the namespace's `LimitRange` objects, within the pod's own resources
//! (`spec.resources`, 1.34), and so that a Guaranteed pod stays one. Pure.
//!
//! The API server refuses a pod as a whole because of one container. So what the sidecar asks for is moved into the bounds, with a warning where it gets less
//! than it asked for; where it could not work so, the pod is left alone, with the reason.
use std::collections::BTreeMap;

use serde_json::{Value, json};
use steno_crds::ByteSize;

use super::{Reason, list};

/// What a `LimitRange` says of containers or of pods, in base units: cores, bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Range {
    /// It is of whole pods; else of each container.
    pub is_of_pods: bool,
    /// Least request, by resource.
    pub min: BTreeMap<String, f64>,
    /// Largest limit.
    pub max: BTreeMap<String, f64>,
    /// The limit of containers that have none.
    pub default: BTreeMap<String, f64>,
    /// Most that a limit may be of its request.
    pub ratio: BTreeMap<String, f64>,
}

/// What the sidecar asks for of a resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Asked {
    /// The request.
    pub(super) request: Option<f64>,
    /// The limit.
    pub(super) limit: Option<f64>,
    /// With a limit below this it cannot work.
    pub(super) least: f64,
}

/// Memory below which the sidecar does not work: it takes 10 MiB idle, and a request's body must fit.
pub(super) const LEAST_MEMORY: f64 = 48.0 * 1024.0 * 1024.0;
/// Limit of CPU where the pod is Guaranteed and nothing says how much.
const GUARANTEED_CPU: f64 = 0.1;

/// What a quantity comes to, in its base unit; `None`: it is none (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>).
pub(super) fn amount(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let factor = match &text[end..] {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        exponent => 10f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok().filter(|power| (-9..=18).contains(power))?),
    };
    let digits = &text[..end];
    let is_plain = digits.starts_with(|c: char| c.is_ascii_digit()) && !digits.ends_with('.');
    let number = if is_plain { digits.parse::<f64>().ok()? } else { return None };
    Some(number * factor)
}

/// A quantity of a resource: millicores, or bytes. Never more than the amount.
fn shown(resource: &str, amount: f64) -> String {
    // What a sum of decimal fractions lost.
    let amount = amount * (1.0 + 1e-12);
    if resource == "cpu" {
        let millis = (amount * 1000.0).floor();
        if millis % 1000.0 == 0.0 { format!("{}", millis / 1000.0) } else { format!("{millis}m") }
    } else {
        ByteSize(amount.max(0.0) as u64).to_string()
    }
}

/// A quantity in an object of the API: text, or a number.
fn amount_of(value: &Value) -> Option<f64> {
    value.as_str().map_or_else(|| amount(&value.to_string()), amount)
}

/// The quantities of a map in an object of the API.
fn quantities(map: Option<&Value>) -> BTreeMap<String, f64> {
    let members = map.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(name, value)| Some((name.clone(), amount_of(value)?))).collect()
}

/// The ranges of a `LimitRange`'s `spec`.
pub fn ranges(spec: &Value) -> Vec<Range> {
    let items = spec.get("limits").and_then(Value::as_array).into_iter().flatten();
    let of = |item: &Value| {
        let kind = item.get("type").and_then(Value::as_str)?;
        matches!(kind, "Container" | "Pod").then(|| Range {
            is_of_pods: kind == "Pod",
            min: quantities(item.get("min")),
            max: quantities(item.get("max")),
            default: quantities(item.get("default")),
            ratio: quantities(item.get("maxLimitRequestRatio")),
        })
    };
    items.filter_map(of).collect()
}

/// The containers that run side by side with the sidecar: those of the application, and init containers that stay.
fn beside(pod: &Value) -> impl Iterator<Item = &Value> {
    let stays = |container: &&Value| container.get("restartPolicy").and_then(Value::as_str) == Some("Always");
    list(pod, "containers").iter().chain(list(pod, "initContainers").iter().filter(stays))
}

/// What a container, or the pod's `spec`, says of a resource.
fn of_container(container: &Value, kind: &str, resource: &str) -> Option<f64> {
    amount_of(container.get("resources")?.get(kind)?.get(resource)?)
}

/// What the containers beside the sidecar have together.
fn sum(pod: &Value, kind: &str, resource: &str) -> f64 {
    beside(pod).filter_map(|container| of_container(container, kind, resource)).sum()
}

/// Whether the pod is of the class Guaranteed as it stands: each container has limits of CPU and memory, and requests that are no others.
fn is_guaranteed(pod: &Value) -> bool {
    let mut all = list(pod, "containers").iter().chain(list(pod, "initContainers"));
    let has = |container: &Value| {
        ["cpu", "memory"].iter().all(|resource| {
            let limit = of_container(container, "limits", resource).filter(|limit| *limit > 0.0);
            let request = of_container(container, "requests", resource).or(limit);
            limit.is_some() && request == limit
        })
    };
    pod.pointer("/spec/resources").is_none_or(Value::is_null) && all.all(has)
}

/// The limit that the API server gives a container which has none.
pub(super) fn default(ranges: &[Range], resource: &str) -> Option<f64> {
    let of_containers = ranges.iter().filter(|range| !range.is_of_pods);
    of_containers.filter_map(|range| range.default.get(resource)).copied().min_by(f64::total_cmp)
}

/// Moves what is asked for of a resource into the bounds. What it gets less than it asked for is told.
pub(super) fn fit(
    pod: &Value,
    ranges: &[Range],
    resource: &str,
    asked: Asked,
    warnings: &mut Vec<String>,
) -> Result<Asked, Reason> {
    let Asked { mut request, mut limit, least } = asked;
    let of_containers = || ranges.iter().filter(|range| !range.is_of_pods);
    let own = |kind: &str| of_container(pod.get("spec")?, kind, resource);
    let lower = of_containers().filter_map(|range| range.min.get(resource)).copied().fold(0.0, f64::max);
    let mut upper = of_containers().filter_map(|range| range.max.get(resource)).copied().fold(f64::INFINITY, f64::min);
    for range in ranges.iter().filter(|range| range.is_of_pods) {
        if let Some(most) = range.max.get(resource) {
            upper = upper.min(most - sum(pod, "limits", resource));
        }
    }
    upper = upper.min(own("limits").unwrap_or(f64::INFINITY));
    let does_not_fit = |needs: f64, most: f64| Reason::DoesNotFit {
        resource: resource.to_owned(),
        needs: shown(resource, needs),
        most: shown(resource, most.max(0.0)),
    };
    if upper < lower.max(least) || upper <= 0.0 {
        return Err(does_not_fit(lower.max(least), upper));
    }
    if is_guaranteed(pod) && resource != "ephemeral-storage" {
        let value = limit.or_else(|| request.map(|request| request.max(GUARANTEED_CPU)));
        (request, limit) = (value, value);
    }
    let ratio = of_containers().filter_map(|range| range.ratio.get(resource)).copied().fold(f64::INFINITY, f64::min);
    // What a container without a limit would get. With a bound of the whole pod, or a ratio, that may be too much.
    let default = default(ranges, resource).unwrap_or(f64::INFINITY);
    let is_above = request.is_some_and(|request| request > default);
    if limit.is_none() && (upper.is_finite() || ratio.is_finite() || is_above) {
        let implied = default.max(request.unwrap_or(0.0)).min(upper);
        // With a ratio a request of nothing has no limit at all.
        let some = if resource == "cpu" { 0.01 } else { 1_048_576.0 };
        limit = Some(if implied.is_finite() { implied } else { request.unwrap_or(0.0).max(lower).max(some) * ratio.min(10.0) });
    }
    if let Some(asked) = limit {
        let given = asked.min(upper).max(lower);
        if given < least {
            return Err(does_not_fit(least, given));
        }
        if given < asked {
            let bound = shown(resource, given);
            warnings.push(format!(
                "the sidecar's limit of {resource} is {bound}: the namespace's LimitRange or the pod allows no more"
            ));
        }
        limit = Some(given);
    }
    let most = limit.unwrap_or(f64::INFINITY);
    if request.is_some() || lower > 0.0 || ratio.is_finite() {
        let mut given = request.unwrap_or(lower).max(lower);
        if ratio.is_finite() && most.is_finite() {
            given = given.max(most / ratio);
        }
        request = Some(given.min(most));
    }
    // Of the whole pod's request nothing may be left.
    if let Some(whole) = own("requests") {
        let left = (whole - sum(pod, "requests", resource)).max(0.0);
        if left < lower {
            return Err(does_not_fit(lower, left));
        }
        request = request.map(|request| request.min(left));
        if let (Some(given), true) = (request, ratio.is_finite()) {
            // With less requested the limit may be less, too.
            limit = limit.map(|limit| limit.min(given * ratio));
        }
        if limit.is_some_and(|limit| limit < lower.max(least) || limit <= 0.0) {
            return Err(does_not_fit(lower.max(least), left));
        }
    }
    Ok(Asked { request, limit, least })
}

/// Writes what a resource gets.
pub(super) fn put(resources: &mut Value, resource: &str, given: Asked, texts: (Option<&str>, Option<&str>)) {
    // As it was written, where it is what was asked for.
    let text = |amount_given: f64, asked: Option<&str>| match asked {
        Some(text) if amount(text) == Some(amount_given) => text.to_owned(),
        _ => shown(resource, amount_given),
    };
    if let Some(request) = given.request {
        resources["requests"][resource] = json!(text(request, texts.0));
    }
    if let Some(limit) = given.limit {
        resources["limits"][resource] = json!(text(limit, texts.1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_as_the_api_writes_them() {
        for (text, wanted) in
            [("500m", 0.5), ("2", 2.0), ("1.5", 1.5), ("128Mi", 134_217_728.0), ("1e3", 1000.0), ("2T", 2e12), ("5u", 5e-6)]
        {
            assert!(amount(text).is_some_and(|amount| (amount / wanted - 1.0).abs() < 1e-9), "{text}");
        }
        for text in ["", "x", "Mi", "1.", ".5", "1Xi", "-1", "1e", "1e99"] {
            assert_eq!(amount(text), None, "{text}");
        }
    }

    /// What the API server checks of a pod under its `LimitRange` objects (plugin/pkg/admission/limitranger), and of pod-level resources.
    fn is_taken(pod: &Value, ranges: &[Range], resource: &str, given: Asked) -> Result<(), String> {
        let defaults = |range: &Range| range.default.get(resource).copied();
        let limit = given.limit.or_else(|| ranges.iter().filter(|range| !range.is_of_pods).find_map(defaults));
        let request = given.request.or(limit);
        let close = 1.0 + 1e-9;
        for range in ranges {
            let (of_request, of_limit) = if range.is_of_pods {
                (
                    request.map(|request| request + sum(pod, "requests", resource)),
                    limit.map(|limit| limit + sum(pod, "limits", resource)),
                )
            } else {
                (request, limit)
            };
            if let Some(min) = range.min.get(resource).filter(|_| !range.is_of_pods)
                && of_request.is_none_or(|request| request * close < *min)
            {
                return Err(format!("below the minimum {min}"));
            }
            if let Some(max) = range.max.get(resource)
                && of_limit.is_none_or(|limit| limit > max * close)
            {
                return Err(format!("above the maximum {max}"));
            }
            if let Some(ratio) = range.ratio.get(resource).filter(|_| !range.is_of_pods)
                && (of_request.is_none_or(|request| request <= 0.0)
                    || of_limit.zip(of_request).is_none_or(|(limit, request)| limit / request > ratio * close))
            {
                return Err(format!("beyond the ratio {ratio}"));
            }
        }
        if request.zip(limit).is_some_and(|(request, limit)| request > limit * close) {
            return Err("a request above its limit".into());
        }
        let own = |kind: &str| quantities(pod.pointer(&format!("/spec/resources/{kind}"))).get(resource).copied();
        if own("limits").is_some_and(|most| limit.is_some_and(|limit| limit > most * close)) {
            return Err("above the pod's own limit".into());
        }
        if own("requests").is_some_and(|whole| sum(pod, "requests", resource) + given.request.unwrap_or_default() > whole * close)
        {
            return Err("above the pod's own request".into());
        }
        Ok(())
    }

    fn some(values: &'static [f64]) -> impl Strategy<Value = Option<f64>> {
        proptest::option::of(proptest::sample::select(values))
    }

    proptest! {
        /// Whatever a namespace's administrators wrote: what comes out is taken, or the pod is left alone.
        #[test]
        fn what_comes_out_is_taken_by_the_api_server(
            (min, max, ratio, default) in (some(&[0.005, 0.05, 0.2, 1.0]), some(&[0.05, 0.5, 2.0]), some(&[1.0, 2.0, 10.0]), some(&[0.05, 0.1, 0.5])),
            pod_max in some(&[0.3, 1.0, 4.0]),
            (app_request, app_limit) in (proptest::sample::select(&[0.01, 0.1, 0.2][..]), proptest::sample::select(&[0.2, 0.5][..])),
            whole in proptest::option::of((proptest::sample::select(&[0.2, 0.25, 1.0][..]), proptest::sample::select(&[0.5, 2.0][..]))),
            (request, limit) in (some(&[0.01, 0.3]), some(&[0.3, 1.0])),
        ) {
            prop_assume!(min.zip(max).is_none_or(|(min, max)| min <= max));
            // A default is between the two; where there is a maximum and no default, the API writes the maximum as one.
            prop_assume!(default.is_none_or(|default| max.is_none_or(|max| default <= max) && min.is_none_or(|min| default >= min)));
            prop_assume!(request.zip(limit).is_none_or(|(request, limit)| request <= limit));
            let map = |value: Option<f64>| value.map(|value| ("cpu".to_owned(), value)).into_iter().collect::<BTreeMap<_, _>>();
            let mut ranges = vec![Range { is_of_pods: false, min: map(min), max: map(max), default: map(default.or(max)), ratio: map(ratio) }];
            ranges.extend(pod_max.map(|_| Range { is_of_pods: true, max: map(pod_max), ..Range::default() }));
            let container = json!({"name": "app", "resources": {"requests": {"cpu": app_request}, "limits": {"cpu": app_limit}}});
            let mut pod = json!({"spec": {"containers": [container]}});
            if let Some((request, limit)) = whole {
                pod["spec"]["resources"] = json!({"requests": {"cpu": request}, "limits": {"cpu": limit}});
            }
            let asked = Asked { request, limit, least: 0.0 };
            if let Ok(given) = fit(&pod, &ranges, "cpu", asked, &mut Vec::new()) {
                // The pod's own request may leave less than a ratio asks for: no other request would be taken either.
                if let Err(fault) = is_taken(&pod, &ranges, "cpu", given) {
                    prop_assert!(false, "{fault}: {given:?}");
                }
            }
        }
    }

    #[test]
    fn a_guaranteed_pod_stays_one() {
        let resources = json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "2", "memory": "1Gi"}});
        let pod = json!({"spec": {"containers": [{"name": "app", "resources": resources}]}});
        let asked = Asked { request: Some(0.01), limit: None, least: 0.0 };
        let given = fit(&pod, &[], "cpu", asked, &mut Vec::new()).unwrap();
        assert_eq!((given.request, given.limit), (Some(0.1), Some(0.1)));
        let asked = Asked { request: Some(32.0 * 1_048_576.0), limit: Some(128.0 * 1_048_576.0), least: LEAST_MEMORY };
        let given = fit(&pod, &[], "memory", asked, &mut Vec::new()).unwrap();
        assert_eq!(given.request, given.limit);
    }

    #[test]
    fn less_memory_than_it_needs_leaves_the_pod_alone() {
        let ranges = ranges(&json!({"limits": [{"type": "Container", "max": {"memory": "32Mi"}}]}));
        let pod = json!({"spec": {"containers": [{"name": "app"}]}});
        let asked = Asked { request: None, limit: Some(128.0 * 1_048_576.0), least: LEAST_MEMORY };
        let refused = fit(&pod, &ranges, "memory", asked, &mut Vec::new()).unwrap_err();
        assert_eq!(refused.word(), "DoesNotFit");
        assert!(refused.to_string().contains("48Mi") && refused.to_string().contains("32Mi"), "{refused}");
    }
}
