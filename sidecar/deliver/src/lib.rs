//! steno-deliver
