//! Chains that were accepted, so that the next connection of the same peer need not have them judged from the beginning.
//!
//! It holds for one set of bundles and revocation lists, being a part of the verifier that was made of them, and for the
//! time between two dates of the certificates concerned: of the chain as presented, and of every root that might have
//! vouched for it. Between these nothing that the judgement looks at can change. Only the path is remembered: that the peer
//! holds the key, and who it has to be, is asked in each handshake. A refusal is never remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use pillion_mesh::svid::{self, Svid};
use rustls::pki_types::CertificateDer;

use super::bounded::Bounded;
use super::bundles::Root;
use super::failure::Role;

/// Chains that are remembered, of some 2 KiB each; the oldest make room.
const CHAINS: usize = 1024;

/// To which certificates' dates are exact (RFC 5280 4.1.2.5).
const SECOND: Duration = Duration::from_secs(1);

/// Chains that were accepted by one verifier.
pub(super) struct Judged(Mutex<Bounded<Fingerprint, (Arc<Accepted>, Period)>>);

/// Of a chain and of what its holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fingerprint([u8; SHA256_OUTPUT_LEN]);

/// A chain, and what its leaf says. One for all connections whose peer shows it.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) svid: Svid,
    /// Leaf first.
    pub(super) chain: Arc<[CertificateDer<'static>]>,
    /// The DER of the leaf.
    pub(super) leaf: Arc<[u8]>,
}

impl Accepted {
    pub(super) fn new(svid: Svid, leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let chain = std::iter::once(leaf).chain(intermediates).map(|signer| signer.clone().into_owned());
        Self { svid, chain: chain.collect(), leaf: leaf.as_ref().into() }
    }
}

/// The time between two dates, in which no certificate begins or ceases to be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Period {
    /// The last date that has passed: a beginning, which is in it, or an end, which is not.
    after: Option<(SystemTime, bool)>,
    /// The next one: a beginning, which is not in it, or an end, which is.
    before: Option<(SystemTime, bool)>,
}

impl Default for Judged {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(CHAINS)))
    }
}

impl Judged {
    /// Whose chain this is, where it was accepted before and the same judgement holds now.
    pub(super) fn accepted(&self, chain: &Fingerprint, now: SystemTime) -> Option<Arc<Accepted>> {
        let judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (accepted, period) = judged.get(chain)?;
        period.contains(now).then(|| Arc::clone(accepted))
    }

    /// Whose chain this is, where it was accepted at any time; for who has just had it judged.
    pub(super) fn known(&self, chain: &Fingerprint) -> Option<Arc<Accepted>> {
        let judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        judged.get(chain).map(|(accepted, _)| Arc::clone(accepted))
    }

    /// A chain was accepted `now`, by one of `roots`.
    pub(super) fn accept(
        &self,
        chain: Fingerprint,
        accepted: &Arc<Accepted>,
        roots: &[Root],
        now: SystemTime,
    ) {
        let Svid { not_before, not_after, .. } = accepted.svid;
        let own = std::iter::once(Ok((not_before, not_after)));
        let signers = accepted.chain.iter().skip(1).map(|signer| svid::validity(signer));
        let roots = roots.iter().map(|root| Ok((root.not_before, root.not_after)));
        // What cannot be read took no part, but then nothing is known of when it might.
        let Ok(validities) = own.chain(signers).chain(roots).collect::<Result<Vec<_>, _>>() else { return };
        let Some(period) = Period::around(now, &validities) else { return };
        let mut judged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        judged.insert(chain, (Arc::clone(accepted), period));
    }
}

impl Fingerprint {
    pub(super) fn of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], holder: Role) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(match holder {
            Role::Client => b"client",
            Role::Server => b"server",
        });
        for certificate in std::iter::once(leaf).chain(intermediates) {
            // The length first: no other chain has the same bytes.
            context.update(&(certificate.len() as u64).to_be_bytes());
            context.update(certificate);
        }
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(context.finish().as_ref());
        Self(bytes)
    }
}

impl Period {
    /// None within the second in which a certificate ends: its date means the whole of it to some, its beginning to others.
    fn around(now: SystemTime, validities: &[(SystemTime, SystemTime)]) -> Option<Self> {
        let ends_just_now = |end: &SystemTime| now.duration_since(*end).is_ok_and(|since| since < SECOND);
        if validities.iter().any(|(_, end)| *end != now && ends_just_now(end)) {
            return None;
        }
        // Ordered in time: what begins at a date is valid from it on, what ends is valid at it still (RFC 5280 4.1.2.5).
        let dates = || {
            let begins = validities.iter().map(|(begin, _)| (*begin, false));
            begins.chain(validities.iter().map(|(_, end)| (*end, true)))
        };
        let passed = |(date, is_end): &(SystemTime, bool)| if *is_end { *date < now } else { *date <= now };
        let (after, before) = (dates().filter(passed).max(), dates().filter(|date| !passed(date)).min());
        Some(Self { after, before })
    }

    fn contains(&self, now: SystemTime) -> bool {
        let passed = |(date, is_end): (SystemTime, bool)| if is_end { date < now } else { date <= now };
        self.after.is_none_or(passed) && self.before.is_none_or(|date| !passed(date))
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use rstest::rstest;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// A leaf is valid from 100 to 200, a root from 0 to 150, another from 140 to 900.
    #[rstest]
    #[case::both_ends_are_in_it(&[(100, 200)], 150, &[100, 150, 200], &[99, 201])]
    #[case::a_root_ends(&[(100, 200), (0, 150)], 120, &[100, 150], &[99, 151, 200])]
    #[case::a_root_begins(&[(100, 200), (140, 900)], 120, &[100, 139], &[140, 200])]
    #[case::after_a_root_has_ended(&[(100, 200), (0, 150)], 160, &[151, 200], &[150, 201])]
    #[case::the_very_end(&[(100, 200)], 200, &[100, 200], &[201])]
    fn a_judgement_holds_between_two_dates(
        #[case] validities: &[(u64, u64)],
        #[case] now: u64,
        #[case] within: &[u64],
        #[case] without: &[u64],
    ) {
        let validities: Vec<_> = validities.iter().map(|(from, until)| (at(*from), at(*until))).collect();
        let period = Period::around(at(now), &validities).unwrap();
        for time in within {
            assert!(period.contains(at(*time)), "{time}");
        }
        for time in without {
            assert!(!period.contains(at(*time)), "{time}");
        }
    }

    /// Who reads a date as the whole second still accepts then; what is remembered of that would outlive it.
    #[test]
    fn nothing_is_remembered_in_the_second_of_an_end() {
        let around = |millis: u64| {
            Period::around(
                UNIX_EPOCH + Duration::from_millis(millis),
                &[(at(100), at(200)), (at(0), at(900))],
            )
        };
        assert!(around(199_999).is_some() && around(200_000).is_some());
        assert!(around(200_001).is_none() && around(200_999).is_none());
        let behind = around(201_000).unwrap();
        assert!(!behind.contains(at(200)) && behind.contains(at(900)));
    }

    #[test]
    fn a_fingerprint_is_of_all_certificates_in_their_order_and_of_the_role() {
        let [one, other] = [vec![1, 2, 3], vec![4, 5]].map(CertificateDer::from);
        let joined = CertificateDer::from(vec![1, 2, 3, 4, 5]);
        let all = [
            Fingerprint::of(&one, &[], Role::Client),
            Fingerprint::of(&one, &[], Role::Server),
            Fingerprint::of(&one, std::slice::from_ref(&other), Role::Client),
            Fingerprint::of(&other, std::slice::from_ref(&one), Role::Client),
            Fingerprint::of(&joined, &[], Role::Client),
        ];
        for (number, fingerprint) in all.iter().enumerate() {
            assert!(all.iter().skip(number + 1).all(|other| other != fingerprint), "{number}");
        }
        assert_eq!(all.first(), Some(&Fingerprint::of(&one, &[], Role::Client)));
    }
}
