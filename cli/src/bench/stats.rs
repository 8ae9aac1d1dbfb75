//! Figures of several rounds: the median and the spread, percentiles, and which attempt of a noisy round counts. Pure.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// One figure over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Spread {
    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
    /// All, by round.
    pub(crate) rounds: Vec<f64>,
}

impl Spread {
    /// `None` of no rounds, and of figures that are no numbers.
    pub(crate) fn of(rounds: Vec<f64>) -> Option<Self> {
        if rounds.iter().any(|figure| !figure.is_finite()) {
            return None;
        }
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let half = sorted.len() / 2;
        let upper = *sorted.get(half)?;
        let lower = if sorted.len().is_multiple_of(2) { *sorted.get(half.checked_sub(1)?)? } else { upper };
        Some(Self { median: f64::midpoint(lower, upper), min, max, rounds })
    }
}

/// Latencies of all rounds together, in microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Latency {
    /// How many.
    pub(crate) count: u64,
    /// Half are at most this.
    pub(crate) p50: f64,
    /// Nine of ten.
    pub(crate) p90: f64,
    /// All but one of a hundred.
    pub(crate) p99: f64,
    /// All but one of a thousand; of fewer than a thousand it is the largest.
    pub(crate) p999: f64,
    /// The largest.
    pub(crate) max: f64,
    /// For a plot: percentiles with their latencies.
    pub(crate) curve: Vec<(f64, f64)>,
}

impl Latency {
    /// Of (nanoseconds, how often) from any number of runs. `None` of none.
    pub(crate) fn of<'a>(runs: impl IntoIterator<Item = &'a (u64, u64)>) -> Option<Self> {
        /// Where the curve has its points: denser towards the end, which is what a latency is about.
        const CURVE: [f64; 19] = [
            0.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 90.0, 95.0, 97.5, 99.0,
            99.5, 99.9, 99.99,
        ];
        let mut all = Histogram::<u64>::new_with_bounds(100, 60_000_000_000, 3).ok()?;
        for (nanoseconds, count) in runs {
            all.saturating_record_n(*nanoseconds, *count);
        }
        if all.is_empty() {
            return None;
        }
        let at = |percentile: f64| microseconds(all.value_at_percentile(percentile));
        Some(Self {
            count: all.len(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: microseconds(all.max()),
            curve: CURVE.map(|percentile| (percentile, at(percentile))).to_vec(),
        })
    }
}

/// Of nanoseconds.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1_000.0
}

/// The share of the machine that others may use before a round is repeated.
pub(crate) const NOISY: f64 = 0.10;

/// What to do after some attempts at one round, by the share that others used in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Measure it again.
    Again,
    /// Take this attempt, the quietest.
    Take(usize),
}

/// A quiet round counts at once. A noisy one is repeated up to `repeats` times; then the quietest counts, and the report
/// shows how noisy it was.
pub(crate) fn judge(attempts: &[f64], repeats: usize) -> Verdict {
    let quietest = attempts.iter().enumerate().min_by(|(_, one), (_, other)| one.total_cmp(other));
    match quietest {
        Some((index, share)) if *share <= NOISY || attempts.len() > repeats => Verdict::Take(index),
        _ => Verdict::Again,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::odd(&[3.0, 1.0, 2.0], 2.0, 1.0, 3.0)]
    #[case::even(&[4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0)]
    #[case::one(&[7.0], 7.0, 7.0, 7.0)]
    fn a_spread_has_the_median_and_both_ends(
        #[case] rounds: &[f64],
        #[case] median: f64,
        #[case] min: f64,
        #[case] max: f64,
    ) {
        let spread = Spread::of(rounds.to_vec()).unwrap();
        assert_eq!(
            [spread.median, spread.min, spread.max].map(f64::to_bits),
            [median, min, max].map(f64::to_bits)
        );
        assert_eq!(spread.rounds.len(), rounds.len());
    }

    #[test]
    fn no_rounds_and_no_numbers_are_no_figure() {
        assert_eq!(Spread::of(vec![]), None);
        assert_eq!(Spread::of(vec![1.0, f64::NAN]), None);
        assert_eq!(Spread::of(vec![f64::INFINITY]), None);
    }

    #[test]
    fn percentiles_are_of_all_runs_together() {
        let runs = [(100_000, 90), (1_000_000, 9), (50_000_000, 1)];
        let latency = Latency::of(&runs).unwrap();
        let near = |seen: f64, wanted: f64| (seen / wanted - 1.0).abs() < 0.002;
        assert_eq!(latency.count, 100);
        assert!(near(latency.p50, 100.0) && near(latency.p90, 100.0), "{latency:?}");
        assert!(near(latency.p99, 1_000.0) && near(latency.p999, 50_000.0) && near(latency.max, 50_000.0));
        assert!(latency.curve.is_sorted_by(|one, next| one.1 <= next.1));
        assert_eq!(Latency::of(&[]), None);
    }

    #[rstest]
    #[case::quiet(&[0.05], Verdict::Take(0))]
    #[case::noisy_once(&[0.5], Verdict::Again)]
    #[case::quiet_at_last(&[0.5, 0.1], Verdict::Take(1))]
    #[case::noisy_for_ever(&[0.5, 0.3, 0.4], Verdict::Take(1))]
    #[case::nothing_yet(&[], Verdict::Again)]
    fn a_noisy_round_is_repeated_and_the_quietest_counts(#[case] attempts: &[f64], #[case] verdict: Verdict) {
        assert_eq!(judge(attempts, 2), verdict);
    }
}
