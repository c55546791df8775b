//! steno-limit
