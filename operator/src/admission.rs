//! Admission reviews (`admission.k8s.io/v1`): from the request's JSON to the answer's, without a network.
//!
//! A review that cannot be understood is let through with a warning: an answer that is an error can hold up a pod although the webhook's
//! failurePolicy is `Ignore`.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use steno_crds::{ClusterAuditPolicySpec, Covering, Fault, parse_policy, render_under};

use crate::inject::{Namespace, Plan, Policy, Settings, plan};

/// What an answer came to, for the log and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `injected`, `skipped`, `not-asked`, `allowed`, `denied` or `malformed`.
    pub result: &'static str,
    /// One word why, where it was skipped.
    pub reason: &'static str,
    /// The sentence for people, where there is one.
    pub message: String,
}

fn outcome(result: &'static str, reason: &'static str, message: String) -> Outcome {
    Outcome { result, reason, message }
}

fn answer(uid: &Value, response: Value) -> Value {
    let mut response = response;
    response["uid"] = uid.clone();
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

fn malformed() -> (Value, Outcome) {
    let message = "steno: the review is not one of admission.k8s.io/v1; the object is let through as it is";
    (answer(&Value::Null, json!({"allowed": true, "warnings": [message]})), outcome("malformed", "NoReview", message.into()))
}

/// The namespace that a review is about.
pub fn namespace_of(review: &Value) -> &str {
    review.pointer("/request/namespace").and_then(Value::as_str).unwrap_or_default()
}

/// A pod that is created.
pub fn mutate(review: &Value, namespace: &Namespace, policies: &[Policy], settings: &Settings) -> (Value, Outcome) {
    let (Some(uid), Some(pod)) = (review.pointer("/request/uid"), review.pointer("/request/object")) else { return malformed() };
    match plan(pod, namespace, policies, settings) {
        Plan::NotAsked => (answer(uid, json!({"allowed": true})), outcome("not-asked", "", String::new())),
        Plan::Skip(reason) => {
            let word = reason.word();
            let message = format!("steno: not injected: {word}: {reason}");
            (answer(uid, json!({"allowed": true, "warnings": [message]})), outcome("skipped", word, reason.to_string()))
        }
        Plan::Inject { policy, patch, warnings } => {
            let patch = STANDARD.encode(serde_json::to_vec(&patch).unwrap_or_default());
            let warnings: Vec<String> = warnings.into_iter().map(|warning| format!("steno: {warning}")).collect();
            let response = json!({"allowed": true, "patchType": "JSONPatch", "patch": patch, "warnings": warnings});
            (answer(uid, response), outcome("injected", "", format!("by the policy {policy}")))
        }
    }
}

/// A review without effects: nothing may be told of it.
pub fn is_dry_run(review: &Value) -> bool {
    review.pointer("/request/dryRun") == Some(&Value::Bool(true))
}

/// An AuditPolicy, under what covers its namespace as far as that is known, or a ClusterAuditPolicy, that is created or changed: what would not render is refused with the field and the fix.
pub fn validate(review: &Value, covering: Option<&[Covering]>) -> (Value, Outcome) {
    let (Some(uid), Some(object)) = (review.pointer("/request/uid"), review.pointer("/request/object")) else {
        return malformed();
    };
    // Going away must always be possible: finalizers go, and the specification is what it was.
    let is_deleting = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    let leaves = is_deleting && review.pointer("/request/oldObject/spec") == object.get("spec");
    if is_deleting && !leaves {
        let message = "spec: the object is being deleted; only its metadata, such as finalizers, may change".to_owned();
        let status = json!({"code": 422, "reason": "Invalid", "message": message});
        return (answer(uid, json!({"allowed": false, "status": status})), outcome("denied", "Deleting", message));
    }
    let checked = match object.get("kind").and_then(Value::as_str) {
        Some("ClusterAuditPolicy") => check_cluster(object),
        _ => check(object, covering),
    };
    match checked {
        Err(faults) if !leaves => {
            let message = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            let status = json!({"code": 422, "reason": "Invalid", "message": message});
            (answer(uid, json!({"allowed": false, "status": status})), outcome("denied", "Invalid", message))
        }
        Err(_) => (answer(uid, json!({"allowed": true})), outcome("allowed", "", String::new())),
        Ok(warnings) => (answer(uid, json!({"allowed": true, "warnings": warnings})), outcome("allowed", "", String::new())),
    }
}

fn check(object: &Value, covering: Option<&[Covering]>) -> Result<Vec<String>, Vec<Fault>> {
    let (policy, unknown) = parse_policy(&object.to_string())?;
    // In a namespace that was made a moment ago nobody knows yet what covers it; the condition Accepted will tell.
    let advice = match covering {
        Some(covering) => steno_crds::advice(&render_under(&policy, covering)?.0.spec),
        None => Vec::new(),
    };
    let mut warnings: Vec<String> =
        unknown.iter().map(|field| format!("steno: {field} is unknown to this version and has no effect")).collect();
    warnings.extend(advice.iter().map(|advice| format!("steno: {advice}")));
    Ok(warnings)
}

fn check_cluster(object: &Value) -> Result<Vec<String>, Vec<Fault>> {
    let spec = object.get("spec").cloned().unwrap_or_else(|| json!({}));
    let spec: ClusterAuditPolicySpec =
        serde_json::from_value(spec).map_err(|error| vec![Fault::new("spec", error.to_string())])?;
    let faults = spec.faults();
    if faults.is_empty() { Ok(Vec::new()) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn review(object: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": "u-1", "namespace": "shop", "object": object}})
    }

    fn settings() -> Settings {
        Settings {
            image: "i".into(),
            pull_policy: String::new(),
            version: "0".into(),
            resources: crate::inject::Resources::default(),
            seals: crate::seal::Seals::default(),
            pull_secrets: Vec::new(),
            meshes: ["istio-proxy", "linkerd-proxy"].map(str::to_owned).into(),
        }
    }

    #[test]
    fn a_policy_that_is_going_may_change_nothing_but_its_finalizers() {
        let spec = json!({"kafka": {"brokers": ["k:9092"], "topic": "t"}, "dedupe": {"window": "99999999999999999999d"}});
        let policy = |spec: &Value, going: bool| {
            let metadata = if going {
                json!({"name": "p", "namespace": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"})
            } else {
                json!({"name": "p", "namespace": "n"})
            };
            json!({"apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": metadata, "spec": spec})
        };
        let good = json!({"kafka": {"brokers": ["k:9092"], "topic": "t"}});
        let allowed = |object: &Value, old: &Value| {
            let review = json!({"request": {"uid": "u", "namespace": "n", "object": object, "oldObject": old}});
            validate(&review, None).0["response"]["allowed"] == true
        };
        assert!(allowed(&policy(&spec, true), &policy(&spec, true)), "what was there before may go");
        assert!(!allowed(&policy(&spec, true), &policy(&good, true)), "a list with this in it could not be read");
        assert!(!allowed(&policy(&spec, false), &policy(&good, false)));
    }

    #[test]
    fn what_cannot_be_understood_or_served_is_let_through_and_told() {
        let not_asked = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        let asked =
            json!({"metadata": {"annotations": {"audit.steno.dev/inject": "true"}}, "spec": {"containers": [{"name": "a"}]}});
        for (review, warned) in
            [(json!({}), true), (json!({"request": 7}), true), (review(not_asked), false), (review(asked), true)]
        {
            let (answer, _) = mutate(&review, &Namespace::default(), &[], &settings());
            assert_eq!(answer["response"]["allowed"], true, "{review}");
            assert_eq!(answer["response"]["warnings"][0].is_string(), warned, "{review}: {answer}");
            assert!(answer["response"]["patch"].is_null());
        }
    }

    #[test]
    fn a_patch_is_base64_of_a_json_patch() {
        let policy = steno_crds::parse(
            "{apiVersion: audit.steno.dev/v1alpha1, kind: AuditPolicy, metadata: {name: p}, spec: {kafka: {brokers: ['k:9092'], topic: t}}}",
        );
        let policies = [Policy { name: "p".into(), selector: None, config: Some(policy.unwrap().config), is_last_good: false }];
        let pod =
            json!({"metadata": {"annotations": {"audit.steno.dev/inject": "true"}}, "spec": {"containers": [{"name": "a"}]}});
        let (answer, outcome) = mutate(&review(pod), &Namespace::default(), &policies, &settings());
        assert_eq!(
            (outcome.result, &answer["response"]["uid"], &answer["response"]["patchType"]),
            ("injected", &json!("u-1"), &json!("JSONPatch"))
        );
        let patch = STANDARD.decode(answer["response"]["patch"].as_str().unwrap()).unwrap();
        let patch: Value = serde_json::from_slice(&patch).unwrap();
        assert!(patch.as_array().unwrap().iter().all(|operation| operation["op"] == "add"), "{patch}");
    }

    #[test]
    fn a_policy_that_would_not_render_is_refused_with_the_field() {
        let policy = |rule: Value| {
            json!({"apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "p", "namespace": "shop"},
                "spec": {"kafka": {"brokers": ["k:9092"], "topic": "t"}, "redaction": {"rules": [rule]}}})
        };
        let (good, _) = validate(&review(policy(json!({"regex": "a+", "action": "Mask"}))), Some(&[]));
        assert_eq!(good["response"]["allowed"], true);
        let bad = policy(json!({"regex": "(", "action": "Mask"}));
        let (refused, _) = validate(&review(bad.clone()), Some(&[]));
        let message = refused["response"]["status"]["message"].as_str().unwrap();
        assert!(refused["response"]["allowed"] == false && message.starts_with("spec.redaction.rules[0].regex"), "{message}");
        let mut leaving = bad;
        leaving["metadata"]["deletionTimestamp"] = json!("2026-03-01T00:00:00Z");
        let mut review = review(leaving.clone());
        review["request"]["oldObject"] = leaving;
        assert_eq!(validate(&review, Some(&[])).0["response"]["allowed"], true);
    }

    #[test]
    fn a_policy_is_checked_as_it_counts_under_the_platforms() {
        let bare =
            json!({"apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "p"}, "spec": {}});
        let (refused, _) = validate(&review(bare.clone()), Some(&[]));
        let message = refused["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains("spec.kafka.brokers") && message.contains("ClusterAuditPolicy"), "{message}");
        let platform = json!({"kafka": {"brokers": ["shared:9092"], "topic": "audit"}});
        let covering = Covering { name: "platform".into(), spec: serde_json::from_value(platform).unwrap() };
        assert_eq!(validate(&review(bare), Some(&[covering])).0["response"]["allowed"], true);
        let cluster = |spec: Value| json!({"kind": "ClusterAuditPolicy", "metadata": {"name": "c"}, "spec": spec});
        assert_eq!(validate(&review(cluster(json!({}))), Some(&[])).0["response"]["allowed"], true);
        let (refused, _) =
            validate(&review(cluster(json!({"redaction": {"rules": [{"regex": "(", "action": "Mask"}]}}))), Some(&[]));
        assert!(
            refused["response"]["status"]["message"].as_str().unwrap().starts_with("spec.redaction.rules[0].regex"),
            "{refused}"
        );
    }
}
