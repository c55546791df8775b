//! Whether the destination is fit for audit: asked at start, when a sink is made anew, and by `check`.
use std::{collections::HashMap, time::Duration};

use futures_executor::block_on;
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    error::RDKafkaErrorCode,
    producer::{Producer, ThreadedProducer},
};

use super::{Destination, Tokens, WITHOUT_KEY, client_config};

/// Properties that are a producer's, which other clients warn of.
pub(super) const PRODUCER_ONLY: [&str; 9] = [
    "acks",
    "partitioner",
    "enable.idempotence",
    "compression.type",
    "batch.num.messages",
    "linger.ms",
    "message.timeout.ms",
    "queue.buffering.max.messages",
    "queue.buffering.max.kbytes",
];
/// What a sink needs to know of its topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// How many partitions it has; 0: not known.
    pub partitions: u32,
    /// Its `max.message.bytes`; `None`: not known.
    pub max_message: Option<u64>,
    /// Why it refuses every record that this policy sends, and what to do.
    pub unusable: Option<String>,
}

/// The settings of a topic, by name; `None`: this user may not read them, or not in this way.
type TopicSettings = Option<HashMap<String, String>>;

/// A look at the topic.
struct Topic {
    /// Copies of each partition; empty: it is not there, or this user may not describe it.
    copies: Vec<usize>,
    settings: TopicSettings,
}

/// Looks at the topic. The error: no broker answered in time.
fn look(destination: &Destination, timeout: Duration) -> Result<Topic, String> {
    let (kafka, topic) = (&destination.kafka, &destination.kafka.topic);
    let silent = |error: &dyn std::fmt::Display| format!("no broker answers at {}: {error}", kafka.brokers.join(","));
    let of = |metadata: &rdkafka::metadata::Metadata| {
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let partitions = found.filter(|found| found.error().is_none()).map_or(&[][..], |found| found.partitions());
        partitions.iter().map(|partition| partition.replicas().len()).collect::<Vec<_>>()
    };
    if Tokens::of(destination).are_used() {
        // The admin client of this library asks for no token: settings of the topic are not looked at.
        let producer: ThreadedProducer<Tokens> = client_config(destination)?
            .create_with_context(Tokens::of(destination))
            .map_err(|error| format!("the Kafka client could not be made: {error}"))?;
        let metadata = producer.client().fetch_metadata(Some(topic), timeout).map_err(|error| silent(&error))?;
        return Ok(Topic { copies: of(&metadata), settings: None });
    }
    let admin = admin(destination)?;
    let copies = of(&admin.inner().fetch_metadata(Some(topic), timeout).map_err(|error| silent(&error))?);
    if copies.is_empty() {
        return Ok(Topic { copies, settings: None });
    }
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let asked = block_on(admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options));
    let settings = match asked.ok().and_then(|results| results.into_iter().next()) {
        Some(Ok(resource)) => Some(resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()),
        _ => None,
    };
    Ok(Topic { copies, settings })
}

impl Topic {
    fn number(&self, name: &str) -> Option<i64> {
        self.settings.as_ref()?.get(name)?.parse().ok()
    }

    fn facts(&self, destination: &Destination) -> Facts {
        let topic = &destination.kafka.topic;
        let is_compacted = self
            .settings
            .as_ref()
            .and_then(|settings| settings.get("cleanup.policy"))
            .is_some_and(|policy| policy.contains("compact"));
        let unusable = (is_compacted && !destination.has_keys)
            .then(|| format!("topic {topic} is compacted, and records of this policy have no key; {WITHOUT_KEY}"));
        let max_message = self.number("max.message.bytes").and_then(|bytes| u64::try_from(bytes).ok());
        Facts { partitions: self.copies.len() as u32, max_message, unusable }
    }
}

/// What a sink needs to know of its topic; creates it first if the policy says so.
pub(super) fn facts(destination: &Destination, timeout: Duration) -> Result<Facts, String> {
    let mut found = look(destination, timeout)?;
    if found.copies.is_empty() && destination.kafka.create.is_some() && !Tokens::of(destination).are_used() {
        create_topic(destination)?;
        found = look(destination, timeout)?;
    }
    Ok(found.facts(destination))
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

/// What a sink needs to know, and what is not as it should be, each a sentence with what to do; empty: all is well.
///
/// # Errors
/// No broker answered, or the topic could not be created.
pub fn preflight(destination: &Destination) -> Result<(Facts, Vec<String>), String> {
    let (kafka, topic) = (&destination.kafka, &destination.kafka.topic);
    let by_token = Tokens::of(destination).are_used();
    let mut found = look(destination, WAIT)?;
    if found.copies.is_empty() {
        let missing = format!("topic {topic} does not exist, or this user may not describe it; create it");
        let warning = match &kafka.create {
            None => format!("{missing}, or set kafka.create"),
            Some(_) if by_token => format!("{missing}; with OAUTHBEARER kafka.create makes none"),
            Some(_) => {
                create_topic(destination)?;
                found = look(destination, WAIT)?;
                String::new()
            }
        };
        if !warning.is_empty() {
            return Ok((Facts::default(), vec![warning]));
        }
    }
    let facts = found.facts(destination);
    let mut warnings: Vec<String> = facts.unusable.iter().cloned().collect();
    let copies = found.copies.iter().copied().min().unwrap_or(0);
    if let Some(create) = &kafka.create {
        let (partitions, wanted) = (found.copies.len() as u64, create.partitions);
        if partitions != wanted {
            warnings.push(format!(
                "topic {topic} has {partitions} partitions, and kafka.create asks for {wanted}; it was there before: add partitions, or correct kafka.create"
            ));
        }
        if copies as u64 != create.replication_factor {
            warnings.push(format!(
                "topic {topic} has {copies} copies of its partitions, and kafka.create asks for {}; reassign them, or correct kafka.create",
                create.replication_factor
            ));
        }
    }
    if copies < 2 {
        warnings.push(format!("topic {topic} has {copies} copy of its partitions; give it a replication factor of at least 2"));
    }
    if found.settings.is_none() && !by_token {
        warnings
            .push(format!("the settings of topic {topic} cannot be read; grant DescribeConfigs, so that they can be checked"));
    }
    let is_compacted = found.settings.as_ref().and_then(|settings| settings.get("cleanup.policy"));
    if facts.unusable.is_none() && is_compacted.is_some_and(|policy| policy.contains("compact")) {
        warnings.push(format!("topic {topic} is compacted, which removes records; set cleanup.policy=delete"));
    }
    if found.number("min.insync.replicas").is_some_and(|copies| copies < 2) {
        warnings.push(format!("topic {topic} has min.insync.replicas=1: one broker's disk may be the only copy; set it to 2"));
    }
    if found.number("retention.ms").is_some_and(|ms| (0..7 * 86_400_000).contains(&ms)) {
        warnings.push(format!("topic {topic} keeps records for less than 7 days; raise retention.ms to what your auditors need"));
    }
    let wanted = destination.max_message();
    if facts.max_message.is_some_and(|bytes| bytes < wanted) {
        warnings
            .push(format!("topic {topic} takes smaller messages than this client may send; raise max.message.bytes to {wanted}"));
    }
    Ok((facts, warnings))
}
