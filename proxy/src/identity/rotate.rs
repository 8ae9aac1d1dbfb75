//! Keeps a certificate of the CA valid: obtains it, renews it at half of its life, and keeps the bundle fresh between.
//!
//! A CA that cannot be reached costs nothing while the certificate lasts. What was obtained last stays in use. What is done
//! when, `pillion_mesh::rotation` decides.

use std::fmt;
use std::time::{Duration, SystemTime};

use pillion_mesh::rotation::{self, Act, Held, Jump, Moment, Requester, Urgency};
use pillion_mesh::wire::rfc3339;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::authority::{Authority, CaError, Evidence};
use super::https::Dial;
use super::publish::Publisher;
use super::{CaSource, Own};
use crate::tls::{Bundles, Clock, Credentials, TlsSettings};

/// The longest that one attempt may wait for the CA; making the key does not count.
const ATTEMPT: Duration = Duration::from_secs(10);

/// The task that rotates.
pub(super) struct Rotation {
    ca: Authority,
    clock: Clock,
    publisher: Publisher,
    /// Decides what is done when.
    requester: Requester,
    begun: Instant,
    /// Whether the bundle in use leads to our own certificate.
    vouched: bool,
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
        let requester = Requester::new(clock.factor());
        let ca = Authority::new(own, source, dial, tls, clock.clone());
        Rotation { ca, clock, publisher, requester, begun: Instant::now(), vouched: true }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.moment();
            if let Some(jump) = self.requester.notice(now) {
                self.report_jump(jump, now.wall);
            }
            match self.requester.next(now, self.held().as_ref()) {
                Act::Sleep(wait) => sleep(wait).await,
                Act::RefreshBundle => self.refresh_bundle().await,
                Act::Renew(evidence) => {
                    let outcome = self.renew(evidence).await;
                    let now = self.moment();
                    let next = match outcome {
                        Ok(credentials) => self.take(credentials, now),
                        Err(error) => self.put_up_with(&error, now),
                    };
                    self.publisher.scheduled(next);
                }
            }
        }
    }

    fn moment(&self) -> Moment {
        Moment { wall: self.clock.now(), steady: self.begun.elapsed() }
    }

    /// The certificate in use.
    fn held(&self) -> Option<Held> {
        let current = self.publisher.current()?;
        let (not_before, not_after) = (current.svid.not_before, current.svid.not_after);
        Some(Held { not_before, not_after, vouched: self.vouched })
    }

    fn report_jump(&self, jump: Jump, now: SystemTime) {
        let now = rfc3339::print(now);
        let certificate = match self.publisher.current() {
            Some(current) => {
                let (from, until) = (current.svid.not_before, current.svid.not_after);
                format!(
                    "the certificate is valid from {} until {}",
                    rfc3339::print(from),
                    rfc3339::print(until)
                )
            }
            None => "there is no certificate yet".to_owned(),
        };
        match jump {
            Jump::Forward(by) => warn!(
                "the clock went {} ahead of the time that passed (it was set, or the machine slept) and says {now}; {certificate}",
                Span(by)
            ),
            Jump::Back(by) => {
                warn!("the clock was set back by {} and says {now}; {certificate}", Span(by));
            }
        }
    }

    /// One attempt: a new key, certified by this evidence.
    async fn renew(&self, evidence: rotation::Evidence) -> Result<Credentials, CaError> {
        let current = self.publisher.current();
        let trusted = match &current {
            Some(current) => current.bundles().clone(),
            None => self.ca.first_trust().await?,
        };
        let evidence = match (evidence, current) {
            (rotation::Evidence::Certificate, Some(current)) => Evidence::Certificate(current),
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
        timeout(ATTEMPT, attempt).await.unwrap_or_else(|_elapsed| Err(self.too_slow()))
    }

    /// Uses a new certificate; returns when to renew it.
    fn take(&mut self, credentials: Credentials, now: Moment) -> SystemTime {
        let svid = credentials.svid.clone();
        let jitter = fastrand::f64() * 2.0 - 1.0;
        let next = self.requester.renewed(now, svid.not_after, jitter, fastrand::f64());
        info!(
            "certificate of {} (serial {}) from the CA at {}, valid until {}; renewal in {}",
            svid.id,
            svid.serial,
            self.ca.address(),
            rfc3339::print(svid.not_after),
            Span(next.duration_since(now.wall).unwrap_or_default())
        );
        self.publisher.publish(credentials);
        self.vouched = true;
        next
    }

    /// Reports a failed attempt; returns when to try again.
    fn put_up_with(&mut self, error: &CaError, now: Moment) -> SystemTime {
        self.publisher.failed(error.to_string());
        let held = self.held();
        let setback = self.requester.failed(now, held.as_ref(), fastrand::f64());
        let (again, left) = (Span(setback.wait), Span(setback.left));
        let until = held.map(|held| rfc3339::print(held.not_after)).unwrap_or_default();
        match (setback.urgency, held) {
            (_, None) => warn!("no certificate yet: {error}; trying again in {again}"),
            (Urgency::Calm, _) => warn!(
                "renewal failed: {error}; the certificate lasts until {until} (in {left}); trying again in {again}"
            ),
            (Urgency::Near, _) => error!(
                "renewal failed and the certificate lasts only until {until} (in {left}): {error}; trying again in {again}"
            ),
            (Urgency::Outage, Some(held)) if now.wall < held.not_before => error!(
                "the certificate is valid from {} only and our clock says {}: is it right? Mesh connections are refused: {error}; trying again in {again}",
                rfc3339::print(held.not_before),
                rfc3339::print(now.wall)
            ),
            (Urgency::Outage, Some(held)) if !held.vouched && !setback.left.is_zero() => error!(
                "the trust bundle does not vouch for our certificate and mesh connections are refused: {error}; trying again in {again}"
            ),
            (Urgency::Outage, Some(_)) => error!(
                "the certificate EXPIRED at {until} and mesh connections are refused: {error}; trying again in {again}"
            ),
        }
        setback.next
    }

    /// Asks for the bundle; what cannot be used changes nothing.
    async fn refresh_bundle(&mut self) {
        let Some(current) = self.publisher.current() else { return };
        let fetched = timeout(ATTEMPT, self.ca.bundle(current.bundles())).await;
        let bundles = fetched.unwrap_or_else(|_elapsed| Err(self.too_slow()));
        let now = self.moment();
        let bundles = match bundles {
            Ok(bundles) => bundles,
            Err(error) => {
                if self.requester.refresh_failed(now, fastrand::f64()) {
                    warn!("the trust bundle could not be refreshed: {error}; the one in use stays");
                }
                return;
            }
        };
        if bundles != *current.bundles() {
            self.use_bundles(&current, bundles);
        }
        if self.requester.refreshed(now, self.vouched, fastrand::f64()) {
            info!("the trust bundle is refreshed again");
        }
    }

    fn use_bundles(&mut self, current: &Credentials, bundles: Bundles) {
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
                self.vouched = own_chain.is_ok();
            }
            Err(error) => error!("the CA's new trust bundle cannot be used: {error}"),
        }
    }

    fn too_slow(&self) -> CaError {
        CaError::TooSlow { address: self.ca.address(), seconds: ATTEMPT.as_secs() }
    }
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
}
