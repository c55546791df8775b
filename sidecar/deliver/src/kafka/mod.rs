//! Kafka by librdkafka.
//!
//! A sink knows its topic before it sends ([`Facts`]): how many partitions there are, which are its lanes, and how large a message may be. What
//! the topic refuses whatever it is sent with is decided here and not asked of the broker.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Message,
    client::OAuthToken,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext},
};
use steno_commit::Frame;
use steno_crds::{Compression, Kafka, KafkaKey};
use steno_event::{format_millis, json};

use crate::{
    AGAIN, Refusal, Reporter, Sink,
    record::{kind, unescape},
};

mod config;
mod exactly;
mod partition;
mod polled;
mod preflight;

pub use config::{Destination, Secrets, Tokens, client_config};
pub use exactly::{Transactions, exactly_once, verify_client};
use partition::partition_of;
use polled::Polled;
use preflight::facts;
pub use preflight::{Facts, create_topic, preflight};

/// The Kafka sink.
pub struct KafkaSink {
    producer: Polled<Context>,
    destination: Destination,
    watch: Arc<Watch>,
    /// Whether partitions are chosen here.
    is_partitioning: bool,
    /// Records without a key go to partitions in turn.
    turn: u32,
    /// The record whose lane was asked for last, its key and its partition.
    looked_up: Option<(u64, Option<Vec<u8>>, i32)>,
}

/// What the client reports of its connections, and what the topic is like. Times are milliseconds since `origin`, plus one; 0: none.
struct Watch {
    origin: Instant,
    absent_since: AtomicU64,
    /// How many times the broker refused a record's timestamp.
    clamp: AtomicU32,
    /// When that was last counted.
    clamped_at: AtomicU64,
    /// Whether the last dead letter was confirmed.
    buried: AtomicBool,
    /// The connection's last error.
    trouble: Mutex<Option<String>>,
    /// The number of partitions; 0: not known.
    partitions: AtomicU32,
    /// The topic's `max.message.bytes`; 0: not known.
    max_message: AtomicU64,
    /// Why the topic refuses every record.
    unusable: Mutex<Option<String>>,
    /// When that was learned.
    learned_at: Mutex<Instant>,
    /// Asks for another preflight; it ends with the last sender.
    check: crossbeam_channel::Sender<()>,
}

/// Between two looks at the destination while nothing happens.
const PREFLIGHT: Duration = Duration::from_hours(1);
/// Between two looks while the topic refuses every record.
const PREFLIGHT_UNUSABLE: Duration = Duration::from_secs(10);
/// How long a new sink waits for what the topic is like.
const FACTS_TIMEOUT: Duration = Duration::from_secs(1);
/// A limit that is older is asked for again before a record is refused by it.
const FACTS_AGE: Duration = Duration::from_secs(5);
/// Records without a key that go to one partition in a row.
const KEYLESS_RUN: u32 = 64;
/// Bytes that a record of a batch needs besides its key, value and headers, at most; and the batch itself.
const RECORD_OVERHEAD: u64 = 160;
/// The step by which timestamps go back if the broker's clock is behind ours.
const CLAMP_STEP: Duration = Duration::from_hours(1);

// === impl Watch ===

impl Watch {
    fn new(check: crossbeam_channel::Sender<()>) -> Self {
        Self {
            origin: Instant::now(),
            absent_since: AtomicU64::new(0),
            clamp: AtomicU32::new(0),
            clamped_at: AtomicU64::new(0),
            buried: false.into(),
            trouble: Mutex::new(None),
            partitions: AtomicU32::new(0),
            max_message: AtomicU64::new(0),
            unusable: Mutex::new(None),
            learned_at: Mutex::new(Instant::now()),
            check,
        }
    }

    /// Takes what is known of the topic.
    fn learn(&self, facts: &Facts) {
        *self.learned_at.lock() = Instant::now();
        self.partitions.store(facts.partitions, Ordering::Relaxed);
        self.max_message.store(facts.max_message.unwrap_or_default(), Ordering::Relaxed);
        self.unusable.lock().clone_from(&facts.unusable);
    }

    /// The client reports an error.
    fn error(&self, error: &KafkaError, reason: &str) {
        let is_down = matches!(error, KafkaError::Global(RDKafkaErrorCode::AllBrokersDown));
        if is_down {
            self.away();
        }
        let mut trouble = self.trouble.lock();
        // That all are down says less than why one is.
        if !is_down || trouble.is_none() {
            *trouble = Some(reason.to_owned());
        }
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

    /// A broker confirmed a record.
    fn confirmed(&self) {
        self.present();
        if let Some(mut trouble) = self.trouble.try_lock()
            && trouble.is_some()
        {
            *trouble = None;
        }
    }

    /// The timestamp of a record; `None`: now. It goes back by an hour, then two, then four, while the broker refuses even now.
    fn timestamp(&self, received_ms: u64) -> Option<i64> {
        match self.clamp.load(Ordering::Relaxed) {
            0 => Some(received_ms as i64),
            1 => None,
            refused => {
                let back = CLAMP_STEP * (1 << (refused - 2).min(10));
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Some(now.saturating_sub(back).as_millis() as i64)
            }
        }
    }

    /// The broker refused a timestamp.
    fn refuse_timestamp(&self) {
        let now = self.origin.elapsed().as_millis() as u64;
        let last = self.clamped_at.swap(now, Ordering::Relaxed);
        // A batch is refused record by record: once a second is enough.
        if now.saturating_sub(last) >= 1000 || self.clamp.load(Ordering::Relaxed) == 0 {
            self.clamp.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Why a record of this size cannot go to the topic, whatever it is sent with; `None`: it can, or nobody knows. A limit that was learned some
    /// time ago is asked for again first: somebody may have raised it.
    fn too_large(&self, bytes: u64, text: &[u8], destination: &Destination) -> Result<Option<String>, Refusal> {
        if !self.is_over(bytes) {
            return Ok(None);
        }
        if self.learned_at.lock().elapsed() > FACTS_AGE {
            self.learn(&facts(destination, FACTS_TIMEOUT).map_err(Refusal::Later)?);
            if !self.is_over(bytes) {
                return Ok(None);
            }
        }
        let most = self.max_message.load(Ordering::Relaxed);
        // No codec that Kafka has does better than this by more than a tenth.
        let least = match destination.kafka.compression {
            Compression::None => bytes,
            _ => zstd::bulk::compress(text, 3).map_or(0, |small| small.len() as u64 / 10 * 9),
        };
        let reason = || format!("it has {bytes} bytes, and the topic takes messages of at most {most} (max.message.bytes)");
        Ok((least > most).then(reason))
    }

    /// Whether so many bytes are more than the topic takes, uncompressed.
    fn is_over(&self, bytes: u64) -> bool {
        let most = self.max_message.load(Ordering::Relaxed);
        most > 0 && bytes > most
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
        self.watch.error(&error, reason);
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, seq: usize) {
        let result = match result {
            Ok(_) => {
                self.watch.confirmed();
                Ok(())
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code();
                if code == Some(RDKafkaErrorCode::InvalidTimestamp) {
                    self.watch.refuse_timestamp();
                }
                if is_of_topic(code) {
                    // It may have been made again, with other partitions.
                    self.watch.partitions.store(0, Ordering::Relaxed);
                    let _ = self.watch.check.try_send(());
                }
                Err(classify(code, message.topic(), message.key().is_some()))
            }
        };
        if seq & DEAD != 0 {
            self.watch.buried.store(result.is_ok(), Ordering::Release);
        } else {
            self.reporter.outcome(seq as u64, result);
        }
    }
}

/// Header of a dead letter that is delivered after all.
const REQUEUED: (&str, &str) = ("steno_requeued", "true");

/// Marks records of the dead-letter topic, whose outcome nobody waits for in the stream.
const DEAD: usize = 1 << 63;

/// Whether an error says that the topic, or a partition of it, is not there.
fn is_of_topic(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(code, Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition))
}

/// What an error means, and what to do about it.
fn classify(code: Option<RDKafkaErrorCode>, topic: &str, has_key: bool) -> Refusal {
    use RDKafkaErrorCode as Code;
    let Some(code) = code else { return Refusal::Later("an error of the client".into()) };
    match code {
        Code::InvalidRecord if !has_key => Refusal::Later(format!("topic {topic} refuses records without a key; {WITHOUT_KEY}")),
        Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessage | Code::MessageBatchTooLarge => {
            Refusal::Refused(format!("{code}"))
        }
        Code::QueueFull => Refusal::Busy,
        Code::InvalidTimestamp => Refusal::Later(
            "the broker refuses the records' timestamps; they are sent with the present time, or an earlier one".into(),
        ),
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

/// What to do about a topic that wants keys.
const WITHOUT_KEY: &str =
    "set its cleanup.policy to delete, or integrity.scope or kafka.key in the policy so that records have keys";

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
fn check_on(
    destination: &Destination,
    checks: crossbeam_channel::Receiver<()>,
    watch: &Arc<Watch>,
    reporter: Reporter,
) -> Result<(), String> {
    let (to_check, watch) = (destination.clone(), Arc::downgrade(watch));
    let check = move || {
        loop {
            let found = preflight(&to_check);
            let Some(watch) = watch.upgrade() else { return };
            let warnings = match found {
                Ok((facts, warnings)) => {
                    watch.learn(&facts);
                    warnings
                }
                Err(reason) => vec![reason],
            };
            let pause = if watch.unusable.lock().is_some() { PREFLIGHT_UNUSABLE } else { PREFLIGHT };
            drop(watch);
            reporter.preflight(warnings);
            if checks.recv_timeout(pause) == Err(crossbeam_channel::RecvTimeoutError::Disconnected) {
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
    ///
    /// # Errors
    /// The client cannot be made from the configuration.
    pub fn new(destination: Destination, reporter: Reporter) -> Result<Self, String> {
        let mut config = client_config(&destination)?;
        let (again, checks) = crossbeam_channel::bounded(1);
        let watch = Arc::new(Watch::new(again));
        // Asked once and briefly: without an answer the broker judges.
        if let Ok(facts) = facts(&destination, FACTS_TIMEOUT) {
            bound_batches(&mut config, &facts);
            watch.learn(&facts);
        }
        let is_partitioning = config.get("partitioner").is_some_and(|name| name.starts_with("murmur2"));
        let context = Context { reporter: reporter.clone(), watch: watch.clone(), tokens: Tokens::of(&destination) };
        let producer = Polled::new(&config, context)?;
        check_on(&destination, checks, &watch, reporter)?;
        Ok(Self { producer, destination, watch, is_partitioning, turn: 0, looked_up: None })
    }

    /// The key and the partition of a record; -1: librdkafka chooses.
    fn look_up(&mut self, frame: &Frame<'_>, is_open: &dyn Fn(u32) -> bool) -> (Option<Vec<u8>>, i32) {
        let key = key_of(&self.destination.kafka, frame);
        let partitions = self.watch.partitions.load(Ordering::Relaxed);
        if !self.is_partitioning || partitions == 0 {
            return (key, -1);
        }
        let partition = if let Some(key) = &key {
            partition_of(key, partitions)
        } else {
            self.turn = self.turn.wrapping_add(1);
            let first = self.turn / KEYLESS_RUN;
            let in_turn = |step: u32| first.wrapping_add(step) % partitions;
            (0..partitions).map(in_turn).find(|partition| is_open(*partition)).unwrap_or_else(|| in_turn(0))
        };
        (key, partition as i32)
    }

    fn produce(
        &mut self,
        topic: &str,
        opaque: usize,
        frame: &Frame<'_>,
        (key, partition): (Option<Vec<u8>>, i32),
        more: Option<(&str, &str)>,
    ) -> Result<(), Refusal> {
        let kind = kind(frame);
        let id = unescape(frame.event_id_text());
        let source = &self.destination.source;
        let fixed = id.len() + kind.len() + source.len() + key.as_ref().map_or(0, Vec::len);
        let bytes = (frame.json.len() + fixed) as u64 + RECORD_OVERHEAD;
        if topic == self.destination.kafka.topic
            && let Some(reason) = self.watch.too_large(bytes, frame.json, &self.destination)?
        {
            return Err(Refusal::Refused(reason));
        }
        let mut headers = headers_of(source, &id, &kind, frame.received_ms);
        if let Some((key, value)) = more {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, opaque).payload(frame.json).headers(headers);
        if let Some(at) = self.watch.timestamp(frame.received_ms) {
            record = record.timestamp(at);
        }
        if let Some(key) = &key {
            record = record.key(key);
        }
        if partition >= 0 {
            record = record.partition(partition);
        }
        self.producer.send(record).map_err(|(error, _)| match classify(error.rdkafka_error_code(), topic, key.is_some()) {
            // What the client itself refuses, it refuses for this record.
            Refusal::Refused(reason) => Refusal::Unfit(reason),
            other => {
                if is_of_topic(error.rdkafka_error_code()) {
                    self.watch.partitions.store(0, Ordering::Relaxed);
                    let _ = self.watch.check.try_send(());
                }
                other
            }
        })
    }

    /// Sends a record outside the stream, and waits until it is there.
    fn produce_aside(&mut self, topic: &str, seq: u64, frame: &Frame<'_>, more: (&str, &str)) -> Result<(), Refusal> {
        self.watch.buried.store(false, Ordering::Release);
        let key = key_of(&self.destination.kafka, frame);
        self.produce(topic, seq as usize | DEAD, frame, (key, -1), Some(more))?;
        // The stream moves on only once this is durable; such records are rare enough to wait for.
        // That nothing is in flight does not say that it arrived; only the report does.
        match wait_until_empty(&self.producer, Duration::from_secs(10)) {
            true if self.watch.buried.load(Ordering::Acquire) => Ok(()),
            true => Err(Refusal::Refused(format!("topic {topic} refuses it"))),
            false => Err(Refusal::Later(format!("topic {topic} did not confirm it in 10 s"))),
        }
    }
}

/// Waits until nothing of a producer is in flight; whether that is so in time. The binding's own `flush` waits in steps of 100 ms, because it
/// waits for events that the producer's thread takes.
fn wait_until_empty<C: ProducerContext + 'static>(producer: &Polled<C>, timeout: Duration) -> bool {
    let until = Instant::now() + timeout;
    let mut pause = Duration::from_micros(50);
    while producer.in_flight_count() > 0 {
        if Instant::now() >= until {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(1));
    }
    true
}

/// A batch may not be larger than a message of the topic.
fn bound_batches(config: &mut ClientConfig, facts: &Facts) {
    let Some(most) = facts.max_message.filter(|most| *most < 1_000_000) else { return };
    let set = config.get("batch.size").and_then(|bytes| bytes.parse::<u64>().ok()).unwrap_or(1_000_000);
    config.set("batch.size", set.min(most.saturating_sub(RECORD_OVERHEAD).max(1)).to_string());
}

impl Sink for KafkaSink {
    fn lanes(&self) -> usize {
        let partitions = self.watch.partitions.load(Ordering::Relaxed);
        if self.is_partitioning { partitions.max(1) as usize } else { 1 }
    }

    fn lane(&mut self, seq: u64, frame: &Frame<'_>, is_open: &dyn Fn(u32) -> bool) -> u32 {
        let (key, partition) = self.look_up(frame, is_open);
        self.looked_up = Some((seq, key, partition));
        partition.max(0) as u32
    }

    fn send(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        if let Some(reason) = self.watch.unusable.lock().clone() {
            return Err(Refusal::Later(reason));
        }
        let to = match self.looked_up.take() {
            Some((found, key, partition)) if found == seq => (key, partition),
            _ => self.look_up(frame, &|_| true),
        };
        let topic = self.destination.kafka.topic.clone();
        self.produce(&topic, seq as usize, frame, to, None)
    }

    fn send_dead(&mut self, seq: u64, frame: &Frame<'_>, reason: &str) -> Result<(), Refusal> {
        let Some(topic) = self.destination.dead_letter.clone() else {
            return Err(Refusal::Unfit("no dead-letter topic is set".into()));
        };
        self.produce_aside(&topic, seq, frame, ("steno_reason", reason))
    }

    fn send_again(&mut self, seq: u64, frame: &Frame<'_>) -> Result<(), Refusal> {
        let topic = self.destination.kafka.topic.clone();
        let key = key_of(&self.destination.kafka, frame);
        self.produce(&topic, (seq | AGAIN) as usize, frame, (key, -1), Some(REQUEUED))
    }

    fn last_error(&self) -> Option<String> {
        self.watch.trouble.lock().clone()
    }

    fn probe(&mut self, wait: Duration) -> Result<(), String> {
        let found = self.producer.client().fetch_metadata(Some(&self.destination.kafka.topic), wait);
        found.map(|_| self.watch.confirmed()).map_err(|error| format!("no broker answers: {error}"))
    }

    fn absent_for(&self) -> Option<Duration> {
        self.watch.absent_for()
    }

    fn describe(&self) -> String {
        self.destination.describe()
    }
}
