//! Kafka, each record exactly once for consumers that read committed records only.
//!
//! A batch is one transaction, and the journal's position is committed in it, as an offset of the group `steno-<journal's UUID>` for partition 0 of the
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
    ClientContext, Offset, TopicPartitionList,
    client::OAuthToken,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Header},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use steno_chain::{Kind, Note};
use steno_commit::Handle;

use super::{Destination, Tokens, Watch, check_on, classify, client_config, headers_of, key_of};
use crate::{Backend, Manner, Record, Refusal, Reporter, Sink, Worker};

/// One try of anything that asks a broker.
const WAIT: Duration = Duration::from_secs(15);
/// How long a commit is tried before its outcome is left to the next producer.
const COMMIT: Duration = Duration::from_secs(45);
/// Brokers forget offsets of a group that commits nothing, after a week by default.
const AGAIN: Duration = Duration::from_hours(24);
/// Bytes of a transaction.
const BYTES: usize = 4 << 20;

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
    /// The journal's end when the process began: a position beyond it is of another history.
    tail: u64,
    commit: Handle,
    /// How many times this journal was fenced before.
    number: AtomicU16,
    fenced: AtomicBool,
    /// What came of comparing the position with the tail; `None`: it was not yet.
    looked: Mutex<Option<Look>>,
}

/// What came of comparing the position that Kafka has with the journal's end at the start.
enum Look {
    /// It is of this journal.
    Fine,
    /// It is beyond the end: this number says nothing about the journal as it is.
    Beyond(u64),
}

// === impl Transactions ===

impl Transactions {
    /// Those of a journal that has just been opened.
    pub fn new(uuid: &[u8; 16], dir: &Path, tail: u64, commit: Handle) -> Self {
        let fences = dir.join("fenced");
        let number = std::fs::read_to_string(&fences).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        let uuid = uuid.iter().enumerate().fold(String::new(), |text, (at, byte)| {
            text + if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" } + &format!("{byte:02x}")
        });
        let inner =
            Inner { uuid, fences, tail, commit, number: AtomicU16::new(number), fenced: false.into(), looked: Mutex::new(None) };
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
            if let Err(error) = std::fs::write(&self.inner.fences, number.to_string()) {
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

/// A sink that delivers in transactions.
pub fn exactly_once(destination: Destination, transactions: Transactions, reporter: Reporter) -> Result<Box<dyn Sink>, String> {
    if transactions.inner.fenced.load(Ordering::Acquire) {
        return Err(FENCED.into());
    }
    // What is wrong with the configuration is told at once.
    client_config(&destination)?;
    let (again, checks) = crossbeam_channel::bounded(1);
    let watch = Arc::new(Watch::new(again));
    check_on(&destination, checks, reporter.clone())?;
    let kafka = destination.kafka.clone();
    let absence = watch.clone();
    let manner = Manner {
        records: kafka.batch.iter().map(|step| step.size).max().unwrap_or(1000) as usize,
        bytes: BYTES,
        // The next producer fences this one, which must not take that for somebody else.
        alone: true,
        in_order: true,
        shape: None,
        describe: format!("kafka {} topic {}, exactly once", kafka.brokers.join(","), kafka.topic),
        key: Some(Arc::new(move |frame| key_of(&kafka, frame))),
        absence: Some(Arc::new(move || absence.absent_for())),
    };
    let backend = Exactly { destination, transactions, watch, live: None };
    Ok(Box::new(Worker::new(Box::new(backend), manner, reporter)?))
}

struct Exactly {
    destination: Destination,
    transactions: Transactions,
    watch: Arc<Watch>,
    live: Option<Live>,
}

/// A producer whose transactions are begun.
struct Live {
    producer: ThreadedProducer<Context>,
    consumer: BaseConsumer<Tokens>,
    /// Names the cluster that the position is of.
    cluster: String,
    /// Everything below is there.
    position: u64,
    committed_at: Instant,
    in_transaction: bool,
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
        if matches!(error, KafkaError::Global(Code::AllBrokersDown)) {
            self.watch.away();
        }
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => self.watch.present(),
            Err((error, _)) => {
                let code = error.rdkafka_error_code();
                if code == Some(Code::InvalidTimestamp) {
                    self.watch.clamp.store(true, Ordering::Relaxed);
                }
                // Those that were purged with it tell nothing.
                let mut failed = self.failed.lock();
                if !matches!(code, Some(Code::PurgeQueue | Code::PurgeInflight)) {
                    *failed = failed.or(code);
                }
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
        let later = |what: &str, error: &dyn std::fmt::Display| Refusal::Later(format!("{what}: {error}"));
        let id = self.transactions.id();
        let mut config = client_config(&self.destination).map_err(Refusal::Later)?;
        let of_message = config.get("message.timeout.ms").and_then(|ms| ms.parse::<u64>().ok()).unwrap_or_default();
        config.set("transactional.id", &id).set("transaction.timeout.ms", of_message.max(60_000).to_string());
        let tokens = Tokens::of(&self.destination);
        let context = Context { watch: self.watch.clone(), tokens: tokens.clone(), failed: Mutex::new(None) };
        let producer: ThreadedProducer<Context> =
            config.create_with_context(context).map_err(|error| later("the Kafka client could not be made", &error))?;
        producer.init_transactions(WAIT).map_err(|error| self.fault(&error))?;
        let mut of_group = client_config(&self.destination).map_err(Refusal::Later)?;
        for name in super::preflight::PRODUCER_ONLY {
            of_group.remove(name);
        }
        of_group.set("group.id", &id).set("enable.auto.commit", "false").set("isolation.level", "read_committed");
        let consumer: BaseConsumer<Tokens> =
            of_group.create_with_context(tokens).map_err(|error| later("the Kafka client could not be made", &error))?;
        let cluster = producer.client().fetch_cluster_id(WAIT).unwrap_or_default();
        if consumer.context().are_used() {
            // It asks for its token when it is polled first; there are no records, for it has no topic.
            let _ = consumer.poll(Duration::from_millis(100));
        }
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition(&self.destination.kafka.topic, 0);
        let found = consumer.committed_offsets(wanted, WAIT).map_err(|error| self.fault(&error))?;
        let found = found.elements().first().and_then(|element| match element.offset() {
            Offset::Offset(offset) if offset >= 0 && element.metadata() == cluster => Some(offset as u64),
            _ => None,
        });
        let position = self.look(found);
        self.watch.present();
        tracing::info!(position, transactional_id = id, "transactions are begun");
        Ok(Live { producer, consumer, cluster, position, committed_at: Instant::now(), in_transaction: false })
    }

    /// What counts of the position that Kafka has.
    fn look(&self, found: Option<u64>) -> u64 {
        let inner = &self.transactions.inner;
        let mut looked = inner.looked.lock();
        let Some(position) = found else {
            tracing::info!("Kafka has no position of this journal; the journal's own counts");
            looked.get_or_insert(Look::Fine);
            return 0;
        };
        match &*looked {
            None if position > inner.tail => {
                tracing::error!(
                    position,
                    tail = inner.tail,
                    "the journal was put back to an earlier state: Kafka has a position beyond its end"
                );
                let message = "The journal was put back to an earlier state: Kafka has records beyond its end. Their numbers are used again.";
                let note = Note::new(Kind::Epoch, message).number("kafkaPosition", position).number("journalEnd", inner.tail);
                if let Err(error) = inner.commit.note(note) {
                    tracing::warn!(%error, "that could not be recorded");
                }
                *looked = Some(Look::Beyond(position));
                0
            }
            Some(Look::Beyond(beyond)) if position == *beyond => 0,
            _ => {
                looked.get_or_insert(Look::Fine);
                position
            }
        }
    }

    /// What an error of a transaction means, whatever came of the transaction.
    fn fault(&self, error: &KafkaError) -> Refusal {
        let code = error.rdkafka_error_code();
        if matches!(code, Some(Code::Fenced | Code::ProducerFenced)) {
            self.transactions.fence();
            return Refusal::Broken(FENCED.into());
        }
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
            code => classify(code, &self.destination.kafka.topic),
        }
    }

    /// Sends records in one transaction, with a position where there is one.
    fn transact(&mut self, topic: &str, records: &[&Record], reason: Option<&str>, position: Option<u64>) -> Result<(), Refusal> {
        let done = self.try_transact(topic, records, reason, position);
        let Err(error) = done else { return Ok(()) };
        let failed = self.live.as_ref().and_then(|live| live.producer.context().failed.lock().take());
        if matches!(error.rdkafka_error_code(), Some(Code::Fenced | Code::ProducerFenced)) {
            self.live = None;
            return Err(self.fault(&error));
        }
        // Abort what can be; where even that fails, a new producer settles it.
        let aborted = self.live.as_mut().is_some_and(|live| {
            live.in_transaction = false;
            live.producer.abort_transaction(WAIT).is_ok()
        });
        if !aborted {
            self.live = None;
        }
        // A record's own refusal says more than the transaction's.
        Err(match failed.or_else(|| error.rdkafka_error_code()) {
            Some(
                code @ (Code::MessageSizeTooLarge | Code::InvalidRecord | Code::InvalidMessage | Code::MessageBatchTooLarge),
            ) => classify(Some(code), topic),
            Some(code) if failed.is_some() => classify(Some(code), topic),
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
        reason: Option<&str>,
        position: Option<u64>,
    ) -> Result<(), KafkaError> {
        let (source, clamp) = (self.destination.source.clone(), self.watch.clamp.load(Ordering::Relaxed));
        let audit = self.destination.kafka.topic.clone();
        let Some(live) = &mut self.live else { return Err(KafkaError::Canceled) };
        live.producer.context().failed.lock().take();
        live.producer.begin_transaction()?;
        live.in_transaction = true;
        for record in records {
            let mut headers = headers_of(&source, record.event_id.as_bytes(), record.kind.as_bytes(), record.received_ms);
            if let Some(reason) = reason {
                headers = headers.insert(Header { key: "steno_reason", value: Some(reason) });
            }
            let mut sent: BaseRecord<'_, [u8], [u8], ()> = BaseRecord::to(topic).payload(record.json.as_slice()).headers(headers);
            if !clamp {
                sent = sent.timestamp(record.received_ms as i64);
            }
            if let Some(key) = &record.key {
                sent = sent.key(key.as_slice());
            }
            live.producer.send(sent).map_err(|(error, _)| {
                // What the client itself refuses is of this record, as where the broker does.
                let mut failed = live.producer.context().failed.lock();
                *failed = failed.or_else(|| error.rdkafka_error_code());
                error
            })?;
        }
        if let Some(position) = position {
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset(&audit, 0, Offset::Offset(position as i64))?;
            if let Some(mut element) = offsets.find_partition(&audit, 0) {
                element.set_metadata(live.cluster.clone());
            }
            let group = live.consumer.group_metadata().ok_or(KafkaError::Canceled)?;
            live.producer.send_offsets_to_transaction(&offsets, &group, WAIT)?;
        }
        let until = Instant::now() + COMMIT;
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
        live.in_transaction = false;
        live.committed_at = Instant::now();
        if let Some(position) = position {
            live.position = position;
        }
        Ok(())
    }
}

impl Backend for Exactly {
    fn write(&mut self, batch: &[Record]) -> Result<(), Refusal> {
        let position = self.begun()?.position;
        // Committed before a crash, or by a commit whose outcome was not known.
        let left: Vec<&Record> = batch.iter().filter(|record| record.seq >= position).collect();
        let Some(last) = left.last() else { return Ok(()) };
        let (topic, next) = (self.destination.kafka.topic.clone(), last.seq + 1);
        self.transact(&topic, &left, None, Some(next))
    }

    fn write_dead(&mut self, record: &Record, reason: &str) -> Result<(), Refusal> {
        let Some(topic) = self.destination.dead_letter.clone() else {
            return Err(Refusal::Refused { reason: "no dead-letter topic is set".into(), alone: true });
        };
        self.begun()?;
        self.transact(&topic, &[record], Some(reason), None)
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
        found.map(|_| self.watch.present()).map_err(|error| format!("no broker answers: {error}"))
    }

    fn idle(&mut self) {
        let due = self.live.as_ref().filter(|live| live.position > 0 && live.committed_at.elapsed() > AGAIN);
        if let Some(position) = due.map(|live| live.position) {
            let topic = self.destination.kafka.topic.clone();
            if let Err(refusal) = self.transact(&topic, &[], None, Some(position)) {
                tracing::warn!(?refusal, "the position could not be committed again");
            }
        }
    }
}
