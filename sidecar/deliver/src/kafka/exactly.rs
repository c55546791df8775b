//! Kafka, each record exactly once for consumers that read committed records only.
//!
//! A batch is one transaction, and the journal's position is committed in it, as an offset of the group `steno-<journal's UUID>` (the transactional id) for partition 0 of the
//! topic (KIP-447; the offset is the sequence number after the batch's last). After a crash `init_transactions` settles what was under
//! way, and the committed position tells what of the journal is there: records below it are not sent again, whatever the journal's own
//! position says. A commit whose outcome is not known is settled in the same way, by a new producer.
//!
//! Who is fenced (another process has begun with the same journal) sends nothing any more. The next start begins with another transactional id.
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Offset, TopicPartitionList,
    client::OAuthToken,
    consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Header},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use sha2::{Digest, Sha256};
use steno_chain::{Kind, Note};
use steno_commit::{Handle, Held};
use steno_event::hex;
use steno_journal::Shared;

use super::{
    Destination, FACTS_TIMEOUT, Facts, RECORD_OVERHEAD, REQUEUED, Tokens, Watch, bound_batches, check_on, classify,
    client_config, facts, headers_of, is_of_topic, key_of, polled::Polled, wait_until_empty,
};
use crate::{Backend, Manner, Record, Refusal, Reporter, Sink, Worker};

/// One try of anything that asks a broker.
const WAIT: Duration = Duration::from_secs(15);
/// How often the consumer looks whether its position was told.
const SERVE: Duration = Duration::from_millis(50);
/// How long a commit is tried before its outcome is left to the next producer.
const COMMIT: Duration = Duration::from_secs(45);
/// Brokers forget offsets of a group that commits nothing, after a week by default.
const AGAIN: Duration = Duration::from_hours(24);
/// Records and bytes of a transaction, at most.
const RECORDS: usize = 20_000;
const BYTES: usize = 12 << 20;

/// What the transactions of a journal need, for as long as the process lives.
#[derive(Clone)]
pub struct Transactions {
    inner: Arc<Inner>,
}

struct Inner {
    /// The journal's UUID.
    uuid: String,
    /// Where the number of fences is kept.
    fences: PathBuf,
    /// The journal: a position says something only where its records are those that were sent.
    shared: Arc<Shared>,
    commit: Handle,
    /// Tells this process's commits from those of others.
    nonce: String,
    /// How many times this journal was fenced before.
    number: AtomicU16,
    fenced: AtomicBool,
    /// That Kafka has another history was told.
    told: AtomicBool,
}

/// A position as Kafka has it.
struct Committed {
    position: u64,
    /// The cluster; the record before the position; who committed it.
    cluster: String,
    mark: String,
    nonce: String,
}

// === impl Transactions ===

impl Transactions {
    /// Those of a journal that has just been opened.
    pub fn new(uuid: &[u8; 16], dir: &Path, shared: Arc<Shared>, commit: Handle) -> Self {
        let fences = dir.join("fenced");
        let number = std::fs::read_to_string(&fences).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let inner = Inner {
            uuid: uuid::Uuid::from_bytes(*uuid).to_string(),
            fences,
            shared,
            commit,
            nonce: format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().0),
            number: AtomicU16::new(number),
            fenced: false.into(),
            told: false.into(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The transactional id, and the group that has the position.
    fn id(&self) -> String {
        match self.inner.number.load(Ordering::Relaxed) {
            0 => format!("steno-{}", self.inner.uuid),
            number => format!("steno-{}-{number}", self.inner.uuid),
        }
    }

    fn fence(&self) {
        if !self.inner.fenced.swap(true, Ordering::AcqRel) {
            let number = self.inner.number.load(Ordering::Relaxed) + 1;
            if let Err(error) = steno_journal::put_file_at(&self.inner.fences, number.to_string().as_bytes()) {
                tracing::error!(%error, "that this journal was fenced could not be noted; the next start is fenced again");
            }
        }
    }
}

/// Equal where they are those of the same journal: a destination that is otherwise the same stays.
impl PartialEq for Transactions {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

const FENCED: &str = "fenced: another process delivers from a copy of this journal; end one of the two, and restart this one";

/// A producer's configuration for transactions.
fn transactional(destination: &Destination, id: &str) -> Result<ClientConfig, String> {
    let mut config = client_config(destination)?;
    // librdkafka wants a transaction's time-out to be the longest.
    let ms = |name: &str| config.get(name).and_then(|ms| ms.parse::<u64>().ok()).unwrap_or_default();
    let timeout = ms("message.timeout.ms").max(ms("socket.timeout.ms")).max(60_000);
    config.set("transactional.id", id).set("transaction.timeout.ms", timeout.to_string());
    // Between two transactions the broker is busy with the end of the first, and says so; the next try is after this time.
    if !destination.kafka.config.contains_key("retry.backoff.ms") {
        config.set("retry.backoff.ms", "5");
    }
    Ok(config)
}

/// Makes a destination's client and lets go of it, to learn whether that can be done.
///
/// # Errors
/// Why it cannot.
pub fn verify_client(destination: &Destination, exactly_once: bool) -> Result<(), String> {
    let config = if exactly_once { transactional(destination, "steno-verify")? } else { client_config(destination)? };
    let made: Result<BaseProducer<Tokens>, _> = config.create_with_context(Tokens::of(destination));
    made.map(drop).map_err(|error| format!("the Kafka client could not be made: {error}"))
}

/// A sink that delivers in transactions.
pub fn exactly_once(destination: Destination, transactions: Transactions, reporter: Reporter) -> Result<Box<dyn Sink>, String> {
    if transactions.inner.fenced.load(Ordering::Acquire) {
        return Err(FENCED.into());
    }
    // What is wrong with the configuration is told at once.
    transactional(&destination, &transactions.id())?;
    let (again, checks) = crossbeam_channel::bounded(1);
    let watch = Arc::new(Watch::new(again));
    // Asked once and briefly: without an answer the broker judges.
    let facts = facts(&destination, FACTS_TIMEOUT).unwrap_or_default();
    watch.learn(&facts);
    check_on(&destination, checks, &watch, reporter.clone())?;
    let kafka = destination.kafka.clone();
    let (absence, trouble, limit) = (watch.clone(), watch.clone(), watch.clone());
    let (source, asked) = (destination.source.len() as u64, destination.clone());
    let manner = Manner {
        // All that is on its way: a transaction costs several round trips, whatever is in it.
        records: RECORDS,
        bytes: BYTES,
        // The next producer fences this one, which must not take that for somebody else.
        alone: true,
        in_order: true,
        shape: None,
        describe: format!("{}, exactly once", destination.describe()),
        key: Some(Arc::new(move |frame| key_of(&kafka, frame))),
        absence: Some(Arc::new(move || absence.absent_for())),
        trouble: Some(Arc::new(move || trouble.trouble.lock().clone())),
        limit: Some(Arc::new(move |record| {
            let fixed = record.event_id.len() + record.kind.len() + record.key.as_ref().map_or(0, Vec::len);
            let bytes = (record.json.len() + fixed) as u64 + source + RECORD_OVERHEAD;
            limit.too_large(bytes, &record.json, &asked)
        })),
    };
    let backend = Exactly { destination, transactions, watch, facts, live: None };
    Ok(Box::new(Worker::new(Box::new(backend), manner, reporter)?))
}

/// What stands for a record.
fn mark(json: &[u8]) -> String {
    hex(&Sha256::digest(json)[..8])
}

fn is_fence(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

/// What the broker, or the client, says of a record itself.
fn is_of_record(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessage | Code::MessageBatchTooLarge)
}

struct Exactly {
    destination: Destination,
    transactions: Transactions,
    watch: Arc<Watch>,
    /// What the topic was like when the sink was made.
    facts: Facts,
    live: Option<Live>,
}

/// A producer whose transactions are begun.
struct Live {
    producer: Polled<Context>,
    consumer: BaseConsumer<Tokens>,
    /// Names the cluster that the position is of.
    cluster: String,
    /// Stands for the record before the position.
    mark: String,
    /// Who had committed the position that was there when it began.
    seen: String,
    /// Everything below was there when it began: what came of a crash, or of a commit whose outcome was not known.
    begun_at: u64,
    /// Everything below is there.
    position: u64,
    committed_at: Instant,
}

struct Context {
    watch: Arc<Watch>,
    tokens: Tokens,
    /// The first record of the transaction that failed.
    failed: Mutex<Option<Code>>,
}

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

impl Context {
    /// A record failed. What is said of a record itself counts most; what only follows from another failure tells nothing.
    fn note(&self, code: Option<Code>) {
        let mut failed = self.failed.lock();
        match code {
            Some(code) if is_of_record(code) => *failed = Some(code),
            Some(Code::PurgeQueue | Code::PurgeInflight | Code::State | Code::Fatal) | None => {}
            Some(code) => *failed = failed.or(Some(code)),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.watch.confirmed(),
            Err((error, _)) => {
                let code = error.rdkafka_error_code();
                if code == Some(Code::InvalidTimestamp) {
                    self.watch.refuse_timestamp();
                }
                self.note(code);
            }
        }
    }
}

// === impl Exactly ===

impl Exactly {
    fn begun(&mut self) -> Result<&mut Live, Refusal> {
        if self.live.is_none() {
            self.live = Some(self.begin()?);
        }
        self.live.as_mut().ok_or(Refusal::Busy)
    }

    fn begin(&self) -> Result<Live, Refusal> {
        if self.transactions.inner.fenced.load(Ordering::Acquire) {
            // To begin anew would fence the other one.
            return Err(Refusal::Broken(FENCED.into()));
        }
        let later = |what: &str, error: &dyn std::fmt::Display| Refusal::Later(format!("{what}: {error}"));
        let id = self.transactions.id();
        let mut config = transactional(&self.destination, &id).map_err(Refusal::Later)?;
        bound_batches(&mut config, &self.facts);
        let tokens = Tokens::of(&self.destination);
        let context = Context { watch: self.watch.clone(), tokens: tokens.clone(), failed: Mutex::new(None) };
        let producer = Polled::new(&config, context).map_err(Refusal::Later)?;
        producer.init_transactions(WAIT).map_err(|error| self.fault(&error))?;
        let mut of_group = client_config(&self.destination).map_err(Refusal::Later)?;
        for name in super::preflight::PRODUCER_ONLY {
            of_group.remove(name);
        }
        of_group.set("group.id", &id).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        let consumer: BaseConsumer<Tokens> =
            of_group.create_with_context(tokens).map_err(|error| later("the Kafka client could not be made", &error))?;
        let cluster = producer.client().fetch_cluster_id(WAIT);
        let cluster = cluster.ok_or_else(|| Refusal::Later("the broker does not tell the cluster's id".into()))?;
        let found = self.committed(&consumer).map_err(|error| self.fault(&error))?;
        let found = found.filter(|found| found.cluster == cluster);
        let (seen, mark) = found.as_ref().map_or_else(Default::default, |found| (found.nonce.clone(), found.mark.clone()));
        let position = self.look(found);
        let mark = if position > 0 { mark } else { String::new() };
        self.watch.present();
        tracing::info!(position, transactional_id = id, "transactions are begun");
        Ok(Live { producer, consumer, cluster, mark, seen, begun_at: position, position, committed_at: Instant::now() })
    }

    /// The position that Kafka has.
    fn committed(&self, consumer: &BaseConsumer<Tokens>) -> Result<Option<Committed>, KafkaError> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&self.destination.kafka.topic, 0);
        // A consumer gets its token (OAUTHBEARER) from whoever polls it, and to ask for a position is no polling.
        let is_told = AtomicBool::new(false);
        let found = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_told.load(Ordering::Acquire) {
                    drop(consumer.poll(SERVE));
                }
            });
            let found = consumer.committed_offsets(wanted, WAIT);
            is_told.store(true, Ordering::Release);
            found
        })?;
        let Some(element) = found.elements().into_iter().next() else { return Ok(None) };
        element.error()?;
        let Offset::Offset(offset) = element.offset() else { return Ok(None) };
        let mut parts = element.metadata().split(';').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (cluster, mark, nonce) = (next(), next(), next());
        Ok((offset >= 0).then_some(Committed { position: offset as u64, cluster, mark, nonce }))
    }

    /// What counts of the position that Kafka has: nothing, where the record before it is not the one that was sent. A journal that was put back to an
    /// earlier state has other records under the same numbers.
    fn look(&self, found: Option<Committed>) -> u64 {
        let inner = &self.transactions.inner;
        let Some(Committed { position, mark, .. }) = found else {
            tracing::info!("Kafka has no position of this journal; the journal's own counts");
            return 0;
        };
        let end = inner.shared.synced();
        let is_ours = position <= end && self.mark_before(position).is_none_or(|ours| ours == mark);
        if is_ours {
            return position;
        }
        tracing::error!(position, end, "the journal was put back to an earlier state: Kafka has other records under its numbers");
        if !inner.told.swap(true, Ordering::AcqRel) {
            let message =
                "The journal was put back to an earlier state: Kafka has other records under numbers that are used again.";
            let note = Note::new(Kind::Epoch, message).number("kafkaPosition", position).number("journalEnd", end);
            if let Err(error) = inner.commit.note(note) {
                tracing::warn!(%error, "that could not be recorded");
            }
        }
        0
    }

    /// What stands for the record before a position; `None`: the journal has it no longer, and so none below the position that waits.
    fn mark_before(&self, position: u64) -> Option<String> {
        let held = Held::read(&self.transactions.inner.shared, position.checked_sub(1)?)?;
        held.frame().map(|frame| mark(frame.json))
    }

    /// What an error of a transaction means, whatever came of the transaction.
    fn fault(&self, error: &KafkaError) -> Refusal {
        let code = error.rdkafka_error_code();
        match code {
            Some(Code::TransactionalIdAuthorizationFailed) => {
                let id = self.transactions.id();
                Refusal::Later(format!(
                    "the broker does not authorise transactional id {id}; grant Write and Describe on steno-*"
                ))
            }
            Some(Code::GroupAuthorizationFailed) => {
                Refusal::Later(format!("the broker does not authorise group {}; grant Read on steno-*", self.transactions.id()))
            }
            code => classify(code, &self.destination.kafka.topic, self.destination.has_keys),
        }
    }

    /// The broker says that another producer has this one's place: somebody else; or the broker itself, whose patience with a transaction ended. The
    /// committed position tells them apart, however often it happens: somebody else has committed there.
    fn fenced(&mut self) -> Refusal {
        let live = self.live.take();
        let seen = live.as_ref().map(|live| live.seen.clone()).unwrap_or_default();
        let found = live.map(|live| self.committed(&live.consumer));
        let inner = &self.transactions.inner;
        let is_somebody = match found {
            // Neither this process's own, nor what was there when it began.
            Some(Ok(Some(found))) => found.nonce != inner.nonce && found.nonce != seen,
            _ => false,
        };
        if is_somebody {
            self.transactions.fence();
            return Refusal::Broken(FENCED.into());
        }
        Refusal::Later("the transaction took longer than the broker waits for; it is begun anew".into())
    }

    /// Sends records in one transaction, with a position where there is one.
    fn transact(
        &mut self,
        topic: &str,
        records: &[&Record],
        more: Option<(&str, &str)>,
        position: Option<u64>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), Refusal> {
        if let Some(reason) = self.watch.unusable.lock().clone().filter(|_| topic == self.destination.kafka.topic) {
            return Err(Refusal::Later(reason));
        }
        let done = self.try_transact(topic, records, more, position, meanwhile);
        let Err(error) = done else { return Ok(()) };
        let failed = self.live.as_ref().and_then(|live| live.producer.context().failed.lock().take());
        // A fatal error hides behind whatever was called when it was there already.
        let fatal = self.live.as_ref().and_then(|live| live.producer.client().fatal_error()).map(|(code, _)| code);
        if [fatal, failed, error.rdkafka_error_code()].into_iter().flatten().any(is_fence) {
            return Err(self.fenced());
        }
        if is_of_topic(failed.or_else(|| error.rdkafka_error_code())) {
            // The policy may say to create it.
            let _ = self.watch.check.try_send(());
        }
        // Abort what can be; where even that fails, a new producer settles it.
        let aborted = self.live.as_ref().is_some_and(|live| live.producer.abort_transaction(WAIT).is_ok());
        // After refused timestamps the client wants another epoch, and waits for it for long: a new one begins with it.
        if !aborted || failed == Some(Code::InvalidTimestamp) {
            self.live = None;
        }
        // A record's own refusal says more than the transaction's.
        Err(match failed.or_else(|| error.rdkafka_error_code()) {
            Some(code) if failed.is_some() || is_of_record(code) => classify(Some(code), topic, self.destination.has_keys),
            _ => match self.fault(&error) {
                Refusal::Broken(reason) | Refusal::Later(reason) => {
                    Refusal::Later(format!("the transaction did not go through: {reason}"))
                }
                other => other,
            },
        })
    }

    fn try_transact(
        &mut self,
        topic: &str,
        records: &[&Record],
        more: Option<(&str, &str)>,
        position: Option<u64>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<(), KafkaError> {
        let (source, watch) = (self.destination.source.clone(), self.watch.clone());
        let (audit, nonce) = (self.destination.kafka.topic.clone(), self.transactions.inner.nonce.clone());
        let Some(live) = &mut self.live else { return Err(KafkaError::Canceled) };
        live.producer.context().failed.lock().take();
        let of_last = records.last().filter(|_| position.is_some()).map(|last| mark(&last.json));
        let mark = of_last.unwrap_or_else(|| live.mark.clone());
        live.producer.begin_transaction()?;
        // The position is on its way while records are: it takes several round trips, and none of them waits for a record.
        let live = &*live;
        let offsets = position.map(|position| offsets_of(live, &audit, position, &mark, &nonce)).transpose()?;
        std::thread::scope(|scope| {
            let send = |(offsets, group)| live.producer.send_offsets_to_transaction(&offsets, &group, WAIT);
            let told = offsets.map(|offsets| scope.spawn(move || send(offsets)));
            let sent = records.iter().try_for_each(|record| produce(&live.producer, topic, record, &source, more, &watch));
            let told = told.map_or(Ok(()), |told| told.join().unwrap_or(Err(KafkaError::Canceled)));
            sent.and(told)
        })?;
        let until = Instant::now() + COMMIT;
        meanwhile();
        // The commit itself waits for the records, too, but in steps of 100 ms.
        wait_until_empty(&live.producer, COMMIT);
        loop {
            match live.producer.commit_transaction(WAIT) {
                Ok(()) => break,
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < until => {}
                Err(KafkaError::Transaction(error)) if !error.txn_requires_abort() && !error.is_fatal() => {
                    // Whether it was committed is not known: who begins anew learns it from the position.
                    let error = KafkaError::Transaction(error);
                    self.live = None;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        let Some(live) = &mut self.live else { return Ok(()) };
        live.committed_at = Instant::now();
        if let Some(position) = position {
            (live.position, live.mark) = (position, mark);
        }
        Ok(())
    }
}

/// Hands a record to the client. Where its queue is full it empties, for it is being sent.
fn produce(
    producer: &Polled<Context>,
    topic: &str,
    record: &Record,
    source: &str,
    more: Option<(&str, &str)>,
    watch: &Watch,
) -> Result<(), KafkaError> {
    let mut headers = headers_of(source, record.event_id.as_bytes(), record.kind.as_bytes(), record.received_ms);
    if let Some((key, value)) = more {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let mut sent: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(topic).payload(record.json.as_slice()).headers(headers);
    if let Some(at) = watch.timestamp(record.received_ms) {
        sent = sent.timestamp(at);
    }
    if let Some(key) = &record.key {
        sent = sent.key(key.as_slice());
    }
    let until = Instant::now() + WAIT;
    loop {
        match producer.send(sent) {
            Ok(()) => return Ok(()),
            Err((error, back)) if error.rdkafka_error_code() == Some(Code::QueueFull) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
                sent = back;
            }
            Err((error, _)) => {
                // What the client itself refuses is of this record, as where the broker does.
                producer.context().note(error.rdkafka_error_code());
                return Err(error);
            }
        }
    }
}

/// The journal's position as an offset, and the group that it is of.
fn offsets_of(
    live: &Live,
    topic: &str,
    position: u64,
    mark: &str,
    nonce: &str,
) -> Result<(TopicPartitionList, ConsumerGroupMetadata), KafkaError> {
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, 0, Offset::Offset(position as i64))?;
    if let Some(mut element) = offsets.find_partition(topic, 0) {
        element.set_metadata(format!("{};{mark};{nonce}", live.cluster));
    }
    Ok((offsets, live.consumer.group_metadata().ok_or(KafkaError::Canceled)?))
}

impl Backend for Exactly {
    fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
        self.write_while(batch, &mut || {})
    }

    fn write_while(&mut self, batch: &[Record], meanwhile: &mut dyn FnMut()) -> Result<(), Refusal> {
        let position = self.begun()?.begun_at;
        // Committed before a crash, or by a commit whose outcome was not known. What this producer committed itself comes again never: batches go in order.
        let left: Vec<&Record> = batch.iter().filter(|record| record.seq >= position).collect();
        let Some(last) = left.last() else { return Ok(()) };
        let (topic, next) = (self.destination.kafka.topic.clone(), last.seq + 1);
        self.transact(&topic, &left, None, Some(next), meanwhile)
    }

    fn write_dead(&mut self, record: &Record, reason: &str) -> Result<(), Refusal> {
        let Some(topic) = self.destination.dead_letter.clone() else {
            return Err(Refusal::Unfit("no dead-letter topic is set".into()));
        };
        self.begun()?;
        self.transact(&topic, &[record], Some(("steno_reason", reason)), None, &mut || {})
    }

    fn write_again(&mut self, record: &Record) -> Result<(), Refusal> {
        self.begun()?;
        let topic = self.destination.kafka.topic.clone();
        self.transact(&topic, &[record], Some(REQUEUED), None, &mut || {})
    }

    fn probe(&mut self) -> Result<(), String> {
        let begun = self.begun().map(|_| ());
        begun.map_err(|refusal| match refusal {
            Refusal::Later(reason) | Refusal::Broken(reason) => reason,
            other => format!("{other:?}"),
        })?;
        let topic = self.destination.kafka.topic.clone();
        let Some(live) = &self.live else { return Ok(()) };
        let found = live.producer.client().fetch_metadata(Some(&topic), WAIT);
        found.map(|_| self.watch.confirmed()).map_err(|error| format!("no broker answers: {error}"))
    }

    fn idle(&mut self) {
        let due =
            self.live.as_ref().filter(|live| live.position > 0 && !live.mark.is_empty() && live.committed_at.elapsed() > AGAIN);
        if let Some(position) = due.map(|live| live.position) {
            let topic = self.destination.kafka.topic.clone();
            if let Err(refusal) = self.transact(&topic, &[], None, Some(position), &mut || {}) {
                tracing::warn!(?refusal, "the position could not be committed again");
            }
        }
    }
}
