//! steno-chain
