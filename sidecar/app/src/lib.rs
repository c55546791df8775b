//! `steno-sidecar`: HTTP, configuration and reload, telemetry. It composes, it decides nothing.
//!
//! # An event's way
//! [`http`] takes a request, bounds and decodes its body; [`intake`] makes an item of each event (event, limit, redact); the commit loop
//! decides and writes; the forwarder delivers. The HTTP task waits for the loop's answer, and for delivery only where asked to.
//!
//! # Configuration
//! [`policy::Compiled`] is all that a request needs of a configuration, made once and swapped whole. What cannot change while
//! the process runs (directory, listeners, sizes fixed at start) is named in `/v1/stats` and stays.

pub mod adoption;
pub mod args;
pub mod check;
pub mod dead;
pub mod dev;
pub mod health;
pub mod http;
pub mod identity;
pub mod intake;
pub mod intents;
pub mod journal;
pub mod listeners;
pub mod logs;
pub mod look;
pub mod outlets;
pub mod place;
pub mod policy;
mod printed;
pub mod problem;
pub mod reload;
pub mod roundtrip;
pub mod run;
pub mod service;
pub mod signed;
pub mod stats;
pub mod telemetry;
