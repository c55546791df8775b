//! The pods that matter, in as little memory as they need: those with the sidecar, and those that ask for it and do not have it.
//!
//! Two watches keep them up to date. Of all pods only the metadata is asked for, and of those without the sidecar a line is remembered: any may ask
//! one day, when its namespace is labelled. Of injected pods the whole is sent by the API server, and only address, phase and the
//! sidecar's state are read.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, future::join_all};
use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Client, Resource, ResourceExt as _, core::PartialObjectMeta, runtime::watcher};
use serde::Deserialize;
use tokio::sync::watch;

use crate::{
    inject::{CONTAINER, PREFIX, STATUS, STATUS_PORT},
    rota::Of,
    scope::{self, Scope},
    seal::{Essence, Seals},
};

/// A sidecar that ended within so many seconds is news, also to one that has just begun to lead.
const NEWS: i64 = 120;
/// The first wait before a watch begins again; each further one is twice as long, up to 32 times this.
const AGAIN: Duration = Duration::from_millis(800);
/// Pods in a page of a list.
const PAGE: u32 = 250;

/// What is read of an injected pod.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Slim {
    metadata: ObjectMeta,
    spec: SlimSpec,
    status: SlimStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimSpec {
    host_network: bool,
    init_containers: Vec<SlimSidecar>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SlimSidecar {
    name: String,
    ports: Vec<SlimPort>,
    #[serde(flatten)]
    essence: Essence,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimPort {
    name: String,
    container_port: u16,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimStatus {
    phase: String,
    #[serde(rename = "podIP")]
    pod_ip: Option<IpAddr>,
    init_container_statuses: Vec<SlimContainer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimContainer {
    name: String,
    ready: bool,
    state: SlimState,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SlimState {
    terminated: Option<SlimTerminated>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[serde(rename_all = "camelCase")]
struct SlimTerminated {
    message: String,
    finished_at: Option<Time>,
}

impl Resource for Slim {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> std::borrow::Cow<'_, str> {
        Pod::kind(&())
    }
    fn group((): &()) -> std::borrow::Cow<'_, str> {
        Pod::group(&())
    }
    fn version((): &()) -> std::borrow::Cow<'_, str> {
        Pod::version(&())
    }
    fn plural((): &()) -> std::borrow::Cow<'_, str> {
        Pod::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// Remembers a UID; whether it is new. Old ones are forgotten: what ended long ago is no news anyway.
fn remember(told: &mut HashSet<String>, uid: &str) -> bool {
    if told.len() > 10_000 {
        told.clear();
    }
    told.insert(uid.to_owned())
}

/// A pod with the sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Injected {
    /// Its policy.
    pub policy: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The configuration that it was told of last.
    pub hash: String,
    /// Version of its sidecar.
    pub version: String,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The port on which its sidecar tells of itself; on the host's network it may have none.
    pub port: Option<u16>,
    /// Its sidecar is what the webhook added.
    pub is_ours: bool,
    /// Its sidecar is started.
    pub is_ready: bool,
    /// It has ended.
    pub is_over: bool,
    /// What its sidecar left behind when it ended: its last message.
    pub left: String,
    /// When that was, seconds since 1970.
    pub ended: Option<i64>,
}

/// A pod that asks and has no sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asking {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// It has an annotation of its own; else it asks only where its namespace does.
    pub by_itself: bool,
    /// It asks to be left out, which matters where its namespace asks.
    pub opts_out: bool,
    /// When it was made, seconds since 1970.
    pub made: i64,
}

/// Things by namespace and name.
type Index<T> = BTreeMap<(Arc<str>, Arc<str>), T>;

/// The pods.
pub struct Pods {
    injected: Mutex<Index<Injected>>,
    asking: Mutex<Index<Asking>>,
    /// Watches that have listed everything once: of injected pods and of all; `None` is that of all namespaces.
    listed: Mutex<HashSet<(Kind, Option<String>)>>,
    /// Counts changes of injected pods.
    changed: watch::Sender<u64>,
}

/// What a watch is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Injected,
    All,
}

fn injected(pod: &Slim, seals: &Seals) -> Option<Injected> {
    let annotation = |name: &str| pod.annotations().get(&format!("{PREFIX}{name}")).cloned().unwrap_or_default();
    let sidecar = pod.status.init_container_statuses.iter().find(|status| status.name == CONTAINER);
    let terminated = sidecar.and_then(|sidecar| sidecar.state.terminated.as_ref());
    // From the container, which nobody changes any more; an annotation is anybody's.
    let container = pod.spec.init_containers.iter().find(|container| container.name == CONTAINER);
    let port = container.and_then(|container| container.ports.iter().find(|port| port.name == STATUS));
    let policy = pod.labels().get(&format!("{PREFIX}injected"))?.clone();
    let made = pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let of = (pod.metadata.namespace.as_deref().unwrap_or_default(), policy.as_str());
    let mark = pod.annotations().get(&format!("{PREFIX}mark")).map(String::as_str);
    let is_ours = container.is_some_and(|container| seals.is_ours(of, &container.essence, mark, made));
    Some(Injected {
        is_ours,
        policy,
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        hash: annotation("config-hash"),
        version: annotation("sidecar-version"),
        address: pod.status.pod_ip,
        port: port.map(|port| port.container_port).or((!pod.spec.host_network).then_some(STATUS_PORT)),
        is_ready: sidecar.is_some_and(|sidecar| sidecar.ready),
        is_over: matches!(pod.status.phase.as_str(), "Succeeded" | "Failed"),
        left: terminated.map(|ended| ended.message.clone()).unwrap_or_default(),
        ended: terminated.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0.as_second()),
    })
}

fn asking(pod: &PartialObjectMeta<Pod>) -> Option<Asking> {
    let annotations = pod.annotations();
    let inject = annotations.get(&format!("{PREFIX}inject")).map(String::as_str);
    let is_out =
        pod.labels().contains_key(&format!("{PREFIX}injected")) || annotations.contains_key("kubernetes.io/config.mirror");
    let opts_out = inject == Some("false");
    (!is_out).then(|| Asking {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        by_itself: !opts_out && (inject.is_some() || annotations.contains_key(&format!("{PREFIX}policy"))),
        opts_out,
        made: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
    })
}

/// Keeps an index as a watch tells, which is of one namespace or of all.
async fn keep<K: Resource, T>(
    stream: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    of: Option<&str>,
    index: &Mutex<Index<T>>,
    project: impl Fn(&K) -> Option<T>,
    changed: impl Fn(bool),
) {
    let mut stream = std::pin::pin!(stream);
    let mut fresh = Index::new();
    let mut failures = 0;
    // Namespaces are few, and their names many times in the index.
    let mut names: HashMap<String, Arc<str>> = HashMap::new();
    while let Some(event) = stream.next().await {
        let mut key = |object: &K| {
            let namespace = object.meta().namespace.clone().unwrap_or_default();
            let namespace = names.entry(namespace).or_insert_with_key(|name| Arc::from(name.as_str())).clone();
            (namespace, Arc::from(object.meta().name.as_deref().unwrap_or_default()))
        };
        if !matches!(event, Err(_) | Ok(watcher::Event::Init)) {
            failures = 0;
        }
        match event {
            Ok(watcher::Event::Init) => fresh = Index::new(),
            Ok(watcher::Event::InitApply(object)) => {
                if let Some(thing) = project(&object) {
                    fresh.insert(key(&object), thing);
                }
            }
            Ok(watcher::Event::InitDone) => {
                if let Ok(mut index) = index.lock() {
                    index.retain(|(namespace, _), _| of.is_some_and(|of| **namespace != *of));
                    index.append(&mut fresh);
                }
                changed(true);
            }
            Ok(watcher::Event::Apply(object)) => {
                if let Ok(mut index) = index.lock() {
                    match project(&object) {
                        Some(thing) => drop(index.insert(key(&object), thing)),
                        None => drop(index.remove(&key(&object))),
                    }
                }
                changed(false);
            }
            Ok(watcher::Event::Delete(object)) => {
                // Its last state may be news.
                project(&object);
                if let Ok(mut index) = index.lock() {
                    index.remove(&key(&object));
                }
                changed(false);
            }
            Err(error) => {
                tracing::warn!(%error, "the watch of pods broke and begins again");
                // Not kube's own backoff: the event that each try begins with resets it.
                tokio::time::sleep(AGAIN * 2u32.pow(failures)).await;
                failures = (failures + 1).min(5);
            }
        }
    }
}

// === impl Pods ===

impl Default for Pods {
    fn default() -> Self {
        let (injected, asking, listed) = Default::default();
        Self { injected, asking, listed, changed: watch::channel(0).0 }
    }
}

impl Pods {
    /// Keeps both indexes up to date; `ended` is told of injected pods whose sidecar left something behind. Never ends.
    pub async fn follow(&self, client: &Client, scope: &Scope, seals: &Seals, ended: impl Fn(&str, &Injected)) {
        let ours = watcher::Config::default().page_size(PAGE).labels(&format!("{PREFIX}injected"));
        let all = watcher::Config::default().page_size(PAGE);
        let told = Mutex::new(HashSet::new());
        let project = |pod: &Slim| {
            let injected = injected(pod, seals)?;
            // What ended long ago was told by who led then.
            let is_news = injected.ended.is_some_and(|ended| Timestamp::now().as_second() - ended < NEWS);
            if is_news && !injected.left.is_empty() && told.lock().is_ok_and(|mut told| remember(&mut told, &injected.uid)) {
                ended(pod.namespace().as_deref().unwrap_or_default(), &injected);
            }
            Some(injected)
        };
        let (ours, all, project) = (&ours, &all, &project);
        let follow = |namespace: Option<String>| async move {
            let of = namespace.as_deref();
            let of_ours = watcher(scope::api::<Slim>(client, of), ours.clone());
            let of_all = watcher(scope::api::<PartialObjectMeta<Pod>>(client, of), all.clone());
            let listed = |kind, is_list: bool| {
                if is_list && let Ok(mut listed) = self.listed.lock() {
                    listed.insert((kind, namespace.clone()));
                }
            };
            let of_injected = |is_list| {
                listed(Kind::Injected, is_list);
                self.changed.send_modify(|count| *count += 1);
            };
            tokio::join!(
                keep(of_ours, of, &self.injected, project, of_injected),
                keep(of_all, of, &self.asking, asking, |is_list| listed(Kind::All, is_list)),
            );
        };
        join_all(scope.each().into_iter().map(follow)).await;
    }

    /// Whether all pods of a namespace were listed once. Before that nothing can be said of a fleet.
    pub fn is_listed(&self, namespace: &str) -> bool {
        let Ok(listed) = self.listed.lock() else { return false };
        let has = |kind| listed.contains(&(kind, None)) || listed.contains(&(kind, Some(namespace.to_owned())));
        has(Kind::Injected) && has(Kind::All)
    }

    /// Changes whenever the pods with the sidecar do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.changed.subscribe();
        changes.mark_changed();
        changes
    }

    /// Pods with the sidecar, and their policy.
    pub fn injected(&self, keep: impl Fn(&Injected) -> bool) -> Vec<(Of, Injected)> {
        let Ok(index) = self.injected.lock() else { return Vec::new() };
        let of = index.iter().filter(|(_, pod)| keep(pod));
        of.map(|((namespace, _), pod)| ((namespace.clone(), Arc::from(pod.policy.as_str())), pod.clone())).collect()
    }

    /// The pods of a policy that have the sidecar, and not only its name.
    pub fn of(&self, namespace: &str, policy: &str) -> Vec<Injected> {
        in_namespace(&self.injected, namespace).into_iter().filter(|pod| pod.policy == policy && pod.is_ours).collect()
    }

    /// Pods without the sidecar, by namespace.
    pub fn asking(&self, mut keep: impl FnMut(&str, &Asking) -> bool) -> Vec<(Arc<str>, Asking)> {
        let Ok(index) = self.asking.lock() else { return Vec::new() };
        let of = index.iter().filter(|((namespace, _), pod)| keep(namespace, pod));
        of.map(|((namespace, _), pod)| (namespace.clone(), pod.clone())).collect()
    }
}

fn in_namespace<T: Clone>(index: &Mutex<Index<T>>, namespace: &str) -> Vec<T> {
    let Ok(index) = index.lock() else { return Vec::new() };
    let from: (Arc<str>, Arc<str>) = (namespace.into(), "".into());
    index.range(from..).take_while(|((of, _), _)| &**of == namespace).map(|(_, thing)| thing.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn port(host_network: bool, ports: &Value) -> Option<u16> {
        let pod = json!({
            "metadata": {"name": "p", "labels": {"audit.steno.dev/injected": "audit"}, "annotations": {"audit.steno.dev/status-port": "7777"}},
            "spec": {"hostNetwork": host_network, "initContainers": [{"name": "other", "ports": [{"containerPort": 1}]}, {"name": CONTAINER, "ports": ports}]},
        });
        injected(&serde_json::from_value(pod).unwrap(), &Seals::default()).unwrap().port
    }

    #[tokio::test]
    async fn a_watch_that_begins_again_forgets_what_is_gone_in_its_own_namespace_only() {
        let pod = |namespace: &str, name: &str| -> PartialObjectMeta<Pod> {
            serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name, "uid": name}})).unwrap()
        };
        let listed = |namespace: &str, names: &[&str]| {
            let pods = names.iter().map(|name| Ok(watcher::Event::InitApply(pod(namespace, name))));
            let all: Vec<_> = [Ok(watcher::Event::Init)].into_iter().chain(pods).chain([Ok(watcher::Event::InitDone)]).collect();
            futures_util::stream::iter(all)
        };
        let pods = Pods::default();
        let names = || pods.asking(|_, _| true).into_iter().map(|(_, pod)| pod.name).collect::<Vec<_>>();
        keep(listed("pay", &["a", "b"]), Some("pay"), &pods.asking, asking, |_| {}).await;
        keep(listed("shop", &["c"]), Some("shop"), &pods.asking, asking, |_| {}).await;
        assert_eq!(names(), ["a", "b", "c"]);
        keep(listed("pay", &["b"]), Some("pay"), &pods.asking, asking, |_| {}).await;
        assert_eq!(names(), ["b", "c"], "what another watch told stays");
        keep(listed("shop", &["d"]), None, &pods.asking, asking, |_| {}).await;
        assert_eq!(names(), ["d"], "a watch of everything knows everything");
    }

    #[test]
    fn who_is_asked_on_which_port_says_the_container_and_no_annotation() {
        assert_eq!(port(false, &json!([{"name": "steno-status", "containerPort": 9601, "protocol": "TCP"}])), Some(9601));
        assert_eq!(port(false, &json!([{"name": "steno-status", "containerPort": 19601}])), Some(19601));
        assert_eq!(port(false, &json!([])), Some(9601));
        assert_eq!(port(true, &json!([])), None);
        assert_eq!(port(true, &json!([{"name": "steno-status", "containerPort": 19601, "hostPort": 19601}])), Some(19601));
    }
}
