//! Pods that ask for the sidecar and do not have it: why, told by an Event on the pod, a metric and the policy's condition.
//!
//! There are two kinds. Some were made while no operator answered, or before their policy: they would be injected now, and a restart mends them.
//! Others cannot be served, for the reasons that injection has. Which it is says the same pure plan that injection goes by, over the pod as it
//! stands.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt as _};
use serde_json::Value;

use crate::{
    inject::{Plan, Settings, choices, plan},
    pods::{Asking, Injected, Pods},
    rota::Of,
    tell::{self, Teller},
    view::View,
};

/// The reason where nothing is wrong.
const NOTHING: &str = "";
/// Rounds that a policy has for coming after its pods, as in a chart that brings both: half a minute.
const PATIENCE: u32 = 6;
/// Pods that are read at a time.
const AT_A_TIME: usize = 8;

/// What is wrong with a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The policy that it should have, or those that compete for it.
    pub policies: Vec<String>,
    /// One word why not.
    pub reason: &'static str,
    /// A sentence, with what to do.
    pub note: String,
    /// What the verdict was made from; when that changes it is made anew.
    from: u64,
}

/// The watchdog.
pub struct Watchdog {
    client: Client,
    view: Arc<View>,
    pods: Arc<Pods>,
    settings: Settings,
    /// Namespaces that the webhooks do not look at.
    excluded: Vec<String>,
    teller: Teller,
    verdicts: Mutex<HashMap<String, Verdict>>,
    /// Pods, by UID, whose policy is not there, and for how many rounds it has not been.
    waiting: Mutex<HashMap<String, u32>>,
    /// Policies that were there in some round.
    had: Mutex<HashSet<(String, String)>>,
    /// Namespaces whose pods were all listed when a round began that has ended.
    settled: Mutex<HashSet<String>>,
}

fn stamp(view: &View, namespace: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    for policy in view.policies_in(namespace) {
        (policy.name, policy.config.map(|config| config.hash)).hash(&mut hasher);
    }
    hasher.finish()
}

/// What is told of a pod that opted out: its policies have nothing to do with it.
const OPTED_OUT: &str = "OptedOut";

/// What is wrong with a pod: the policies that it concerns, one word, and a sentence.
fn fault(pod: &Value, namespace: &str, view: &View, settings: &Settings) -> Option<(Vec<String>, &'static str, String)> {
    let (policies, known) = (view.policies_in(namespace), view.namespace(namespace));
    match plan(pod, &known, &policies, settings) {
        Plan::NotAsked
            if known.inject_all && pod.pointer("/metadata/annotations/audit.steno.dev~1inject") == Some(&"false".into()) =>
        {
            let note = "The pod is annotated audit.steno.dev/inject: \"false\" in a namespace whose pods are to be audited: its events are not. A ClusterAuditPolicy can \
                        forbid that (spec.injection.optOut)."
                .to_owned();
            Some((Vec::new(), OPTED_OUT, note))
        }
        Plan::NotAsked => None,
        Plan::Inject { policy, .. } => {
            let note = format!(
                "The pod asks for the sidecar and was made without it: no operator answered, or the policy {policy} came later. Its events are \
                 not audited. Restart it, such as by kubectl rollout restart."
            );
            Some((vec![policy], "Missed", note))
        }
        Plan::Skip(reason) => {
            let policies = choices(pod, &known, &policies);
            Some((policies, reason.word(), format!("The pod asks for the sidecar and runs without it: {reason}.")))
        }
    }
}

impl Watchdog {
    /// Over what is known; `excluded` are the namespaces that the webhooks do not look at.
    pub fn new(
        client: Client,
        view: Arc<View>,
        pods: Arc<Pods>,
        settings: Settings,
        excluded: Vec<String>,
        teller: Teller,
    ) -> Self {
        Self {
            client,
            view,
            pods,
            settings,
            excluded,
            teller,
            verdicts: Mutex::default(),
            waiting: Mutex::default(),
            had: Mutex::default(),
            settled: Mutex::default(),
        }
    }

    /// Looks at all pods that ask and are not injected; those that are new, or whose policies changed, are judged and told.
    pub async fn round(&self) {
        let Self { view, excluded, .. } = self;
        let namespaces: HashSet<String> = view.policies().iter().filter_map(|policy| policy.namespace()).collect();
        let listed: Vec<String> = namespaces.into_iter().filter(|name| self.pods.is_listed(name)).collect();
        let mut whole: HashMap<String, bool> = HashMap::new();
        let found = self.pods.asking(|namespace, pod| {
            let is_excluded = excluded.iter().any(|name| name == namespace);
            let mut whole = || *whole.entry(namespace.to_owned()).or_insert_with(|| view.namespace(namespace).inject_all);
            !is_excluded && (pod.by_itself || whole())
        });
        let mut stamps: BTreeMap<String, u64> = BTreeMap::new();
        let mut due = Vec::new();
        let mut there = HashSet::new();
        for (namespace, pod) in found {
            let from = *stamps.entry(namespace.to_string()).or_insert_with(|| stamp(view, &namespace));
            there.insert(pod.uid.clone());
            let is_known =
                self.verdicts.lock().is_ok_and(|known| known.get(&pod.uid).is_some_and(|verdict| verdict.from == from));
            if !is_known {
                due.push((namespace.to_string(), pod, from));
            }
        }
        let waiting = self.waiting();
        there.extend(waiting.iter().map(|(_, pod)| pod.uid.clone()));
        if let Ok(mut verdicts) = self.verdicts.lock() {
            verdicts.retain(|uid, _| there.contains(uid));
        }
        // Whoever labels a pod says that it has the sidecar; the mark says whether it has.
        let forged = self.pods.injected(|pod| !pod.is_over && !pod.is_ours);
        there.extend(forged.iter().map(|(_, pod)| pod.uid.clone()));
        for ((namespace, _), pod) in forged {
            let note = "The pod is labelled as injected, and what it runs as steno-sidecar is not what the webhook adds: its events may not be audited. \
                        Leave out the label, the container, its volumes steno-… and the annotation audit.steno.dev/mark, and make the pod anew."
                .to_owned();
            let verdict = Verdict {
                namespace: namespace.to_string(),
                name: pod.name,
                policies: vec![pod.policy],
                reason: "NotTheSidecar",
                note,
                from: 0,
            };
            self.keep(pod.uid, verdict);
        }
        for (namespace, pod) in waiting {
            let note = format!(
                "The AuditPolicy {:?} of the pod is not there. If it was deleted, the sidecar goes on by its last configuration until it restarts; else it keeps events, and delivers none. Create the policy, or correct the annotation and restart the pod.",
                pod.policy
            );
            let verdict = Verdict {
                namespace: namespace.to_string(),
                name: pod.name.clone(),
                policies: Vec::new(),
                reason: "NoSuchPolicy",
                note,
                from: 0,
            };
            self.keep(pod.uid, verdict);
        }
        let judged = due.into_iter().map(|(namespace, pod, from)| self.judge(namespace, pod, from));
        stream::iter(judged).buffer_unordered(AT_A_TIME).collect::<Vec<()>>().await;
        if let Ok(mut settled) = self.settled.lock() {
            *settled = listed.into_iter().collect();
        }
    }

    /// Whether all pods of a namespace were judged: before that nobody can say that none is missing.
    pub fn is_settled(&self, namespace: &str) -> bool {
        self.settled.lock().is_ok_and(|settled| settled.contains(namespace))
    }

    async fn judge(&self, namespace: String, pod: Asking, from: u64) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &namespace);
        let whole = match pods.get_opt(&pod.name).await {
            Ok(Some(whole)) => serde_json::to_value(whole).unwrap_or_default(),
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, namespace, pod = pod.name, "the pod cannot be read"),
        };
        let is_over = matches!(whole.pointer("/status/phase").and_then(Value::as_str), Some("Succeeded" | "Failed"));
        // Of a pod that has ended, or asks no more, nothing is to be said: that is remembered, too.
        let judged = fault(&whole, &namespace, &self.view, &self.settings).filter(|_| !is_over);
        let (policies, reason, note) = judged.unwrap_or((Vec::new(), NOTHING, String::new()));
        let verdict = Verdict { namespace: namespace.clone(), name: pod.name.clone(), policies, reason, note, from };
        self.keep(pod.uid, verdict);
    }

    /// Keeps a verdict on a pod, and tells of one that is new.
    fn keep(&self, uid: String, verdict: Verdict) {
        let Ok(mut verdicts) = self.verdicts.lock() else { return };
        let Verdict { namespace, name, reason, note, .. } = &verdict;
        let is_new = *reason != NOTHING && verdicts.get(&uid).is_none_or(|known| (known.reason, &known.note) != (*reason, note));
        if is_new {
            tracing::warn!(namespace, pod = name, reason, note, "a pod that asks is not audited");
            self.teller.tell(tell::pod(namespace, name, &uid), true, "InjectionSkipped", &format!("{reason}: {note}"));
        }
        verdicts.insert(uid, verdict);
    }

    /// Injected pods whose policy has not been there for a while: it was never made, or is gone.
    fn waiting(&self) -> Vec<(Arc<str>, Injected)> {
        let there: HashSet<(String, String)> =
            self.view.policies().iter().map(|policy| (policy.namespace().unwrap_or_default(), policy.name_any())).collect();
        let without = |of: &Of| !there.contains(&(of.0.to_string(), of.1.to_string()));
        let pods = self.pods.injected(|pod| !pod.is_over).into_iter().filter(|(of, _)| without(of)).map(|(of, pod)| (of.0, pod));
        let (Ok(mut waiting), Ok(mut had)) = (self.waiting.lock(), self.had.lock()) else { return Vec::new() };
        let known = std::mem::take(&mut *waiting);
        let mut found = Vec::new();
        for (namespace, pod) in pods {
            let rounds = known.get(&pod.uid).copied().unwrap_or_default() + 1;
            waiting.insert(pod.uid.clone(), rounds);
            // One that was deleted does not come later.
            if rounds > PATIENCE || had.contains(&(namespace.to_string(), pod.policy.clone())) {
                found.push((namespace, pod));
            }
        }
        had.extend(there);
        found
    }

    /// The pods that miss a policy's sidecar.
    pub fn missing(&self, namespace: &str, policy: &str) -> Vec<Verdict> {
        let Ok(verdicts) = self.verdicts.lock() else { return Vec::new() };
        let of = verdicts
            .values()
            .filter(|verdict| verdict.namespace == namespace && verdict.policies.iter().any(|known| known == policy));
        let mut of: Vec<Verdict> = of.cloned().collect();
        of.sort_by(|a, b| a.name.cmp(&b.name));
        of
    }

    /// How many, by namespace and reason.
    pub fn counts(&self) -> BTreeMap<(String, &'static str), i64> {
        let mut counts = BTreeMap::new();
        let verdicts = self.verdicts.lock();
        for verdict in verdicts.iter().flat_map(|verdicts| verdicts.values()).filter(|verdict| verdict.reason != NOTHING) {
            *counts.entry((verdict.namespace.clone(), verdict.reason)).or_default() += 1;
        }
        counts
    }
}
