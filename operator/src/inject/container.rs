//! The sidecar's container and volumes.
use std::collections::BTreeSet;

use serde_json::{Value, json};
use steno_crds::{ByteSize, EphemeralVolume, LogLevel, SecretRef, SidecarConfig, SinkSpec, Startup, VolumeType};

use super::{
    CONTAINER, EVENTS_SOCKET, INGEST_PORT, Namespace, PREFIX, Policy, Reach, Reason, SOCKETS, STATUS, STATUS_PORT, STATUS_SOCKET,
    Settings, annotation,
    fit::{self, Asked, amount},
    list,
};

/// Names of the volumes.
pub(super) const VOLUMES: [&str; 4] = ["steno-config", "steno-spool", "steno-volume", "steno-secrets"];
/// Name of the volume of sockets, which only pods on the host's network have.
pub(super) const SOCKET: &str = "steno-socket";
/// Beginning of the names of volumes that sinks write files to; the sink's name follows.
pub(super) const FILES: &str = "steno-file-";
/// Where those are mounted, each under its sink's name.
const FILES_AT: &str = "/var/lib/steno-files";
/// Limit of CPU where there must be one, and nobody says which.
const ONE_CPU: f64 = 1.0;
/// Where a volume other than the pod's own directory is mounted.
const VOLUME: &str = "/var/lib/steno-volume";

/// Where the journal goes.
pub(super) enum Spool {
    /// The pod's own directory on the node.
    EmptyDir,
    /// A volume, mounted at [`VOLUME`]. The pod's own directory is there as well: a sidecar that cannot write to the volume does not hold the pod up.
    Volume {
        /// The volume's source.
        source: Value,
        /// The sidecar's settings that say how it is shared.
        env: Vec<Value>,
    },
}

impl Spool {
    /// What a configuration asks for, and what to tell where it cannot be had.
    pub(super) fn of(config: &SidecarConfig, namespace: &Namespace) -> (Self, Option<String>) {
        let spool = &config.spec.spool;
        let volume = &spool.volume;
        let env = |name: &str, value: &str| json!({"name": name, "value": value});
        match (volume.r#type, &volume.persistent_volume_claim, &volume.host_path) {
            (VolumeType::Ephemeral, ..) => {
                let source = ephemeral(volume.ephemeral.clone().unwrap_or_default(), spool.max_bytes.bytes() / 4 * 5);
                (Self::Volume { source, env: vec![env("STENO_DIR", VOLUME)] }, None)
            }
            (VolumeType::PersistentVolumeClaim, Some(claim), _) => {
                let source = json!({"persistentVolumeClaim": {"claimName": claim.claim_name}});
                // Pods of one policy share it; those of others keep to a directory of their own.
                let dir = format!("{VOLUME}/{}", config.policy.name);
                (Self::Volume { source, env: vec![env("STENO_DIR", &dir), env("STENO_SHARED", "true")] }, None)
            }
            (VolumeType::HostPath, _, Some(_)) if !namespace.may_host_path => {
                let told = "the namespace is not labelled pod-security.kubernetes.io/enforce: privileged, so hostPath, which the policy's spool.volume asks for, may be forbidden: the spool is on an emptyDir, \
                            and is gone with the pod";
                (Self::EmptyDir, Some(told.into()))
            }
            (VolumeType::HostPath, _, Some(host)) => {
                let source = json!({"hostPath": {"path": host.path, "type": "DirectoryOrCreate"}});
                // Variables of the list before it are put in by the kubelet.
                let dir = format!("{VOLUME}/$(STENO_NAMESPACE)_$(STENO_POD)_$(STENO_POD_UID)");
                // Nobody comes after the pod: what was delivered is not left on the node.
                // One that runs on the node delivers what a pod left there.
                let env = vec![env("STENO_DIR", &dir), env("STENO_REMOVE_DRAINED", "true"), env("STENO_ADOPT", "true")];
                (Self::Volume { source, env }, None)
            }
            _ => (Self::EmptyDir, None),
        }
    }
}

/// Secrets that a configuration refers to.
fn secrets(config: &SidecarConfig) -> BTreeSet<(&str, &str)> {
    config.spec.secrets().map(|SecretRef { name, key }| (name.as_str(), key.as_str())).collect()
}

pub(super) fn volumes(
    policy: &Policy,
    config: &SidecarConfig,
    reach: &Reach,
    spool: &Spool,
    files: &[(String, Value)],
) -> Vec<Value> {
    let sources: Vec<Value> = secrets(config)
        .into_iter()
        .map(|(name, key)| {
            json!({"secret": {"name": name, "optional": true, "items": [{"key": key, "path": format!("{name}/{key}")}]}})
        })
        .collect();
    let mut volumes = vec![
        json!({"name": "steno-config", "configMap": {"name": format!("steno-{}", policy.name), "optional": true}}),
        // No sizeLimit: the sidecar keeps its own bound, and beyond a limit the kubelet evicts the whole pod.
        json!({"name": "steno-spool", "emptyDir": {}}),
    ];
    if reach.by_socket {
        volumes.push(json!({"name": SOCKET, "emptyDir": {}}));
    }
    if let Spool::Volume { source, .. } = spool {
        let mut volume = source.clone();
        volume["name"] = json!("steno-volume");
        volumes.push(volume);
    }
    volumes.extend(files.iter().map(|(name, source)| {
        let mut volume = source.clone();
        volume["name"] = json!(format!("{FILES}{name}"));
        volume
    }));
    if !sources.is_empty() {
        volumes.push(json!({"name": "steno-secrets", "projected": {"sources": sources}}));
    }
    volumes
}

/// Volumes of sinks that write files: the sink, and the volume's source. A node's directory only where the spool may be on one: elsewhere the files
/// are beside the journal.
pub(super) fn file_volumes(config: &SidecarConfig, namespace: &Namespace) -> Vec<(String, Value)> {
    let of_sink = |sink: &SinkSpec| {
        let file = sink.file.as_ref()?;
        let volume = file.volume.as_ref()?;
        let source = match (volume.r#type, &volume.persistent_volume_claim, &volume.host_path) {
            (VolumeType::EmptyDir, ..) => json!({"emptyDir": {}}),
            (VolumeType::Ephemeral, ..) => {
                let kept = file.rotate_bytes.bytes().saturating_mul(file.backups + 2);
                ephemeral(volume.ephemeral.clone().unwrap_or_default(), kept)
            }
            (VolumeType::PersistentVolumeClaim, Some(claim), _) => {
                json!({"persistentVolumeClaim": {"claimName": claim.claim_name}})
            }
            (VolumeType::HostPath, _, Some(host)) if namespace.may_host_path => {
                json!({"hostPath": {"path": host.path, "type": "DirectoryOrCreate"}})
            }
            _ => return None,
        };
        Some((sink.name.clone(), source))
    };
    config.spec.sinks.iter().filter_map(of_sink).collect()
}

/// A claim of the pod's own.
fn ephemeral(asked: EphemeralVolume, bytes: u64) -> Value {
    let size = asked.size.map_or_else(|| bytes.to_string(), |size| size.to_string());
    let mut spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
    if let Some(class) = asked.storage_class_name {
        spec["storageClassName"] = json!(class);
    }
    json!({"ephemeral": {"volumeClaimTemplate": {"spec": spec}}})
}

/// A quantity from an annotation, or the setting; at most the policy's bound. Where the annotation asks for more there is a warning.
fn quantity(
    pod: &Value,
    name: &str,
    setting: &str,
    most: Option<&(f64, String)>,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, Reason> {
    let annotated = annotation(pod, name);
    if let Some(text) = annotated.filter(|text| amount(text).is_none_or(|amount| amount <= 0.0)) {
        return Err(Reason::Annotation { name: name.into(), value: text.into(), fix: "a quantity such as 50m or 64Mi" });
    }
    let asked = annotated.unwrap_or(setting);
    if let Some((most, shown)) = most
        && amount(asked).is_some_and(|asked| asked > *most)
    {
        warnings.extend(
            annotated
                .map(|_| format!("{PREFIX}{name} is {asked}, more than the policy's sidecar.resources allow: it is {shown}")),
        );
        return Ok(Some(shown.clone()));
    }
    Ok((!asked.is_empty()).then(|| asked.to_owned()))
}

/// Whether containers of the pod set a limit: all of them, or any.
fn limited(pod: &Value, resource: &str, all: bool) -> bool {
    let mut containers = list(pod, "containers").iter();
    let has =
        |container: &Value| container.pointer(&format!("/resources/limits/{resource}")).is_some_and(|limit| !limit.is_null());
    if all { containers.all(has) } else { containers.any(has) }
}

fn resources(
    pod: &Value,
    config: &SidecarConfig,
    spool: &Spool,
    (namespace, settings): (&Namespace, &Settings),
    warnings: &mut Vec<String>,
) -> Result<Value, Reason> {
    let bounds = &config.spec.sidecar.resources;
    let most_cpu = bounds.max_cpu_millis.map(|most| (most as f64 / 1000.0, format!("{most}m")));
    let most_memory = bounds.max_memory.map(|most| (most.bytes() as f64, most.to_string()));
    let is_on_node = matches!(spool, Spool::EmptyDir);
    let set = &settings.resources.under(bounds);
    let beside: u64 = config.spec.sinks.iter().map(SinkSpec::bytes_beside).sum();
    let spool = ByteSize(config.spec.spool.max_bytes.bytes() + beside);
    let mut resources = json!({"requests": {}, "limits": {}});
    // Beside a volume the node's disk is only what is fallen back to.
    let on_node = if is_on_node { spool.bytes() as f64 } else { 1_048_576.0 };
    // Where one container has a limit the kubelet holds the pod to their sum, and the spool is of the pod.
    let room = limited(pod, "ephemeral-storage", false).then(|| (spool.bytes() + spool.bytes() / 4) as f64);
    let asked = Asked { request: Some(on_node), limit: room, least: if is_on_node { on_node } else { 0.0 } };
    let given = fit::fit(pod, &namespace.ranges, "ephemeral-storage", asked, warnings)?;
    fit::put(&mut resources, "ephemeral-storage", given, (None, None));
    for (member, request, limit, most, least) in [
        ("cpu", &*set.cpu_request, &*set.cpu_limit, most_cpu, 0.0),
        ("memory", &*set.memory_request, &*set.memory_limit, most_memory, fit::LEAST_MEMORY),
    ] {
        let (request_name, limit_name) = (format!("{member}-request"), format!("{member}-limit"));
        let request = quantity(pod, &request_name, request, most.as_ref(), warnings)?;
        let limit = quantity(pod, &limit_name, limit, most.as_ref(), warnings)?;
        if let (Some(request), Some(limit)) = (&request, &limit)
            && amount(request) > amount(limit)
        {
            // The API server would refuse the pod.
            let is_request = annotation(pod, &request_name).is_some();
            let (name, value) = if is_request { (request_name, request) } else { (limit_name, limit) };
            return Err(Reason::Annotation {
                name,
                value: value.clone(),
                fix: "a request that is not above its limit; set both",
            });
        }
        let (of_request, of_limit) = (request.as_deref().and_then(amount), limit.as_deref().and_then(amount));
        // Who asked for less by an annotation or a policy knows what they do.
        let least = of_limit.map_or(least, |limit| least.min(limit));
        let asked = Asked { request: of_request, limit: of_limit, least };
        let mut given = fit::fit(pod, &namespace.ranges, member, asked, warnings)?;
        if member == "cpu" && given.limit.is_none() && limited(pod, "cpu", true) {
            // A quota on limits.cpu wants one of every container; where the application has one, there may be such a quota.
            given.limit = fit::default(&namespace.ranges, member).or(Some(ONE_CPU));
        }
        fit::put(&mut resources, member, given, (request.as_deref(), limit.as_deref()));
    }
    Ok(resources)
}

/// What the sidecar is told of its addresses, where they are not the usual ones.
fn addresses(pod: &Value, reach: &Reach) -> Vec<(&'static str, String)> {
    let mut told = Vec::new();
    if let Some(port) = reach.ingest_port.filter(|port| *port != INGEST_PORT) {
        told.push(("STENO_LISTEN", format!("127.0.0.1:{port}")));
    }
    let status = reach.status_port.map(|port| format!("[::]:{port}"));
    if !reach.by_socket {
        told.extend(status.filter(|_| reach.status_port != Some(STATUS_PORT)).map(|address| ("STENO_STATUS", address)));
        return told;
    }
    told.push(("STENO_LISTEN", "none".to_owned()));
    told.push(("STENO_SOCKET", EVENTS_SOCKET.to_owned()));
    told.push(("STENO_STATUS", format!("unix:{STATUS_SOCKET}")));
    if pod.pointer("/spec/securityContext/fsGroup").is_none_or(Value::is_null) {
        // No group is common to the containers; who may connect is who has the volume mounted.
        told.push(("STENO_SOCKET_MODE", "0666".to_owned()));
    }
    // A process of the node may have the port: that must not hold the pod up.
    told.extend(status.map(|address| ("STENO_ALSO_STATUS", address)));
    told
}

/// The command that tells whether the sidecar is up.
fn probe(reach: &Reach) -> Vec<String> {
    let mut command = vec!["steno-sidecar".to_owned(), "health".to_owned()];
    match reach.status_port {
        _ if reach.by_socket => command.extend(["--socket".to_owned(), STATUS_SOCKET.to_owned()]),
        Some(port) if port != STATUS_PORT => command.extend(["--port".to_owned(), port.to_string()]),
        _ => {}
    }
    command
}

pub(super) fn sidecar(
    pod: &Value,
    config: &SidecarConfig,
    reach: &Reach,
    spool: &Spool,
    files: &[(String, Value)],
    (namespace, settings): (&Namespace, &Settings),
    warnings: &mut Vec<String>,
) -> Result<Value, Reason> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        field("STENO_NAMESPACE", "metadata.namespace"),
        field("STENO_POD", "metadata.name"),
        field("STENO_POD_UID", "metadata.uid"),
        field("STENO_NODE", "spec.nodeName"),
        json!({"name": "STENO_CONTAINER", "value": CONTAINER}),
    ];
    if let Spool::Volume { env: more, .. } = spool {
        env.extend(more.iter().cloned());
        env.push(json!({"name": "STENO_FALLBACK_DIR", "value": "/var/lib/steno"}));
    }
    env.extend(addresses(pod, reach).into_iter().map(|(name, value)| json!({"name": name, "value": value})));
    let labels = pod.get("metadata").and_then(|metadata| metadata.get("labels"));
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).and_then(Value::as_str);
    if let Some(service) = label("app.kubernetes.io/name").or_else(|| label("app")) {
        env.push(json!({"name": "STENO_SERVICE", "value": service}));
    }
    if let Some(seal) = settings.seals.get() {
        env.push(json!({"name": "STENO_CONFIG_KEY", "value": seal.public()}));
    }
    if config.spec.sidecar.startup == Startup::Open {
        // A ConfigMap that is late, or gone, must not hold the pod up.
        env.push(json!({"name": "STENO_STARTUP", "value": "open"}));
    }
    match annotation(pod, "log-level") {
        None => {}
        Some(word @ ("error" | "warn" | "info" | "debug")) => {
            let asked: LogLevel = serde_json::from_value(json!(word)).unwrap_or_default();
            let level = config.spec.sidecar.resources.max_log_level.map_or(asked, |most| most.min(asked));
            if level != asked {
                warnings
                    .push(format!("{PREFIX}log-level is {word}, more than the policy's sidecar.resources.maxLogLevel allows"));
            }
            env.push(json!({"name": "STENO_LOG_LEVEL", "value": level}));
        }
        Some(other) => {
            return Err(Reason::Annotation { name: "log-level".into(), value: other.into(), fix: "error, warn, info or debug" });
        }
    }
    let mut mounts = vec![
        json!({"name": "steno-config", "mountPath": "/etc/steno", "readOnly": true}),
        json!({"name": "steno-spool", "mountPath": "/var/lib/steno"}),
    ];
    if matches!(spool, Spool::Volume { .. }) {
        mounts.push(json!({"name": "steno-volume", "mountPath": VOLUME}));
    }
    if reach.by_socket {
        mounts.push(json!({"name": SOCKET, "mountPath": SOCKETS}));
    }
    mounts.extend(
        files.iter().map(|(name, _)| json!({"name": format!("{FILES}{name}"), "mountPath": format!("{FILES_AT}/{name}")})),
    );
    if !secrets(config).is_empty() {
        mounts.push(json!({"name": "steno-secrets", "mountPath": "/var/run/steno/secrets", "readOnly": true}));
    }
    let mut sidecar = json!({
        "name": CONTAINER,
        "image": settings.image,
        "args": ["run"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": STATUS, "containerPort": reach.status_port, "protocol": "TCP"}],
        "resources": resources(pod, config, spool, (namespace, settings), warnings)?,
        // Not ready for events before this; and no readinessProbe: a full spool must not take the application out of its Service.
        // By a command, for a mesh that wants its own TLS of everybody would turn the kubelet away.
        "startupProbe": {"exec": {"command": probe(reach)}, "periodSeconds": 1, "failureThreshold": 60},
        // What Pod Security "restricted" asks for, and a root that cannot be written.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": mounts,
    });
    if namespace.has_own_users
        && let Some(context) = sidecar.get_mut("securityContext").and_then(Value::as_object_mut)
    {
        context.shift_remove("runAsUser");
    }
    if let (None, Some(sidecar)) = (reach.status_port, sidecar.as_object_mut()) {
        sidecar.shift_remove("ports");
    }
    if !settings.pull_policy.is_empty() {
        sidecar["imagePullPolicy"] = json!(settings.pull_policy);
    }
    Ok(sidecar)
}
