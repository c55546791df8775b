//! A producer whose events are served by a thread of its own, which sleeps while nothing is in flight, or nothing more was sent for a while.
//!
//! The library's own thread polls with a time-out of 100 ms, and spins for the last part of a millisecond of each: close to one per cent of a core for
//! nothing (seen with rdkafka 0.39). A sidecar that waits for events, or for a broker, must cost next to nothing.
use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    error::KafkaError,
    message::ToBytes,
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};

/// How long one poll lasts while something is in flight.
const BUSY: Duration = Duration::from_millis(100);
/// Polls without a record more after which it sleeps in between: what is in flight waits for a broker that is away.
const STILL: u32 = 20;
/// Longest sleep: token refreshes and errors of connections, and the first outcome after an outage, wait that long.
const IDLE: Duration = Duration::from_millis(250);

/// The producer and its thread. Dropped, both end: what is in flight is given up first.
pub(super) struct Polled<C: ProducerContext + 'static> {
    producer: Arc<BaseProducer<C>>,
    stops: Arc<AtomicBool>,
    /// Records that were handed over.
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

// === impl Polled ===

impl<C: ProducerContext + 'static> Polled<C> {
    /// Makes the producer, and starts its thread.
    ///
    /// # Errors
    /// The configuration makes no client, or there is no thread.
    pub(super) fn new(config: &ClientConfig, context: C) -> Result<Self, String> {
        let fault = |error: &dyn std::fmt::Display| format!("the Kafka client could not be made: {error}");
        let producer: BaseProducer<C> = config.create_with_context(context).map_err(|error| fault(&error))?;
        let (producer, stops, sent) = (Arc::new(producer), Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (polled, told, sends) = (producer.clone(), stops.clone(), sent.clone());
        let poll = move || {
            let (mut before, mut still) = (0, 0);
            while !told.load(Ordering::Acquire) {
                let sent = sends.load(Ordering::Relaxed);
                still = if sent == before { still + 1 } else { 0 };
                before = sent;
                if polled.in_flight_count() > 0 && still < STILL {
                    polled.poll(BUSY);
                } else {
                    polled.poll(Duration::ZERO);
                    thread::park_timeout(IDLE);
                }
            }
        };
        let thread = thread::Builder::new().name("steno-kafka".into()).spawn(poll).map_err(|error| fault(&error))?;
        Ok(Self { producer, stops, sent, thread: Some(thread) })
    }

    /// Hands a record over; its outcome comes by the context.
    ///
    /// # Errors
    /// As the library has it: why not, and the record back.
    #[allow(clippy::result_large_err, clippy::type_complexity)]
    pub(super) fn send<'a, K, P>(
        &self,
        record: BaseRecord<'a, K, P, C::DeliveryOpaque>,
    ) -> Result<(), (KafkaError, BaseRecord<'a, K, P, C::DeliveryOpaque>)>
    where
        K: ToBytes + ?Sized,
        P: ToBytes + ?Sized,
    {
        let sent = self.producer.send(record);
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.wake();
        sent
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl<C: ProducerContext + 'static> Deref for Polled<C> {
    type Target = BaseProducer<C>;

    fn deref(&self) -> &BaseProducer<C> {
        &self.producer
    }
}

impl<C: ProducerContext + 'static> Drop for Polled<C> {
    fn drop(&mut self) {
        self.stops.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
