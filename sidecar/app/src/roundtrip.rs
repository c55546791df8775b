//! `steno-sidecar roundtrip`: the whole way from inside a pod, for `helm test` and for people who want to be sure.
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use rdkafka::{
    ClientConfig, Message,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::{Value, json};

use crate::{args::RoundtripArgs, dev::samples::send};

/// What must not arrive.
const SECRET: &str = "roundtrip-secret-4111111111111111";

/// Posts an event and reads until it is on the topic.
pub fn roundtrip(args: &RoundtripArgs) -> anyhow::Result<ExitCode> {
    let id = format!("roundtrip-{}", uuid::Uuid::new_v4());
    let address = args.url.strip_prefix("http://").context("--url is not http://HOST:PORT")?.trim_end_matches('/');
    let event = json!({"eventId": id, "action": "steno.roundtrip", "metadata": {"password": SECRET}});
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let posted = runtime.block_on(send(address, "/v1/events", "application/json", event.to_string()));
    let (status, body) = posted.with_context(|| format!("no sidecar takes events on {address}"))?;
    ensure!((200..300).contains(&status), "the sidecar answered {status}: {body}");
    println!("{id}: {status} {body}");
    let record = read(args, &id)?;
    println!("{id}: on the topic {}, chain {}", args.topic, record["integrity"]["chainId"]);
    ensure!(!record.to_string().contains(SECRET), "the record holds a password in clear: {record}");
    println!("{id}: its password was redacted");
    Ok(ExitCode::SUCCESS)
}

fn read(args: &RoundtripArgs, id: &str) -> anyhow::Result<Value> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &args.brokers).set("group.id", id).set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer =
        config.set("enable.auto.commit", "false").set("topic.metadata.refresh.interval.ms", "1000").create()?;
    consumer.subscribe(&[&args.topic])?;
    let until = Instant::now() + Duration::from_secs(args.timeout);
    let mut last = None;
    while Instant::now() < until {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                let record: Value = serde_json::from_slice(message.payload().unwrap_or_default()).unwrap_or_default();
                if record["eventId"] == id {
                    return Ok(record);
                }
            }
            // Such as a topic that is not there yet.
            Some(Err(error)) => last = Some(error),
            None => {}
        }
    }
    bail!("{id} was not on the topic {} of {} within {} s; {last:?}", args.topic, args.brokers, args.timeout)
}
