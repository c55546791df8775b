//! Spools on a real cluster (feature `cluster`): what they survive, and what is told of what they do not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::os::unix::fs::PermissionsExt as _;

use steno_e2e::{
    wait_for,
    world::{LATER, SOON, WAITS, World, event, pod, policy, record, served, world},
};

/// A claim that is bound to a directory of the node.
fn claim(world: &World, namespace: &str, dir: &std::path::Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    world.cluster.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: {namespace}}}\nspec: {{capacity: {{storage: 1Gi}}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, storageClassName: none, hostPath: {{path: {}}}, claimRef: {{namespace: {namespace}, name: spool}}}}\n---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: spool, namespace: {namespace}}}\nspec: {{accessModes: [ReadWriteOnce], storageClassName: none, volumeName: {namespace}, resources: {{requests: {{storage: 1Gi}}}}}}\n",
        dir.display()
    ));
}

/// A namespace with a policy whose spools are on its claim, over a directory of the node.
fn on_claim(world: &World, namespace: &str, dir: &std::path::Path) {
    world.cluster.namespace(namespace);
    claim(world, namespace, dir);
    let volume = "spool: {maxBytes: 64Mi, volume: {type: PersistentVolumeClaim, persistentVolumeClaim: {claimName: spool}}}";
    world.cluster.apply(&policy("audit", namespace, &world.kafka.for_pods(), "").replace("spool: {maxBytes: 64Mi}", volume));
    world.cluster.rendered(namespace, "audit");
}

#[test]
fn what_a_pod_left_on_a_claim_is_delivered_by_one_that_runs_or_comes_and_told_until_then() {
    let world = world();
    let dir = tempfile::tempdir().unwrap();
    on_claim(&world, "claimed", dir.path());
    let take = |pod: &str, name: &str| {
        for number in 0..5 {
            let answer = world.cluster.post("claimed", pod, &event(&format!("{name}-{number}"), "{}"));
            assert!(answer.contains("\"created\""), "{answer}");
        }
    };
    let delivered = |name: &str| (0..5).all(|number| record(&world.kafka, &format!("{name}-{number}")).is_some());
    let reason = |kind: &str| world.cluster.condition("claimed", "auditpolicy/audit", kind)["reason"].clone();
    let left = || world.cluster.get("claimed", "auditpolicy/audit")["status"]["leftEvents"].as_u64();
    let start = |name: &str| {
        world.cluster.apply(&pod("Pod", name, "claimed", WAITS));
        world.cluster.ready("claimed", &format!("pod/{name}"));
    };
    // As in a rolling update: the new pod runs before the old one goes, and has a folder of its own.
    start("first");
    world.kafka.down();
    take("first", "first");
    start("beside");
    world.cluster.kubectl(&["delete", "-n", "claimed", "pod", "first", "--timeout=120s"]);
    wait_for("the policy to tell of the events", LATER, || left() >= Some(5));
    assert_ne!(reason("Ready"), "Ready");
    world.kafka.up();
    wait_for("the pod that runs to deliver what the other one left", LATER, || delivered("first"));
    let first = record(&world.kafka, "first-0").unwrap();
    assert_eq!(first.json["writer"]["pod"], "first", "it tells who took the event, not who delivered it");
    wait_for("the policy to be ready", LATER, || reason("Ready") == "Ready" && left() == Some(0));
    // As where all replicas are taken away: nobody runs that could deliver.
    world.kafka.down();
    take("beside", "beside");
    world.cluster.kubectl(&["delete", "-n", "claimed", "pod", "beside", "--timeout=120s"]);
    wait_for("the policy to tell that nobody delivers", LATER, || {
        reason("Ready") == "EventsLeft" && reason("Delivering") == "EventsLeft"
    });
    world.kafka.up();
    assert!(!delivered("beside"), "nobody can have delivered it yet");
    start("successor");
    wait_for("the successor to deliver", LATER, || delivered("beside"));
    wait_for("the policy to be ready again", LATER, || reason("Ready") == "Ready" && left() == Some(0));
    world.cluster.kubectl(&["delete", "-n", "claimed", "pod", "successor", "--now"]);
}

#[test]
fn a_volume_that_the_sidecar_cannot_write_to_does_not_hold_the_pod_up_and_is_told() {
    let world = world();
    let dir = tempfile::tempdir().unwrap();
    on_claim(&world, "unwritable", dir.path());
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    world.cluster.apply(&pod("Pod", "shop", "unwritable", WAITS));
    world.cluster.ready("unwritable", "pod/shop");
    assert!(world.cluster.post("unwritable", "shop", &event("unwritable-1", "{}")).contains("\"created\""));
    wait_for("the policy to tell of it", LATER, || {
        world.cluster.condition("unwritable", "auditpolicy/audit", "Ready")["reason"] == "SpoolFellBack"
    });
    world.cluster.kubectl(&["delete", "-n", "unwritable", "pod", "shop", "--now"]);
}

#[test]
fn a_pod_that_is_deleted_uses_its_grace_to_deliver_its_backlog() {
    let world = world();
    served(&world, "grace");
    world.kafka.down();
    for number in 0..5 {
        world.cluster.post("grace", "shop", &event(&format!("grace-{number}"), "{}"));
    }
    world.cluster.kubectl(&["delete", "-n", "grace", "pod", "shop", "--wait=false"]);
    // Its drain lasts five seconds, and Kafka comes back meanwhile.
    world.kafka.up();
    wait_for("the backlog to be delivered", SOON, || {
        (0..5).all(|number| record(&world.kafka, &format!("grace-{number}")).is_some())
    });
}

#[test]
fn what_a_deleted_pod_takes_with_it_is_told_by_event_and_metric() {
    let world = world();
    served(&world, "lost");
    world.kafka.down();
    for number in 0..3 {
        let answer = world.cluster.post("lost", "shop", &event(&format!("lost-{number}"), "{}"));
        assert!(answer.contains("\"created\""), "{answer}");
    }
    let abandoned = |world: &World| {
        let metrics = world.cluster.leader_metrics();
        let of = "steno_operator_abandoned_events_total{namespace=\"lost\"";
        let line = metrics.lines().find(|line| line.starts_with(of)).map(str::to_owned);
        line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).unwrap_or_default()
    };
    let before = abandoned(&world);
    world.cluster.kubectl(&["delete", "-n", "lost", "pod", "shop", "--timeout=120s"]);
    wait_for("an Event with their number", SOON, || {
        let events = world.cluster.kubectl(&["get", "-n", "lost", "events"]);
        events.contains("UndeliveredEvents") && events.contains("undelivered events in its spool")
    });
    assert!(abandoned(&world) >= before + 3.0);
    // It stays where a person looks, though no pod is left; and so it does under another leader.
    let lossy = || {
        let policy = world.cluster.get("lost", "auditpolicy/audit");
        policy["status"]["abandonedEvents"].as_u64() >= Some(3)
            && world.cluster.condition("lost", "auditpolicy/audit", "Lossy")["status"] == "True"
    };
    wait_for("the policy's status to say so", SOON, lossy);
    let leader = world.cluster.leader();
    world.cluster.kubectl(&["delete", "-n", "steno-system", "pod", &leader, "--wait=false"]);
    wait_for("another one to lead", SOON, || ![leader.as_str(), ""].contains(&world.cluster.leader().as_str()));
    world.cluster.kubectl(&["annotate", "-n", "lost", "auditpolicy", "audit", "example.com/looked-at=true"]);
    wait_for("the next leader to have looked", SOON, || {
        world.cluster.condition("lost", "auditpolicy/audit", "Ready")["reason"] == "NoPods"
    });
    assert!(lossy());
    world.kafka.up();
}
