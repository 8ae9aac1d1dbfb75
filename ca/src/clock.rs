//! The CA's clock: the system's, or for lessons and tests one that hurries.
//!
//! Certificates, tokens and signers live by it. What the network takes stays in the world's time.

use std::fmt;
use std::time::{Duration, SystemTime};

use pillion_mesh::time_scale::{FactorError, TimeScale};
use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

/// How the time that certificates live in runs, where it is not the world's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hurry {
    pub(crate) factor: u32,
    /// Since when; none is the start of the process.
    pub(crate) origin: Option<SystemTime>,
}

impl Hurry {
    /// Refuses a factor that is out of range.
    pub(crate) fn new(factor: u32, origin: Option<SystemTime>) -> Result<Self, FactorError> {
        TimeScale::new(SystemTime::UNIX_EPOCH, factor)?;
        Ok(Hurry { factor, origin })
    }
}

/// Tells the time that certificates live in.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    scale: Option<TimeScale>,
    factor: u32,
}

impl Clock {
    /// The system's clock.
    pub(crate) const SYSTEM: Clock = Clock { scale: None, factor: 1 };

    /// The clock of a process that started at `start`.
    pub(crate) fn new(hurry: Option<Hurry>, start: SystemTime) -> Self {
        let Some(Hurry { factor, origin }) = hurry else { return Clock::SYSTEM };
        Clock { scale: TimeScale::new(origin.unwrap_or(start), factor).ok(), factor }
    }

    pub(crate) fn now(self) -> SystemTime {
        let world = SystemTime::now();
        self.scale.map_or(world, |scale| scale.at(world))
    }

    /// How many times as fast as the world's its time runs.
    pub(crate) fn factor(self) -> u32 {
        self.factor
    }

    /// How long it takes in the world until `span` of its time has passed.
    pub(crate) fn world(self, span: Duration) -> Duration {
        span / self.factor
    }

    /// How much of its time passes while `span` passes in the world.
    pub(crate) fn passed(self, span: Duration) -> Duration {
        span.saturating_mul(self.factor)
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn a_hurried_clock_is_ahead_by_what_has_passed_since_its_origin() {
        let start = SystemTime::now();
        let origin = start - Duration::from_secs(30);
        let hurried = Clock::new(Some(Hurry::new(2_880, Some(origin)).unwrap()), start);
        let ahead = hurried.now().duration_since(start).unwrap();
        assert!(ahead >= DAY - Duration::from_secs(30), "{ahead:?}");
        assert_eq!(hurried.passed(Duration::from_secs(30)), DAY);
        assert_eq!(hurried.world(DAY), Duration::from_secs(30));
    }

    #[test]
    fn without_an_origin_it_begins_with_the_process() {
        let start = SystemTime::now() + DAY;
        let hurried = Clock::new(Some(Hurry::new(2_880, None).unwrap()), start);
        assert!(hurried.now() < start, "before its origin time is the world's");
    }
}
