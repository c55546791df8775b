//! Reads the topic back, and shows it as a table.
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use rdkafka::{
    Message,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;
use steno_chain::Verifier;
use steno_deliver::kafka::{Destination, client_config};

use super::samples::Acked;
use crate::printed::printed;

/// Reads until all that was acked is there, shows it, and says whether it is exactly that.
pub(super) async fn show(destination: Destination, acked: Acked, uuid: String) -> anyhow::Result<bool> {
    tokio::task::spawn_blocking(move || read(&destination, &acked, &uuid)).await?
}

fn read(destination: &Destination, acked: &Acked, uuid: &str) -> anyhow::Result<bool> {
    let mut config = client_config(destination).map_err(anyhow::Error::msg)?;
    for name in ["acks", "enable.idempotence", "compression.type", "batch.num.messages", "linger.ms", "message.timeout.ms"] {
        config.remove(name);
    }
    for name in ["queue.buffering.max.messages", "queue.buffering.max.kbytes"] {
        config.remove(name);
    }
    config.set("group.id", format!("steno-dev-{uuid}")).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[&destination.kafka.topic])?;
    let wanted: BTreeSet<&str> = acked.iter().map(String::as_str).collect();
    let (mut seen, mut rows, mut verifier) = (Vec::new(), Vec::new(), Verifier::default());
    let mut until = Instant::now() + Duration::from_secs(20);
    let mut complete = false;
    while Instant::now() < until {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            if complete {
                break;
            }
            continue;
        };
        let message = message?;
        let text = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
        let Ok(record) = serde_json::from_str::<Value>(&text) else { continue };
        // A topic that was there before holds others' records, too.
        if !record["integrity"]["chainId"].as_str().is_none_or(|chain| chain.contains(uuid)) {
            continue;
        }
        if !record["integrity"].is_null() {
            verifier.add(&text);
        }
        if record["kind"] == "Event" {
            seen.push(record["eventId"].as_str().unwrap_or_default().to_owned());
        }
        rows.push((record["integrity"]["seq"].as_u64().unwrap_or_default(), message.partition(), record));
        if !complete && wanted.iter().all(|id| seen.iter().any(|seen| seen == id)) {
            complete = true;
            until = Instant::now() + Duration::from_secs(2);
        }
    }
    rows.sort_by_key(|(seq, _, _)| *seq);
    println!("\nWhat a consumer of topic {} read:\n{}", destination.kafka.topic, table(&rows));
    let verdict = verifier.finish();
    println!(
        "hash chain: {} records in {} chain, {}",
        verdict.records,
        verdict.chains,
        if verdict.is_clean() { "intact" } else { "BROKEN" }
    );
    for finding in &verdict.findings {
        println!("  {finding}");
    }
    let unique: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
    Ok(unique == wanted && seen.len() == wanted.len() && verdict.is_clean())
}

/// Rows that are alike, such as those of a burst, are shown once.
const ALIKE: usize = 3;

fn table(rows: &[(u64, i32, Value)]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["seq", "kind", "action", "actor", "event id", "what a reader sees", "made safe"]);
    let text = |value: &Value| printed(value.as_str().unwrap_or_default()).into_owned();
    let (mut last, mut run, mut hidden) = (String::new(), 0, 0);
    for (seq, _, record) in rows {
        let action = text(&record["action"]);
        run = if action == last { run + 1 } else { 0 };
        last.clone_from(&action);
        if run >= ALIKE {
            hidden += 1;
            continue;
        }
        if hidden > 0 {
            table.add_row([String::from("…"), format!("{hidden} more like these")]);
            hidden = 0;
        }
        table.add_row([
            seq.to_string(),
            text(&record["kind"]),
            action,
            text(&record["actor"]["id"]),
            shorten(&text(&record["eventId"]), 20),
            shorten(&text(&record["message"]), 44),
            safety(record),
        ]);
    }
    if hidden > 0 {
        table.add_row([String::from("…"), format!("{hidden} more like these")]);
    }
    table
}

fn safety(record: &Value) -> String {
    let mut marks: Vec<String> = Vec::new();
    let printed = |value: &Value, other: &'static str| printed(value.as_str().unwrap_or(other)).into_owned();
    for entry in record["redactions"].as_array().into_iter().flatten() {
        marks.push(format!("{}: {}", printed(&entry["path"], "several"), printed(&entry["rule"], "")));
    }
    for field in record["truncation"]["fields"].as_array().into_iter().flatten() {
        marks.push(format!("{}: cut from {} bytes", printed(&field["path"], ""), field["originalLength"]));
    }
    marks.join("\n")
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}
