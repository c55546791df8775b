//! From the journal to Kafka, at least once.
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
//! - Everything that leaves goes through the [`Sink`] trait.

mod breaker;
mod dead;
mod forwarder;
pub mod kafka;
mod metrics;
mod sink;
mod status;
mod watermark;

pub use breaker::{Breaker, Config as BreakerConfig, Permit, State};
pub use dead::{DeadFolder, DeadLetter};
pub use forwarder::{Control, Event, Forwarder, Inbox, Parts, Settings, SinkFactory};
pub use metrics::Metrics;
pub use sink::{Outcome, Refusal, Sink};
pub use status::{Deliveries, Snapshot, Status};
pub use watermark::Watermark;
