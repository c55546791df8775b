//! steno-redact
