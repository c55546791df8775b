//! The status of a policy: what the fleet shows, as conditions. Pure.
use jiff::Timestamp;
use kube::ResourceExt as _;
use steno_crds::{AuditPolicyObject, AuditPolicyStatus, Condition, Fault, Fleet, SidecarConfig};

use crate::{
    fleet::{self, Sighting},
    reconcile::Error,
    watchdog::Verdict,
};

/// Pods that a message names.
const NAMED: usize = 5;

/// Now, as the API conventions write it: whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// A condition as it stands; one that did not change keeps its time.
pub fn condition(
    known: &[Condition],
    generation: Option<i64>,
    kind: &str,
    (is, reason, message): (Option<bool>, &str, String),
) -> Condition {
    let word = match is {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let before = known.iter().find(|condition| condition.r#type == kind && condition.status == word);
    Condition {
        r#type: kind.into(),
        status: word.into(),
        observed_generation: generation,
        last_transition_time: before.map_or_else(now, |before| before.last_transition_time.clone()),
        reason: reason.into(),
        message,
    }
}

/// The condition Ready.
fn ready(pods: &Fleet, is_rendered: bool, has_missed: bool, sightings: &[Sighting]) -> (Option<bool>, &'static str, String) {
    let fell_back = sightings.iter().find_map(|sighting| sighting.fell_back.as_ref());
    let nobody_asked = pods.not_asked > 0 && pods.injected == pods.not_asked;
    let is_ready = is_rendered
        && !has_missed
        && fell_back.is_none()
        && pods.unknown == 0
        && pods.current + pods.not_asked == pods.injected
        && pods.breaker_open == 0
        && pods.stalled == 0;
    if is_ready && nobody_asked {
        let message = format!(
            "The {} pods on the host's network have no port to be asked on: how they stand is not known here.",
            pods.not_asked
        );
        (None, "NotAsked", message)
    } else if is_ready {
        let message = match pods.not_asked {
            0 => "All pods run by the current configuration and deliver.".to_owned(),
            mute => format!(
                "All pods that can be asked run by the current configuration and deliver; {mute} on the host's network have no port to be asked on."
            ),
        };
        (Some(true), "Ready", message)
    } else if !is_rendered {
        (Some(false), "NotRendered", "The condition Rendered says why.".to_owned())
    } else if has_missed {
        (Some(false), "PodsMissed", "The condition Injected says which pods, and why.".to_owned())
    } else if let Some(fault) = fell_back {
        (Some(false), "SpoolFellBack", format!("A pod's journal is not on the volume that the policy names: {fault}"))
    } else {
        let Fleet { injected, current, unknown, not_asked, breaker_open, stalled, .. } = pods;
        let message = format!(
            "Of {injected} pods {current} run by the current configuration, {unknown} do not answer, {not_asked} have no port to be asked on, {breaker_open} have an open breaker, {stalled} have a sink that stands still."
        );
        (Some(false), "PodsBehind", message)
    }
}

/// The conditions as they stand.
pub fn status(
    object: &AuditPolicyObject,
    rendered: Result<&(SidecarConfig, Vec<String>), &Vec<Fault>>,
    not_applied: Option<&Error>,
    sightings: &[Sighting],
    missed: &[Verdict],
) -> AuditPolicyStatus {
    let inherited = rendered.map(|(_, inherited)| inherited.clone());
    let rendered = rendered.map(|(config, _)| config);
    let hash = rendered.ok().map(|config| config.hash.clone());
    let pods = fleet::sum(sightings, missed.len(), hash.as_deref());
    let missing: Vec<String> = sightings.iter().flat_map(|sighting| sighting.missing_secrets.clone()).collect();
    let generation = object.metadata.generation;
    let known = object.status.clone().unwrap_or_default();
    let condition = |kind, stands| condition(&known.conditions, generation, kind, stands);
    let accepted = match &rendered {
        Ok(_) => (Some(true), "Valid", "The policy is valid.".to_owned()),
        Err(faults) => (Some(false), "Invalid", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    };
    let rendered_is = match (&rendered, not_applied) {
        (Ok(_), Some(error)) => (Some(false), "ApplyFailed", format!("{error}.")),
        (Ok(config), None) => {
            (Some(true), "Rendered", format!("ConfigMap steno-{} holds the configuration {}.", object.name_any(), config.hash))
        }
        (Err(_), _) => (Some(false), "NotAccepted", "Pods go on with the last configuration that was accepted.".to_owned()),
    };
    let answering = pods.injected - pods.unknown - pods.not_asked;
    let secrets = match (answering, missing.is_empty()) {
        (0, _) => (None, "NoPods", "No sidecar has told of its Secrets yet.".to_owned()),
        (_, true) => (Some(true), "Present", "Every pod that answers has the Secrets that the policy names.".to_owned()),
        (_, false) => (Some(false), "Missing", format!("Secrets that pods miss: {}.", unique(missing).join(", "))),
    };
    let delivering = match (answering, pods.breaker_open) {
        (0, _) => (None, "NoPods", "No sidecar answers.".to_owned()),
        (_, 0) if pods.stalled > 0 => {
            let why = sightings.iter().find_map(|sighting| sighting.stalled_by.clone()).unwrap_or_default();
            (Some(false), "Stalled", format!("{} pods have a sink that stands still: {why}", pods.stalled))
        }
        (_, 0) if pods.dead_letters > 0 => {
            let message = format!(
                "{} records were refused and are kept in pods as dead letters; `steno-sidecar dead requeue` delivers them again.",
                pods.dead_letters
            );
            (Some(false), "DeadLetters", message)
        }
        (_, 0) => (Some(true), "Closed", "No breaker is open, and no sink stands still.".to_owned()),
        (_, open) => {
            let why = sightings
                .iter()
                .find(|sighting| sighting.breaker_open)
                .map(|sighting| sighting.reason.clone())
                .unwrap_or_default();
            (Some(false), "BreakerOpen", format!("{open} pods hold their events back: {why}"))
        }
    };
    let dropped: u64 = sightings.iter().map(|sighting| sighting.dropped).sum();
    let lossy = if dropped > 0 {
        (
            Some(true),
            "Dropped",
            format!("{dropped} events were dropped, as spool.whenFull says; a record in each chain tells of them."),
        )
    } else {
        (Some(false), "NothingDropped", "No event was dropped.".to_owned())
    };
    let names: Vec<&str> = missed.iter().take(NAMED).map(|verdict| verdict.name.as_str()).collect();
    let more = if missed.len() > NAMED { " and others" } else { "" };
    let injected = match missed.first() {
        None => (Some(true), "AllInjected", "Every pod that asks for the policy has the sidecar.".to_owned()),
        Some(first) => {
            let message =
                format!("{} pods ask and run without the sidecar ({}{more}). {}", missed.len(), names.join(", "), first.note);
            (Some(false), first.reason, message)
        }
    };
    let is_rendered = rendered.is_ok() && not_applied.is_none();
    let ready = ready(&pods, is_rendered, !missed.is_empty(), sightings);
    let conditions = vec![
        condition("Accepted", accepted),
        condition("Rendered", rendered_is),
        condition("Injected", injected),
        condition("SecretsResolved", secrets),
        condition("Delivering", delivering),
        condition("Lossy", lossy),
        condition("Ready", ready),
    ];
    let inherited = inherited.unwrap_or_else(|_| known.inherited.clone());
    AuditPolicyStatus { observed_generation: generation, config_hash: hash, conditions, pods, inherited }
}

fn unique(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use steno_crds::{render, render_under};

    use super::*;

    fn policy(rule: serde_json::Value) -> AuditPolicyObject {
        serde_json::from_value(json!({
            "apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy",
            "metadata": {"name": "shop", "namespace": "prod", "generation": 3},
            "spec": {"kafka": {"brokers": ["k:9092"], "topic": "t"}, "redaction": {"rules": [rule]}},
        }))
        .unwrap()
    }

    fn seen(object: &AuditPolicyObject, sightings: &[Sighting]) -> BTreeMap<String, (String, String)> {
        let rendered = render_under(&object.to_policy(), &[]);
        let status = status(object, rendered.as_ref(), None, sightings, &[]);
        assert_eq!(status.observed_generation, Some(3));
        status.conditions.into_iter().map(|condition| (condition.r#type, (condition.status, condition.message))).collect()
    }

    #[test]
    fn conditions_say_what_stands_in_the_way() {
        let good = policy(json!({"regex": "a+", "action": "Mask"}));
        let hash = render(&good.to_policy()).unwrap().hash;
        let pod = Sighting { answers: true, is_ready: true, hash, ..Sighting::default() };
        let all_well = seen(&good, std::slice::from_ref(&pod));
        assert!(
            ["Accepted", "Rendered", "SecretsResolved", "Delivering", "Ready"].iter().all(|name| all_well[*name].0 == "True"),
            "{all_well:?}"
        );
        let stale = seen(&good, &[Sighting { hash: "old".into(), ..pod.clone() }]);
        assert_eq!(stale["Ready"].0, "False");
        let open = seen(&good, &[Sighting { breaker_open: true, reason: "no broker".into(), ..pod.clone() }]);
        assert!(open["Delivering"].0 == "False" && open["Delivering"].1.contains("no broker"));
        let stalled = seen(&good, &[Sighting { stalled_by: Some("partition 3".into()), ..pod.clone() }]);
        assert!(
            stalled["Delivering"].0 == "False"
                && stalled["Delivering"].1.contains("partition 3")
                && stalled["Ready"].0 == "False"
        );
        let dead = seen(&good, &[Sighting { dead_letters: 7, ..pod.clone() }]);
        assert!(dead["Delivering"].0 == "False" && dead["Delivering"].1.contains("7 records"), "{dead:?}");
        let silent = seen(&good, &[Sighting::default()]);
        assert_eq!((silent["Ready"].0.as_str(), silent["Delivering"].0.as_str()), ("False", "Unknown"));
        // One that has no port to be asked on stands in nobody's way, and is told of.
        let mute = Sighting { is_mute: true, is_ready: true, ..Sighting::default() };
        let beside = seen(&good, &[pod.clone(), mute.clone()]);
        assert!(beside["Ready"].0 == "True" && beside["Ready"].1.contains("1 on the host's network"), "{beside:?}");
        let alone = seen(&good, std::slice::from_ref(&mute));
        assert_eq!((alone["Delivering"].0.as_str(), alone["Ready"].0.as_str()), ("Unknown", "Unknown"), "of it nothing is known");
        let missing = seen(&good, &[Sighting { missing_secrets: vec!["kafka/ca.crt".into()], ..pod }]);
        assert!(missing["SecretsResolved"].1.contains("kafka/ca.crt"));
        let bad = seen(&policy(json!({"regex": "(", "action": "Mask"})), &[]);
        assert!(bad["Accepted"].0 == "False" && bad["Accepted"].1.contains("spec.redaction.rules[0].regex"), "{bad:?}");
    }

    #[test]
    fn a_condition_that_does_not_change_keeps_its_time() {
        let mut object = policy(json!({"regex": "a+", "action": "Mask"}));
        let rendered = render_under(&object.to_policy(), &[]);
        let mut first = status(&object, rendered.as_ref(), None, &[], &[]);
        first.conditions.iter_mut().for_each(|condition| condition.last_transition_time = "2026-01-01T00:00:00Z".into());
        object.status = Some(first.clone());
        assert_eq!(
            status(&object, rendered.as_ref(), None, &[], &[]),
            first,
            "an unchanged status would be written again and again"
        );
    }
}
