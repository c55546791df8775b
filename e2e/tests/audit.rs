//! A real API server sends its audit events to a sidecar (feature `cluster`): all are on the topic, though the sidecar is killed in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use steno_e2e::{
    cluster::Cluster,
    consumer::{events, read_all, verify},
    kafka::Kafka,
    scaled,
    sidecar::{Sidecar, policy},
    wait_for,
};

/// Where the cluster's API server sends them (`e2e/cluster/up`).
const PORT: u16 = 19_616;

fn config_maps(from: usize, to: usize) -> String {
    (from..to).fold(String::new(), |mut text, number| {
        let _ = write!(text, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c-{number}, namespace: audited}}\n");
        text
    })
}

#[test]
fn every_audit_event_of_the_apiserver_is_on_the_topic_though_the_sidecar_is_killed_in_between() {
    let cluster = Cluster::start();
    let kafka = Kafka::start();
    kafka.topic("audit");
    let mut sidecar = Sidecar::prepare(&policy(&kafka.plain(), "audit", "")).on_port(PORT);
    sidecar.up();
    cluster.kubectl(&["create", "namespace", "audited"]);
    let all = scaled(900, 6_000);
    let create = |from: usize, to: usize| {
        let (went_well, printed) = cluster.try_with_input(&["create", "-f", "-"], &config_maps(from, to));
        assert!(went_well, "{printed}");
    };
    create(0, all / 3);
    wait_for("the first of them", Duration::from_secs(30), || sidecar.metric("steno_events_accepted_total") > 50.0);
    sidecar.kill();
    create(all / 3, all * 2 / 3);
    sidecar.up();
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
    cluster.kubectl(&["delete", "namespace", "audited", "--wait=false"]);
}
