//! The status of a policy: what the fleet shows, as conditions. Pure.
use jiff::Timestamp;
use kube::ResourceExt as _;
use steno_crds::{AuditPolicyObject, AuditPolicyStatus, Condition, Fault, Fleet, SidecarConfig};

use crate::{
    fleet::{self, Sighting},
    losses::Ended,
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
fn ready(pods: &Fleet, is_rendered: bool, has_missed: bool, sightings: &[Sighting], left: u64) -> Stands {
    let fell_back = sightings.iter().find_map(|sighting| sighting.fell_back.as_ref());
    let nobody_asked = pods.not_asked > 0 && pods.injected == pods.not_asked;
    let nobody_runs = pods.injected == pods.pending;
    let is_ready = is_rendered
        && !has_missed
        && fell_back.is_none()
        && pods.unknown == 0
        && pods.current + pods.not_asked + pods.pending == pods.injected
        && pods.config_errors == 0
        && pods.breaker_open == 0
        && pods.stalled == 0
        && pods.folders_left == 0;
    if is_ready && left > 0 && !nobody_runs {
        let message = format!(
            "Sidecars that ended left {left} events on the policy's PersistentVolumeClaim; whether others have delivered them is not known yet."
        );
        (Some(false), "EventsLeft", message)
    } else if left > 0 && nobody_runs && is_rendered && !has_missed {
        (Some(false), "EventsLeft", waiting(left))
    } else if is_ready && nobody_asked {
        let message = format!(
            "The {} pods on the host's network have no port to be asked on: how they stand is not known here.",
            pods.not_asked
        );
        (None, "NotAsked", message)
    } else if is_ready && nobody_runs {
        let message = match pods.pending {
            0 => "No pod has the sidecar: how the policy stands is shown by pods.".to_owned(),
            pending => format!("Of {pending} pods no sidecar has begun yet."),
        };
        (None, "NoPods", message)
    } else if is_ready {
        let mut message = "All pods that run do so by the current configuration, and deliver.".to_owned();
        if pods.pending > 0 {
            message += &format!(" Of {} no sidecar has begun yet.", pods.pending);
        }
        if pods.not_asked > 0 {
            message += &format!(" {} on the host's network have no port to be asked on.", pods.not_asked);
        }
        (Some(true), "Ready", message)
    } else if !is_rendered {
        (Some(false), "NotRendered", "The condition Rendered says why.".to_owned())
    } else if has_missed {
        (Some(false), "PodsMissed", "The condition Injected says which pods, and why.".to_owned())
    } else if let Some(fault) = fell_back {
        (Some(false), "SpoolFellBack", format!("A pod's journal is not on the volume that the policy names: {fault}"))
    } else if let Some(error) = sightings.iter().find_map(|sighting| sighting.config_error.as_ref()) {
        let message = format!("{} pods do not take all of the configuration: {error}", pods.config_errors);
        (Some(false), "ConfigRefused", message)
    } else {
        let Fleet { injected, current, pending, unknown, not_asked, breaker_open, stalled, folders_left, .. } = pods;
        let message = format!(
            "Of {injected} pods {current} run by the current configuration, {pending} have not begun, {unknown} do not answer, {not_asked} have no port to be asked on, {breaker_open} have an open breaker, {stalled} have a sink that stands still; {folders_left} folders of the spool's volume have no sidecar."
        );
        (Some(false), "PodsBehind", message)
    }
}

/// What is to be told of events on a volume that nobody serves.
fn waiting(left: u64) -> String {
    format!(
        "{left} events are on the policy's PersistentVolumeClaim, and no pod runs that could deliver them: they wait for one, such as by kubectl scale."
    )
}

/// Whether sidecars that run, and see the volume, tell that nothing is left there.
pub fn is_cleared(sightings: &[Sighting]) -> bool {
    let mut told = sightings.iter().filter_map(|sighting| sighting.folders_left).peekable();
    told.peek().is_some() && told.all(|folders| folders == 0)
}

/// The conditions as they stand.
pub fn status(
    object: &AuditPolicyObject,
    rendered: Result<&(SidecarConfig, Vec<String>), &Vec<Fault>>,
    not_applied: Option<&Error>,
    seen: Option<(&[Sighting], &[Verdict])>,
    ended: Ended,
) -> AuditPolicyStatus {
    let inherited = rendered.map(|(_, inherited)| inherited.clone());
    let rendered = rendered.map(|(config, _)| config);
    let hash = rendered.ok().map(|config| config.hash.clone());
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
    let is_rendered = rendered.is_ok() && not_applied.is_none();
    let inherited = inherited.unwrap_or_else(|_| known.inherited.clone());
    let mut conditions = vec![condition("Accepted", accepted), condition("Rendered", rendered_is)];
    let pods = if let Some((sightings, missed)) = seen {
        let pods = fleet::sum(sightings, missed.len(), hash.as_deref());
        let stands = of_pods(&pods, is_rendered, sightings, missed, ended);
        conditions.extend(stands.into_iter().map(|(kind, stands)| condition(kind, stands)));
        pods
    } else {
        // Whoever has just begun to lead says nothing of pods: what was last said stays.
        let not_asked = || (None, "NotAskedYet", "The operator has just begun, and has not asked the pods yet.".to_owned());
        conditions.extend(OF_PODS.iter().map(|kind| {
            let before = known.conditions.iter().find(|known| known.r#type == *kind).cloned();
            before.unwrap_or_else(|| condition(kind, not_asked()))
        }));
        known.pods.clone()
    };
    AuditPolicyStatus {
        observed_generation: generation,
        config_hash: hash,
        conditions,
        pods,
        abandoned_events: ended.lost,
        left_events: ended.left,
        inherited,
    }
}

/// Conditions that hang on pods, in the order in which they are shown.
const OF_PODS: [&str; 5] = ["Injected", "SecretsResolved", "Delivering", "Lossy", "Ready"];

/// What a condition says: true, false or unknown; one word why; a sentence.
type Stands = (Option<bool>, &'static str, String);

/// How the pods stand.
fn of_pods(
    pods: &Fleet,
    is_rendered: bool,
    sightings: &[Sighting],
    missed: &[Verdict],
    Ended { lost: abandoned, left }: Ended,
) -> [(&'static str, Stands); 5] {
    let missing: Vec<String> = sightings.iter().flat_map(|sighting| sighting.missing_secrets.clone()).collect();
    let answering = pods.injected - pods.unknown - pods.not_asked - pods.pending;
    let secrets = match (answering, missing.is_empty()) {
        (0, _) => (None, "NoPods", "No sidecar has told of its Secrets yet.".to_owned()),
        (_, true) => (Some(true), "Present", "Every pod that answers has the Secrets that the policy names.".to_owned()),
        (_, false) => (Some(false), "Missing", format!("Secrets that pods miss: {}.", unique(missing).join(", "))),
    };
    let delivering = match (answering, pods.breaker_open) {
        (0, _) if left > 0 && pods.unknown == 0 => (Some(false), "EventsLeft", waiting(left)),
        (0, _) => (None, "NoPods", "No sidecar answers.".to_owned()),
        (_, 0) if pods.stalled > 0 => {
            let why = sightings.iter().find_map(|sighting| sighting.stalled_by.clone()).unwrap_or_default();
            (Some(false), "Stalled", format!("{} pods have a sink that stands still: {why}", pods.stalled))
        }
        (_, 0) if pods.folders_left > 0 => {
            let why = sightings.iter().find_map(|sighting| sighting.left_fault.as_deref());
            let message = format!(
                "{} folders of the spool's volume hold events of sidecars that are gone; {}.",
                pods.folders_left,
                why.unwrap_or("one that runs delivers them, one folder after the other")
            );
            (Some(false), "FoldersLeft", message)
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
    let dropped = fleet::total(sightings, |sighting| sighting.dropped);
    let went = format!(
        "{abandoned} events went with pods whose sidecars had not delivered them: their spool was on a volume of the pod. A spool on a PersistentVolumeClaim (spool.volume) keeps such events."
    );
    let lossy = if abandoned > 0 && dropped == 0 {
        (Some(true), "Abandoned", went)
    } else if dropped > 0 && abandoned > 0 {
        (Some(true), "DroppedAndAbandoned", format!("{dropped} events were dropped, as spool.whenFull says. {went}"))
    } else if dropped > 0 {
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
    let ready = ready(pods, is_rendered, !missed.is_empty(), sightings, left);
    let [of_injection, of_secrets, of_delivery, of_losses, of_all] = OF_PODS;
    [(of_injection, injected), (of_secrets, secrets), (of_delivery, delivering), (of_losses, lossy), (of_all, ready)]
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

    const NONE: Ended = Ended { lost: 0, left: 0 };

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
        let status = status(object, rendered.as_ref(), None, Some((sightings, &[])), NONE);
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
        let partly = seen(&good, &[Sighting { config_error: Some("the key is gone".into()), ..pod.clone() }]);
        assert!(partly["Ready"].0 == "False" && partly["Ready"].1.contains("the key is gone"), "{partly:?}");
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
    fn who_has_just_begun_says_nothing_of_pods_and_takes_nothing_back() {
        let mut object = policy(json!({"regex": "a+", "action": "Mask"}));
        let rendered = render_under(&object.to_policy(), &[]);
        let begun = status(&object, rendered.as_ref(), None, None, NONE);
        let ready = |status: &AuditPolicyStatus| {
            let ready = status.conditions.iter().find(|condition| condition.r#type == "Ready").unwrap();
            (ready.status.clone(), ready.reason.clone())
        };
        assert_eq!(ready(&begun), ("Unknown".into(), "NotAskedYet".into()));
        // Two thousand pods that do not answer.
        let broken = vec![Sighting::default(); 2000];
        object.status = Some(status(&object, rendered.as_ref(), None, Some((&broken, &[])), NONE));
        let next = status(&object, rendered.as_ref(), None, None, NONE);
        assert_eq!((ready(&next), next.pods.unknown), (("False".into(), "PodsBehind".into()), 2000));
        assert_eq!(Some(next), object.status, "there is nothing to write");
    }

    #[test]
    fn what_went_with_pods_stays_in_the_status_also_when_no_pod_is_left() {
        let object = policy(json!({"regex": "a+", "action": "Mask"}));
        let rendered = render_under(&object.to_policy(), &[]);
        let status = status(&object, rendered.as_ref(), None, Some((&[], &[])), Ended { lost: 2386, left: 0 });
        let lossy = status.conditions.iter().find(|condition| condition.r#type == "Lossy").unwrap();
        assert_eq!((lossy.status.as_str(), lossy.reason.as_str(), status.abandoned_events), ("True", "Abandoned", 2386));
        assert!(lossy.message.contains("2386") && lossy.message.contains("PersistentVolumeClaim"), "{}", lossy.message);
    }

    #[test]
    fn events_left_on_a_claim_stand_in_the_way_until_one_that_runs_tells_that_nothing_is_left() {
        let object = policy(json!({"regex": "a+", "action": "Mask"}));
        let rendered = render_under(&object.to_policy(), &[]);
        let hash = render(&object.to_policy()).unwrap().hash;
        let told =
            |folders_left| Sighting { answers: true, is_ready: true, hash: hash.clone(), folders_left, ..Sighting::default() };
        let of = |sightings: &[Sighting]| {
            let ended = Ended { lost: 0, left: if is_cleared(sightings) { 0 } else { 674 } };
            let status = status(&object, rendered.as_ref(), None, Some((sightings, &[])), ended);
            let of = |kind: &str| status.conditions.iter().find(|known| known.r#type == kind).unwrap().clone();
            let (ready, delivering) = (of("Ready"), of("Delivering"));
            (ready.status, ready.reason, delivering.status, delivering.reason, status.left_events)
        };
        let nobody = of(&[]);
        assert_eq!(nobody, ("False".into(), "EventsLeft".into(), "False".into(), "EventsLeft".into(), 674));
        let seen = of(&[told(Some(1)), told(Some(0))]);
        assert_eq!(seen, ("False".into(), "PodsBehind".into(), "False".into(), "FoldersLeft".into(), 674));
        assert_eq!(of(&[told(None)]).4, 674, "a sidecar of the version before does not tell");
        let cleared = of(&[told(Some(0)), told(None)]);
        assert_eq!(cleared, ("True".into(), "Ready".into(), "True".into(), "Closed".into(), 0));
    }

    #[test]
    fn a_policy_without_pods_that_run_is_neither_ready_nor_not() {
        let object = policy(json!({"regex": "a+", "action": "Mask"}));
        assert_eq!(seen(&object, &[])["Ready"].0, "Unknown");
        let pending = Sighting { is_pending: true, ..Sighting::default() };
        assert_eq!(seen(&object, std::slice::from_ref(&pending))["Ready"].0, "Unknown");
        let hash = render(&object.to_policy()).unwrap().hash;
        let good = Sighting { answers: true, is_ready: true, hash, ..Sighting::default() };
        assert_eq!(seen(&object, &[good, pending])["Ready"].0, "True", "one that nobody schedules is in nobody's way");
    }

    #[test]
    fn a_condition_that_does_not_change_keeps_its_time() {
        let mut object = policy(json!({"regex": "a+", "action": "Mask"}));
        let rendered = render_under(&object.to_policy(), &[]);
        let mut first = status(&object, rendered.as_ref(), None, Some((&[], &[])), NONE);
        first.conditions.iter_mut().for_each(|condition| condition.last_transition_time = "2026-01-01T00:00:00Z".into());
        object.status = Some(first.clone());
        assert_eq!(
            status(&object, rendered.as_ref(), None, Some((&[], &[])), NONE),
            first,
            "an unchanged status would be written again and again"
        );
    }
}
