//! Rate limits: token buckets with an injected clock.
//!
//! Pure: no I/O, no clock. `governor` was looked at first; it cannot give a token back (a duplicate costs nothing) nor say how much is
//! left for the `RateLimit` header, so the bucket is our own (`docs/decisions/003-token-buckets.md`).
//!
//! # Rules
//! - A bucket holds at most `burst` tokens and gains `rate` a second, continuously.
//! - Tenants' buckets are kept for the most recently seen tenants only; a forgotten tenant starts with a full bucket.
//! - Times are a monotonic clock's, from any start.

use std::{num::NonZeroUsize, time::Duration};

use lru::LruCache;

/// How fast a bucket fills and how much it holds, in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Events a second.
    pub rate: u64,
    /// Events at once.
    pub burst: u64,
}

/// There is no token now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// When there will be one.
    pub retry_after: Duration,
    /// The quota that ran out.
    pub quota: Quota,
}

/// A token bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    quota: Quota,
    /// Tokens, in nanoseconds of filling: integers neither drift nor round up.
    level: u128,
    at: Duration,
}

/// A bucket for each tenant.
pub struct Tenants {
    quota: Quota,
    buckets: LruCache<String, Bucket>,
}

const NANOS: u128 = 1_000_000_000;

// === impl Bucket ===

impl Bucket {
    /// A full bucket.
    pub fn new(quota: Quota, now: Duration) -> Self {
        Self { quota, level: u128::from(quota.burst) * NANOS, at: now }
    }

    fn fill(&mut self, now: Duration) {
        let gained = now.saturating_sub(self.at).as_nanos() * u128::from(self.quota.rate);
        self.level = (self.level + gained).min(u128::from(self.quota.burst) * NANOS);
        self.at = self.at.max(now);
    }

    /// Takes a token.
    pub fn take(&mut self, now: Duration) -> Result<(), Limited> {
        self.fill(now);
        if self.level >= NANOS {
            self.level -= NANOS;
            return Ok(());
        }
        let missing = (NANOS - self.level).div_ceil(u128::from(self.quota.rate.max(1)));
        Err(Limited { retry_after: Duration::from_nanos(u64::try_from(missing).unwrap_or(u64::MAX)), quota: self.quota })
    }

    /// Gives a token back.
    pub fn give_back(&mut self) {
        self.level = (self.level + NANOS).min(u128::from(self.quota.burst) * NANOS);
    }

    /// Whole tokens that are there.
    pub fn left(&mut self, now: Duration) -> u64 {
        self.fill(now);
        (self.level / NANOS) as u64
    }
}

// === impl Tenants ===

impl Tenants {
    /// Buckets for at most so many tenants.
    pub fn new(quota: Quota, most: NonZeroUsize) -> Self {
        Self { quota, buckets: LruCache::new(most) }
    }

    /// Takes a token of a tenant.
    pub fn take(&mut self, tenant: &str, now: Duration) -> Result<(), Limited> {
        if let Some(bucket) = self.buckets.get_mut(tenant) {
            return bucket.take(now);
        }
        let mut bucket = Bucket::new(self.quota, now);
        let taken = bucket.take(now);
        self.buckets.put(tenant.to_owned(), bucket);
        taken
    }

    /// Gives a tenant a token back.
    pub fn give_back(&mut self, tenant: &str) {
        if let Some(bucket) = self.buckets.get_mut(tenant) {
            bucket.give_back();
        }
    }

    /// Tenants that are remembered.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_bucket_gives_its_burst_then_its_rate_and_says_when() {
        let mut bucket = Bucket::new(Quota { rate: 10, burst: 3 }, ms(0));
        assert!((0..3).all(|_| bucket.take(ms(0)).is_ok()));
        let limited = bucket.take(ms(40)).unwrap_err();
        assert_eq!(limited.retry_after, ms(60));
        assert!(bucket.take(ms(40) + limited.retry_after).is_ok());
        bucket.give_back();
        assert_eq!(bucket.left(ms(100)), 1);
        assert_eq!(bucket.left(ms(60_000)), 3);
    }

    #[test]
    fn one_tenant_does_not_use_up_anothers_and_memory_is_bounded() {
        let most = NonZeroUsize::new(100).unwrap();
        let mut tenants = Tenants::new(Quota { rate: 1, burst: 1 }, most);
        assert!(tenants.take("a", ms(0)).is_ok() && tenants.take("a", ms(0)).is_err() && tenants.take("b", ms(0)).is_ok());
        for index in 0..1000 {
            let _ = tenants.take(&index.to_string(), ms(0));
        }
        assert_eq!(tenants.len(), 100);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_times_time(rate in 1u64..50, burst in 1u64..20, steps in prop::collection::vec(0u64..200, 1..200)) {
            let mut bucket = Bucket::new(Quota { rate, burst }, ms(0));
            let (mut now, mut taken) = (ms(0), 0u64);
            for step in steps {
                now += ms(step);
                match bucket.take(now) {
                    Ok(()) => taken += 1,
                    Err(limited) => prop_assert!(bucket.clone().take(now + limited.retry_after).is_ok(), "the wait that was named is too short"),
                }
            }
            prop_assert!(u128::from(taken) * 1000 <= u128::from(burst) * 1000 + u128::from(rate) * now.as_millis());
        }
    }
}
