//! Audit events from a Rust application to the Steno sidecar of its pod.
//!
//! ```no_run
//! # async fn demo() -> Result<(), steno_client::Error> {
//! use steno_client::{Client, Event};
//!
//! let steno = Client::from_env()?;
//! let receipt = steno.send(Event::new("order.delete").actor("user", "u-17").resource("order", "4711").outcome("success")).await?;
//! assert!(receipt.is_durable());
//! # Ok(()) }
//! ```
//!
//! # What it promises
//! - An [`Event`] has its id from the moment that it is made. All tries of one [`Client::send`] carry it, and so does your own retry of the same value: the
//!   sidecar takes it once.
//! - `Ok` means that the sidecar answered 2xx: the event is on its disk (or was dropped where the policy says so: see [`Receipt::status`]).
//! - What passes is tried again, at the time that the sidecar names (`Retry-After`), else with growing waits, until [`Client::give_up_after`]. What does not pass
//!   (a malformed event, a conflict) is told at once, with the sidecar's own words.
//!
//! # More
//! - [`Client::search`]: the local journal, page by page.
//! - [`Client::intend`], [`Client::resolve`] and [`Client::open_intents`]: write intents, the write-ahead log of your own writes.
//! - [`layer::AuditLayer`]: marked `tracing` events become audit events.
//! - [`route::RecordLayer`]: a tower layer that records who did what on a route.

mod client;
mod connection;
mod error;
mod event;
mod intent;
pub mod layer;
pub mod route;
mod search;

pub use client::{Client, Receipt, Status};
pub use error::{Error, Problem};
pub use event::Event;
pub use intent::{Intent, OpenIntent, OpenIntents, Opened, ReplayKey, Resolved};
pub use search::{Pages, Search};
