//! From the journal to Kafka and further sinks, at least once.
//!
//! # Rules
//! - A record is done only on the destination's own word (the broker's delivery report). A sink's position is a contiguous
//!   [`Watermark`]: the next record that is not known to be delivered. It is durable before its space is used again.
//! - One thread ([`Forwarder`]) reads what is synced, hands it to the sink, and takes outcomes. It never waits for one record: at least
//!   eight batches are on their way at a time.
//! - After a failure nothing new is sent until all that is on its way has come back; then sending goes on from the watermark, without
//!   what was delivered meanwhile. So a chain stays in order but for what was delivered before the failure was known.
//! - The [`Breaker`] is a value without a clock: closed, open, half-open. While it is open nothing is sent and the journal grows.
//! - A refusal is permanent only for a record that was refused alone: what failed together is split by halves first. Then a
//!   `DeadLetter` record tells of it in the chain, and the record goes to the dead-letter topic, or to a file.
//! - Authorisation, unknown topic and quota errors are never permanent.
//! - Everything that leaves goes through the [`Sink`] trait. Kafka takes records one by one and batches itself; [`mod@file`], [`http`] and [`postgres`]
//!   are [`Backend`]s, which take whole batches on a thread of their own ([`Worker`]).
//! - Each sink has a forwarder, a breaker and a position of its own. With a [`Gate`] none runs ahead of the others, and the position that
//!   is made durable is that of the slowest. A sink that may be left behind jumps, after a `Drop` record that names it and the range.

mod breaker;
mod dead;
pub mod file;
mod forwarder;
mod gate;
pub mod http;
pub mod intents;
pub mod kafka;
mod metrics;
pub mod postgres;
mod record;
mod sink;
mod status;
pub mod tls;
mod watermark;
mod worker;

pub use breaker::{Breaker, Config as BreakerConfig, Permit, State};
pub use dead::{DeadFolder, DeadLetter, Which};
pub use forwarder::{
    Control, Event, Fetch, Forwarder, Inbox, JournalSource, Lag, Now, Parts, Reporter, Settings, SinkFactory, Source, Trail,
    as_it_is,
};
pub use gate::Gate;
pub use metrics::{Families, Metrics};
pub use record::Record;
pub use sink::{AGAIN, Outcome, Refusal, Sink};
pub use status::{Deliveries, Fate, Snapshot, Status};
pub use watermark::Watermark;
pub use worker::{Backend, Manner, Shape, Worker};
