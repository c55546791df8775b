//! From an AuditPolicy to its ConfigMap, its pods and its status.
//!
//! One reconcile: render; apply the ConfigMap `steno-NAME`, which the policy owns; say which pods are to be told of it ([`crate::nudges`]); write the
//! status from what was last seen of the pods ([`crate::prober`]), where something of it changed. It never waits for a pod. It runs again when the policy or its
//! ConfigMap changes, when there is news of a pod, and every fifteen seconds.
//!
//! A status that is written is a change of the policy, and has it reconciled once more: that finds nothing to write. What only counts up is written every
//! fifteen seconds at most, and anything else once a second.
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, future::join_all, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{Patch, PatchParams},
    core::{DeserializeGuard, PartialObjectMeta, error_boundary::InvalidObject},
    runtime::{
        controller::{self, Action, Controller},
        reflector::ObjectRef,
        watcher,
    },
};
use serde_json::json;
use steno_crds::{
    AuditPolicyObject, AuditPolicyStatus, ClusterAuditPolicyObject, ClusterAuditPolicyStatus, Fleet, SidecarConfig,
};
use tokio::sync::{Semaphore, broadcast::error::RecvError, watch};

use crate::{
    fleet,
    inject::PREFIX,
    losses::{Ended, Losses},
    metrics::Metrics,
    nudges::Nudges,
    pods::Pods,
    prober::{LOOK, Prober},
    rota::Of,
    scope::{self, Scope},
    seal::Seals,
    status::{condition, is_cleared, status},
    tell::{self, Teller},
    view::View,
    watchdog::Watchdog,
    webhook::some_of,
};

/// Name of the operator as an owner of fields.
pub const MANAGER: &str = "steno-operator";
/// Policies that are reconciled at a time.
pub const CONCURRENCY: u16 = 8;
/// The signature of a configuration, beside it in the ConfigMap.
const SIGNATURE: &str = "config.yaml.sig";
/// Between two writes of a status in which more changed than figures.
const WRITES: Duration = Duration::from_secs(1);
/// Until a fleet is looked at again of which nothing is known yet.
const UNKNOWN: Duration = Duration::from_secs(1);
/// A reconcile is given up after so long, and begun again.
const MOST: Duration = Duration::from_mins(4);
/// Where even that does not help the process is stuck.
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

    fn begin(self: &Arc<Self>) -> Running {
        if self.running.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since.store(Timestamp::now().as_second(), Ordering::Relaxed);
        }
        Running(self.clone())
    }
}

/// A reconcile that runs. It ends when it is dropped, too.
struct Running(Arc<Beat>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.since.store(Timestamp::now().as_second(), Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What reconciles share.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// The namespaces.
    pub scope: Scope,
    /// The policies.
    pub view: Arc<View>,
    /// The pods.
    pub pods: Arc<Pods>,
    /// Those that were missed.
    pub watchdog: Watchdog,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether they come to an end.
    pub beat: Arc<Beat>,
    /// Reconciles at a time, over all namespaces.
    pub turns: Semaphore,
    /// How the pods stand.
    pub prober: Prober,
    /// Pods that are to be told of a changed configuration.
    pub nudges: Nudges,
    /// Events that went with pods, and stand in no status yet.
    pub losses: Losses,
    /// Signs configurations.
    pub seals: Seals,
    /// Where Events are told.
    pub teller: Teller,
    /// What was written last.
    pub written: Written,
    /// By UID of an object: how often its reconcile failed in a row.
    pub failures: Mutex<HashMap<String, u32>>,
}

/// By UID of an object: what its status said, without figures that only count up, and when that was.
pub type Written = Mutex<HashMap<String, (String, Instant)>>;

/// Why a reconcile failed; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A ConfigMap of that name is somebody else's.
    #[error("there is a ConfigMap {0} that is not ours; rename it, or the policy")]
    Foreign(String),
    /// It took too long. What was done is done; it goes on from there.
    #[error("it took more than four minutes, and goes on from where it is")]
    Late,
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

/// Runs until it is dropped. `changes` tells of changes that may concern every policy.
pub async fn run(context: Arc<Context>, changes: watch::Receiver<u64>) {
    let control = |namespace: Option<String>| control(context.clone(), namespace, changes.clone());
    join_all(context.scope.each().into_iter().map(control)).await;
}

/// Reconciles the policies of a namespace, or of all.
async fn control(context: Arc<Context>, namespace: Option<String>, changes: watch::Receiver<u64>) {
    let policies: Api<DeserializeGuard<AuditPolicyObject>> = scope::api(&context.client, namespace.as_deref());
    let owned: Api<PartialObjectMeta<ConfigMap>> = scope::api(&context.client, namespace.as_deref());
    let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=steno");
    let all = stream::unfold(changes, |mut changes| async { changes.changed().await.ok().map(|()| ((), changes)) });
    Controller::new(policies, watcher::Config::default().page_size(250))
        .owns(owned, ours)
        .reconcile_all_on(all)
        .reconcile_on(news(&context, namespace.clone()))
        .reconcile_on(relabelled(&context, namespace))
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .run(reconcile, again, context)
        .for_each(|result| async move {
            match result {
                Ok(_) | Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "a reconcile failed and is tried again"),
            }
        })
        .await;
}

/// Policies of whose pods there is news.
fn news(context: &Context, of: Option<String>) -> impl Stream<Item = ObjectRef<DeserializeGuard<AuditPolicyObject>>> + use<> {
    stream::unfold((context.prober.news(), of), |(mut news, of)| async {
        loop {
            match news.recv().await {
                Ok((namespace, name)) if of.as_deref().is_none_or(|of| *of == *namespace) => {
                    return Some((ObjectRef::new(&name).within(&namespace), (news, of)));
                }
                // Who misses news sees them with the next regular reconcile.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

/// Policies of namespaces whose labels changed: another ClusterAuditPolicy may cover them.
fn relabelled(
    context: &Arc<Context>,
    of: Option<String>,
) -> impl Stream<Item = ObjectRef<DeserializeGuard<AuditPolicyObject>>> + use<> {
    let names = stream::unfold((context.view.relabelled(), of), |(mut names, of)| async {
        loop {
            match names.recv().await {
                Ok(name) if of.as_ref().is_none_or(|of| *of == name) => return Some((name, (names, of))),
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let context = context.clone();
    names.flat_map(move |namespace| {
        let of = context.view.names_in(&namespace);
        stream::iter(of.into_iter().map(move |name| ObjectRef::new(&name).within(&namespace)))
    })
}

fn again(object: Arc<DeserializeGuard<AuditPolicyObject>>, _: &Error, context: Arc<Context>) -> Action {
    let mut failures = context.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let before = failures.entry(object.uid().unwrap_or_default()).or_default();
    let pause = backoff(*before);
    *before = before.saturating_add(1);
    Action::requeue(pause)
}

/// How long a reconcile that failed so often before is left alone.
fn backoff(before: u32) -> Duration {
    (Duration::from_secs(5) * 2u32.pow(before.min(6))).min(Duration::from_mins(5))
}

async fn reconcile(object: Arc<DeserializeGuard<AuditPolicyObject>>, context: Arc<Context>) -> Result<Action, Error> {
    // It is never closed.
    let _turn = context.turns.acquire().await.ok();
    let begun = Instant::now();
    let _running = context.beat.begin();
    let result = tokio::time::timeout(MOST, either(&object, &context)).await.unwrap_or(Err(Error::Late));
    context.metrics.reconciled(result.is_ok(), begun.elapsed().as_secs_f64());
    if result.is_ok()
        && let Ok(mut failures) = context.failures.lock()
    {
        failures.remove(&object.uid().unwrap_or_default());
    }
    result
}

async fn either(object: &DeserializeGuard<AuditPolicyObject>, context: &Context) -> Result<Action, Error> {
    match &object.0 {
        Ok(object) => once(object, context).await,
        Err(invalid) => {
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            let policies: Api<DeserializeGuard<AuditPolicyObject>> = Api::namespaced(context.client.clone(), namespace);
            unreadable(policies, invalid, &context.written).await.map_err(api("write the status"))?;
            Ok(Action::await_change())
        }
    }
}

/// An object that this version cannot read: its status says so, and what was rendered before stays. Nothing of its status can be read, so it is written once
/// for each content.
async fn unreadable<K>(api: Api<DeserializeGuard<K>>, invalid: &InvalidObject, written: &Written) -> kube::Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let metadata = &invalid.metadata;
    let (uid, at) = (metadata.uid.clone().unwrap_or_default(), format!("unreadable/{:?}/{}", metadata.generation, invalid.error));
    let is_told = written.lock().is_ok_and(|written| written.get(&uid).is_some_and(|(known, _)| *known == at));
    if metadata.deletion_timestamp.is_some() || is_told {
        return Ok(());
    }
    let name = metadata.name.clone().unwrap_or_default();
    let (kind, namespace) = (K::kind(&()), &metadata.namespace);
    tracing::error!(%kind, name, namespace, error = invalid.error, "an object cannot be read; what was rendered before stays");
    let message = format!("This version cannot read it: {}. What was in force before stays.", invalid.error);
    let accepted = condition(&[], metadata.generation, "Accepted", (Some(false), "Unreadable", message));
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": kind,
        "status": {"observedGeneration": metadata.generation, "conditions": [accepted]},
    });
    api.patch_status(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    if let Ok(mut written) = written.lock() {
        written.insert(uid, (at, Instant::now()));
    }
    Ok(())
}

async fn once(object: &AuditPolicyObject, context: &Context) -> Result<Action, Error> {
    let namespace = object.namespace().unwrap_or_default();
    if object.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let rendered = context.view.render(object);
    let config = rendered.as_ref().as_ref().map(|(config, _)| config);
    let applied = match config {
        Ok(config) => apply(object, config, context, &namespace).await,
        Err(_) => Ok(()),
    };
    context.metrics.abandoned(&namespace, &object.name_any(), 0);
    let found = context.pods.of(&namespace, &object.name_any());
    let of: Of = (namespace.as_str().into(), object.name_any().into());
    if let (Ok(config), Ok(())) = (&config, &applied) {
        let stale = found.iter().filter(|pod| pod.hash != config.hash && !pod.is_over).map(|pod| pod.name.clone());
        context.nudges.offer(&of, &config.hash, stale.collect());
        context.prober.wants(&of, &config.hash);
    }
    let is_settled = context.pods.is_listed(&namespace) && context.watchdog.is_settled(&namespace);
    let sightings = if is_settled { context.prober.of(&found) } else { None };
    let missed = context.watchdog.missing(&namespace, &object.name_any());
    let seen = sightings.as_deref().map(|sightings| (sightings, &missed[..]));
    let lost = context.losses.take(&of);
    let known = object.status.clone().unwrap_or_default();
    let mut ended = Ended { lost: known.abandoned_events, left: known.left_events }.and(lost);
    if context.losses.is_sure(&of, Instant::now()) && sightings.as_deref().is_some_and(is_cleared) {
        ended.left = 0;
    }
    let status = status(object, rendered.as_ref().as_ref(), applied.as_ref().err(), seen, ended);
    if let Some(sightings) = &sightings
        && let Ok(mut fleets) = context.metrics.fleets.lock()
    {
        let dropped = fleet::total(sightings, |sighting| sighting.dropped);
        fleets.insert((namespace.clone(), object.name_any()), (status.pods.clone(), dropped));
    }
    let next = if sightings.is_some() { LOOK } else { UNKNOWN };
    if Some(&status) != object.status.as_ref() {
        let (uid, says) = (object.uid().unwrap_or_default(), says(&status));
        if let Some(rest) = rest(&context.written, &uid, &says) {
            context.losses.add(&of, lost);
            applied?;
            return Ok(Action::requeue(rest.min(next)));
        }
        let policies: Api<AuditPolicyObject> = Api::namespaced(context.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": AuditPolicyObject::api_version(&()),
            "kind": AuditPolicyObject::kind(&()),
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        if let Err(error) = policies.patch_status(&object.name_any(), &params, &Patch::Apply(patch)).await {
            context.losses.add(&of, lost);
            return Err(api("write the status")(error));
        }
        for (is_grave, reason, message) in changes(&known, &status) {
            context.teller.tell(tell::policy(object), is_grave, &reason, &message);
        }
        if let Ok(mut written) = context.written.lock() {
            written.insert(uid, (says, Instant::now()));
        }
    }
    applied?;
    Ok(Action::requeue(next))
}

/// What a person who follows a policy is told of a new status: whether it is grave, one word, a sentence.
fn changes(known: &AuditPolicyStatus, new: &AuditPolicyStatus) -> Vec<(bool, String, String)> {
    let of =
        |status: &AuditPolicyStatus, kind: &str| status.conditions.iter().find(|condition| condition.r#type == kind).cloned();
    let kinds = ["Accepted", "Delivering", "Lossy", "Ready"].into_iter();
    let changed = kinds.filter_map(|kind| {
        let (before, now) = (of(known, kind), of(new, kind)?);
        // What is unknown, or good from the beginning, is no news.
        let was = before.map(|before| before.status);
        let good = if kind == "Lossy" { "False" } else { "True" };
        let is_news = now.status != "Unknown" && was.as_deref() != Some(&now.status) && (was.is_some() || now.status != good);
        is_news.then(|| (now.status != good, format!("{kind}{}", now.status), format!("{}: {}", now.reason, now.message)))
    });
    changed.collect()
}

/// What a status says, without figures that only count up.
fn says(status: &AuditPolicyStatus) -> String {
    let conditions: Vec<_> =
        status.conditions.iter().map(|condition| (&condition.r#type, &condition.status, &condition.reason)).collect();
    let pods = Fleet { spooled_events: 0, spooled_bytes: 0, oldest_undelivered_seconds: None, ..status.pods.clone() };
    let ended = (status.abandoned_events, status.left_events);
    format!("{:?}/{:?}/{ended:?}/{conditions:?}/{pods:?}", status.observed_generation, status.config_hash)
}

/// How long a status that says this is not written again; `None`: it is time.
fn rest(written: &Written, uid: &str, says: &str) -> Option<Duration> {
    let written = written.lock().ok()?;
    let (known, when) = written.get(uid)?;
    let between = if known == says { LOOK } else { WRITES };
    between.checked_sub(when.elapsed()).filter(|rest| !rest.is_zero())
}

/// What every fifteen seconds is done beside policies: missed pods, the platform's policies, what was kept of policies that are gone.
pub async fn rounds(context: &Context) {
    loop {
        let Context { client, view, watchdog, metrics, .. } = context;
        watchdog.round().await;
        if let Ok(mut missed) = metrics.missed.lock() {
            *missed = watchdog.counts();
        }
        for cluster in view.clusters() {
            let told = match &cluster.0 {
                Ok(cluster) => tell_cluster(client, view, cluster).await,
                Err(invalid) => {
                    let clusters: Api<DeserializeGuard<ClusterAuditPolicyObject>> = Api::all(client.clone());
                    unreadable(clusters, invalid, &context.written).await
                }
            };
            if let Err(error) = told {
                tracing::warn!(%error, policy = cluster.name_any(), "the status of a ClusterAuditPolicy cannot be written");
            }
        }
        let there = view.policies();
        if let Ok(mut fleets) = metrics.fleets.lock() {
            let is_there = |(namespace, name): &(String, String)| {
                let is = |policy: &Arc<DeserializeGuard<AuditPolicyObject>>| {
                    policy.namespace().as_ref() == Some(namespace) && policy.name_any() == *name
                };
                there.iter().any(is)
            };
            fleets.retain(|key, _| {
                let is_there = is_there(key);
                if !is_there {
                    metrics.forget(&key.0, &key.1);
                }
                is_there
            });
        }
        if let Ok(mut written) = context.written.lock() {
            let clusters = view.clusters();
            let uids = there.iter().map(|policy| policy.uid()).chain(clusters.iter().map(|cluster| cluster.uid()));
            let uids: HashSet<String> = uids.flatten().collect();
            written.retain(|uid, _| uids.contains(uid));
        }
        tokio::time::sleep(LOOK / 3).await;
    }
}

/// The status of a ClusterAuditPolicy, where something of it changed.
async fn tell_cluster(client: &Client, view: &View, object: &ClusterAuditPolicyObject) -> kube::Result<()> {
    let faults = object.spec.faults();
    let known = object.status.clone().unwrap_or_default();
    let accepted = if faults.is_empty() {
        (Some(true), "Valid", "What it asks is valid.".to_owned())
    } else {
        (Some(false), "Invalid", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let unsatisfied = view.unsatisfied(&object.name_any(), &object.spec);
    let satisfied = if unsatisfied.is_empty() {
        (Some(true), "AllSatisfied", "Every AuditPolicy that it covers is accepted under it.".to_owned())
    } else {
        let message = format!(
            "{} AuditPolicies cannot be accepted under it, their status says why: {}. Their pods go on by the last configuration that was accepted: what it asks does not hold for them.",
            unsatisfied.len(),
            some_of(&unsatisfied)
        );
        (Some(false), "Unsatisfied", message)
    };
    let generation = object.metadata.generation;
    let status = ClusterAuditPolicyStatus {
        observed_generation: generation,
        conditions: vec![
            condition(&known.conditions, generation, "Accepted", accepted),
            condition(&known.conditions, generation, "Satisfied", satisfied),
        ],
        policies: view.covered(object),
    };
    if Some(&status) == object.status.as_ref() {
        return Ok(());
    }
    let patch = json!({
        "apiVersion": ClusterAuditPolicyObject::api_version(&()),
        "kind": ClusterAuditPolicyObject::kind(&()),
        "status": status,
    });
    let clusters: Api<ClusterAuditPolicyObject> = Api::all(client.clone());
    clusters.patch_status(&object.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await?;
    Ok(())
}

/// The ConfigMap that pods of the policy mount.
async fn apply(object: &AuditPolicyObject, config: &SidecarConfig, context: &Context, namespace: &str) -> Result<(), Error> {
    let name = format!("steno-{}", object.name_any());
    let text = serde_yaml::to_string(config).unwrap_or_default();
    let signature = context.seals.get().map(|seal| (SIGNATURE.to_owned(), seal.sign(&text)));
    let data = signature.into_iter().chain([("config.yaml".to_owned(), text)]).collect();
    let map = ConfigMap {
        metadata: kube::api::ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace.into()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "steno".to_owned())].into()),
            annotations: Some([(format!("{PREFIX}config-hash"), config.hash.clone())].into()),
            owner_references: Some(object.controller_owner_ref(&()).into_iter().collect()),
            ..Default::default()
        },
        data: Some(data),
        ..ConfigMap::default()
    };
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    if let Some(there) = maps.get_opt(&name).await.map_err(api("read the ConfigMap"))? {
        // By its owner, not by a label that anybody may take away.
        let is_ours = there.owner_references().iter().any(|owner| Some(&owner.uid) == object.metadata.uid.as_ref());
        let was_ours = there.labels().get("app.kubernetes.io/managed-by").is_some_and(|by| by == "steno");
        if !is_ours && !was_ours {
            return Err(Error::Foreign(name));
        }
        let owners = |map: &ConfigMap| map.owner_references().iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
        let hash = |map: &ConfigMap| {
            (
                map.annotations().get(&format!("{PREFIX}config-hash")).cloned(),
                map.labels().get("app.kubernetes.io/managed-by").cloned(),
            )
        };
        if there.data == map.data && hash(&there) == hash(&map) && owners(&there) == owners(&map) {
            return Ok(());
        }
    }
    maps.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await.map_err(api("apply the ConfigMap"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use steno_crds::Condition;

    use super::*;

    fn standing(kind: &str, status: &str, spooled: u64) -> AuditPolicyStatus {
        let condition = Condition {
            r#type: kind.into(),
            status: status.into(),
            reason: "R".into(),
            message: "m".into(),
            ..Condition::default()
        };
        let pods = Fleet { spooled_events: spooled, ..Fleet::default() };
        AuditPolicyStatus { conditions: vec![condition], pods, ..AuditPolicyStatus::default() }
    }

    /// A busy pod under a ConfigMap that cannot be applied: 69 writes a second.
    #[test]
    fn what_fails_again_and_again_is_tried_ever_more_rarely() {
        let pauses: Vec<u64> = [0, 1, 2, 5, 6, 7, u32::MAX].map(|before| backoff(before).as_secs()).into();
        assert_eq!(pauses, [5, 10, 20, 160, 300, 300, 300]);
    }

    #[test]
    fn figures_that_grow_are_written_with_every_look_and_other_changes_once_a_second() {
        let written = Written::default();
        let (first, grown, open) =
            (standing("Ready", "True", 1), standing("Ready", "True", 900), standing("Ready", "False", 900));
        assert!(rest(&written, "u", &says(&first)).is_none(), "the first is written at once");
        written.lock().unwrap().insert("u".into(), (says(&first), Instant::now()));
        let of_figures = rest(&written, "u", &says(&grown)).unwrap();
        let of_others = rest(&written, "u", &says(&open)).unwrap();
        assert!(of_figures > WRITES && of_figures <= LOOK && of_others <= WRITES, "{of_figures:?}, {of_others:?}");
        let lost = AuditPolicyStatus { abandoned_events: 7, ..first };
        assert!(rest(&written, "u", &says(&lost)).unwrap() <= WRITES, "a loss is no figure");
    }

    #[test]
    fn who_follows_a_policy_is_told_what_became_of_it() {
        let words = |known: &AuditPolicyStatus, new: &AuditPolicyStatus| {
            changes(known, new).into_iter().map(|(is_grave, word, _)| (is_grave, word)).collect::<Vec<_>>()
        };
        let none = AuditPolicyStatus::default();
        let (open, closed) = (standing("Delivering", "False", 0), standing("Delivering", "True", 0));
        assert_eq!(words(&closed, &open), [(true, "DeliveringFalse".to_owned())]);
        assert_eq!(words(&open, &closed), [(false, "DeliveringTrue".to_owned())]);
        assert!(words(&open, &open).is_empty() && words(&none, &closed).is_empty(), "good from the beginning is no news");
        assert_eq!(words(&none, &standing("Lossy", "True", 0)), [(true, "LossyTrue".to_owned())]);
        assert!(words(&closed, &standing("Delivering", "Unknown", 0)).is_empty());
    }
}
