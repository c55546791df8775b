//! What injection does to a pod: [`plan`].
//!
//! # Who is injected
//! A pod with the annotation `audit.steno.dev/policy: NAME` gets that policy. One with `audit.steno.dev/inject: "true"`, or in a namespace that
//! is labelled so, gets the one policy of its namespace whose selector matches; where none or several do, none is guessed. `inject: "false"` opts
//! out, also in a labelled namespace, unless a ClusterAuditPolicy forbids that (`spec.injection.optOut`); who opts out there is told of. A policy that is named and not there yet holds nothing up: the sidecar keeps events until it comes, so that an
//! application's chart may bring its own.
//!
//! # What is added
//! ```text
//! spec.initContainers[i]      steno-sidecar, restartPolicy Always: a native sidecar, started before the application and stopped after it.
//!                             i is 0, or right behind the mesh proxy that must outlive its drain
//! spec.volumes                steno-config (ConfigMap steno-POLICY, optional), steno-spool (emptyDir), steno-volume
//!                             (where spool.volume names another kind), steno-secrets (referenced keys only, optional)
//! spec.containers[*].env      STENO_URL, where it is not set
//! spec.imagePullSecrets       those that the chart names, for the sidecar's image
//! metadata.labels             audit.steno.dev/injected: POLICY
//! metadata.annotations        audit.steno.dev/config-hash, audit.steno.dev/sidecar-version, audit.steno.dev/mark (see [`crate::seal`])
//! ```
//!
//! # On the host's network
//! There loopback is the node's, and so is each port: such a pod gets Unix sockets instead, in a volume (`steno-socket`) that its containers share. `STENO_URL` is
//! `unix:/.steno/events.sock`. Its sidecar takes no port, so that it is in nobody's way, unless the annotation `audit.steno.dev/status-port` gives it one for
//! health, metrics and stats; without one the operator knows of it only what the kubelet says.
use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use jiff::Timestamp;
use json_patch::{AddOperation, Patch, PatchOperation, jsonptr::PointerBuf};
use serde::Deserialize as _;
use serde_json::{Value, json};
use steno_crds::{ByteSize, LabelSelector, ResourceBounds, SidecarConfig, VolumeType, spool_only};

use crate::seal::{Essence, Seals};

mod container;
mod fit;
mod selector;

pub use fit::{Range, ranges};
pub use selector::{matches, may_share};

/// Name of the container; what tells an injected pod.
pub const CONTAINER: &str = "steno-sidecar";
/// Prefix of all annotations and labels.
pub const PREFIX: &str = "audit.steno.dev/";
/// Port of events, on loopback inside the pod.
pub const INGEST_PORT: u16 = 9600;
/// Port of health, metrics and stats.
pub const STATUS_PORT: u16 = 9601;
/// Name of that port.
pub const STATUS: &str = "steno-status";
/// Where containers of a pod on the host's network find the sockets. At the root: below a directory that a container mounts, read-only perhaps, it could
/// not be made, and the pod would not start. By a name that no image has: what is there is hidden.
const SOCKETS: &str = "/.steno";
/// The socket that takes events.
const EVENTS_SOCKET: &str = "/.steno/events.sock";
/// The socket of health, metrics and stats.
const STATUS_SOCKET: &str = "/.steno/status.sock";
/// What the operator is set up with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Image of the sidecar.
    pub image: String,
    /// Its pull policy; empty: the cluster's default.
    pub pull_policy: String,
    /// Version of the sidecar.
    pub version: String,
    /// Requests and limits that no annotation changes.
    pub resources: Resources,
    /// Secrets that pods pull the image with, besides their own.
    pub pull_secrets: Vec<String>,
    /// Names of the proxies of meshes, which outlive the sidecar: containers stop in reverse order, and the drain needs the network.
    pub meshes: Vec<String>,
    /// Signs what is added, once it is known.
    pub seals: Seals,
}

/// Requests and limits of the sidecar, as quantities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// `requests.cpu`
    pub cpu_request: String,
    /// `limits.cpu`; empty: none, so that it is never throttled.
    pub cpu_limit: String,
    /// `requests.memory`
    pub memory_request: String,
    /// `limits.memory`
    pub memory_limit: String,
}

impl Default for Resources {
    fn default() -> Self {
        let text = str::to_owned;
        Self { cpu_request: text("10m"), cpu_limit: String::new(), memory_request: text("32Mi"), memory_limit: text("128Mi") }
    }
}

impl Resources {
    /// With what a policy says instead.
    fn under(&self, policy: &ResourceBounds) -> Self {
        let millis = |value: Option<u64>, default: &String| value.map_or_else(|| default.clone(), |millis| format!("{millis}m"));
        let bytes = |value: Option<ByteSize>, default: &String| value.map_or_else(|| default.clone(), |size| size.to_string());
        let mut of = Self {
            cpu_request: millis(policy.cpu_request_millis, &self.cpu_request),
            cpu_limit: millis(policy.cpu_limit_millis, &self.cpu_limit),
            memory_request: bytes(policy.memory_request, &self.memory_request),
            memory_limit: bytes(policy.memory_limit, &self.memory_limit),
        };
        // One that only the policy sets moves the other, which nobody chose for this policy.
        let is_above = |one: &str, other: &str| fit::amount(one).zip(fit::amount(other)).is_some_and(|(one, other)| one > other);
        let settle = |request: &mut String, limit: &mut String, is_asked: bool| {
            let (moved, to) = if is_asked { (limit, request) } else { (request, limit) };
            moved.clone_from(to);
        };
        if is_above(&of.cpu_request, &of.cpu_limit) {
            settle(&mut of.cpu_request, &mut of.cpu_limit, policy.cpu_request_millis.is_some());
        }
        if is_above(&of.memory_request, &of.memory_limit) {
            settle(&mut of.memory_request, &mut of.memory_limit, policy.memory_request.is_some());
        }
        of
    }
}

impl FromStr for Resources {
    type Err = String;

    /// From `{"requests": {"cpu": …, "memory": …}, "limits": {…}}`; what is not there is as by default, and what is `""` is not set.
    fn from_str(text: &str) -> Result<Self, String> {
        let object: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
        let mut resources = Self::default();
        for (kind, members) in object.as_object().ok_or("is no object; write {\"requests\": {\"cpu\": \"10m\"}}")? {
            for (name, value) in members.as_object().ok_or_else(|| format!("{kind} is no object"))? {
                let text = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
                if !text.is_empty() && fit::amount(&text).is_none() {
                    return Err(format!("{kind}.{name} is {text:?}; write a quantity such as 50m or 64Mi"));
                }
                *match (kind.as_str(), name.as_str()) {
                    ("requests", "cpu") => &mut resources.cpu_request,
                    ("requests", "memory") => &mut resources.memory_request,
                    ("limits", "cpu") => &mut resources.cpu_limit,
                    ("limits", "memory") => &mut resources.memory_limit,
                    _ => return Err(format!("{kind}.{name} is not known; there are cpu and memory of requests and limits")),
                } = text;
            }
        }
        Ok(resources)
    }
}

/// A policy of the pod's namespace.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// The pods that it serves.
    pub selector: Option<LabelSelector>,
    /// What it renders to, or rendered to when it was last accepted; none: it never was.
    pub config: Option<SidecarConfig>,
    /// It is not accepted as it stands.
    pub is_last_good: bool,
}

/// What is known of the pod's namespace.
#[derive(Debug, Clone, Default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// It is labelled so that all its pods are injected.
    pub inject_all: bool,
    /// A ClusterAuditPolicy lets none of its pods opt out of that.
    pub must_inject: bool,
    /// Its Pod Security lets pods mount directories of the node.
    pub may_host_path: bool,
    /// Its pods get users of its own range, as on `OpenShift`: one with another is refused.
    pub has_own_users: bool,
    /// What its `LimitRange` objects say.
    pub ranges: Vec<Range>,
}

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Plan {
    /// It does not ask, or has the sidecar already. Nothing is said of it.
    NotAsked,
    /// It is injected.
    Inject {
        /// The policy.
        policy: String,
        /// What is added.
        patch: Patch,
        /// What is worth a warning to who applies the pod.
        warnings: Vec<String>,
    },
    /// It asks and cannot be served.
    Skip(Reason),
}

/// Why a pod that asks is not injected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// An annotation that means nothing.
    #[error("the annotation {PREFIX}{name} is {value:?}; write {fix}")]
    Annotation {
        /// Its name behind the prefix.
        name: String,
        /// Its value.
        value: String,
        /// What to write.
        fix: &'static str,
    },
    /// No policy of that name.
    #[error("there is no AuditPolicy {name:?} in the namespace; its policies are: {known}")]
    NoSuchPolicy {
        /// The name that was asked for.
        name: String,
        /// Those there are.
        known: String,
    },
    /// No policy whose selector matches.
    #[error("no AuditPolicy of the namespace selects this pod; create one, or name one by {PREFIX}policy")]
    NoPolicy,
    /// Several policies that match.
    #[error("several AuditPolicies select this pod ({0}); name one by {PREFIX}policy")]
    Ambiguous(String),
    /// The policy was not accepted.
    #[error("the AuditPolicy {0:?} is not accepted; its status says why")]
    NotAccepted(String),
    /// Windows.
    #[error("the pod runs on Windows, and the sidecar on Linux only")]
    Windows,
    /// A port is taken.
    #[error("container {container:?} uses port {port}, which the sidecar needs")]
    Port {
        /// Whose port it is.
        container: String,
        /// The port.
        port: u16,
    },
    /// The namespace's bounds, or the pod's, leave too little for the sidecar.
    #[error(
        "the sidecar needs {needs} of {resource}, and the namespace's LimitRange or the pod's resources leave {most}: the pod would be refused; raise that{}",
        if resource == "ephemeral-storage" { ", or lower the policy's spool.maxBytes" } else { "" }
    )]
    DoesNotFit {
        /// The resource.
        resource: String,
        /// What it needs at least.
        needs: String,
        /// What is left.
        most: String,
    },
    /// A volume's name is taken.
    #[error("the pod has a volume {0:?}, a name that the sidecar needs; rename it")]
    Volume(String),
    /// The sidecar's name is taken by a container that is none.
    #[error("the pod has a container {CONTAINER:?} that is no native sidecar; rename it")]
    Name,
    /// The sidecar's name is taken by a container that the webhook did not add.
    #[error(
        "the pod comes with a container {CONTAINER:?} that is not what the webhook adds; leave out the container, its volumes steno-… and the annotation {PREFIX}mark"
    )]
    NotTheSidecar,
    /// Not a pod.
    #[error("the object is no pod with containers")]
    NoPod,
}

impl Reason {
    /// One word, for metrics and Events.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Annotation { .. } => "InvalidAnnotation",
            Self::NoSuchPolicy { .. } => "NoSuchPolicy",
            Self::NoPolicy => "NoPolicy",
            Self::Ambiguous(_) => "AmbiguousPolicies",
            Self::NotAccepted(_) => "PolicyNotAccepted",
            Self::Windows => "Windows",
            Self::Port { .. } => "PortClash",
            Self::DoesNotFit { .. } => "DoesNotFit",
            Self::Volume(_) => "VolumeClash",
            Self::Name => "NameClash",
            Self::NotTheSidecar => "NotTheSidecar",
            Self::NoPod => "NoPod",
        }
    }
}

/// The policies that a pod asks for, whether it can be served or not: where several select it, each of them.
pub fn choices(pod: &Value, namespace: &Namespace, policies: &[Policy]) -> Vec<String> {
    let Ok(Some(asked)) = asked(pod, namespace) else { return Vec::new() };
    let labels = pod.get("metadata").and_then(|metadata| metadata.get("labels"));
    let is_meant = |policy: &&Policy| match &asked {
        Asked::Named(name) => policy.name == *name,
        Asked::Selected => matches(policy.selector.as_ref(), labels),
    };
    policies.iter().filter(is_meant).map(|policy| policy.name.clone()).collect()
}

/// What happens to a pod at its creation.
pub fn plan(pod: &Value, namespace: &Namespace, policies: &[Policy], settings: &Settings) -> Plan {
    match asked(pod, namespace) {
        Ok(None) => Plan::NotAsked,
        Ok(Some(asked)) => match inject(pod, &asked, namespace, policies, settings) {
            Ok(plan) => plan,
            Err(reason) => Plan::Skip(reason),
        },
        Err(reason) => Plan::Skip(reason),
    }
}

/// Which policy a pod asks for.
enum Asked {
    Named(String),
    Selected,
}

/// An annotation of ours.
fn annotation<'p>(pod: &'p Value, name: &str) -> Option<&'p str> {
    pod.get("metadata")?.get("annotations")?.get(format!("{PREFIX}{name}"))?.as_str()
}

/// Whether an annotation `inject: "false"` has no effect.
fn is_held(namespace: &Namespace) -> bool {
    namespace.inject_all && namespace.must_inject
}

fn asked(pod: &Value, namespace: &Namespace) -> Result<Option<Asked>, Reason> {
    // What a kubelet shows of a static pod: it may refer to no ConfigMap.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Ok(None);
    }
    let inject = match annotation(pod, "inject") {
        None => None,
        Some("true") => Some(true),
        Some("false") if is_held(namespace) => None,
        Some("false") => return Ok(None),
        Some(value) => {
            return Err(Reason::Annotation { name: "inject".into(), value: value.into(), fix: "\"true\" or \"false\"" });
        }
    };
    Ok(match annotation(pod, "policy") {
        Some("") => {
            return Err(Reason::Annotation { name: "policy".into(), value: String::new(), fix: "the name of an AuditPolicy" });
        }
        Some(name) => Some(Asked::Named(name.to_owned())),
        None if inject == Some(true) || namespace.inject_all => Some(Asked::Selected),
        None => None,
    })
}

fn list<'p>(pod: &'p Value, name: &str) -> &'p [Value] {
    pod.get("spec").and_then(|spec| spec.get(name)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn name_of(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

fn choose<'p>(pod: &Value, asked: &Asked, policies: &'p [Policy]) -> Result<(&'p Policy, &'p SidecarConfig), Reason> {
    let policy = match asked {
        Asked::Named(name) => policies.iter().find(|policy| policy.name == *name).ok_or_else(|| {
            let known: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
            Reason::NoSuchPolicy { name: name.clone(), known: if known.is_empty() { "none".into() } else { known.join(", ") } }
        })?,
        Asked::Selected => {
            let labels = pod.get("metadata").and_then(|metadata| metadata.get("labels"));
            let selected: Vec<&Policy> = policies.iter().filter(|policy| matches(policy.selector.as_ref(), labels)).collect();
            match selected.as_slice() {
                [] => return Err(Reason::NoPolicy),
                [one] => *one,
                several => {
                    let names: Vec<&str> = several.iter().map(|policy| policy.name.as_str()).collect();
                    return Err(Reason::Ambiguous(names.join(", ")));
                }
            }
        }
    };
    policy.config.as_ref().map(|config| (policy, config)).ok_or_else(|| Reason::NotAccepted(policy.name.clone()))
}

/// How the sidecar is reached.
struct Reach {
    /// The pod is on the host's network: by Unix sockets.
    by_socket: bool,
    /// Port of events, where it has one.
    ingest_port: Option<u16>,
    /// Port of health, metrics and stats, where it has one.
    status_port: Option<u16>,
}

impl Reach {
    fn of(pod: &Value) -> Result<Self, Reason> {
        let by_socket = pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
        let port = |name: &str, fix, taken: Option<u16>| {
            let annotated = annotation(pod, name).map(|text| {
                let port = text.parse().ok().filter(|port| (1024..=u16::MAX).contains(port) && Some(*port) != taken);
                port.ok_or_else(|| Reason::Annotation { name: name.into(), value: text.into(), fix })
            });
            annotated.transpose()
        };
        let asked = port("ingest-port", "a port that is free, from 1024 to 65535", None)?;
        let ingest_port = (!by_socket).then(|| asked.unwrap_or(INGEST_PORT));
        let fix = "a port that is free, from 1024 to 65535 and not that of events (9600)";
        let status_port = port("status-port", fix, ingest_port.or(Some(INGEST_PORT)))?.or((!by_socket).then_some(STATUS_PORT));
        if ingest_port.is_some() && ingest_port == status_port {
            let fix = "a port other than that of health, metrics and stats (9601)";
            return Err(Reason::Annotation { name: "ingest-port".into(), value: asked.unwrap_or(INGEST_PORT).to_string(), fix });
        }
        Ok(Self { by_socket, ingest_port, status_port })
    }

    /// Where applications send events.
    fn url(&self) -> String {
        self.ingest_port.map_or_else(|| format!("unix:{EVENTS_SOCKET}"), |port| format!("http://127.0.0.1:{port}"))
    }

    /// What does not go as elsewhere.
    fn warnings(&self, pod: &Value, config: &SidecarConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.by_socket {
            return warnings;
        }
        let policy = pod.pointer("/spec/dnsPolicy").and_then(Value::as_str).unwrap_or("ClusterFirst");
        let is_of_cluster = |broker: &&String| {
            let host = broker.rsplit_once(':').map_or(broker.as_str(), |(host, _)| host).trim_matches(['[', ']']);
            host.parse::<std::net::IpAddr>().is_err() && (host.matches('.').count() < 2 || host.contains(".svc"))
        };
        if matches!(policy, "ClusterFirst" | "Default")
            && let Some(broker) = config.spec.kafka.brokers.iter().find(is_of_cluster)
        {
            warnings.push(format!(
                "the pod is on the host's network, where the node's DNS may not know {broker}; set dnsPolicy: ClusterFirstWithHostNet"
            ));
        }
        if let Some(port) = self.status_port {
            warnings.push(format!("{PREFIX}status-port is a port of the node: of pods with {port} one fits on a node"));
        }
        if annotation(pod, "otlp") == Some("true") {
            warnings.push(format!("{PREFIX}otlp does nothing on the host's network: exporters of OTLP know no Unix socket"));
        }
        if !config.spec.listeners.is_empty() {
            warnings.push("the pod is on the host's network: the policy's listeners are on the node's addresses".into());
        }
        warnings
    }
}

/// Whether a container has something where the sockets go.
fn mounts_there(container: &Value) -> bool {
    let places = |list: &str, member: &str| {
        let items = container.get(list).and_then(Value::as_array).into_iter().flatten();
        items.filter_map(|item| item.get(member)?.as_str().map(PathBuf::from)).collect::<Vec<_>>()
    };
    // A path that does not begin at the root is one from the root, too.
    let is_there = |path: &PathBuf| Path::new("/").join(path).starts_with(SOCKETS);
    places("volumeMounts", "mountPath").iter().chain(&places("volumeDevices", "devicePath")).any(is_there)
}

/// Whether a pod is for Windows, as far as it says so.
fn is_windows(pod: &Value, spec: &Value) -> bool {
    let text = |path: &[&str]| path.iter().try_fold(spec, |node, step| node.get(step)).and_then(Value::as_str);
    let labels = [&["os", "name"][..], &["nodeSelector", "kubernetes.io/os"], &["nodeSelector", "beta.kubernetes.io/os"]];
    let asks = |holder: &Value| holder.pointer("/securityContext/windowsOptions").is_some_and(|options| !options.is_null());
    labels.iter().any(|path| text(path) == Some("windows"))
        || asks(spec)
        || list(pod, "initContainers").iter().chain(list(pod, "containers")).any(asks)
}

fn check(pod: &Value, reach: &Reach, config: &SidecarConfig) -> Result<(), Reason> {
    let spec = pod.get("spec").ok_or(Reason::NoPod)?;
    if list(pod, "containers").is_empty() {
        return Err(Reason::NoPod);
    }
    if is_windows(pod, spec) {
        return Err(Reason::Windows);
    }
    for container in list(pod, "initContainers").iter().chain(list(pod, "containers")) {
        let ports = container.get("ports").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let listeners = config.spec.listeners.iter().filter_map(|listener| listener.address.rsplit_once(':')?.1.parse().ok());
        for port in reach.ingest_port.into_iter().chain(reach.status_port).chain(listeners) {
            if ports.iter().any(|taken| taken.get("containerPort").and_then(Value::as_u64) == Some(port.into())) {
                return Err(Reason::Port { container: name_of(container).into(), port });
            }
        }
    }
    let taken = list(pod, "volumes").iter().map(name_of).find(|name| {
        container::VOLUMES.contains(name) || name.starts_with(container::FILES) || (reach.by_socket && *name == container::SOCKET)
    });
    taken.map_or(Ok(()), |name| Err(Reason::Volume(name.to_owned())))
}

/// Whether a policy of this name may be made: else the pod would name a ConfigMap and have a label that the API server refuses.
fn may_come(name: &str) -> bool {
    let is_end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    name.len() <= 63
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'))
        && is_end(name.bytes().next())
        && is_end(name.bytes().next_back())
        && !name.contains("..")
        && !name.contains(".-")
        && !name.contains("-.")
}

/// Where among the init containers the sidecar goes.
fn place(pod: &Value, settings: &Settings) -> usize {
    let after = annotation(pod, "after");
    let is_before = |name: &str| settings.meshes.iter().any(|mesh| mesh == name) || after == Some(name);
    list(pod, "initContainers").iter().rposition(|container| is_before(name_of(container))).map_or(0, |last| last + 1)
}

/// The annotation by which the cluster autoscaler knows that it may remove a node with a pod that has these local volumes.
const EVICTABLE: &str = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";

/// The local volumes that do not keep the pod's node, those that are named already among them; `None`: nothing is added.
fn evictable(pod: &Value, config: &SidecarConfig, reach: &Reach) -> Option<String> {
    let volume = &config.spec.spool.volume;
    if !volume.safe_to_evict && volume.r#type != VolumeType::PersistentVolumeClaim {
        return None;
    }
    let known =
        pod.get("metadata")?.get("annotations").and_then(|annotations| annotations.get(EVICTABLE)).and_then(Value::as_str);
    let own = ["steno-spool"].into_iter().chain(reach.by_socket.then_some(container::SOCKET));
    Some(known.into_iter().filter(|known| !known.is_empty()).chain(own).collect::<Vec<_>>().join(","))
}

/// Annotations by which meshes leave a port alone.
const LEFT_ALONE: [&str; 2] = ["traffic.sidecar.istio.io/excludeInboundPorts", "config.linkerd.io/skip-inbound-ports"];

/// Whether a mesh's proxy is in front of the port that the operator and Prometheus ask.
fn is_behind_mesh(pod: &Value, reach: &Reach, meshes: &[String]) -> Option<u16> {
    let port = reach.status_port?;
    let containers = list(pod, "initContainers").iter().chain(list(pod, "containers")).map(name_of);
    let is_meshed = containers.into_iter().any(|name| meshes.iter().any(|mesh| mesh == name));
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let is_left_alone = LEFT_ALONE.iter().any(|name| {
        let ports = annotations.and_then(|annotations| annotations.get(name)).and_then(Value::as_str).unwrap_or_default();
        ports.split(',').any(|text| text.trim() == "*" || text.trim() == port.to_string())
    });
    (is_meshed && !is_left_alone).then_some(port)
}

/// What is worth a warning of the policy as it stands, and of the pod.
fn worth_knowing(pod: &Value, policy: &Policy, policies: &[Policy], meshes: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    if policy.config.is_none() {
        let known = policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        warnings.push(format!(
            "there is no AuditPolicy {:?} in the namespace yet (its policies are: {known}): the sidecar keeps events and delivers none until there is",
            policy.name
        ));
    }
    if policy.is_last_good {
        warnings.push(format!(
            "the AuditPolicy {:?} is not accepted as it stands, its status says why: the pod runs by the last configuration that was",
            policy.name
        ));
    }
    for container in list(pod, "containers").iter().map(name_of).filter(|name| meshes.iter().any(|mesh| mesh == name)) {
        warnings.push(format!(
            "{container} is an ordinary container: it ends with the application, and what the sidecar delivers after that finds no network, so a backlog stays in the spool; have the mesh use \
             native sidecars (Istio: ENABLE_NATIVE_SIDECARS, Linkerd: config.beta.linkerd.io/proxy-enable-native-sidecar)"
        ));
    }
    if pod.pointer("/spec/shareProcessNamespace") == Some(&Value::Bool(true)) {
        let mut warning = "the pod shares its process namespace: its other containers see the sidecar's process".to_owned();
        warning.push_str(", and those that run as root or as its user can read its memory; leave shareProcessNamespace out");
        warnings.push(warning);
    }
    warnings
}

/// Whether the webhook added this container to the pod, as far as that can be told.
fn is_added(pod: &Value, container: &Value, namespace: &Namespace, settings: &Settings) -> bool {
    let policy = pod.pointer("/metadata/labels/audit.steno.dev~1injected").and_then(Value::as_str).unwrap_or_default();
    let made = pod.pointer("/metadata/creationTimestamp").and_then(Value::as_str).and_then(|text| text.parse::<Timestamp>().ok());
    let essence = Essence::deserialize(container).unwrap_or_default();
    // One that is being made is made now.
    let made = made.unwrap_or_else(Timestamp::now).as_second();
    settings.seals.is_ours((&namespace.name, policy), &essence, annotation(pod, "mark"), made)
}

fn inject(pod: &Value, asked: &Asked, namespace: &Namespace, policies: &[Policy], settings: &Settings) -> Result<Plan, Reason> {
    let is_ours = |container: &&Value| name_of(container) == CONTAINER;
    if let Some(there) = list(pod, "initContainers").iter().find(is_ours) {
        // Called again, after another webhook. Without its policy to restart it would hold the pod up for ever.
        let is_sidecar = there.get("restartPolicy").and_then(Value::as_str) == Some("Always");
        return match is_sidecar {
            false => Err(Reason::Name),
            true if is_added(pod, there, namespace, settings) => Ok(Plan::NotAsked),
            true => Err(Reason::NotTheSidecar),
        };
    }
    if list(pod, "containers").iter().any(|container| is_ours(&container)) {
        return Err(Reason::Name);
    }
    let waiting;
    let (policy, config) = match choose(pod, asked, policies) {
        Err(Reason::NoSuchPolicy { name, .. }) if may_come(&name) => {
            waiting = (Policy { name, selector: None, config: None, is_last_good: false }, spool_only(""));
            (&waiting.0, &waiting.1)
        }
        chosen => chosen?,
    };
    let reach = Reach::of(pod)?;
    check(pod, &reach, config)?;
    let mut adds = Adds::default();
    let (spool, told) = container::Spool::of(config, namespace);
    let files = container::file_volumes(config, namespace);
    let mut warnings: Vec<String> = told.into_iter().chain(reach.warnings(pod, config)).collect();
    warnings.extend(worth_knowing(pod, policy, policies, &settings.meshes));
    if let Some(port) = is_behind_mesh(pod, &reach, &settings.meshes) {
        warnings.push(format!(
            "a mesh's proxy is in front of port {port}, where the operator and Prometheus ask: if the mesh takes mutual TLS only, the pod counts as unknown; leave the port alone by {} or {}: \"{port}\"",
            LEFT_ALONE[0], LEFT_ALONE[1]
        ));
    }
    if annotation(pod, "inject") == Some("false") && is_held(namespace) {
        warnings.push(format!("{PREFIX}inject is \"false\", which a ClusterAuditPolicy does not allow (spec.injection.optOut): the pod has the sidecar"));
    }
    for sink in config.spec.sinks.iter().filter(|sink| sink.file.as_ref().is_some_and(|file| file.volume.is_some())) {
        if files.iter().all(|(name, _)| *name != sink.name) {
            warnings.push(format!(
                "the namespace may not have the volume of sink {}: its files are beside the journal, on its volume",
                sink.name
            ));
        }
    }
    let sidecar = container::sidecar(pod, config, &reach, &spool, &files, (namespace, settings), &mut warnings)?;
    let mark = settings.seals.get().map(|seal| seal.mark(&namespace.name, &policy.name, &sidecar));
    adds.item(pod, &["spec", "initContainers"], Some(place(pod, settings)), sidecar);
    let has = |secret: &&String| list(pod, "imagePullSecrets").iter().any(|known| name_of(known) == **secret);
    for secret in settings.pull_secrets.iter().filter(|secret| !has(secret)) {
        adds.item(pod, &["spec", "imagePullSecrets"], None, json!({"name": secret}));
    }
    for volume in container::volumes(policy, config, &reach, &spool, &files) {
        adds.item(pod, &["spec", "volumes"], None, volume);
    }
    let otlp = match annotation(pod, "otlp") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(Reason::Annotation { name: "otlp".into(), value: other.into(), fix: "true or false" }),
    };
    let otel = [
        json!({"name": "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "value": format!("{}/v1/logs", reach.url())}),
        json!({"name": "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "value": "http/protobuf"}),
    ];
    let url = json!({"name": "STENO_URL", "value": reach.url()});
    for (index, container) in list(pod, "containers").iter().enumerate() {
        if reach.by_socket {
            if mounts_there(container) {
                warnings.push(format!(
                    "container {:?} mounts something at {SOCKETS}, where the sidecar's socket would be: it has no way to send events",
                    name_of(container)
                ));
                continue;
            }
            // To connect is no write; to put another socket in the place of ours is.
            let mount = json!({"name": container::SOCKET, "mountPath": SOCKETS, "readOnly": true});
            adds.item(pod, &["spec", "containers", &index.to_string(), "volumeMounts"], None, mount);
        }
        let env = container.get("env").and_then(Value::as_array);
        if !env.is_some_and(|env| env.iter().any(|variable| name_of(variable) == "STENO_URL")) {
            adds.item(pod, &["spec", "containers", &index.to_string(), "env"], None, url.clone());
        }
        let exports = env.is_some_and(|env| env.iter().any(|variable| name_of(variable).starts_with("OTEL_EXPORTER_OTLP_LOGS_")));
        if otlp && !exports && !reach.by_socket {
            for variable in &otel {
                adds.item(pod, &["spec", "containers", &index.to_string(), "env"], None, variable.clone());
            }
        }
    }
    adds.told(pod, &policy.name, config, settings, &reach, mark);
    let grace = pod.get("spec").and_then(|spec| spec.get("terminationGracePeriodSeconds")).and_then(Value::as_u64).unwrap_or(30);
    let drain = config.spec.sidecar.drain_timeout.duration().as_secs();
    if grace < drain {
        warnings.push(format!(
            "terminationGracePeriodSeconds is {grace}, less than the policy's sidecar.drainTimeout ({drain}s): a backlog may stay in the spool"
        ));
    }
    Ok(Plan::Inject { policy: policy.name.clone(), patch: Patch(adds.operations), warnings })
}

/// Additions, with the lists and objects that they need where the pod has none.
#[derive(Default)]
struct Adds {
    operations: Vec<PatchOperation>,
    made: Vec<String>,
}

impl Adds {
    /// Labels and annotations that tell of what was added.
    fn told(
        &mut self,
        pod: &Value,
        policy: &str,
        config: &SidecarConfig,
        settings: &Settings,
        reach: &Reach,
        mark: Option<String>,
    ) {
        if let Some(names) = evictable(pod, config, reach) {
            self.member(pod, &["metadata", "annotations"], EVICTABLE, json!(names));
        }
        self.member(pod, &["metadata", "labels"], &format!("{PREFIX}injected"), json!(policy));
        self.member(pod, &["metadata", "annotations"], &format!("{PREFIX}config-hash"), json!(config.hash));
        self.member(pod, &["metadata", "annotations"], &format!("{PREFIX}sidecar-version"), json!(settings.version));
        if let Some(mark) = mark {
            self.member(pod, &["metadata", "annotations"], &format!("{PREFIX}mark"), json!(mark));
        }
    }

    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations.push(PatchOperation::Add(AddOperation { path, value }));
    }

    /// Makes a container of values where there is none yet.
    fn make(&mut self, pod: &Value, path: &[&str], empty: Value) {
        let index = |step: &str| step.parse::<usize>().ok();
        let there = path.iter().try_fold(pod, |node, step| match index(step) {
            Some(index) => node.get(index),
            None => node.get(step),
        });
        let name = path.join("/");
        if there.is_none_or(Value::is_null) && !self.made.contains(&name) {
            self.made.push(name);
            self.add(path, empty);
        }
    }

    fn item(&mut self, pod: &Value, path: &[&str], at: Option<usize>, value: Value) {
        self.make(pod, path, json!([]));
        let at = at.map_or_else(|| "-".to_owned(), |at| at.to_string());
        let path: Vec<&str> = path.iter().copied().chain([at.as_str()]).collect();
        self.add(&path, value);
    }

    fn member(&mut self, pod: &Value, path: &[&str], name: &str, value: Value) {
        self.make(pod, path, json!({}));
        let path: Vec<&str> = path.iter().copied().chain([name]).collect();
        self.add(&path, value);
    }
}
