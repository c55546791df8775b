//! steno-e2e
