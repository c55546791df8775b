//! Other formats, each mapped to the JSON of an event, which [`crate::Draft::from_json`] then reads like any other.
//!
//! A mapping never loses: what has no place in the model goes to `metadata`. It never doubles either: a value that stands in two places would
//! escape a redaction rule that names one of them. The tables are in `docs/reference/formats.md`.
pub mod cloudevents;
pub mod kubernetes;
pub mod otlp;
mod sheet;

use sheet::Sheet;

/// Name in `metadata` of the list of values that became text: numbers that IEEE double does not hold, and what was nested too deep, of sources
/// that cannot be told to send something else.
pub const CONVERTED: &str = "convertedToText";
