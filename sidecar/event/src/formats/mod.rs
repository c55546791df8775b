//! Other formats, each mapped to the JSON of an event, which [`crate::Draft::from_json`] then reads like any other.
//!
//! A mapping never loses: what has no place in the model goes to `metadata`. It never doubles either: a value that stands in two places would
//! escape a redaction rule that names one of them. The tables are in `docs/reference/formats.md`.
pub mod cloudevents;
pub mod kubernetes;
pub mod otlp;
mod sheet;

use crate::json::Json;
use sheet::Sheet;

/// Bytes as text where they are text, so that redaction sees them; else `None`.
fn readable(bytes: &[u8]) -> Option<&str> {
    let control = |c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(control))
}

/// The list of values that became text, as far as it is worth reading: paths are cut, and so is the list.
pub(crate) fn listed(converted: Vec<String>) -> Json<'static> {
    let more = converted.len().saturating_sub(MOST_LISTED);
    let cut = |path: String| Json::String(path.chars().take(200).collect::<String>().into());
    let mut list: Vec<Json<'static>> = converted.into_iter().take(MOST_LISTED).map(cut).collect();
    if more > 0 {
        list.push(Json::String(format!("and {more} more").into()));
    }
    Json::Array(list)
}

/// Most paths of [`CONVERTED`].
const MOST_LISTED: usize = 32;

/// Name in `metadata` of the list of values that became text: numbers that IEEE double does not hold, and what was nested too deep, of sources
/// that cannot be told to send something else.
pub const CONVERTED: &str = "convertedToText";

/// What stands in that list for bytes that became U+FFFD.
pub const NO_UTF8: &str = "(bytes that are no UTF-8)";

/// U+FEFF in UTF-8, which some editors and serialisers put before a text. It is no part of JSON (RFC 8259, 8.1).
pub const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
