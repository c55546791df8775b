//! What the chart renders (feature `cluster`, for Helm): the cases of `charts/steno/tests/cases.yaml`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::Command};

use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "case")]
    name: String,
    #[serde(default)]
    set: Value,
    #[serde(default)]
    api: Vec<String>,
    #[serde(default)]
    want: Vec<Want>,
    #[serde(default)]
    without: Vec<String>,
    fails: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Want {
    of: String,
    #[serde(default)]
    at: BTreeMap<String, Value>,
}

fn chart() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/steno")
}

/// Objects by kind and name; or what was said of a failure.
fn rendered(case: &Case) -> Result<BTreeMap<String, Value>, String> {
    let mut values = tempfile::NamedTempFile::new().unwrap();
    writeln!(values, "{}", case.set).unwrap();
    let helm = std::env::var_os("E2E_HELM").unwrap_or_else(|| "helm".into());
    let mut command = Command::new(helm);
    command.args(["template", "s", "--namespace", "steno-system", "--kube-version", "1.34.0", "-f"]).arg(values.path());
    for api in &case.api {
        command.args(["--api-versions", api]);
    }
    let output = command.arg(chart()).output().expect("helm starts");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let objects = serde_yaml::Deserializer::from_str(&text).map(|object| Value::deserialize(object).unwrap());
    let text = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(objects.map(|object| (format!("{}/{}", text(&object, "/kind"), text(&object, "/metadata/name")), object)).collect())
}

#[test]
fn the_chart_renders_what_its_cases_say() {
    let text = std::fs::read_to_string(chart().join("tests/cases.yaml")).unwrap();
    let cases: Vec<Case> = serde_yaml::from_str(&text).unwrap();
    let mut faults = Vec::new();
    for case in &cases {
        let objects = match (rendered(case), &case.fails) {
            (Ok(objects), None) => objects,
            (Err(said), Some(named)) if said.contains(named) => continue,
            (found, wanted) => {
                faults.push(format!("{}: wanted a failure {wanted:?}, got {:?}", case.name, found.map(|objects| objects.len())));
                continue;
            }
        };
        for want in &case.want {
            let Some(object) = objects.get(&want.of) else {
                faults.push(format!("{}: no {}", case.name, want.of));
                continue;
            };
            for (pointer, wanted) in &want.at {
                let found = object.pointer(pointer).unwrap_or(&Value::Null);
                if found != wanted {
                    faults.push(format!("{}: {}{pointer} is {found}, not {wanted}", case.name, want.of));
                }
            }
        }
        let there = case.without.iter().filter(|name| objects.contains_key(*name));
        faults.extend(there.map(|name| format!("{}: there is a {name}", case.name)));
    }
    assert!(faults.is_empty() && cases.len() > 10, "{faults:#?}");
}
