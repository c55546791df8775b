//! From an AuditPolicy to its ConfigMap, its pods and its status.
//!
//! One reconcile: render; apply the ConfigMap `steno-NAME`, which the policy owns; have the kubelets of pods that run by another
//! configuration look at once (a changed annotation makes them refresh the volume); ask the sidecars how they stand; write the status, where
//! something of it changed. It runs again when the policy or its ConfigMap changes, and every fifteen seconds for the pods.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
    runtime::{
        controller::{Action, Controller},
        watcher,
    },
};
use serde_json::json;
use steno_crds::{AuditPolicyObject, AuditPolicyStatus, Condition, Fault, Fleet, SidecarConfig, render};

use crate::{
    fleet::{self, Sighting},
    inject::PREFIX,
    metrics::{Metrics, ResultLabel},
};

/// Name of the operator as an owner of fields.
pub const MANAGER: &str = "steno-operator";
/// Between two looks at the pods.
const LOOK: Duration = Duration::from_secs(15);
/// A reconcile that takes longer is stuck.
const STUCK: i64 = 300;

/// Whether reconciles come to an end.
#[derive(Debug, Default)]
pub struct Beat {
    running: AtomicU64,
    since: AtomicI64,
}

impl Beat {
    /// Whether one has been running for too long.
    pub fn is_stuck(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0 && Timestamp::now().as_second() - self.since.load(Ordering::Relaxed) > STUCK
    }

    fn begin(&self) {
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since.store(Timestamp::now().as_second(), Ordering::Relaxed);
        }
    }

    fn end(&self) {
        self.since.store(Timestamp::now().as_second(), Ordering::Relaxed);
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What reconciles share.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether they come to an end.
    pub beat: Arc<Beat>,
    /// When the pods of a policy (by its UID) were looked at last, at which generation. A status that is written is a change, too: without this
    /// each look would be followed by the next at once.
    pub looked: Mutex<HashMap<String, (i64, Instant)>>,
}

/// Why a reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ConfigMap of that name is somebody else's.
    #[error("there is a ConfigMap {0} that is not ours; rename it, or the policy")]
    Foreign(String),
    /// The API server said no, or nothing.
    #[error("{what}: {source}")]
    Api {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: Box<kube::Error>,
    },
}

fn api(what: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Api { what, source: Box::new(source) }
}

/// Runs until the process is told to stop.
pub async fn run(context: Arc<Context>) {
    let policies: Api<AuditPolicyObject> = Api::all(context.client.clone());
    let owned: Api<ConfigMap> = Api::all(context.client.clone());
    let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=steno");
    Controller::new(policies, watcher::Config::default())
        .owns(owned, ours)
        .shutdown_on_signal()
        .run(reconcile, again, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::warn!(%error, "a reconcile failed and is tried again");
            }
        })
        .await;
}

fn again(_: Arc<AuditPolicyObject>, _: &Error, _: Arc<Context>) -> Action {
    Action::requeue(Duration::from_secs(5))
}

async fn reconcile(object: Arc<AuditPolicyObject>, context: Arc<Context>) -> Result<Action, Error> {
    let begun = Instant::now();
    context.beat.begin();
    let result = once(&object, &context).await;
    context.beat.end();
    context.metrics.reconcile.observe(begun.elapsed().as_secs_f64());
    let label = ResultLabel { result: if result.is_ok() { "ok" } else { "error" } };
    context.metrics.reconciles.get_or_create(&label).inc();
    result
}

async fn once(object: &AuditPolicyObject, context: &Context) -> Result<Action, Error> {
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let namespace = object.namespace().unwrap_or_default();
    let rendered = render(&object.to_policy());
    let applied = match &rendered {
        Ok(config) => apply(object, config, context, &namespace).await,
        Err(_) => Ok(()),
    };
    let (uid, generation) = (object.uid().unwrap_or_default(), object.metadata.generation.unwrap_or_default());
    if applied.is_ok()
        && let Some(rest) = rest(context, &uid, generation)
    {
        return Ok(Action::requeue(rest));
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let label = format!("{PREFIX}injected={}", object.name_any());
    let found = pods.list(&ListParams::default().labels(&label)).await.map_err(api("list the policy's pods"))?;
    if let (Ok(config), Ok(())) = (&rendered, &applied) {
        nudge(&pods, &found.items, config).await;
    }
    let sightings = fleet::look(&found.items).await;
    let status = status(object, rendered.as_ref(), applied.as_ref().err(), &sightings);
    if Some(&status) != object.status.as_ref() {
        let policies: Api<AuditPolicyObject> = Api::namespaced(context.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": AuditPolicyObject::api_version(&()),
            "kind": AuditPolicyObject::kind(&()),
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        policies.patch_status(&object.name_any(), &params, &Patch::Apply(patch)).await.map_err(api("write the status"))?;
    }
    applied?;
    if let Ok(mut looked) = context.looked.lock() {
        looked.insert(uid, (generation, Instant::now()));
    }
    Ok(Action::requeue(LOOK))
}

/// How long the last look at the pods still counts; `None`: it is time.
fn rest(context: &Context, uid: &str, generation: i64) -> Option<Duration> {
    let looked = context.looked.lock().ok()?;
    let (at_generation, at) = looked.get(uid)?;
    LOOK.checked_sub(at.elapsed()).filter(|rest| *at_generation == generation && !rest.is_zero())
}

/// The ConfigMap that pods of the policy mount.
async fn apply(object: &AuditPolicyObject, config: &SidecarConfig, context: &Context, namespace: &str) -> Result<(), Error> {
    let name = format!("steno-{}", object.name_any());
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.into()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "steno".to_owned())].into()),
            annotations: Some([(format!("{PREFIX}config-hash"), config.hash.clone())].into()),
            owner_references: Some(object.controller_owner_ref(&()).into_iter().collect()),
            ..Default::default()
        },
        data: Some([("config.yaml".to_owned(), serde_yaml::to_string(config).unwrap_or_default())].into()),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let there = maps.get_metadata_opt(&name).await.map_err(api("read the ConfigMap"))?;
    if there.is_some_and(|there| there.labels().get("app.kubernetes.io/managed-by").is_none_or(|by| by != "steno")) {
        return Err(Error::Foreign(name));
    }
    maps.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await.map_err(api("apply the ConfigMap"))?;
    Ok(())
}

/// Has the kubelets of pods that were made for another configuration refresh their volumes: any change of a pod does.
async fn nudge(pods: &Api<Pod>, found: &[Pod], config: &SidecarConfig) {
    let name = format!("{PREFIX}config-hash");
    for pod in found.iter().filter(|pod| pod.annotations().get(&name) != Some(&config.hash)) {
        let patch = json!({"metadata": {"annotations": {&name: config.hash}}});
        if let Err(error) = pods.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
            tracing::warn!(%error, pod = pod.name_any(), "the pod could not be told of its new configuration; it sees it by itself, later");
        }
    }
}

/// Now, as the API conventions write it: whole seconds.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

/// Conditions as they stand; those that did not change keep their time.
fn status(
    object: &AuditPolicyObject,
    rendered: Result<&SidecarConfig, &Vec<Fault>>,
    not_applied: Option<&Error>,
    sightings: &[Sighting],
) -> AuditPolicyStatus {
    let hash = rendered.ok().map(|config| config.hash.clone());
    let pods = fleet::sum(sightings, hash.as_deref());
    let missing: Vec<String> = sightings.iter().flat_map(|sighting| sighting.missing_secrets.clone()).collect();
    let generation = object.metadata.generation;
    let known = object.status.clone().unwrap_or_default();
    let condition = |kind: &str, (is, reason, message): (Option<bool>, &str, String)| {
        let word = match is {
            Some(true) => "True",
            Some(false) => "False",
            None => "Unknown",
        };
        let before = known.conditions.iter().find(|condition| condition.r#type == kind && condition.status == word);
        Condition {
            r#type: kind.into(),
            status: word.into(),
            observed_generation: generation,
            last_transition_time: before.map_or_else(now, |before| before.last_transition_time.clone()),
            reason: reason.into(),
            message,
        }
    };
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
    let answering = pods.injected - pods.unknown;
    let secrets = match (answering, missing.is_empty()) {
        (0, _) => (None, "NoPods", "No sidecar has told of its Secrets yet.".to_owned()),
        (_, true) => (Some(true), "Present", "Every pod that answers has the Secrets that the policy names.".to_owned()),
        (_, false) => (Some(false), "Missing", format!("Secrets that pods miss: {}.", unique(missing).join(", "))),
    };
    let delivering = match (answering, pods.breaker_open) {
        (0, _) => (None, "NoPods", "No sidecar answers.".to_owned()),
        (_, 0) => (Some(true), "Closed", "No breaker is open.".to_owned()),
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
    let is_ready =
        rendered.is_ok() && not_applied.is_none() && pods.unknown == 0 && pods.current == pods.injected && pods.breaker_open == 0;
    let ready = if is_ready {
        (Some(true), "Ready", "All pods run by the current configuration and deliver.".to_owned())
    } else if rendered.is_err() || not_applied.is_some() {
        (Some(false), "NotRendered", "The condition Rendered says why.".to_owned())
    } else {
        let Fleet { injected, current, unknown, breaker_open, .. } = &pods;
        let message = format!(
            "Of {injected} pods {current} run by the current configuration, {unknown} do not answer, {breaker_open} have an open breaker."
        );
        (Some(false), "PodsBehind", message)
    };
    let conditions = vec![
        condition("Accepted", accepted),
        condition("Rendered", rendered_is),
        condition("SecretsResolved", secrets),
        condition("Delivering", delivering),
        condition("Lossy", lossy),
        condition("Ready", ready),
    ];
    AuditPolicyStatus { observed_generation: generation, config_hash: hash, conditions, pods, inherited: known.inherited }
}

fn unique(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words.dedup();
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
        let rendered = render(&object.to_policy());
        let status = status(object, rendered.as_ref(), None, sightings);
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
        let silent = seen(&good, &[Sighting::default()]);
        assert_eq!((silent["Ready"].0.as_str(), silent["Delivering"].0.as_str()), ("False", "Unknown"));
        let missing = seen(&good, &[Sighting { missing_secrets: vec!["kafka/ca.crt".into()], ..pod }]);
        assert!(missing["SecretsResolved"].1.contains("kafka/ca.crt"));
        let bad = seen(&policy(json!({"regex": "(", "action": "Mask"})), &[]);
        assert!(bad["Accepted"].0 == "False" && bad["Accepted"].1.contains("spec.redaction.rules[0].regex"), "{bad:?}");
    }

    #[test]
    fn a_condition_that_does_not_change_keeps_its_time() {
        let mut object = policy(json!({"regex": "a+", "action": "Mask"}));
        let rendered = render(&object.to_policy());
        let mut first = status(&object, rendered.as_ref(), None, &[]);
        first.conditions.iter_mut().for_each(|condition| condition.last_transition_time = "2026-01-01T00:00:00Z".into());
        object.status = Some(first.clone());
        assert_eq!(status(&object, rendered.as_ref(), None, &[]), first, "an unchanged status would be written again and again");
    }
}
