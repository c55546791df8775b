//! When delivery is paused: a state machine without a clock.
use std::time::Duration;

/// What the breaker goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Failures in a row that open it.
    pub threshold: u32,
    /// How long it stays open before one batch is tried.
    pub cooldown: Duration,
    /// Waiting so long without a delivery or a broker opens it.
    pub no_broker_for: Duration,
}

/// Where the breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything is sent.
    Closed,
    /// Nothing is sent.
    Open,
    /// One batch is tried.
    HalfOpen,
}

/// What may be sent now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Everything.
    All,
    /// One batch, and nothing more until its outcome is known.
    Probe,
    /// Nothing.
    Nothing,
}

/// The breaker. Times are a monotonic clock's, from any start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breaker {
    config: Config,
    state: State,
    failures: u32,
    since: Duration,
    reason: String,
    /// What the next cooldown is multiplied by, in 1/256: 256 to 320. So a fleet does not try its destination in step.
    stretch: u32,
    seed: u64,
}

// === impl State ===

impl State {
    /// The word in stats and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

// === impl Breaker ===

impl Breaker {
    /// A closed breaker. The seed decides by how much each cooldown is longer than configured: up to a quarter.
    pub fn new(config: Config, now: Duration, seed: u64) -> Self {
        Self { config, state: State::Closed, failures: 0, since: now, reason: String::new(), stretch: 256, seed }
    }

    /// Goes by another configuration from now on.
    pub fn configure(&mut self, config: Config) {
        self.config = config;
    }

    /// What decides the next cooldown.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Why it is not closed, or what failed last.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn become_(&mut self, state: State, now: Duration) {
        if self.state != state {
            self.state = state;
            self.since = now;
            if state == State::Open {
                self.stretch = 256 + (next_random(&mut self.seed) % 65) as u32;
            }
        }
    }

    /// What may be sent; moves from open to half-open when the cooldown is over.
    pub fn permit(&mut self, now: Duration) -> Permit {
        if self.state == State::Open && now.saturating_sub(self.since) >= self.config.cooldown * self.stretch / 256 {
            self.become_(State::HalfOpen, now);
        }
        match self.state {
            State::Closed => Permit::All,
            State::HalfOpen => Permit::Probe,
            State::Open => Permit::Nothing,
        }
    }

    /// Something was delivered.
    pub fn success(&mut self, now: Duration) {
        self.failures = 0;
        self.reason.clear();
        self.become_(State::Closed, now);
    }

    /// A batch failed.
    pub fn failure(&mut self, now: Duration, reason: &str) {
        reason.clone_into(&mut self.reason);
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::HalfOpen => self.become_(State::Open, now),
            State::Closed if self.failures >= self.config.threshold => self.become_(State::Open, now),
            State::Closed | State::Open => {}
        }
    }

    /// The destination has not answered for so long, while something waits.
    pub fn no_broker(&mut self, now: Duration, lasting: Duration, reason: &str) {
        if self.state == State::Closed && lasting >= self.config.no_broker_for {
            reason.clone_into(&mut self.reason);
            self.become_(State::Open, now);
        }
    }

    /// The destination refuses everything: opens at once.
    pub fn open(&mut self, now: Duration, reason: &str) {
        reason.clone_into(&mut self.reason);
        self.failures = self.failures.max(1);
        self.become_(State::Open, now);
    }
}

/// The next number of a sequence (splitmix64).
pub(crate) fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut number = *seed;
    number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: Config = Config { threshold: 3, cooldown: Duration::from_secs(10), no_broker_for: Duration::from_secs(5) };

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Success,
        Failure,
        NoBroker(u64),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::Success), Just(Step::Failure), (0u64..9).prop_map(Step::NoBroker), (0u64..15).prop_map(Step::Wait)]
    }

    proptest! {
        #[test]
        fn it_opens_for_a_reason_stays_open_for_the_cooldown_and_closes_on_success_only(steps in prop::collection::vec(step(), 0..60)) {
            let mut now = Duration::ZERO;
            let mut breaker = Breaker::new(CONFIG, now, 7);
            let mut in_a_row = 0;
            for step in steps {
                let before = breaker.clone();
                match step {
                    Step::Success => { breaker.success(now); in_a_row = 0; }
                    Step::Failure => { breaker.failure(now, "refused"); in_a_row += 1; }
                    Step::NoBroker(lasting) => breaker.no_broker(now, Duration::from_secs(lasting), "no broker"),
                    Step::Wait(seconds) => { now += Duration::from_secs(seconds); breaker.permit(now); }
                }
                let opened = before.state() != State::Open && breaker.state() == State::Open;
                if opened {
                    let by_failures = matches!(step, Step::Failure) && (in_a_row >= 3 || before.state() == State::HalfOpen);
                    let by_absence = matches!(step, Step::NoBroker(lasting) if lasting >= 5);
                    prop_assert!(by_failures || by_absence);
                    prop_assert!(!breaker.reason().is_empty());
                }
                if before.state() == State::Open && breaker.state() == State::HalfOpen {
                    prop_assert!(now.saturating_sub(before.since()) >= CONFIG.cooldown);
                }
                if before.state() != State::Closed && breaker.state() == State::Closed {
                    prop_assert!(matches!(step, Step::Success));
                }
                let permit = breaker.clone().permit(now);
                prop_assert_eq!(permit == Permit::All, breaker.state() == State::Closed);
            }
        }
    }
}
