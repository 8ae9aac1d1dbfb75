//! A map of limited size.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// At most `limit` items; the oldest makes room for a new one.
pub(super) struct Bounded<K, V> {
    limit: usize,
    next: u64,
    by_age: BTreeMap<u64, K>,
    items: HashMap<K, (u64, V)>,
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next: 0, by_age: BTreeMap::new(), items: HashMap::new() }
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.items.get(key).map(|(_age, value)| value)
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.items.keys()
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        while self.items.len() >= self.limit
            && let Some((_age, oldest)) = self.by_age.pop_first()
        {
            self.items.remove(&oldest);
        }
        self.by_age.insert(self.next, key.clone());
        self.items.insert(key, (self.next, value));
        self.next += 1;
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let (age, value) = self.items.remove(key)?;
        self.by_age.remove(&age);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_makes_room() {
        let mut bounded = Bounded::new(2);
        for (key, value) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
            bounded.insert(key, value);
        }
        let known = ["a", "b", "c"].map(|key| bounded.get(&key).copied());
        assert_eq!(known, [Some(3), None, Some(4)]);
        assert_eq!((bounded.remove(&"a"), bounded.remove(&"a")), (Some(3), None));
        assert_eq!((bounded.by_age.len(), bounded.items.len()), (1, 1));
    }
}
