//! Kafka by librdkafka.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message,
    client::OAuthToken,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use steno_commit::Frame;
use steno_crds::{Kafka, KafkaKey};
use steno_event::{format_millis, json};

use crate::{
    Refusal, Reporter, Sink,
    record::{kind, unescape},
};

mod config;
mod exactly;
mod preflight;

pub use config::{Destination, Secrets, Tokens, client_config};
pub use exactly::{Transactions, exactly_once};
pub use preflight::{create_topic, preflight};

/// The Kafka sink.
pub struct KafkaSink {
    producer: ThreadedProducer<Context>,
    destination: Destination,
    watch: Arc<Watch>,
    /// The broker refuses old timestamps: send none that are.
    clamp: bool,
}

/// What the client tells of its connections. Times are milliseconds since `origin`, plus one; 0: none.
struct Watch {
    origin: Instant,
    absent_since: AtomicU64,
    clamp: AtomicBool,
    /// Whether the last dead letter was confirmed.
    buried: AtomicBool,
    /// Asks for another preflight; it ends with the last sender.
    check: crossbeam_channel::Sender<()>,
}

/// Between two looks at the destination while nothing happens.
const PREFLIGHT: Duration = Duration::from_hours(1);

// === impl Watch ===

impl Watch {
    fn new(check: crossbeam_channel::Sender<()>) -> Self {
        Self { origin: Instant::now(), absent_since: AtomicU64::new(0), clamp: false.into(), buried: false.into(), check }
    }

    /// All brokers are away.
    fn away(&self) {
        let now = self.origin.elapsed().as_millis() as u64 + 1;
        let _ = self.absent_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn absent_for(&self) -> Option<Duration> {
        let since = self.absent_since.load(Ordering::Relaxed);
        (since > 0).then(|| self.origin.elapsed().saturating_sub(Duration::from_millis(since - 1)))
    }

    /// A broker answers. After an outage things may be other than they were: they are looked at again.
    fn present(&self) {
        if self.absent_since.swap(0, Ordering::Relaxed) != 0 {
            let _ = self.check.try_send(());
        }
    }
}

struct Context {
    reporter: Reporter,
    watch: Arc<Watch>,
    tokens: Tokens,
}

// === impl Context ===

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.tokens.generate_oauth_token(config)
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error, KafkaError::Global(RDKafkaErrorCode::AllBrokersDown)) {
            self.watch.away();
        }
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let result = match result {
            Ok(_) => {
                self.watch.present();
                Ok(())
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                if code == Some(RDKafkaErrorCode::InvalidTimestamp) {
                    self.watch.clamp.store(true, Ordering::Relaxed);
                }
                Err(classify(code, message.topic()))
            }
        };
        if seq & DEAD != 0 {
            self.watch.buried.store(result.is_ok(), Ordering::Release);
        } else {
            self.reporter.outcome(seq as u64, result);
        }
    }
}

/// Marks records of the dead-letter topic, whose outcome nobody waits for in the stream.
const DEAD: usize = 1 << 63;

/// What an error means, and what to do about it.
fn classify(code: Option<RDKafkaErrorCode>, topic: &str) -> Refusal {
    use RDKafkaErrorCode as Code;
    let Some(code) = code else { return Refusal::Later("an error of the client".into()) };
    match code {
        Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessage | Code::MessageBatchTooLarge => {
            Refusal::Refused { reason: format!("{code}"), alone: false }
        }
        Code::QueueFull => Refusal::Busy,
        Code::InvalidTimestamp => {
            Refusal::Later("the broker refuses records as old as these; they are sent with the present time".into())
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            Refusal::Later(format!("topic {topic} does not exist; create it, or set kafka.create in the policy"))
        }
        Code::TopicAuthorizationFailed => {
            Refusal::Later(format!("the broker does not authorise writing to topic {topic}; grant Write and Describe"))
        }
        Code::ClusterAuthorizationFailed => Refusal::Later("the broker does not authorise this client on the cluster".into()),
        Code::Authentication | Code::SaslAuthenticationFailed => {
            Refusal::Later("the broker refuses the credentials; check kafka.sasl and its Secret".into())
        }
        Code::MessageTimedOut => Refusal::Later("no broker confirmed in time; check the brokers and the network".into()),
        Code::PolicyViolation | Code::ThrottlingQuotaExceeded => Refusal::Later(format!("the broker limits this client: {code}")),
        Code::Fatal | Code::OutOfOrderSequenceNumber | Code::UnknownProducerId | Code::InvalidProducerEpoch => {
            Refusal::Broken(format!("the client must begin anew: {code}"))
        }
        code => Refusal::Later(format!("{code}")),
    }
}

/// The key of a record, as a policy wants it.
pub(crate) fn key_of(kafka: &Kafka, frame: &Frame<'_>) -> Option<Vec<u8>> {
    let member = |path: &[&str]| {
        let text = std::str::from_utf8(frame.json).ok()?;
        let record = json::parse(text).ok()?;
        let found = path.iter().try_fold(&record, |value, name| value.as_object()?.get(name))?;
        found.as_str().map(|text| text.as_bytes().to_vec())
    };
    match kafka.key {
        KafkaKey::Chain => frame.chain_id_text().map(unescape),
        KafkaKey::EventId => Some(unescape(frame.event_id_text())),
        KafkaKey::Tenant => member(&["tenantId"]),
        KafkaKey::Actor => member(&["actor", "id"]),
        KafkaKey::Resource => member(&["resource", "id"]),
        KafkaKey::None => None,
    }
}

/// Headers of the CloudEvents Kafka binding, binary mode.
pub(crate) fn headers_of(source: &str, id: &[u8], kind: &[u8], received_ms: u64) -> OwnedHeaders {
    let time = format_millis(received_ms);
    let header = |key, value| Header { key, value: Some(value) };
    OwnedHeaders::new_with_capacity(8)
        .insert(header("ce_specversion", b"1.0".as_slice()))
        .insert(header("ce_id", id))
        .insert(header("ce_source", source.as_bytes()))
        .insert(header("ce_type", kind))
        .insert(header("ce_time", time.as_bytes()))
        .insert(header("content-type", b"application/json".as_slice()))
}

/// Looks at the destination now, when it is asked to, and hourly, until nobody can ask any more.
fn check_on(destination: &Destination, checks: crossbeam_channel::Receiver<()>, reporter: Reporter) -> Result<(), String> {
    let to_check = destination.clone();
    let check = move || {
        loop {
            let warnings = preflight(&to_check).unwrap_or_else(|reason| vec![reason]);
            reporter.preflight(warnings);
            if checks.recv_timeout(PREFLIGHT) == Err(crossbeam_channel::RecvTimeoutError::Disconnected) {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("steno-preflight".into()).spawn(check);
    thread.map(drop).map_err(|error| error.to_string())
}

// === impl KafkaSink ===

impl KafkaSink {
    /// A producer for a destination, reporting to a channel.
    pub fn new(destination: Destination, reporter: Reporter) -> Result<Self, String> {
        let config = client_config(&destination)?;
        let (again, checks) = crossbeam_channel::bounded(1);
        let watch = Arc::new(Watch::new(again));
        let context = Context { reporter: reporter.clone(), watch: watch.clone(), tokens: Tokens::of(&destination) };
        let producer: ThreadedProducer<Context> =
            config.create_with_context(context).map_err(|error| format!("the Kafka client could not be made: {error}"))?;
        check_on(&destination, checks, reporter)?;
        Ok(Self { producer, destination, watch, clamp: false })
    }

    fn produce(&mut self, topic: &str, opaque: usize, frame: &Frame<'_>, more: Option<&str>) -> Result<(), Refusal> {
        let kind = kind(frame);
        let mut headers = headers_of(&self.destination.source, &unescape(frame.event_id_text()), &kind, frame.received_ms);
        if let Some(reason) = more {
            headers = headers.insert(Header { key: "steno_reason", value: Some(reason) });
        }
        let key = key_of(&self.destination.kafka, frame);
        self.clamp |= self.watch.clamp.load(Ordering::Relaxed);
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, opaque).payload(frame.json).headers(headers);
        if !self.clamp {
            record = record.timestamp(frame.received_ms as i64);
        }
        if let Some(key) = &key {
            record = record.key(key);
        }
        self.producer.send(record).map_err(|(error, _)| match classify(error.rdkafka_error_code(), topic) {
            // What the client itself refuses, it refuses for this record.
            Refusal::Refused { reason, .. } => Refusal::Refused { reason, alone: true },
            other => other,
        })
    }
}

impl Sink for KafkaSink {
    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        let topic = self.destination.kafka.topic.clone();
        self.produce(&topic, seq as usize, frame, None)
    }

    fn send_dead(&mut self, seq: u64, frame: &Frame<'_>, reason: &str) -> Result<(), Refusal> {
        let Some(topic) = self.destination.dead_letter.clone() else {
            return Err(Refusal::Refused { reason: "no dead-letter topic is set".into(), alone: true });
        };
        self.watch.buried.store(false, Ordering::Release);
        self.produce(&topic, seq as usize | DEAD, frame, Some(reason))?;
        // The stream moves on only once this is durable; dead letters are rare enough to wait for.
        // A flush ends when nothing is on its way; only the report tells whether it arrived.
        let flushed = self.producer.flush(Duration::from_secs(10));
        match flushed {
            Ok(()) if self.watch.buried.load(Ordering::Acquire) => Ok(()),
            Ok(()) => Err(Refusal::Refused { reason: "the dead-letter topic refuses it".into(), alone: true }),
            Err(error) => Err(Refusal::Later(error.to_string())),
        }
    }

    fn probe(&mut self, wait: Duration) -> Result<(), String> {
        let found = self.producer.client().fetch_metadata(Some(&self.destination.kafka.topic), wait);
        found.map(|_| self.watch.present()).map_err(|error| format!("no broker answers: {error}"))
    }

    fn absent_for(&self) -> Option<Duration> {
        self.watch.absent_for()
    }

    fn describe(&self) -> String {
        self.destination.describe()
    }
}
