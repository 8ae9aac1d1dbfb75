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

    /// What it shows when `wait` has passed in the world.
    pub(crate) fn after(&self, wait: Duration) -> SystemTime {
        self.at(self.world() + wait)
    }

    /// How long to sleep for `span` of its time to pass.
    pub(crate) fn wait(&self, span: Duration) -> Duration {
        self.scale.map_or(span, |scale| scale.wait(span))
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
    fn a_hurried_clock_and_its_waits_fit_each_other() {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let begin = SystemTime::now();
        let world = Clock::of(move || begin);
        let hurried = world.clone().hurried(TimeScale::new(begin, 2_880).unwrap());
        assert_eq!((world.wait(DAY), hurried.wait(DAY)), (DAY, Duration::from_secs(30)));
        for clock in [world, hurried] {
            assert_eq!(clock.now(), begin);
            assert_eq!(clock.after(clock.wait(DAY)), begin + DAY);
        }
    }
}
