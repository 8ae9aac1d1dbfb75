//! How often one may ask: so many times at once, refilled evenly over a minute. Time is an argument.
//!
//! The generic cell rate algorithm: of each who asks, one point in time is kept, at which all that they had is refilled.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// Over which span an allowance is refilled.
const WINDOW: Duration = Duration::from_secs(60);
/// How often at most a full table is searched for those who have all of their allowance again.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// The allowances of all who ask, in a table of bounded size. Those who find no place in it share one allowance.
#[derive(Debug)]
pub struct Rates<K> {
    /// From one request to the next at the even pace; none where nothing is limited.
    pace: Option<Duration>,
    most: usize,
    refilled: HashMap<K, Duration>,
    others: Duration,
    next_sweep: Duration,
}

impl<K: Eq + Hash> Rates<K> {
    /// `per_minute` requests of each, 0 for any number; at most `most` are told apart.
    #[must_use]
    pub fn new(per_minute: u32, most: usize) -> Self {
        let pace = WINDOW.checked_div(per_minute);
        Self { pace, most, refilled: HashMap::new(), others: Duration::ZERO, next_sweep: Duration::ZERO }
    }

    /// Takes one request off the allowance of `key`, at `now` of a clock that is never set.
    ///
    /// # Errors
    /// How long to wait until there is something left again, where nothing is. Nothing is taken then.
    pub fn admit(&mut self, key: K, now: Duration) -> Result<(), Duration> {
        let Some(pace) = self.pace else { return Ok(()) };
        let refilled = if self.has_place_for(&key, now) {
            self.refilled.entry(key).or_insert(now)
        } else {
            &mut self.others
        };
        let after = (*refilled).max(now).saturating_add(pace);
        match after.checked_sub(now.saturating_add(WINDOW)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                *refilled = after;
                Ok(())
            }
        }
    }

    fn has_place_for(&mut self, key: &K, now: Duration) -> bool {
        if self.refilled.len() < self.most || self.refilled.contains_key(key) {
            return true;
        }
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_PAUSE;
            self.refilled.retain(|_, refilled| *refilled > now);
        }
        self.refilled.len() < self.most
    }
}

/// What counts as one address: IPv4 as it is, also inside of IPv6; of IPv6 the network of 64 bits, in which one host can
/// take any address it likes.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            Ipv6Addr::from(network).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn as_many_as_allowed_are_admitted_at_once_and_then_one_at_a_time() {
        let mut rates = Rates::new(60, 10);
        let start = 1_000 * SECOND;
        for _ in 0..60 {
            rates.admit("a", start).unwrap();
        }
        assert_eq!(rates.admit("a", start), Err(SECOND));
        assert_eq!(rates.admit("a", start + SECOND / 2), Err(SECOND / 2));
        assert_eq!(rates.admit("a", start + SECOND), Ok(()));
        assert_eq!(rates.admit("a", start + SECOND), Err(SECOND));
        assert_eq!(rates.admit("b", start + SECOND), Ok(()), "others have their own");
    }

    #[test]
    fn nought_limits_nothing() {
        let mut rates = Rates::new(0, 1);
        assert!((0..100_000).all(|_| rates.admit("a", Duration::ZERO).is_ok()));
    }

    #[test]
    fn those_who_find_no_place_share_one_allowance_until_there_is_one() {
        let mut rates = Rates::new(60, 2);
        rates.admit(1, Duration::ZERO).unwrap();
        rates.admit(2, Duration::ZERO).unwrap();
        assert_eq!((3..100).filter(|key| rates.admit(*key, Duration::ZERO).is_ok()).count(), 60);
        assert_eq!(rates.refilled.len(), 2);
        // A second later the first two have all of theirs again, and their places are free.
        rates.admit(3, SECOND).unwrap();
        assert!(rates.refilled.contains_key(&3));
    }

    #[rstest]
    #[case("192.0.2.7", "192.0.2.7")]
    #[case("::ffff:192.0.2.7", "192.0.2.7")]
    #[case("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::")]
    fn one_host_is_one_source(#[case] address: &str, #[case] expected: &str) {
        assert_eq!(source(address.parse().unwrap()), expected.parse::<IpAddr>().unwrap());
    }

    proptest! {
        #[test]
        fn no_minute_sees_more_than_twice_the_allowance(
            per_minute in 1u32..100,
            pauses in proptest::collection::vec(0u64..3_000, 1..400),
        ) {
            let mut rates = Rates::new(per_minute, 4);
            let mut now = Duration::ZERO;
            let mut admitted = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                if rates.admit((), now).is_ok() {
                    admitted.push(now);
                }
            }
            for start in &admitted {
                let within = |at: &&Duration| (*start..*start + WINDOW).contains(*at);
                let seen = admitted.iter().filter(within).count();
                prop_assert!(seen <= 2 * usize::try_from(per_minute).unwrap(), "{seen} in a minute");
            }
        }

        #[test]
        fn who_waits_as_told_is_admitted(per_minute in 1u32..1_000, asked in 1u32..2_000) {
            let mut rates = Rates::new(per_minute, 4);
            let refusal = (0..asked).find_map(|_| rates.admit((), SECOND).err());
            if let Some(wait) = refusal {
                prop_assert_eq!(rates.admit((), SECOND + wait), Ok(()));
            }
        }
    }
}
