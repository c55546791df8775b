//! A real API server sends its audit events to the chart's collector by TLS (feature `cluster`): all are on the topic, though the collector is killed in
//! between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, fmt::Write as _, os::unix::fs::PermissionsExt as _, time::Duration};

use steno_e2e::{
    consumer::{events, read_all, verify},
    scaled, wait_for,
    world::{LATER, World, world},
};

/// Where the cluster's API server sends them (`e2e/cluster/up`).
const ADDRESS: &str = "10.96.9.43";

/// The collector, on a claim over a directory of the node.
fn collect(world: &World, dir: &std::path::Path) {
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let pki = std::env::var("E2E_CLUSTER_DIR").map(|dir| format!("{dir}/pki")).expect("E2E_CLUSTER_DIR");
    let path = dir.display();
    world.cluster.apply(&format!(
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {{name: collector}}\nspec: {{capacity: {{storage: 2Gi}}, accessModes: [ReadWriteOnce], persistentVolumeReclaimPolicy: Retain, storageClassName: none, hostPath: {{path: {path}}}, claimRef: {{namespace: steno-system, name: spool-steno-collector-0}}}}\n"
    ));
    let (certificate, key, ca) = (format!("{pki}/collector.crt"), format!("{pki}/collector.key"), format!("{pki}/ca.crt"));
    let files =
        [("tls.crt", certificate), ("tls.key", key), ("ca.crt", ca)].map(|(name, path)| format!("--from-file={name}={path}"));
    let mut create = vec!["create", "-n", "steno-system", "secret", "generic", "collector-tls"];
    create.extend(files.iter().map(String::as_str));
    world.cluster.kubectl(&create);
    world.cluster.install(&collector_settings(world).iter().map(String::as_str).collect::<Vec<_>>());
}

fn collector_settings(world: &World) -> Vec<String> {
    vec![
        "collector.enabled=true".into(),
        "collector.tlsSecret=collector-tls".into(),
        "collector.clientCertificates=true".into(),
        format!("collector.clusterIP={ADDRESS}"),
        "collector.storage.className=none".into(),
        format!("collector.policy.kafka.brokers[0]={}", world.kafka.for_pods()),
        "collector.policy.kafka.topic=audit".into(),
    ]
}

fn config_maps(from: usize, to: usize) -> String {
    (from..to).fold(String::new(), |mut text, number| {
        let _ = write!(text, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c-{number}, namespace: audited}}\n");
        text
    })
}

#[test]
fn every_audit_event_of_the_apiserver_is_on_the_topic_though_the_collector_is_killed_in_between() {
    let world = world();
    let (cluster, kafka) = (&world.cluster, &world.kafka);
    let dir = tempfile::tempdir().unwrap();
    collect(&world, dir.path());
    cluster.kubectl(&["create", "namespace", "audited"]);
    let all = scaled(900, 6_000);
    let create = |from: usize, to: usize| {
        let (went_well, printed) = cluster.try_with_input(&["create", "-f", "-"], &config_maps(from, to));
        assert!(went_well, "{printed}");
    };
    create(0, all / 3);
    let of_topic = || read_all(&kafka.plain(), "audit").iter().filter(|record| record.json["kind"] == "Event").count();
    wait_for("the first of them", LATER, || of_topic() > 50);
    // As a node that goes: its successor has the volume.
    cluster.kubectl(&["delete", "-n", "steno-system", "pod", "steno-collector-0", "--grace-period=0", "--force"]);
    create(all / 3, all * 2 / 3);
    create(all * 2 / 3, all);
    // Created objects, by name, of requests that were answered; and all stages.
    let told = || {
        let records = read_all(&kafka.plain(), "audit");
        let mut created: BTreeMap<String, usize> = BTreeMap::new();
        // A record that was delivered again after the kill is the same record; it counts once.
        for records in events(&records).values() {
            let json = &records[0].json;
            if json["operation"] == "create" && json["metadata"]["kubernetes"]["stage"] == "ResponseComplete" {
                *created.entry(json["resource"]["id"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
            }
        }
        (created, records)
    };
    let wanted: Vec<String> = (0..all).map(|number| format!("audited/c-{number}")).collect();
    wait_for("all of them on the topic", Duration::from_mins(2), || {
        let (created, _) = told();
        wanted.iter().all(|name| created.contains_key(name))
    });
    let (created, records) = told();
    let events = events(&records);
    println!("{} audit events of the API server for {all} created objects", events.len());
    assert!(wanted.iter().all(|name| created[name] == 1), "an audit event was taken as two");
    assert!(events.len() >= 2 * all, "both stages: {}", events.len());
    assert!(verify(&records).is_clean());
    let one = records.iter().find(|record| record.json["resource"]["id"] == "audited/c-7").unwrap();
    assert_eq!(
        (&one.json["action"], &one.json["resource"]["type"]),
        (&"kubernetes.create configmaps".into(), &"configmaps".into())
    );
    assert_eq!((&one.json["actor"]["id"], &one.json["category"]), (&"admin".into(), &"entity-mutation".into()));
    assert_eq!(records.iter().filter(|record| record.json["kind"] == "Rejected").count(), 0);
    assert_eq!(one.json["writer"]["pod"], "steno-collector-0");
    cluster.kubectl(&["delete", "namespace", "audited", "--wait=false"]);
    cluster.install(&[]);
}
