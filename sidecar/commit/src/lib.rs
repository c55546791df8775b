//! steno-commit
