//! steno-app
