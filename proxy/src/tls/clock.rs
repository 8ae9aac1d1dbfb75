//! Where the time comes from: the system, hurried or not, or a test.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pillion_mesh::time_scale::TimeScale;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

/// Tells the wall-clock time that certificates are judged by.
#[derive(Clone)]
pub(crate) struct Clock {
    world: Arc<dyn Fn() -> SystemTime + Send + Sync>,
    scale: Option<TimeScale>,
}

impl Clock {
    /// The system's clock.
    pub(crate) fn system() -> Clock {
        Clock { world: Arc::new(SystemTime::now), scale: None }
    }

    /// The same, hurried.
    pub(crate) fn hurried(self, scale: TimeScale) -> Clock {
        Clock { scale: Some(scale), ..self }
    }

    /// A clock that a test turns.
    #[cfg(test)]
    pub(crate) fn of(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Clock {
        Clock { world: Arc::new(now), scale: None }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.at(self.world())
    }

    /// What the world's clock shows, however this one is hurried.
    pub(crate) fn world(&self) -> SystemTime {
        (self.world)()
    }

    /// How many times as fast as the world's its time runs.
    pub(crate) fn factor(&self) -> u32 {
        self.scale.map_or(1, |scale| scale.factor())
    }

    fn at(&self, world: SystemTime) -> SystemTime {
        self.scale.map_or(world, |scale| scale.at(world))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        self.now().duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("scale", &self.scale).finish_non_exhaustive()
    }
}

/// rustls' time as the standard library's.
pub(super) fn system_time(time: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hurried_clock_shows_a_day_after_half_a_minute() {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let begin = SystemTime::now();
        let world = Clock::of(move || begin);
        let hurried = world.clone().hurried(TimeScale::new(begin, 2_880).unwrap());
        assert_eq!((world.factor(), hurried.factor()), (1, 2_880));
        assert_eq!(hurried.at(begin + Duration::from_secs(30)), begin + DAY);
        assert_eq!((world.now(), hurried.now()), (begin, begin));
    }
}
