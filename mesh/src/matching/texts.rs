//! Patterns of texts: exact ones by one look-up, beginnings and ends in the logarithm of their number and as many steps as
//! a text has bytes. Compared byte for byte.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

/// A pattern as it is looked up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum TextKey<'t> {
    /// The whole text.
    Exact(Cow<'t, [u8]>),
    /// How it begins.
    Beginning(Cow<'t, [u8]>),
    /// How it ends.
    End(Cow<'t, [u8]>),
    /// Whatever it is.
    Any,
}

/// Values by patterns, to be filled.
#[derive(Debug)]
pub(crate) struct PatternsBuilder<V> {
    exact: HashMap<Vec<u8>, V>,
    beginnings: BTreeMap<Vec<u8>, V>,
    /// Backwards.
    ends: BTreeMap<Vec<u8>, V>,
    any: Option<V>,
}

/// Values by patterns.
#[derive(Debug)]
pub(crate) struct Patterns<V> {
    exact: HashMap<Vec<u8>, V>,
    beginnings: Beginnings<V>,
    /// Backwards.
    ends: Beginnings<V>,
    any: Option<V>,
}

impl<V: Default> PatternsBuilder<V> {
    /// The value of a pattern; a fresh one where it has none.
    pub(crate) fn entry(&mut self, key: TextKey<'_>) -> &mut V {
        match key {
            TextKey::Exact(text) => self.exact.entry(text.into_owned()).or_default(),
            TextKey::Beginning(text) => self.beginnings.entry(text.into_owned()).or_default(),
            TextKey::End(text) => self.ends.entry(backwards(&text)).or_default(),
            TextKey::Any => self.any.get_or_insert_default(),
        }
    }

    pub(crate) fn build(self) -> Patterns<V> {
        Patterns {
            exact: self.exact,
            beginnings: Beginnings::new(self.beginnings),
            ends: Beginnings::new(self.ends),
            any: self.any,
        }
    }
}

impl<V> Default for PatternsBuilder<V> {
    fn default() -> Self {
        Self { exact: HashMap::new(), beginnings: BTreeMap::new(), ends: BTreeMap::new(), any: None }
    }
}

impl<V> Patterns<V> {
    /// The values of all patterns that `text` matches.
    pub(crate) fn matching<'p>(&'p self, text: &[u8]) -> impl Iterator<Item = &'p V> {
        let beginnings = self.beginnings.of(text.iter().copied());
        let ends = self.ends.of(text.iter().rev().copied());
        self.any.iter().chain(self.exact.get(text)).chain(beginnings).chain(ends)
    }

    /// All patterns, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = TextKey<'_>> {
        let exact = self.exact.keys().map(|text| TextKey::Exact(text.into()));
        let beginnings = self.beginnings.0.iter().map(|known| TextKey::Beginning((&known.text).into()));
        let ends = self.ends.0.iter().map(|known| TextKey::End(backwards(&known.text).into()));
        exact.chain(beginnings).chain(ends).chain(self.any.iter().map(|_| TextKey::Any))
    }
}

fn backwards(text: &[u8]) -> Vec<u8> {
    text.iter().rev().copied().collect()
}

impl<V> Default for Patterns<V> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            beginnings: Beginnings::default(),
            ends: Beginnings::default(),
            any: None,
        }
    }
}

/// Values by how texts begin, in the order of the beginnings.
///
/// All beginnings of a text among them are beginnings of each other, the longest being the last that is not behind the
/// text, or a beginning of that one. So each knows the longest of its own.
#[derive(Debug)]
struct Beginnings<V>(Vec<Beginning<V>>);

#[derive(Debug)]
struct Beginning<V> {
    text: Vec<u8>,
    value: V,
    /// The longest other one that this begins with.
    shorter: Option<usize>,
}

impl<V> Beginnings<V> {
    fn new(values: BTreeMap<Vec<u8>, V>) -> Self {
        let mut all: Vec<Beginning<V>> = Vec::with_capacity(values.len());
        for (text, value) in values {
            let mut shorter = all.len().checked_sub(1);
            while let Some(known) = shorter.and_then(|number| all.get(number)) {
                if text.starts_with(&known.text) {
                    break;
                }
                shorter = known.shorter;
            }
            all.push(Beginning { text, value, shorter });
        }
        Self(all)
    }

    /// The values of those that a text begins with, the longest first.
    fn of(&self, text: impl Iterator<Item = u8> + Clone) -> impl Iterator<Item = &V> {
        let behind = self.0.partition_point(|known| known.text.iter().copied().le(text.clone()));
        let last = behind.checked_sub(1).and_then(|number| self.0.get(number));
        let common = last.map_or(0, |last| last.text.iter().zip(text).take_while(|(a, b)| **a == *b).count());
        let shorter = |known: &&Beginning<V>| self.0.get(known.shorter?);
        let chain = std::iter::successors(last, shorter);
        chain.filter(move |known| known.text.len() <= common).map(|known| &known.value)
    }
}

impl<V> Default for Beginnings<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The patterns `abc`, `abc*`, `*abc` and `*`.
    fn pattern() -> impl Strategy<Value = (u8, String)> {
        (0u8..4, "[ab]{0,5}")
    }

    fn key((kind, text): &(u8, String)) -> TextKey<'_> {
        let text = text.as_bytes().into();
        match kind {
            0 => TextKey::Exact(text),
            1 => TextKey::Beginning(text),
            2 => TextKey::End(text),
            _ => TextKey::Any,
        }
    }

    fn matches(key: TextKey<'_>, text: &[u8]) -> bool {
        match key {
            TextKey::Exact(exact) => text == &*exact,
            TextKey::Beginning(start) => text.starts_with(&start),
            TextKey::End(end) => text.ends_with(&end),
            TextKey::Any => true,
        }
    }

    proptest! {
        #[test]
        fn every_pattern_that_matches_is_found_and_no_other(
            patterns in prop::collection::vec(pattern(), 0..20),
            texts in prop::collection::vec("[abc]{0,7}", 1..10),
        ) {
            let mut builder = PatternsBuilder::<Vec<usize>>::default();
            for (number, pattern) in patterns.iter().enumerate() {
                builder.entry(key(pattern)).push(number);
            }
            let built = builder.build();
            let keys: HashSet<TextKey<'_>> = built.keys().collect();
            prop_assert_eq!(keys, patterns.iter().map(key).collect::<HashSet<_>>());
            for text in &texts {
                let text = text.as_bytes();
                let mut found: Vec<usize> = built.matching(text).flatten().copied().collect();
                found.sort_unstable();
                let all = 0..patterns.len();
                let expected: Vec<usize> = all.filter(|number| matches(key(&patterns[*number]), text)).collect();
                prop_assert_eq!(found, expected, "{:?}", text);
            }
        }
    }
}
