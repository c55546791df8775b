//! The audit event: how it is read, what it looks like afterwards, and how it is written.
//!
//! This room is pure: no I/O, no clock, no randomness beyond what the caller hands in.
//!
//! # From bytes to a record
//! 1. [`json::parse`] reads UTF-8 text into a tree whose object members are sorted in the order of RFC 8785. It refuses what
//!    would not survive: duplicate names, numbers that IEEE double cannot hold, nesting deeper than [`json::MAX_DEPTH`].
//!    Other formats are mapped to such a tree by [`formats`], one file each.
//! 2. [`Draft::from_json`] maps the spellings that audit libraries use ([`names::ALIASES`], the one table) to the model, checks
//!    types, and moves unknown members to `metadata`. Members that only the sidecar fills in are refused.
//! 3. The redaction room changes the tree in place: a redacted node remembers what is shown and what is fingerprinted.
//! 4. [`fingerprint`] hashes what the client sent, with a fixed marker in place of each redacted value.
//! 5. [`Draft::complete`] fills in what is missing and what the sidecar adds.
//! 6. [`encode`] writes the canonical form as two halves around the `integrity` member, which the commit loop splices in.
//!
//! # Canonical form
//! RFC 8785 (JCS): members sorted by UTF-16 code units, numbers as ECMAScript prints them, the shortest escapes, no white
//! space. [`json::canonical`] is held against an independent implementation in a property test.
//!
//! # The record
//! `action, actor, before, after, category, durationMs, error, eventId, integrity, kind, message, metadata, occurredAt, operation,
//! outcome, reason, receivedAt, redactions, requestId, resource, schemaVersion, service, severity, source, spanId, tenantId,
//! traceId, truncation, writer`. `docs/reference/events.md` describes each.

pub mod compare;
mod draft;
mod encode;
mod fingerprint;
pub mod formats;
pub mod json;
pub mod names;
mod split;
mod time;

pub use draft::{Draft, Fill, Filled, Invalid, Received};
pub use encode::{Halves, encode, escape_into, hex};
pub use fingerprint::{IdKey, fingerprint, identity};
pub use split::{Items, array_items, ndjson};
pub use time::{format_millis, lengthened, parse_time};

/// Version of the record's form, in its `schemaVersion`.
pub const SCHEMA_VERSION: &str = "1";
