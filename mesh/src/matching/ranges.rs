//! Ranges of addresses: one look-up for each length of prefix among them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Values by ranges of addresses.
#[derive(Debug, Clone)]
pub(crate) struct ByRange<V> {
    values: HashMap<IpNet, V>,
    lengths: BTreeSet<u8>,
}

impl<V: Default> ByRange<V> {
    /// The value of a range; a fresh one where it has none.
    pub(crate) fn entry(&mut self, range: IpNet) -> &mut V {
        let range = range.trunc();
        self.lengths.insert(range.prefix_len());
        self.values.entry(range).or_default()
    }
}

impl<V> ByRange<V> {
    /// The values of the ranges that hold an address, the longest prefix first.
    pub(crate) fn holding(&self, address: IpAddr) -> impl Iterator<Item = &V> {
        let ranges = self.lengths.iter().rev().filter_map(move |length| IpNet::new(address, *length).ok());
        ranges.filter_map(|range| self.values.get(&range.trunc()))
    }
}

impl<V> Default for ByRange<V> {
    fn default() -> Self {
        Self { values: HashMap::new(), lengths: BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ranges_that_hold_an_address_are_told_longest_first() {
        let mut ranges = ByRange::<String>::default();
        for range in ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "10.1.0.0/24"] {
            *ranges.entry(range.parse().unwrap()) = range.to_owned();
        }
        let holding = |address: &str| -> Vec<&str> {
            ranges.holding(address.parse().unwrap()).map(String::as_str).collect()
        };
        assert_eq!(holding("10.1.2.3"), ["10.1.2.3/32", "10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"]);
        assert_eq!(holding("192.0.2.1"), ["0.0.0.0/0"]);
        assert_eq!(holding("fd00::1"), ["fd00::/8"]);
        assert_eq!(holding("fe80::1"), [""; 0]);
    }
}
