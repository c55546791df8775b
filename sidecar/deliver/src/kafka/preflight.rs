//! Whether the destination is fit for audit: asked at start, when a sink is made anew, and by `check`.
use std::{collections::HashMap, time::Duration};

use futures_executor::block_on;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
    metadata::MetadataPartition,
    producer::{Producer, ThreadedProducer},
};

use super::{Destination, Tokens, client_config};

/// Properties that are a producer's, which other clients warn of.
pub(super) const PRODUCER_ONLY: [&str; 8] = [
    "acks",
    "enable.idempotence",
    "compression.type",
    "batch.num.messages",
    "linger.ms",
    "message.timeout.ms",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
];
/// What can be seen with a token: the admin client of this library asks for none. Settings of the topic are not looked at, and it is not made.
fn by_token(destination: &Destination) -> Result<Vec<String>, String> {
    let (kafka, topic) = (&destination.kafka, &destination.kafka.topic);
    let config = client_config(destination)?;
    let producer: ThreadedProducer<Tokens> = config
        .create_with_context(Tokens::of(destination))
        .map_err(|error| format!("the Kafka client could not be made: {error}"))?;
    let metadata = producer.client().fetch_metadata(Some(topic), WAIT);
    let metadata = metadata.map_err(|error| format!("no broker answers at {}: {error}", kafka.brokers.join(",")))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = found.filter(|found| found.error().is_none()).map_or(&[][..], |found| found.partitions());
    if partitions.is_empty() {
        let made = if kafka.create.is_some() { "; with OAUTHBEARER kafka.create makes none" } else { "" };
        return Ok(vec![format!("topic {topic} does not exist, or this user may not describe it; create it{made}")]);
    }
    Ok(few_copies(topic, partitions).into_iter().collect())
}

fn few_copies(topic: &str, partitions: &[MetadataPartition]) -> Option<String> {
    let copies = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
    (copies < 2).then(|| format!("topic {topic} has {copies} copy of its partitions; give it a replication factor of at least 2"))
}

const WAIT: Duration = Duration::from_secs(10);

fn admin(destination: &Destination) -> Result<AdminClient<DefaultClientContext>, String> {
    let mut config = client_config(destination)?;
    for name in PRODUCER_ONLY {
        config.remove(name);
    }
    config.create().map_err(|error| format!("the Kafka client could not be made: {error}"))
}

/// Creates the destination's topic as the policy says. Fine where it is there already.
pub fn create_topic(destination: &Destination) -> Result<(), String> {
    let Some(create) = &destination.kafka.create else { return Ok(()) };
    let topic = &destination.kafka.topic;
    let replication = TopicReplication::Fixed(create.replication_factor as i32);
    let new = NewTopic::new(topic, create.partitions as i32, replication);
    let admin = admin(destination)?;
    let results = block_on(admin.create_topics([&new], &AdminOptions::new().request_timeout(Some(WAIT))));
    let fault = |what: &dyn std::fmt::Display| format!("topic {topic} could not be created: {what}");
    match results.map_err(|error| fault(&error))?.into_iter().next() {
        None | Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(fault(&code)),
    }
}

/// What is not as it should be, each a sentence with what to do; empty: all is well. The error: no broker answered.
pub fn preflight(destination: &Destination) -> Result<Vec<String>, String> {
    let kafka = &destination.kafka;
    let topic = &kafka.topic;
    if Tokens::of(destination).are_used() {
        return by_token(destination);
    }
    let admin = admin(destination)?;
    let metadata = admin
        .inner()
        .fetch_metadata(Some(topic), WAIT)
        .map_err(|error| format!("no broker answers at {}: {error}", kafka.brokers.join(",")))?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = found.filter(|found| found.error().is_none()).map_or(&[][..], |found| found.partitions());
    if partitions.is_empty() {
        if kafka.create.is_none() {
            return Ok(vec![format!(
                "topic {topic} does not exist, or this user may not describe it; create it, or set kafka.create"
            )]);
        }
        drop(admin);
        return create_topic(destination).map_or_else(|reason| Ok(vec![reason]), |()| Ok(Vec::new()));
    }
    let mut warnings: Vec<String> = few_copies(topic, partitions).into_iter().collect();
    let asked =
        block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &AdminOptions::new().request_timeout(Some(WAIT))));
    let settings: HashMap<String, String> = if let Some(Ok(resource)) = asked.ok().and_then(|results| results.into_iter().next())
    {
        resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
    } else {
        warnings
            .push(format!("the settings of topic {topic} cannot be read; grant DescribeConfigs, so that they can be checked"));
        HashMap::new()
    };
    let number = |name: &str| settings.get(name).and_then(|value| value.parse::<i64>().ok());
    if settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
        warnings.push(format!("topic {topic} is compacted, which removes records; set cleanup.policy=delete"));
    }
    if number("min.insync.replicas").is_some_and(|copies| copies < 2) {
        warnings.push(format!("topic {topic} has min.insync.replicas=1: one broker's disk may be the only copy; set it to 2"));
    }
    if number("retention.ms").is_some_and(|ms| (0..7 * 86_400_000).contains(&ms)) {
        warnings.push(format!("topic {topic} keeps records for less than 7 days; raise retention.ms to what your auditors need"));
    }
    let wanted = destination.max_message() as i64;
    if number("max.message.bytes").is_some_and(|bytes| bytes < wanted) {
        warnings
            .push(format!("topic {topic} takes smaller messages than this client may send; raise max.message.bytes to {wanted}"));
    }
    Ok(warnings)
}
