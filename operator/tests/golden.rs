//! What injection does to pods of all kinds: `pods/NN-name.yaml` and beside it `.out.yaml`, written with UPDATE=1 and read by people.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{fmt::Write as _, fs, path::PathBuf};

use serde_json::Value;
use steno_crds::{LabelSelector, parse};
use steno_operator::{
    inject::{CONTAINER, Namespace, Plan, Policy, Reason, Settings, plan, ranges},
    seal::Seals,
};

fn policy(name: &str, selector: &str, spec: &str) -> Policy {
    let text = format!(
        "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {selector}\n{spec}"
    );
    let config = parse(&text).ok().map(|parsed| parsed.config);
    let selector: LabelSelector = serde_yaml::from_str(selector).unwrap();
    Policy { name: name.into(), selector: Some(selector), config, is_last_good: false }
}

fn policies() -> Vec<Policy> {
    let plain = "  kafka: {brokers: ['kafka:9092'], topic: audit}\n";
    let tls = "  kafka:\n    brokers: ['kafka:9093']\n    topic: audit\n    tls: {caSecretRef: {name: kafka, key: ca.crt}}\n    sasl: {mechanism: SCRAM-SHA-512, username: steno, passwordSecretRef: {name: kafka-user, key: password}}\n  redaction: {keySecretRef: {name: redaction, key: key}}\n";
    vec![
        policy("shop", "{matchLabels: {app: shop}}", plain),
        policy("web", "{matchLabels: {tier: web}}", plain),
        policy("tls", "{matchLabels: {app: never}}", tls),
        policy(
            "sized",
            "{matchLabels: {app: never}}",
            &format!(
                "{plain}  spool: {{volume: {{safeToEvict: true}}}}\n  sidecar: {{resources: {{cpuRequestMillis: 50, memoryRequest: 64Mi, memoryLimit: 256Mi}}}}\n"
            ),
        ),
        policy(
            "bounded",
            "{matchLabels: {app: never}}",
            &format!("{plain}  sidecar: {{resources: {{maxCpuMillis: 200, maxMemory: 64Mi, maxLogLevel: info}}}}\n"),
        ),
        policy(
            "claim",
            "{matchLabels: {app: never}}",
            &format!(
                "{plain}  spool: {{maxBytes: 64Mi, volume: {{type: PersistentVolumeClaim, persistentVolumeClaim: {{claimName: audit-spool}}}}}}\n"
            ),
        ),
        policy(
            "ephemeral",
            "{matchLabels: {app: never}}",
            &format!("{plain}  spool: {{maxBytes: 64Mi, volume: {{type: Ephemeral, ephemeral: {{storageClassName: fast}}}}}}\n"),
        ),
        policy(
            "host",
            "{matchLabels: {app: never}}",
            &format!("{plain}  spool: {{volume: {{type: HostPath, hostPath: {{path: /var/lib/steno}}}}}}\n"),
        ),
        policy(
            "files",
            "{matchLabels: {app: never}}",
            &format!(
                "{plain}  spool: {{maxBytes: 64Mi}}\n  sinks:\n  - {{name: beside, type: File, file: {{rotateBytes: 4Mi, backups: 3}}}}\n  - {{name: claim, type: File, file: {{volume: {{type: PersistentVolumeClaim, persistentVolumeClaim: {{claimName: archive}}}}}}}}\n  - {{name: host, type: File, file: {{volume: {{type: HostPath, hostPath: {{path: /var/log/audit}}}}}}}}\n  - {{name: siem, type: Http, http: {{url: 'https://siem/', tokenSecretRef: {{name: siem, key: token}}}}}}\n"
            ),
        ),
        policy("broken", "{matchLabels: {app: broken}}", "  kafka: {brokers: [], topic: audit}\n"),
    ]
}

fn settings() -> Settings {
    Settings {
        image: "steno/sidecar:0.1.0".into(),
        pull_policy: String::new(),
        version: "0.1.0".into(),
        resources: steno_operator::inject::Resources::default(),
        seals: Seals::default(),
        pull_secrets: Vec::new(),
        meshes: ["istio-proxy", "linkerd-proxy"].map(str::to_owned).into(),
    }
}

/// Everything of `before` is in `after`, at its place or, in a list, in its order.
fn is_kept(before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            // A list of names that ours come behind.
            let is_longer = |name: &str, before: &Value, after: &Value| {
                name.ends_with("/safe-to-evict-local-volumes") && after.as_str().unwrap().starts_with(before.as_str().unwrap())
            };
            before.iter().all(|(name, value)| {
                value.is_null() || after.get(name).is_some_and(|there| is_longer(name, value, there) || is_kept(value, there))
            })
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            before.iter().all(|item| rest.any(|there| is_kept(item, there)))
        }
        (before, after) => before == after,
    }
}

fn told(input: &str) -> String {
    let pod: Value = serde_yaml::from_str(input).unwrap();
    let namespace = Namespace {
        name: "shop".into(),
        inject_all: input.contains("# namespace: inject all"),
        must_inject: input.contains("# namespace: nobody opts out"),
        may_host_path: input.contains("# namespace: privileged"),
        has_own_users: input.contains("# namespace: own users"),
        ranges: input
            .lines()
            .filter_map(|line| line.strip_prefix("# limits: "))
            .flat_map(|item| ranges(&serde_json::json!({"limits": [serde_yaml::from_str::<Value>(item).unwrap()]})))
            .collect(),
    };
    let mut out = String::new();
    let pull_secrets = input.lines().filter_map(|line| line.strip_prefix("# pull secret: ").map(str::to_owned)).collect();
    match plan(&pod, &namespace, &policies(), &Settings { pull_secrets, ..settings() }) {
        Plan::NotAsked => out.push_str("not asked, or there already\n"),
        Plan::Skip(reason) => {
            let _ = writeln!(out, "skipped, {}: {reason}", reason.word());
        }
        Plan::Inject { policy, patch, warnings } => {
            let _ = writeln!(out, "# policy {policy}");
            for warning in warnings {
                let _ = writeln!(out, "# warning: {warning}");
            }
            let mut injected = pod.clone();
            json_patch::patch(&mut injected, &patch).unwrap();
            assert!(is_kept(&pod, &injected), "something of the pod was lost");
            assert_eq!(plan(&injected, &namespace, &policies(), &settings()), Plan::NotAsked, "a second call changes something");
            let sidecars = injected["spec"]["initContainers"].as_array().unwrap();
            assert_eq!(sidecars.iter().filter(|container| container["name"] == CONTAINER).count(), 1);
            out.push_str(&serde_yaml::to_string(&injected).unwrap());
        }
    }
    out
}

#[test]
fn every_pod_becomes_what_its_golden_file_shows() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/pods");
    let mut inputs: Vec<PathBuf> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.retain(|path| path.to_string_lossy().ends_with(".yaml") && !path.to_string_lossy().ends_with(".out.yaml"));
    inputs.sort();
    assert!(inputs.len() >= 40, "{} pods", inputs.len());
    let mut wrong = Vec::new();
    for input in inputs {
        let shown = told(&fs::read_to_string(&input).unwrap());
        let golden = input.with_extension("out.yaml");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &shown).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != shown {
            wrong.push(input);
        }
    }
    assert!(wrong.is_empty(), "not as their golden files (UPDATE=1 writes them; read the difference): {wrong:?}");
}

#[test]
fn a_policy_that_is_not_accepted_has_no_configuration() {
    assert!(policies().iter().all(|policy| policy.config.is_some() == (policy.name != "broken")));
}

#[test]
fn what_the_webhook_added_is_known_again_and_what_only_looks_like_it_is_told() {
    let settings = Settings { seals: Seals::new().unwrap(), ..settings() };
    let namespace = Namespace { name: "shop".into(), ..Namespace::default() };
    let policies = policies();
    let mut pod = serde_json::json!({
        "metadata": {"name": "p", "annotations": {"audit.steno.dev/policy": policies[0].name}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    let Plan::Inject { patch, .. } = plan(&pod, &namespace, &policies, &settings) else { panic!("not injected") };
    json_patch::patch(&mut pod, &patch).unwrap();
    assert_eq!(plan(&pod, &namespace, &policies, &settings), Plan::NotAsked, "called again, after another webhook");
    let elsewhere = Namespace { name: "pay".into(), ..Namespace::default() };
    assert_eq!(plan(&pod, &elsewhere, &policies, &settings), Plan::Skip(Reason::NotTheSidecar), "a mark of another namespace");
    pod["spec"]["initContainers"][0]["image"] = "busybox".into();
    assert_eq!(plan(&pod, &namespace, &policies, &settings), Plan::Skip(Reason::NotTheSidecar));
}
