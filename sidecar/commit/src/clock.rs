//! Time, so that tests can have their own.
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Where the loop takes time from.
pub trait Clock: Send {
    /// Wall clock, milliseconds since 1970.
    fn wall_ms(&self) -> u64;
    /// A clock that never goes back, from any start.
    fn elapsed(&self) -> Duration;
}

/// The system's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn wall_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
    }

    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
