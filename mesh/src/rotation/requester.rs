//! A workload that keeps a certificate and a bundle: what it does next.
//!
//! It lives by two clocks. The wall clock says what is valid, and may be set; the steady one says how much time has passed,
//! and may stop while the machine sleeps. A renewal is due by whichever says so first, so that a clock that was set back
//! does not put it off until others see the certificate end.

use std::time::{Duration, SystemTime};

use super::{backoff, renew_at, within};

/// How often the bundle is asked for, in the certificates' time, so that a new root is known, and a withdrawn one refused,
/// without a renewal.
pub const REFRESH: Duration = Duration::from_secs(60);
/// The shortest wait between two questions, whatever the certificate's life.
pub const LEAST_WAIT: Duration = Duration::from_millis(500);
/// Failures in a row after which the wait is 16 s.
const FAILURES_TO_16_S: u32 = 6;
/// By how much the clocks have to differ to say that the wall clock was set.
const NOTICEABLE: Duration = Duration::from_secs(30);

/// The two clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By which certificates are judged; it may be set, and hurried.
    pub wall: SystemTime,
    /// What has passed in the world since the start of the process; never goes back.
    pub steady: Duration,
}

/// The certificate that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// Whether the bundle in use leads to it; peers refuse it otherwise.
    pub vouched: bool,
}

/// What to show to the CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The certificate that is to be renewed.
    Certificate,
    /// The token.
    Token,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Ask for a certificate.
    Renew(Evidence),
    /// Ask for the bundle.
    RefreshBundle,
    /// Nothing, for this long in the world; then ask again.
    Sleep(Duration),
}

/// How loudly to speak of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// There is time.
    Calm,
    /// Less than a fifth of the certificate's life is left.
    Near,
    /// No certificate yet, or none that peers accept.
    Outage,
}

/// What a failure means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setback {
    /// How long to wait before the next try, in the world.
    pub wait: Duration,
    /// When that is, by the wall clock.
    pub next: SystemTime,
    /// What is left of the certificate.
    pub left: Duration,
    /// How loudly to speak of it.
    pub urgency: Urgency,
}

/// The wall clock was set, or the machine slept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// It is ahead of the time that passed.
    Forward(Duration),
    /// It is behind the time that passed.
    Back(Duration),
}

/// Whether the wall clock was set between two moments. `factor` is that of a hurried wall clock, else 1.
#[must_use]
pub fn jump(last: Moment, now: Moment, factor: u32) -> Option<Jump> {
    let passed = now.steady.saturating_sub(last.steady).saturating_mul(factor);
    let expected = last.wall.checked_add(passed)?;
    let noticeable = NOTICEABLE.saturating_mul(factor);
    match now.wall.duration_since(expected) {
        Ok(ahead) if ahead > noticeable => Some(Jump::Forward(ahead)),
        Err(behind) if behind.duration() > noticeable => Some(Jump::Back(behind.duration())),
        _ => None,
    }
}

/// When to ask next.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// None after a failure: how long to wait for the network is not the wall clock's business.
    wall: Option<SystemTime>,
    steady: Duration,
    /// Not before this, whatever becomes of the clock.
    least: Duration,
}

/// Decides for one workload.
#[derive(Debug, Clone)]
pub struct Requester {
    /// How many times as fast as in the world time passes on the wall clock.
    factor: u32,
    failures: u32,
    due: Due,
    next_refresh: Duration,
    bundle_fails: bool,
    last: Option<Moment>,
}

impl Requester {
    /// Of a workload that has nothing yet, and asks at once. `factor` is that of a hurried wall clock, else 1.
    #[must_use]
    pub fn new(factor: u32) -> Self {
        Requester {
            factor: factor.max(1),
            failures: 0,
            due: Due { wall: None, steady: Duration::ZERO, least: Duration::ZERO },
            next_refresh: Duration::ZERO,
            bundle_fails: false,
            last: None,
        }
    }

    /// What to do now. No sleep is longer than the time between two questions for the bundle, so that a clock that was set
    /// is soon noticed.
    #[must_use]
    pub fn next(&self, now: Moment, held: Option<&Held>) -> Act {
        let until_due = self.until_due(now, held);
        if until_due.is_zero() {
            return Act::Renew(evidence(now, held));
        }
        let until_refresh = match held {
            Some(_) => self.next_refresh.saturating_sub(now.steady),
            None => self.refresh(),
        };
        if until_refresh.is_zero() { Act::RefreshBundle } else { Act::Sleep(until_due.min(until_refresh)) }
    }

    /// How long until a certificate is asked for, in the world.
    fn until_due(&self, now: Moment, held: Option<&Held>) -> Duration {
        let steady = self.due.steady.saturating_sub(now.steady);
        let Some(at) = self.due.wall else { return steady };
        let least = self.due.least.saturating_sub(now.steady);
        if held.is_some_and(|held| !held.is_valid_at(now.wall)) {
            return least;
        }
        steady.min(self.world(at.duration_since(now.wall).unwrap_or_default())).max(least)
    }

    /// Compares the two clocks with the last time; tells when the wall clock was set. While renewals fail, the next try
    /// then comes at once: the failures may have been the clock's.
    pub fn notice(&mut self, now: Moment) -> Option<Jump> {
        let last = self.last.replace(now)?;
        let jump = jump(last, now, self.factor)?;
        if self.due.wall.is_none() {
            self.due.steady = self.due.steady.min(now.steady.saturating_add(LEAST_WAIT));
        }
        Some(jump)
    }

    /// A certificate and a bundle arrived. Returns when the next one is asked for, by the wall clock.
    pub fn renewed(
        &mut self,
        now: Moment,
        not_after: SystemTime,
        jitter: f64,
        bundle_jitter: f64,
    ) -> SystemTime {
        let least = self.later(now.wall, LEAST_WAIT);
        let next = renew_at(now.wall, not_after, jitter).max(least);
        let wait = self.world(next.duration_since(now.wall).unwrap_or_default()).max(LEAST_WAIT);
        let least = now.steady.saturating_add(LEAST_WAIT);
        self.due = Due { wall: Some(next), steady: now.steady.saturating_add(wait), least };
        self.failures = 0;
        self.bundle_fails = false;
        self.plan_refresh(now, bundle_jitter);
        next
    }

    /// No certificate could be had. `jitter` is from 0.0 to 1.0.
    pub fn failed(&mut self, now: Moment, held: Option<&Held>, jitter: f64) -> Setback {
        self.failures = self.failures.saturating_add(1);
        let left = held.map_or(Duration::ZERO, |held| held.left_at(now.wall));
        let useful = held.is_some_and(|held| held.vouched && held.is_valid_at(now.wall)) && !left.is_zero();
        let wait = self.retry_after(jitter, useful.then(|| self.world(left)));
        let steady = now.steady.saturating_add(wait);
        self.due = Due { wall: None, steady, least: steady };
        let urgency = match held {
            Some(held) if useful && left >= held.life() / 5 => Urgency::Calm,
            Some(_) if useful => Urgency::Near,
            _ => Urgency::Outage,
        };
        Setback { wait, next: self.later(now.wall, wait), left, urgency }
    }

    /// The bundle was asked for and can be used; whether that had failed before. Where the new one does not vouch for our
    /// own certificate (`vouched`), another certificate is asked for at once.
    pub fn refreshed(&mut self, now: Moment, vouched: bool, jitter: f64) -> bool {
        self.plan_refresh(now, jitter);
        if !vouched && self.due.wall.is_some() {
            self.due = Due { wall: None, steady: self.due.least.max(now.steady), least: self.due.least };
        }
        std::mem::take(&mut self.bundle_fails)
    }

    /// The bundle could not be had; whether that is new.
    pub fn refresh_failed(&mut self, now: Moment, jitter: f64) -> bool {
        self.plan_refresh(now, jitter);
        !std::mem::replace(&mut self.bundle_fails, true)
    }

    /// Up to a tenth earlier, so that workloads that started together do not ask together.
    fn plan_refresh(&mut self, now: Moment, jitter: f64) {
        let wait = self.refresh().mul_f64(1.0 - within(jitter, 0.0, 1.0) / 10.0);
        self.next_refresh = now.steady.saturating_add(wait);
    }

    fn refresh(&self) -> Duration {
        self.world(REFRESH).max(LEAST_WAIT)
    }

    /// How long to wait after a failure, in the world. `left` is what the certificate still has there, none where there is
    /// none that is good for anything.
    ///
    /// The usual back-off, but never more than a quarter of what is left, so that a short-lived certificate is not slept
    /// away; and with nothing left, when every second is an outage, at most 16 s.
    fn retry_after(&self, jitter: f64, left: Option<Duration>) -> Duration {
        match left {
            Some(left) => backoff(self.failures, jitter).min((left / 4).max(LEAST_WAIT)),
            None => backoff(self.failures.min(FAILURES_TO_16_S), jitter),
        }
    }

    /// How long a span of the wall clock's time takes in the world.
    fn world(&self, span: Duration) -> Duration {
        span / self.factor
    }

    /// What the wall clock will show after `wait` in the world.
    fn later(&self, wall: SystemTime, wait: Duration) -> SystemTime {
        wall.checked_add(wait.saturating_mul(self.factor)).unwrap_or(wall)
    }
}

/// The certificate while it is valid, else the token.
fn evidence(now: Moment, held: Option<&Held>) -> Evidence {
    match held {
        Some(held) if held.is_valid_at(now.wall) => Evidence::Certificate,
        _ => Evidence::Token,
    }
}

impl Held {
    pub(super) fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    fn left_at(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    fn life(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }
}
