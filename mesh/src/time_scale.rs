//! Hurried time, for lessons and tests: a clock that runs faster than the world's, so that a certificate's day passes in
//! half a minute. Who shares an origin and a factor shares the time.
//!
//! Only the lives of certificates, tokens and signers follow it. What the network takes stays in the world's time.

use std::time::{Duration, SystemTime};

/// How fast time runs, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeScale {
    origin: SystemTime,
    factor: u32,
}

/// A factor that is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a factor from 1 to {max}, got {0}", max = TimeScale::MAX)]
pub struct FactorError(u32);

impl TimeScale {
    /// The greatest factor: a day passes in less than a second.
    pub const MAX: u32 = 100_000;

    /// From `origin` on time runs `factor` times as fast as in the world; before it, as in the world.
    ///
    /// # Errors
    /// Where the factor is 0 or greater than [`Self::MAX`].
    pub fn new(origin: SystemTime, factor: u32) -> Result<Self, FactorError> {
        if (1..=Self::MAX).contains(&factor) { Ok(Self { origin, factor }) } else { Err(FactorError(factor)) }
    }

    /// The same factor since another moment.
    #[must_use]
    pub fn since(self, origin: SystemTime) -> Self {
        Self { origin, ..self }
    }

    /// How many times as fast as in the world time runs.
    #[must_use]
    pub fn factor(&self) -> u32 {
        self.factor
    }

    /// Since when.
    #[must_use]
    pub fn origin(&self) -> SystemTime {
        self.origin
    }

    /// What the hurried clock shows at `real` of the world's. A time that no clock can show is the world's.
    #[must_use]
    pub fn at(&self, real: SystemTime) -> SystemTime {
        let passed = real.duration_since(self.origin).unwrap_or_default();
        passed.checked_mul(self.factor - 1).and_then(|more| real.checked_add(more)).unwrap_or(real)
    }

    /// How long a span of hurried time takes in the world.
    #[must_use]
    pub fn wait(&self, span: Duration) -> Duration {
        span / self.factor
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn origin() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    #[test]
    fn a_day_passes_in_thirty_seconds() {
        let scale = TimeScale::new(origin(), 2_880).unwrap();
        assert_eq!(scale.at(origin() + Duration::from_secs(30)), origin() + DAY);
        assert_eq!(scale.wait(DAY), Duration::from_secs(30));
    }

    #[test]
    fn before_its_origin_time_is_the_worlds() {
        let scale = TimeScale::new(origin(), 2_880).unwrap();
        assert_eq!(scale.at(origin() - DAY), origin() - DAY);
        assert_eq!(scale.at(origin()), origin());
    }

    #[test]
    fn a_factor_that_stops_time_or_loses_it_is_refused() {
        assert_eq!(
            TimeScale::new(origin(), 0).unwrap_err().to_string(),
            "expected a factor from 1 to 100000, got 0"
        );
        assert!(TimeScale::new(origin(), TimeScale::MAX + 1).is_err());
    }

    proptest! {
        /// Who waits for as long as a span takes finds that it has passed, to the nanoseconds that division loses.
        #[test]
        fn a_span_has_passed_after_its_wait(factor in 1..=TimeScale::MAX, start in 0u64..1 << 30, span in 0u64..1 << 30) {
            let scale = TimeScale::new(origin(), factor).unwrap();
            let (begun, span) = (origin() + Duration::from_millis(start), Duration::from_millis(span));
            let passed = scale.at(begun + scale.wait(span)).duration_since(scale.at(begun)).unwrap();
            prop_assert!(passed <= span && span - passed < Duration::from_nanos(u64::from(factor)));
        }
    }
}
