//! The sidecar's container and volumes.
use std::collections::BTreeSet;

use serde_json::{Value, json};
use steno_crds::{SecretRef, SidecarConfig, Startup};

use super::{CONTAINER, Policy, Reason, STATUS_PORT, Settings, annotation};

/// Names of the volumes.
pub(super) const VOLUMES: [&str; 3] = ["steno-config", "steno-spool", "steno-secrets"];

/// Secrets that a configuration refers to.
fn secrets(config: &SidecarConfig) -> BTreeSet<(&str, &str)> {
    let spec = &config.spec;
    let tls = spec.kafka.tls.as_ref();
    let tls = tls.into_iter().flat_map(|tls| [&tls.ca_secret_ref, &tls.cert_secret_ref, &tls.key_secret_ref]).flatten();
    let sasl = spec.kafka.sasl.as_ref().map(|sasl| &sasl.password_secret_ref);
    let all = tls.chain(sasl).chain(spec.redaction.key_secret_ref.as_ref());
    all.map(|SecretRef { name, key }| (name.as_str(), key.as_str())).collect()
}

pub(super) fn volumes(policy: &Policy, config: &SidecarConfig) -> Vec<Value> {
    let sources: Vec<Value> = secrets(config)
        .into_iter()
        .map(|(name, key)| {
            json!({"secret": {"name": name, "optional": true, "items": [{"key": key, "path": format!("{name}/{key}")}]}})
        })
        .collect();
    let spool = config.spec.spool.max_bytes;
    let mut volumes = vec![
        json!({"name": "steno-config", "configMap": {"name": format!("steno-{}", policy.name), "optional": true}}),
        json!({"name": "steno-spool", "emptyDir": {"sizeLimit": spool.to_string()}}),
    ];
    if !sources.is_empty() {
        volumes.push(json!({"name": "steno-secrets", "projected": {"sources": sources}}));
    }
    volumes
}

/// A quantity from an annotation, or the setting.
fn quantity(pod: &Value, name: &str, setting: &str) -> Result<Option<String>, Reason> {
    let is_quantity = |text: &str| {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = &text[digits.len()..];
        digits.parse::<f64>().is_ok_and(|number| number > 0.0) && ["", "m", "k", "M", "G", "Ki", "Mi", "Gi"].contains(&unit)
    };
    match annotation(pod, name) {
        Some(text) if is_quantity(text) => Ok(Some(text.to_owned())),
        Some(text) => Err(Reason::Annotation { name: name.into(), value: text.into(), fix: "a quantity such as 50m or 64Mi" }),
        None => Ok((!setting.is_empty()).then(|| setting.to_owned())),
    }
}

fn resources(pod: &Value, config: &SidecarConfig, settings: &Settings) -> Result<Value, Reason> {
    let set = &settings.resources;
    let mut requests = json!({"ephemeral-storage": config.spec.spool.max_bytes.to_string()});
    let mut limits = json!({});
    for (name, setting, member) in [("cpu-request", &set.cpu_request, "cpu"), ("memory-request", &set.memory_request, "memory")] {
        if let Some(value) = quantity(pod, name, setting)? {
            requests[member] = json!(value);
        }
    }
    for (name, setting, member) in [("cpu-limit", &set.cpu_limit, "cpu"), ("memory-limit", &set.memory_limit, "memory")] {
        if let Some(value) = quantity(pod, name, setting)? {
            limits[member] = json!(value);
        }
    }
    Ok(json!({"requests": requests, "limits": limits}))
}

pub(super) fn sidecar(pod: &Value, policy: &Policy, config: &SidecarConfig, settings: &Settings) -> Result<Value, Reason> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut env = vec![
        field("STENO_NAMESPACE", "metadata.namespace"),
        field("STENO_POD", "metadata.name"),
        field("STENO_POD_UID", "metadata.uid"),
        field("STENO_NODE", "spec.nodeName"),
        json!({"name": "STENO_CONTAINER", "value": CONTAINER}),
    ];
    let labels = pod.get("metadata").and_then(|metadata| metadata.get("labels"));
    let label = |name: &str| labels.and_then(|labels| labels.get(name)).and_then(Value::as_str);
    if let Some(service) = label("app.kubernetes.io/name").or_else(|| label("app")) {
        env.push(json!({"name": "STENO_SERVICE", "value": service}));
    }
    if config.spec.sidecar.startup == Startup::Open {
        // A ConfigMap that is late, or gone, must not hold the pod up.
        env.push(json!({"name": "STENO_STARTUP", "value": "open"}));
    }
    match annotation(pod, "log-level") {
        None => {}
        Some(level @ ("error" | "warn" | "info" | "debug")) => env.push(json!({"name": "STENO_LOG_LEVEL", "value": level})),
        Some(other) => {
            return Err(Reason::Annotation { name: "log-level".into(), value: other.into(), fix: "error, warn, info or debug" });
        }
    }
    let mut mounts = vec![
        json!({"name": "steno-config", "mountPath": "/etc/steno", "readOnly": true}),
        json!({"name": "steno-spool", "mountPath": "/var/lib/steno"}),
    ];
    if volumes(policy, config).len() > 2 {
        mounts.push(json!({"name": "steno-secrets", "mountPath": "/var/run/steno/secrets", "readOnly": true}));
    }
    let mut sidecar = json!({
        "name": CONTAINER,
        "image": settings.image,
        "args": ["run"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "steno-status", "containerPort": STATUS_PORT, "protocol": "TCP"}],
        "resources": resources(pod, config, settings)?,
        // Not ready for events before this; and no readinessProbe: a full spool must not take the application out of its Service.
        "startupProbe": {"httpGet": {"path": "/healthz", "port": STATUS_PORT}, "periodSeconds": 1, "failureThreshold": 60},
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
    if !settings.pull_policy.is_empty() {
        sidecar["imagePullPolicy"] = json!(settings.pull_policy);
    }
    Ok(sidecar)
}
