//! Keeps a certificate of the CA valid: obtains it, renews it at half of its life, and keeps the bundle fresh between.
//!
//! A CA that cannot be reached costs nothing while the certificate lasts. What was obtained last stays in use.

use std::fmt;
use std::time::{Duration, SystemTime};

use pillion_mesh::rotation;
use pillion_mesh::wire::rfc3339;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::authority::{Authority, CaError, Evidence};
use super::https::Dial;
use super::publish::Publisher;
use super::{CaSource, Own};
use crate::tls::{Clock, Credentials, TlsSettings};

/// The longest that one attempt may wait for the CA; making the key does not count.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How often the bundle is asked for, so that a new root is known, and a withdrawn one refused, without a renewal.
const BUNDLE_REFRESH: Duration = Duration::from_secs(60);
/// The shortest wait between two attempts, whatever the certificate's life.
const LEAST_WAIT: Duration = Duration::from_millis(500);

/// The task that rotates.
pub(super) struct Rotation {
    ca: Authority,
    clock: Clock,
    publisher: Publisher,
    next_bundle: Instant,
    /// Whether the last refresh of the bundle failed, so that a CA that is down is reported once.
    bundle_fails: bool,
}

impl Rotation {
    pub(super) fn new(
        own: Own,
        source: CaSource,
        dial: Dial,
        tls: TlsSettings,
        clock: Clock,
        publisher: Publisher,
    ) -> Rotation {
        let ca = Authority::new(own, source, dial, tls, clock.clone());
        Rotation { ca, clock, publisher, next_bundle: Instant::now(), bundle_fails: false }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let outcome = self.renew().await;
            let now = self.clock.now();
            let next = match outcome {
                Ok(credentials) => {
                    failures = 0;
                    self.take(credentials, now)
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.put_up_with(&error, failures, now)
                }
            };
            self.publisher.scheduled(next);
            self.wait_until(next).await;
        }
    }

    /// One attempt: a new key, certified by the present certificate while it is valid, else by the token.
    async fn renew(&self) -> Result<Credentials, CaError> {
        let current = self.publisher.current();
        let trusted = match &current {
            Some(current) => current.bundles().clone(),
            None => self.ca.first_trust().await?,
        };
        let now = self.clock.now();
        let evidence = match current {
            Some(current) if current.is_valid_at(now) => Evidence::Certificate(current),
            _ => Evidence::Token,
        };
        let key = self.ca.new_key().await?;
        let generation = self.publisher.next_generation();
        let attempt = async {
            match self.ca.certify(&key, &evidence, &trusted, generation).await {
                Err(error) if matches!(evidence, Evidence::Certificate(_)) && error.refuses_certificate() => {
                    info!("the CA does not renew by certificate ({error}); asking with the token");
                    self.ca.certify(&key, &Evidence::Token, &trusted, generation).await
                }
                outcome => outcome,
            }
        };
        timeout(ATTEMPT, attempt).await.unwrap_or_else(|_elapsed| {
            Err(CaError::TooSlow { address: self.ca.address(), seconds: ATTEMPT.as_secs() })
        })
    }

    /// Uses a new certificate; returns when to renew it.
    fn take(&mut self, credentials: Credentials, now: SystemTime) -> SystemTime {
        let svid = credentials.svid.clone();
        let next = rotation::renew_at(now, svid.not_after, fastrand::f64() * 2.0 - 1.0)
            .max(self.clock.after(LEAST_WAIT));
        info!(
            "certificate of {} (serial {}) from the CA at {}, valid until {}; renewal in {}",
            svid.id,
            svid.serial,
            self.ca.address(),
            rfc3339::print(svid.not_after),
            Span(next.duration_since(now).unwrap_or_default())
        );
        self.publisher.publish(credentials);
        self.next_bundle = Instant::now() + self.bundle_refresh();
        self.bundle_fails = false;
        next
    }

    /// Reports a failed attempt; returns when to try again.
    fn put_up_with(&self, error: &CaError, failures: u32, now: SystemTime) -> SystemTime {
        self.publisher.failed(error.to_string());
        let svid = self.publisher.current().map(|current| current.svid.clone());
        let wait = retry_after(
            failures,
            fastrand::f64(),
            svid.as_ref().map(|svid| self.clock.wait(left(svid.not_after, now))),
        );
        let again = Span(wait);
        match svid {
            None => warn!("no certificate yet: {error}; trying again in {again}"),
            Some(svid) => {
                let (until, remaining) = (rfc3339::print(svid.not_after), left(svid.not_after, now));
                if remaining.is_zero() {
                    error!(
                        "the certificate EXPIRED at {until} and mesh connections are refused: {error}; trying again in {again}"
                    );
                } else if remaining < left(svid.not_after, svid.not_before) / 5 {
                    error!(
                        "renewal failed and the certificate lasts only until {until} (in {}): {error}; trying again in {again}",
                        Span(remaining)
                    );
                } else {
                    warn!(
                        "renewal failed: {error}; the certificate lasts until {until} (in {}); trying again in {again}",
                        Span(remaining)
                    );
                }
            }
        }
        self.clock.after(wait)
    }

    /// Waits, and keeps the bundle fresh meanwhile. Comes back early when the bundle no longer vouches for our own
    /// certificate. No single sleep is longer than [`BUNDLE_REFRESH`], so a clock that was set is soon noticed.
    async fn wait_until(&mut self, next: SystemTime) {
        loop {
            let wait = self.clock.wait(left(next, self.clock.now()));
            if wait.is_zero() {
                return;
            }
            let Some(current) = self.publisher.current() else {
                sleep(wait.min(self.bundle_refresh())).await;
                continue;
            };
            let until_bundle = self.next_bundle.saturating_duration_since(Instant::now());
            if wait < until_bundle {
                sleep(wait).await;
                continue;
            }
            sleep(until_bundle).await;
            self.next_bundle = Instant::now() + self.bundle_refresh();
            if !self.refresh_bundle(&current).await {
                return;
            }
        }
    }

    /// As long as [`BUNDLE_REFRESH`] of the clock's time takes, up to a tenth less, so that proxies that started together
    /// do not ask together.
    fn bundle_refresh(&self) -> Duration {
        let interval = self.clock.wait(BUNDLE_REFRESH).max(LEAST_WAIT);
        interval.mul_f64(1.0 - fastrand::f64() / 10.0)
    }

    /// Whether our own certificate is still good.
    async fn refresh_bundle(&mut self, current: &Credentials) -> bool {
        let fetched = match timeout(ATTEMPT, self.ca.bundle(current.bundles())).await {
            Ok(fetched) => fetched,
            Err(_elapsed) => Err(CaError::TooSlow { address: self.ca.address(), seconds: ATTEMPT.as_secs() }),
        };
        let bundles = match fetched {
            Ok(bundles) => bundles,
            Err(error) => {
                if !std::mem::replace(&mut self.bundle_fails, true) {
                    warn!("the trust bundle could not be refreshed: {error}; the one in use stays");
                }
                return true;
            }
        };
        if std::mem::take(&mut self.bundle_fails) {
            info!("the trust bundle is refreshed again");
        }
        if bundles == *current.bundles() {
            return true;
        }
        match current.with_bundles(bundles, self.publisher.next_generation()) {
            Ok(credentials) => {
                let own_chain = credentials.check_own_chain();
                info!("the CA has a new trust bundle: {}", credentials.bundles());
                self.publisher.publish(credentials);
                if let Err(error) = &own_chain {
                    warn!(
                        "the new bundle does not vouch for our own certificate ({}); renewing now",
                        error.detail
                    );
                }
                own_chain.is_ok()
            }
            Err(error) => {
                error!("the CA's new trust bundle cannot be used: {error}");
                true
            }
        }
    }
}

/// How long to wait after a failure. `left` is what the certificate still has, none before the first one.
///
/// The usual back-off, but never more than a quarter of what is left, so that a short-lived certificate is not slept
/// away; and with nothing left, when every second without a certificate is an outage, at most 16 s.
fn retry_after(failures: u32, jitter: f64, left: Option<Duration>) -> Duration {
    const FAILURES_TO_16_S: u32 = 6;
    match left {
        Some(left) if !left.is_zero() => rotation::backoff(failures, jitter).min((left / 4).max(LEAST_WAIT)),
        _ => rotation::backoff(failures.min(FAILURES_TO_16_S), jitter),
    }
}

fn left(until: SystemTime, now: SystemTime) -> Duration {
    until.duration_since(now).unwrap_or_default()
}

/// A span of time in at most two units, such as `11h 30m`.
struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        match (days, hours, minutes) {
            (0, 0, 0) if seconds < 10 => write!(f, "{:.1}s", self.0.as_secs_f64()),
            (0, 0, 0) => write!(f, "{seconds}s"),
            (0, 0, _) => write!(f, "{minutes}m {}s", seconds % 60),
            (0, _, _) => write!(f, "{hours}h {minutes}m"),
            _ => write!(f, "{days}d {hours}h"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(500, "0.5s")]
    #[case(45_000, "45s")]
    #[case(200_000, "3m 20s")]
    #[case(41_400_000, "11h 30m")]
    #[case(180_000_000, "2d 2h")]
    fn spans_are_short(#[case] millis: u64, #[case] text: &str) {
        assert_eq!(Span(Duration::from_millis(millis)).to_string(), text);
    }

    #[test]
    fn a_short_lived_certificate_is_not_slept_away() {
        let seconds = Duration::from_secs;
        assert_eq!(retry_after(9, 0.0, Some(seconds(8))), seconds(2));
        assert_eq!(retry_after(9, 0.0, Some(seconds(1))), LEAST_WAIT);
        assert_eq!(retry_after(1, 0.0, Some(seconds(3600))), rotation::backoff(1, 0.0));
        assert_eq!(retry_after(99, 0.0, Some(seconds(3600))), seconds(150));
    }

    #[test]
    fn without_a_valid_certificate_the_ca_is_asked_at_least_every_16_seconds() {
        for left in [None, Some(Duration::ZERO)] {
            assert_eq!(retry_after(1, 0.0, left), rotation::backoff(1, 0.0));
            assert_eq!(retry_after(99, 0.0, left), Duration::from_secs(16));
        }
    }
}
