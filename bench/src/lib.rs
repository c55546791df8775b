//! steno-bench
