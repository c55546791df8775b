//! What tests on a cluster begin with: Steno installed, a Kafka, policies, pods.
use std::time::Duration;

use crate::{
    cluster::{Cluster, NODE},
    consumer::{Record, read_all},
    kafka::Kafka,
};

/// For what comes within seconds. Bounds are generous, for a machine may be slow: only a test that fails waits that long.
pub const SOON: Duration = Duration::from_mins(1);
/// For what comes with the next look at the pods.
pub const LATER: Duration = Duration::from_mins(3);

/// A cluster with Steno, and a Kafka of the test's own.
pub struct World {
    /// The cluster.
    pub cluster: Cluster,
    /// Kafka.
    pub kafka: Kafka,
}

/// The cluster, and a Kafka of the test's own.
pub fn world() -> World {
    let cluster = Cluster::start();
    let kafka = Kafka::start_for(Some(NODE));
    kafka.topic("audit");
    World { cluster, kafka }
}

/// A policy that notices an outage soon.
pub fn policy(name: &str, namespace: &str, brokers: &str, more: &str) -> String {
    format!(
        "apiVersion: audit.steno.dev/v1alpha1\nkind: AuditPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  kafka: {{brokers: ['{brokers}'], topic: audit}}\n  spool: {{maxBytes: 64Mi}}\n  breaker: {{cooldown: 1s, noBrokerFor: 2s}}\n  sidecar: {{drainTimeout: 5s}}\n{more}"
    )
}

/// A pod that fits Pod Security "restricted" and does what its command says.
pub fn pod(kind: &str, name: &str, namespace: &str, command: &str) -> String {
    let spec = format!(
        "{{restartPolicy: {restart}, terminationGracePeriodSeconds: 10, securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}, containers: [{{name: app, image: 'e2e.local/app:1', imagePullPolicy: Never, command: {command}, securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}}}]}}",
        restart = if kind == "Job" { "Never" } else { "Always" },
    );
    let metadata = "labels: {app.kubernetes.io/name: checkout}, annotations: {audit.steno.dev/inject: \"true\"}";
    if kind == "Job" {
        return format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{backoffLimit: 0, template: {{metadata: {{{metadata}}}, spec: {spec}}}}}\n"
        );
    }
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, {metadata}}}\nspec: {spec}\n")
}

/// A command that waits.
pub const WAITS: &str = "[sleep, '100000']";

/// An event.
pub fn event(id: &str, metadata: &str) -> String {
    format!(r#"{{"eventId":"{id}","action":"user.login","metadata":{metadata}}}"#)
}

/// What arrived of an event.
pub fn record(kafka: &Kafka, id: &str) -> Option<Record> {
    read_all(&kafka.plain(), "audit").into_iter().find(|record| record.json["eventId"] == id)
}

/// A namespace with a policy whose configuration is rendered, and a running, injected pod.
pub fn served(world: &World, namespace: &str) {
    world.cluster.namespace(namespace);
    world.cluster.apply(&policy("audit", namespace, &world.kafka.for_pods(), ""));
    world.cluster.rendered(namespace, "audit");
    world.cluster.apply(&pod("Pod", "shop", namespace, WAITS));
    world.cluster.ready(namespace, "pod/shop");
}

/// The process of an operator's pod.
pub fn process_of(pod: &str) -> Option<u32> {
    process_with(&format!("STENO_IDENTITY={pod}"))
}

/// The process with a variable in its environment, on the one node that is this machine.
pub fn process_with(variable: &str) -> Option<u32> {
    let of = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|found| found == variable.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.into_iter().find(of)
}
