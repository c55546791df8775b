//! What is known of policies, of the platform's policies, and of namespaces' labels: stores that watches keep up to date.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex},
};

use futures_util::StreamExt as _;
use k8s_openapi::{
    api::core::v1::{ConfigMap, LimitRange, Namespace as NamespaceObject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{WatchStreamExt as _, reflector, reflector::Store, watcher},
};
use serde_json::{Value, json};
use steno_crds::{
    AuditPolicyObject, ClusterAuditPolicyObject, ClusterAuditPolicySpec, Covering, Fault, LabelSelector, SidecarConfig,
    render_under,
};
use tokio::sync::{broadcast, watch};

use crate::{
    inject::{Namespace, PREFIX, Policy, Range, matches, may_share, ranges},
    scope::{self, Scope},
};

/// Refusals in a row that are taken for lasting: some ten seconds of them.
const REFUSED: u32 = 5;

/// Namespaces that were relabelled and wait for a slow reader; who misses some sees them with the next regular reconcile.
const RELABELLED: usize = 1024;

/// What a policy renders to, with what it inherited.
pub type Rendered = Result<(SidecarConfig, Vec<String>), Vec<Fault>>;

/// What was rendered, by namespace and name, and what from.
type Known = HashMap<(String, String), (String, Arc<Rendered>)>;

/// The stores.
pub struct View {
    /// One for each namespace that is watched by itself. An object that cannot be read, such as one of a newer version, is one, and takes no other with it.
    policies: Vec<Followed<DeserializeGuard<AuditPolicyObject>>>,
    /// Whether it is all namespaces.
    is_whole: bool,
    clusters: Store<DeserializeGuard<ClusterAuditPolicyObject>>,
    namespaces: Store<PartialObjectMeta<NamespaceObject>>,
    /// Namespaces whose labels changed.
    relabelled: broadcast::Sender<String>,
    /// One for each namespace that is watched by itself. Where they may not be read, none are known.
    limits: Vec<Store<LimitRange>>,
    /// Rules are compiled once a change, not once a pod.
    rendered: Mutex<Known>,
    /// What policies, by UID, rendered to when they were last accepted; `None`: there is nothing to be found.
    last_good: Mutex<HashMap<String, Option<SidecarConfig>>>,
}

/// A store that a watch keeps up to date.
struct Followed<K>
where
    K: reflector::Lookup + 'static,
    <K as reflector::Lookup>::DynamicType: Eq + std::hash::Hash,
{
    store: Store<K>,
    /// How often in a row the API server has said that we may not look.
    refused: watch::Receiver<u32>,
}

/// Watches one kind; `changed` is told of every change.
fn follow<K>(api: Api<K>, mut changed: impl FnMut(&K) + Send + 'static) -> Followed<K>
where
    K: Resource + reflector::Lookup + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
    <K as reflector::Lookup>::DynamicType: Default + Eq + std::hash::Hash + Clone + Send + Sync,
{
    let (reader, writer) = reflector::store();
    let stream = watcher(api, watcher::Config::default().page_size(250)).modify(|object| {
        object.managed_fields_mut().clear();
    });
    // Waits grow behind what is left of the stream: each try begins with an event of its own, which would reset them.
    let stream = reflector(writer, stream).touched_objects().default_backoff();
    let (refuses, refused) = watch::channel(0);
    tokio::spawn(stream.for_each(move |event| {
        match event {
            Ok(object) => {
                refuses.send_replace(0);
                changed(&object);
            }
            Err(error) => {
                let is_forbidden =
                    matches!(&error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 403);
                refuses.send_modify(|refused| *refused = if is_forbidden { *refused + 1 } else { 0 });
                tracing::warn!(%error, "a watch broke and begins again");
            }
        }
        async {}
    }));
    Followed { store: reader, refused }
}

fn filled<K>(objects: Vec<K>) -> Followed<K>
where
    K: reflector::Lookup + Clone + 'static,
    <K as reflector::Lookup>::DynamicType: Default + Eq + std::hash::Hash + Clone,
{
    let (store, mut writer) = reflector::store();
    let all = objects.into_iter().map(watcher::Event::InitApply);
    for event in [watcher::Event::Init].into_iter().chain(all).chain([watcher::Event::InitDone]) {
        writer.apply_watcher_event(&event);
    }
    Followed { store, refused: watch::channel(0).1 }
}

/// Tells of namespaces whose labels changed: nothing else of them counts.
fn of_labels(relabelled: broadcast::Sender<String>) -> impl FnMut(&PartialObjectMeta<NamespaceObject>) + Send + 'static {
    let mut known: HashMap<String, BTreeMap<String, String>> = HashMap::new();
    move |object| {
        let (name, labels) = (object.name_any(), object.labels().clone());
        if known.get(&name) != Some(&labels) {
            known.insert(name.clone(), labels);
            let _ = relabelled.send(name);
        }
    }
}

/// What tells an object from one of the same name that comes after it.
fn uid(of: &ObjectMeta) -> String {
    let name = || format!("{}/{}", of.namespace.as_deref().unwrap_or_default(), of.name.as_deref().unwrap_or_default());
    of.uid.clone().unwrap_or_else(name)
}

impl View {
    /// Begins to watch. The receiver changes whenever the platform's policies do.
    pub fn start(client: &Client, scope: &Scope) -> (Arc<Self>, watch::Receiver<u64>) {
        let (changed, changes) = watch::channel(0);
        let relabelled = broadcast::channel(RELABELLED).0;
        let policies = |namespace: Option<String>| follow(scope::api(client, namespace.as_deref()), |_| {});
        let limits = |namespace: Option<String>| follow(scope::api(client, namespace.as_deref()), |_| {}).store;
        let view = Self {
            policies: scope.each().into_iter().map(policies).collect(),
            is_whole: scope.is_whole(),
            clusters: follow(Api::all(client.clone()), move |_| changed.send_modify(|count| *count += 1)).store,
            namespaces: follow(Api::all(client.clone()), of_labels(relabelled.clone())).store,
            relabelled,
            limits: scope.each().into_iter().map(limits).collect(),
            rendered: Mutex::default(),
            last_good: Mutex::default(),
        };
        (Arc::new(view), changes)
    }

    /// A view that nothing changes, for measurements.
    pub fn fixed(policies: Vec<AuditPolicyObject>, namespaces: Vec<PartialObjectMeta<NamespaceObject>>) -> Arc<Self> {
        let policies = policies.into_iter().map(|policy| DeserializeGuard(Ok(policy))).collect();
        let (policies, namespaces) = (vec![filled(policies)], filled(namespaces).store);
        Arc::new(Self {
            policies,
            is_whole: true,
            clusters: filled(Vec::new()).store,
            namespaces,
            relabelled: broadcast::channel(1).0,
            limits: Vec::new(),
            rendered: Mutex::default(),
            last_good: Mutex::default(),
        })
    }

    /// Until everything was listed once. Where namespaces are named, one whose rights are missing does not hold up the rest; it is waited for a little, for
    /// an API server that has just begun knows of no rights.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for Followed { store, refused } in &self.policies {
            let mut refused = refused.clone();
            tokio::select! {
                ready = store.wait_until_ready() => ready?,
                Ok(_) = refused.wait_for(|refused| *refused >= REFUSED), if !self.is_whole => {
                    tracing::error!("the policies of a namespace may not be read; it has no RoleBinding for Steno, or is not there");
                }
            }
        }
        self.clusters.wait_until_ready().await?;
        self.namespaces.wait_until_ready().await?;
        Ok(())
    }

    /// The labels of a namespace; `None`: it is not known yet.
    fn labels(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        let found = self.namespaces.find(|object| object.metadata.name.as_deref() == Some(namespace))?;
        Some(found.labels().clone())
    }

    /// What injection needs to know of a namespace.
    pub fn namespace(&self, name: &str) -> Namespace {
        let labels = self.labels(name);
        let label = |key: &str| labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        let covering = self.covering(name).unwrap_or_default();
        Namespace {
            name: name.to_owned(),
            must_inject: covering.iter().any(|one| one.spec.injection.opt_out == Some(false)),
            inject_all: label(&format!("{PREFIX}inject")) == Some("true"),
            // Only where it is said: without a label what the cluster has for a default counts, which cannot be seen.
            may_host_path: label("pod-security.kubernetes.io/enforce") == Some("privileged"),
            has_own_users: self.annotated(name, "openshift.io/sa.scc.uid-range"),
            ranges: self.ranges(name),
        }
    }

    /// Whether a namespace has an annotation.
    fn annotated(&self, namespace: &str, annotation: &str) -> bool {
        let found = self.namespaces.find(|object| object.metadata.name.as_deref() == Some(namespace));
        found.is_some_and(|object| object.annotations().contains_key(annotation))
    }

    /// What a namespace's `LimitRange` objects say.
    fn ranges(&self, namespace: &str) -> Vec<Range> {
        let objects = self.limits.iter().flat_map(Store::state);
        let of = objects.filter(|object| object.metadata.namespace.as_deref() == Some(namespace));
        of.flat_map(|object| ranges(&json!(object.spec))).collect()
    }

    /// The platform's policies that cover a namespace, by name; `None`: the namespace is not known yet, or one of them cannot be read, and nobody can tell.
    pub fn covering(&self, namespace: &str) -> Option<Vec<Covering>> {
        let labels = json!(self.labels(namespace)?);
        let clusters = self.clusters.state();
        let mut covering: Vec<Covering> = clusters
            .iter()
            .map(|object| object.0.as_ref().ok())
            .collect::<Option<Vec<&ClusterAuditPolicyObject>>>()?
            .into_iter()
            .filter(|object| matches(object.spec.namespace_selector.as_ref(), Some(&labels)))
            .map(|object| Covering { name: object.name_any(), spec: object.spec.clone() })
            .collect();
        covering.sort_by(|a, b| a.name.cmp(&b.name));
        Some(covering)
    }

    /// The platform's policies.
    pub fn clusters(&self) -> Vec<Arc<DeserializeGuard<ClusterAuditPolicyObject>>> {
        self.clusters.state()
    }

    fn each(&self) -> impl Iterator<Item = Arc<DeserializeGuard<AuditPolicyObject>>> {
        self.policies.iter().flat_map(|followed| followed.store.state())
    }

    /// Namespaces whose labels changed.
    pub fn relabelled(&self) -> broadcast::Receiver<String> {
        self.relabelled.subscribe()
    }

    /// Names of the policies in a namespace.
    pub fn names_in(&self, namespace: &str) -> Vec<String> {
        let of = self.each().filter(|object| object.meta().namespace.as_deref() == Some(namespace));
        of.map(|object| object.name_any()).collect()
    }

    /// All policies.
    pub fn policies(&self) -> Vec<Arc<DeserializeGuard<AuditPolicyObject>>> {
        self.each().collect()
    }

    /// Names of all policies in the namespaces that a selector covers.
    pub fn covered(&self, cluster: &ClusterAuditPolicyObject) -> u64 {
        let selector = cluster.spec.namespace_selector.as_ref();
        let is_covered = |policy: &Arc<DeserializeGuard<AuditPolicyObject>>| {
            let labels = self.labels(&policy.namespace().unwrap_or_default()).map_or(Value::Null, |labels| json!(labels));
            matches(selector, Some(&labels))
        };
        self.each().filter(is_covered).count() as u64
    }

    /// A policy under what covers its namespace.
    pub fn render(&self, object: &AuditPolicyObject) -> Arc<Rendered> {
        let namespace = object.namespace().unwrap_or_default();
        let Some(covering) = self.covering(&namespace) else {
            // As if nothing covered it would be looser than it may be.
            return Arc::new(Err(vec![Fault::new(
                "metadata.namespace",
                "is not known to the operator yet, or a ClusterAuditPolicy cannot be read (its status says so); what was rendered before stays",
            )]));
        };
        let from = serde_json::to_string(&(&object.spec, covering.iter().map(|one| (&one.name, &one.spec)).collect::<Vec<_>>()));
        let from = from.unwrap_or_default();
        let key = (namespace, object.name_any());
        if let Ok(known) = self.rendered.lock()
            && let Some((_, rendered)) = known.get(&key).filter(|(known, _)| *known == from)
        {
            return rendered.clone();
        }
        let rendered = Arc::new(render_under(&object.to_policy(), &covering));
        if let Ok(mut known) = self.rendered.lock() {
            if known.len() > 2 * self.policies.iter().map(|followed| followed.store.len()).sum::<usize>() + 16 {
                known.clear();
            }
            known.insert(key, (from, rendered.clone()));
        }
        if let Ok((config, _)) = rendered.as_ref() {
            self.keep_good(&object.metadata, Some(config.clone()));
        }
        rendered
    }

    /// Looks for what policies of a namespace rendered to when they were last accepted, where they are not now and this process has not seen it: in the
    /// ConfigMap that pods mount. What is there was written by the operator, and by nobody else.
    pub async fn recall(&self, client: &Client, namespace: &str) {
        let of_namespace =
            |object: &Arc<DeserializeGuard<AuditPolicyObject>>| object.meta().namespace.as_deref() == Some(namespace);
        for object in self.each().filter(of_namespace) {
            let is_known = || self.last_good.lock().is_ok_and(|last_good| last_good.contains_key(&uid(object.meta())));
            // Whoever was accepted once is known: an admission renders nothing twice.
            if is_known() || object.0.as_ref().is_ok_and(|object| self.render(object).is_ok()) {
                continue;
            }
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            let found = match maps.get_opt(&format!("steno-{}", object.name_any())).await {
                Ok(found) => found,
                Err(error) => {
                    let policy = object.name_any();
                    tracing::warn!(%error, namespace, policy, "the last configuration of a policy that is not accepted cannot be read");
                    continue;
                }
            };
            let owner = object.meta().uid.as_ref();
            let is_its = |map: &ConfigMap| map.owner_references().iter().any(|of| Some(&of.uid) == owner);
            let text = found.filter(is_its).and_then(|map| map.data?.remove("config.yaml"));
            let config = text.and_then(|text| steno_crds::parse(&text).ok()).map(|parsed| parsed.config);
            self.keep_good(object.meta(), config);
        }
    }

    fn keep_good(&self, of: &ObjectMeta, config: Option<SidecarConfig>) {
        let Ok(mut last_good) = self.last_good.lock() else { return };
        if last_good.len() > 2 * self.policies.iter().map(|followed| followed.store.len()).sum::<usize>() + 16 {
            let there: HashSet<String> = self.each().map(|object| uid(object.meta())).collect();
            last_good.retain(|uid, _| there.contains(uid));
        }
        last_good.insert(uid(of), config);
    }

    /// AuditPolicies, as `namespace/name`, that would not be accepted under what is asked of a ClusterAuditPolicy; each is in a namespace that it covers.
    pub fn unsatisfied(&self, name: &str, spec: &ClusterAuditPolicySpec) -> Vec<String> {
        let selector = spec.namespace_selector.as_ref();
        // What is in force already was rendered already: this is asked every few seconds.
        let stored = self.clusters.find(|cluster| cluster.name_any() == name);
        let is_in_force = stored.is_some_and(|cluster| cluster.0.as_ref().is_ok_and(|cluster| cluster.spec == *spec));
        let mut names = Vec::new();
        for object in self.each() {
            let Ok(object) = &object.0 else { continue };
            let namespace = object.namespace().unwrap_or_default();
            let labels = self.labels(&namespace).map_or(Value::Null, |labels| json!(labels));
            let Some(mut covering) = self.covering(&namespace).filter(|_| matches(selector, Some(&labels))) else { continue };
            covering.retain(|one| one.name != name);
            covering.push(Covering { name: name.to_owned(), spec: spec.clone() });
            covering.sort_by(|a, b| a.name.cmp(&b.name));
            let is_refused =
                || if is_in_force { self.render(object).is_err() } else { render_under(&object.to_policy(), &covering).is_err() };
            if is_refused() {
                names.push(format!("{namespace}/{}", object.name_any()));
            }
        }
        names.sort();
        names
    }

    /// Other policies of the namespace that may select pods which this one does.
    pub fn rivals(&self, namespace: &str, name: &str, selector: Option<&LabelSelector>) -> Vec<String> {
        let others = self.policies_in(namespace).into_iter().filter(|policy| policy.name != name);
        others.filter(|policy| may_share(selector, policy.selector.as_ref())).map(|policy| policy.name).collect()
    }

    /// The policies of a namespace as injection sees them, by name.
    pub fn policies_in(&self, namespace: &str) -> Vec<Policy> {
        let mut policies: Vec<Policy> = self
            .each()
            .filter(|object| object.meta().namespace.as_deref() == Some(namespace))
            .filter_map(|object| {
                let object = object.0.as_ref().ok()?;
                let rendered = self.render(object).as_ref().as_ref().ok().map(|(config, _)| config.clone());
                let is_last_good = rendered.is_none();
                let config = rendered.or_else(|| self.last_good.lock().ok()?.get(&uid(&object.metadata)).cloned().flatten());
                Some(Policy { name: object.name_any(), selector: object.spec.selector.clone(), config, is_last_good })
            })
            .collect();
        policies.sort_by(|a, b| a.name.cmp(&b.name));
        policies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a list holds after a rollback, or after an object got past every check.
    #[test]
    fn an_object_that_cannot_be_read_takes_no_other_with_it() {
        let object = |name: &str, spec: Value| json!({"apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        let kafka = json!({"brokers": ["k:9092"], "topic": "t"});
        let list = json!({"apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicyList", "metadata": {}, "items": [
            object("good", json!({"kafka": kafka})),
            object("window", json!({"kafka": kafka, "dedupe": {"window": "99999999999999999999d"}})),
            object("size", json!({"kafka": kafka, "spool": {"volume": {"type": "Ephemeral", "ephemeral": {"size": "99999999999999999999Ti"}}}})),
            object("newer", json!({"kafka": kafka, "ack": "InTheNextVersion"})),
            object("odd", json!(["no", "spec"])),
        ]});
        let list: kube::core::ObjectList<DeserializeGuard<AuditPolicyObject>> = serde_json::from_value(list).unwrap();
        let read: Vec<String> = list.items.iter().filter(|item| item.0.is_ok()).map(kube::ResourceExt::name_any).collect();
        assert_eq!((list.items.len(), read), (5, vec!["good".to_owned()]));
        let shop = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
        let view =
            View { policies: vec![filled(list.items)], ..Arc::try_unwrap(View::fixed(Vec::new(), vec![shop])).ok().unwrap() };
        let names: Vec<String> = view.policies_in("shop").into_iter().map(|policy| policy.name).collect();
        assert_eq!(names, ["good"], "the good one serves pods");
        assert_eq!(view.policies().len(), 5, "and the others are there, for their status");
    }

    /// A platform that asks for claims, over a namespace whose policy has an emptyDir.
    #[test]
    fn tightening_takes_the_sidecar_from_nobody_and_names_who_does_not_satisfy_it() {
        let policy: AuditPolicyObject = serde_json::from_value(json!({
            "apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "p", "namespace": "shop", "uid": "u"},
            "spec": {"kafka": {"brokers": ["k:9092"], "topic": "t"}},
        }))
        .unwrap();
        let shop: PartialObjectMeta<NamespaceObject> = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
        let loose = View::fixed(vec![policy.clone()], vec![shop.clone()]);
        let before = loose.policies_in("shop").remove(0);
        assert!(before.config.is_some() && !before.is_last_good);
        let asks: ClusterAuditPolicySpec =
            serde_json::from_value(json!({"spool": {"volumeTypes": ["PersistentVolumeClaim"]}})).unwrap();
        assert_eq!(loose.unsatisfied("platform", &asks), ["shop/p"], "who applies it is told");
        let cluster = json!({"apiVersion": "audit.steno.dev/v1alpha1", "kind": "ClusterAuditPolicy", "metadata": {"name": "platform"}, "spec": asks});
        let clusters = filled(vec![DeserializeGuard(Ok(serde_json::from_value(cluster).unwrap()))]).store;
        let strict = View { clusters, ..Arc::try_unwrap(loose).ok().unwrap() };
        let after = strict.policies_in("shop").remove(0);
        assert!(strict.render(&policy).is_err() && after.is_last_good);
        assert_eq!(after.config.map(|config| config.hash), before.config.map(|config| config.hash));
        // One of the same name that comes after it does not inherit what it never was.
        let other = AuditPolicyObject { metadata: ObjectMeta { uid: Some("v".into()), ..policy.metadata }, ..policy };
        let again = View { policies: vec![filled(vec![DeserializeGuard(Ok(other))])], ..strict };
        assert!(again.policies_in("shop").remove(0).config.is_none());
    }

    #[test]
    fn of_a_namespace_only_its_labels_count() {
        let (relabelled, mut told) = broadcast::channel(8);
        let mut changed = of_labels(relabelled);
        let namespace = |labels: Value, note: &str| -> PartialObjectMeta<NamespaceObject> {
            serde_json::from_value(json!({"metadata": {"name": "shop", "labels": labels, "annotations": {"note": note}}}))
                .unwrap()
        };
        for (object, is_news) in [
            (namespace(json!({"a": "1"}), "x"), true),
            (namespace(json!({"a": "1"}), "y"), false),
            (namespace(json!({"a": "2"}), "y"), true),
        ] {
            changed(&object);
            assert_eq!(told.try_recv().is_ok(), is_news);
        }
    }

    #[test]
    fn policies_that_may_select_the_same_pods_are_rivals() {
        let policy = |name: &str, app: &str| -> AuditPolicyObject {
            serde_json::from_value(json!({
                "apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": name, "namespace": "shop"},
                "spec": {"selector": {"matchLabels": {"app": app}}, "kafka": {"brokers": ["k:9092"], "topic": "t"}},
            }))
            .unwrap()
        };
        let shop = serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap();
        let view = View::fixed(vec![policy("a", "one"), policy("b", "two")], vec![shop]);
        let one: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "one"}})).unwrap();
        assert_eq!(view.rivals("shop", "new", Some(&one)), ["a"]);
        assert_eq!(view.rivals("shop", "new", None), ["a", "b"]);
        assert!(view.rivals("shop", "a", Some(&one)).is_empty(), "none is its own");
    }

    #[test]
    fn what_is_not_known_of_a_namespace_is_taken_for_the_stricter() {
        let namespace = |name: &str, labels: Value| serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}}));
        let enforce = "pod-security.kubernetes.io/enforce";
        let namespaces = [
            namespace("privileged", json!({enforce: "privileged", "audit.steno.dev/inject": "true"})),
            namespace("baseline", json!({enforce: "baseline"})),
            namespace("silent", json!({})),
        ];
        let policy: AuditPolicyObject = serde_json::from_value(json!({
            "apiVersion": "audit.steno.dev/v1alpha1", "kind": "AuditPolicy", "metadata": {"name": "p", "namespace": "unknown"},
            "spec": {"kafka": {"brokers": ["k:9092"], "topic": "t"}},
        }))
        .unwrap();
        let view = View::fixed(vec![policy.clone()], namespaces.into_iter().map(Result::unwrap).collect());
        let may = |name: &str| view.namespace(name).may_host_path;
        assert!(may("privileged") && !may("baseline"));
        assert!(
            !may("silent") && !may("unknown"),
            "the cluster's default may forbid it, and the pod would be refused because of us"
        );
        assert!(view.namespace("privileged").inject_all && !view.namespace("silent").inject_all);
        // Nobody can tell what covers it, so it is not rendered as if nothing did.
        assert!(view.covering("unknown").is_none() && view.render(&policy).is_err());
        assert!(view.policies_in("unknown")[0].config.is_none());
    }
}
