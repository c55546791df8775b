//! The chart's files are what the types say, and what it watches is there to be watched.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeSet, fs, path::PathBuf};

use steno_chart::{readme, schema, values_yaml};

fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../steno")
}

#[test]
fn the_files_of_the_chart_are_what_the_types_say() {
    let schema = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    for (name, text) in [("values.yaml", values_yaml()), ("values.schema.json", schema), ("README.md", readme())] {
        let path = chart().join(name);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert!(fs::read_to_string(&path).unwrap_or_default() == text, "{name} is not what the types say: run `make generate`");
    }
}

#[test]
fn alerts_and_dashboards_ask_for_metrics_that_there_are() {
    let sidecar = fs::read_to_string(chart().join("../../docs/reference/metrics.md")).unwrap();
    let metrics = steno_operator::metrics::Metrics::default();
    // Families are shown once there is something to show.
    metrics.admissions("injected", "").inc();
    metrics.reconciled(true, 0.1);
    metrics.fleets.lock().unwrap().insert(("shop".into(), "audit".into()), Default::default());
    metrics.abandoned("shop", "audit", 0);
    metrics.missed.lock().unwrap().insert(("shop".into(), "Missed"), 1);
    let operator = metrics.text();
    let name = regex::Regex::new(r"steno_[a-z_]+").unwrap();
    let known: BTreeSet<&str> = name.find_iter(&sidecar).chain(name.find_iter(&operator)).map(|found| found.as_str()).collect();
    let monitoring = chart().join("monitoring");
    let mut asked = BTreeSet::new();
    for path in ["rules.yaml", "dashboards/fleet.json", "dashboards/policy.json"] {
        let text = fs::read_to_string(monitoring.join(path)).unwrap();
        asked.extend(name.find_iter(&text).map(|found| found.as_str().to_owned()));
    }
    assert!(asked.len() > 15, "{asked:?}");
    let unknown: Vec<&String> = asked
        .iter()
        .filter(|asked| !known.contains(asked.as_str()))
        .filter(|asked| !known.contains(asked.trim_end_matches("_total")) && !known.contains(asked.trim_end_matches("_bucket")))
        .collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn every_alert_has_a_case_that_fires_it_and_one_that_does_not() {
    let read = |name: &str| fs::read_to_string(chart().join("monitoring").join(name)).unwrap();
    let (rules, tests) = (read("rules.yaml"), read("rules.test.yaml"));
    let alerts = regex::Regex::new(r"alert: (\w+)").unwrap();
    for alert in alerts.captures_iter(&rules) {
        let alert = &alert[1];
        assert!(tests.contains(&format!("alertname: {alert}}}")), "{alert} has no case where it is silent");
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "{alert} has no case where it fires");
    }
}
