//! Schema and reference page, made from the types and the table of bounds.
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{AuditPolicy, ClusterAuditPolicySpec, KAFKA_ALLOWED, bounds};

/// The JSON schema of an AuditPolicy, with defaults and bounds from the table in each field's description.
pub fn policy_schema() -> Value {
    described(generator().into_root_schema_for::<AuditPolicy>().to_value())
}

/// The JSON schema of a ClusterAuditPolicy's specification, at `properties.spec`.
pub fn cluster_policy_schema() -> Value {
    let spec = generator().into_root_schema_for::<ClusterAuditPolicySpec>().to_value();
    let mut schema = json!({"properties": {"spec": spec}});
    for row in bounds::TABLE {
        if let Some(field) = field_mut(&mut schema, row.path()) {
            describe_ceiling(field, row);
        }
    }
    schema
}

fn generator() -> schemars::SchemaGenerator {
    schemars::generate::SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator()
}

fn described(mut schema: Value) -> Value {
    for row in bounds::TABLE {
        if let Some(field) = field_mut(&mut schema, row.path()) {
            describe(field, row);
        }
    }
    schema
}

/// Adds a row's default and bounds to the description of its field.
pub(crate) fn describe(field: &mut Map<String, Value>, row: &bounds::Row) {
    let (default, min, max) = row.shown();
    let text = field.get("description").and_then(Value::as_str).unwrap_or_default();
    let default = default.map_or_else(|| "Not set by default".into(), |value| format!("Default {value}"));
    let text = format!("{text} {default}; from {min} to {max}.");
    field.insert("description".into(), text.trim().into());
}

/// The same where a ClusterAuditPolicy has a bound: what is not set there bounds nothing.
pub(crate) fn describe_ceiling(field: &mut Map<String, Value>, row: &bounds::Row) {
    let (_, min, max) = row.shown();
    let text = field.get("description").and_then(Value::as_str).unwrap_or_default();
    let is_kafka = row.path().starts_with("kafka.");
    let unset = if is_kafka { "" } else { "Not set: no bound but a policy's own; " };
    field.insert("description".into(), format!("{text} {unset}from {min} to {max}.").trim().into());
}

/// The schema of a field below `spec`; `[]` behind a name means its items.
pub(crate) fn field_mut<'a>(schema: &'a mut Value, path: &str) -> Option<&'a mut Map<String, Value>> {
    let mut node = schema.get_mut("properties")?.get_mut("spec")?;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (name, is_list) = step.strip_suffix("[]").map_or((step, false), |name| (name, true));
        node = object_of(node)?.get_mut("properties")?.get_mut(name)?;
        if is_list {
            node = node.get_mut("items")?;
        }
    }
    node.as_object_mut()
}

/// The alternative of a schema that is an object: itself, or the one beside `null`.
fn object_of(node: &mut Value) -> Option<&mut Value> {
    if node.get("properties").is_some() {
        return Some(node);
    }
    node.get_mut("anyOf")?.as_array_mut()?.iter_mut().find(|option| option.get("properties").is_some())
}

/// The reference pages, each with its file name.
pub fn reference_markdown() -> [(&'static str, String); 2] {
    [("auditpolicy.md", policy_page()), ("clusterauditpolicy.md", cluster_page())]
}

fn cluster_page() -> String {
    let mut page = String::from(
        "# ClusterAuditPolicy\n\n<!-- Generated from the types by `cargo test -p steno-crds` with UPDATE=1; do not edit. -->\n\n\
         `audit.steno.dev/v1alpha1`, of the cluster. What the platform asks of the AuditPolicies of many namespaces: they may tighten it and\n\
         never loosen it. What is not set asks nothing; `redaction.builtin` is on unless it says `false`. An AuditPolicy's `status.inherited` lists\n\
         what it got from here.\n\n## Fields\n\n| field | values | meaning |\n|---|---|---|\n",
    );
    if let Some(spec) = cluster_policy_schema().pointer("/properties/spec") {
        rows(&mut page, "", spec);
    }
    page.push_str("\n## How the two are merged\n\n");
    page.push_str(crate::merge::RULES);
    page
}

fn policy_page() -> String {
    let mut page = String::from(
        "# AuditPolicy\n\n<!-- Generated from the types by `cargo test -p steno-crds` with UPDATE=1; do not edit. -->\n\n\
         `audit.steno.dev/v1alpha1`. Sizes are written as `64Ki`, durations as `30s`. Secrets are references only: the sidecar\n\
         reads the file `<name>/<key>` in its secrets directory.\n\n| field | values | meaning |\n|---|---|---|\n",
    );
    let schema = policy_schema();
    if let Some(spec) = schema.pointer("/properties/spec") {
        rows(&mut page, "", spec);
    }
    page.push_str("\n## Properties that `kafka.config` may set\n\n| property | values | meaning |\n|---|---|---|\n");
    for (name, setting, doc) in KAFKA_ALLOWED {
        let values = match setting {
            crate::settings::Setting::Integer(min, max) => format!("{min} to {max}"),
            crate::settings::Setting::Flag => "true, false".into(),
            crate::settings::Setting::Word([]) => "text".into(),
            crate::settings::Setting::Word(words) => words.join(", "),
        };
        let _ = writeln!(page, "| `{name}` | {values} | {doc} |");
    }
    page
}

fn rows(page: &mut String, prefix: &str, node: &Value) {
    let alternatives = node.get("anyOf").and_then(Value::as_array);
    let node = alternatives.and_then(|options| options.iter().find(|option| option.get("properties").is_some())).unwrap_or(node);
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        node.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in properties {
        let path = format!("{prefix}{name}");
        let mark = if required.contains(&name.as_str()) { " (required)" } else { "" };
        let text = field.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        let _ = writeln!(page, "| `{path}`{mark} | {} | {text} |", values(field));
        match field.get("items") {
            Some(items) => rows(page, &format!("{path}[]."), items),
            None => rows(page, &format!("{path}."), field),
        }
    }
}

fn values(field: &Value) -> String {
    let mut words = Vec::new();
    collect_words(field, &mut words);
    if words.is_empty() {
        return kind(field);
    }
    words.join(", ")
}

fn collect_words(field: &Value, words: &mut Vec<String>) {
    let from = |list: &Value| {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect::<Vec<_>>()
    };
    if let Some(list) = field.get("enum") {
        words.extend(from(list));
    }
    if let Some(word) = field.get("const").and_then(Value::as_str) {
        words.push(format!("`{word}`"));
    }
    for option in ["oneOf", "anyOf"].iter().filter_map(|name| field.get(name)).filter_map(Value::as_array).flatten() {
        collect_words(option, words);
    }
    if let Some(items) = field.get("items") {
        collect_words(items, words);
    }
}

fn kind(field: &Value) -> String {
    let named = |value: &Value| value.as_str().filter(|kind| *kind != "null").map(str::to_owned);
    let kind = match field.get("type") {
        Some(Value::Array(kinds)) => kinds.iter().find_map(named),
        Some(kind) => named(kind),
        None => None,
    };
    match (kind.as_deref(), field.get("pattern").and_then(Value::as_str)) {
        (_, Some(pattern)) if pattern.contains("Ki") => "size".into(),
        (_, Some(_)) => "duration".into(),
        (Some("array"), _) => "list".into(),
        (Some(kind), _) => kind.into(),
        (None, _) => "object".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_a_field_of_the_schema() {
        let mut schema = policy_schema();
        for row in bounds::TABLE {
            assert!(field_mut(&mut schema, row.path()).is_some(), "{} is in the table, not in the types", row.path());
        }
    }

    #[test]
    fn every_field_has_a_description() {
        fn walk(path: &str, node: &Value) {
            for (name, field) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}.{name}");
                assert!(field.get("description").is_some(), "{path} has no description");
                walk(&path, field);
                field.get("items").into_iter().for_each(|items| walk(&path, items));
            }
        }
        walk("", &policy_schema());
        walk("", &cluster_policy_schema());
    }

    #[test]
    fn the_reference_pages_are_what_the_types_say() {
        for (name, page) in reference_markdown() {
            let path = format!("{}/../docs/reference/{name}", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("UPDATE").is_some() {
                std::fs::write(&path, &page).unwrap();
            }
            assert!(
                std::fs::read_to_string(&path).unwrap_or_default() == page,
                "{path} is not what the types say: run `make generate`"
            );
        }
    }
}
