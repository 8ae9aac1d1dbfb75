//! Which of many selectors pick which of many labelled things, without asking each of the one about each of the other.
//!
//! [`Selectors`] are found by labels, [`Labelled`] things by a selector. Both count in the order in which they were
//! given, and what is found is told in that order.

use std::collections::HashMap;

use crate::workload::Labels;

/// Name and value of a label.
type Pair<'r> = (&'r str, &'r str);

/// Selectors by the labels that they ask for.
#[derive(Debug, Default)]
pub(crate) struct Selectors<'r> {
    /// Each under the rarest of its pairs: whoever is picked has all of them.
    by_pair: HashMap<Pair<'r>, Vec<(usize, &'r Labels)>>,
    /// Those that pick whatever comes.
    any: Vec<usize>,
}

impl<'r> Selectors<'r> {
    pub(crate) fn new(selectors: impl IntoIterator<Item = &'r Labels>) -> Self {
        let selectors: Vec<&Labels> = selectors.into_iter().collect();
        let mut uses: HashMap<Pair<'r>, usize> = HashMap::new();
        for pair in selectors.iter().flat_map(|wanted| pairs(wanted)) {
            *uses.entry(pair).or_default() += 1;
        }
        let mut all = Self::default();
        for (number, wanted) in selectors.into_iter().enumerate() {
            match pairs(wanted).min_by_key(|pair| uses.get(pair)) {
                Some(rarest) => all.by_pair.entry(rarest).or_default().push((number, wanted)),
                None => all.any.push(number),
            }
        }
        all
    }

    /// All that pick `labels`.
    pub(crate) fn picking(&self, labels: &Labels) -> Vec<usize> {
        let under_pairs = self.candidates(labels).flat_map(|list| picking(list, labels));
        let mut found: Vec<usize> = under_pairs.chain(self.any.iter().copied()).collect();
        found.sort_unstable();
        found
    }

    /// The first that picks `labels`.
    pub(crate) fn first_picking(&self, labels: &Labels) -> Option<usize> {
        let under_pairs = self.candidates(labels).filter_map(|list| picking(list, labels).next());
        under_pairs.chain(self.any.first().copied()).min()
    }

    fn candidates<'s>(&'s self, labels: &'s Labels) -> impl Iterator<Item = &'s [(usize, &'r Labels)]> {
        pairs(labels).filter_map(move |pair| self.by_pair.get(&pair).map(Vec::as_slice))
    }
}

/// Labelled things by their labels.
#[derive(Debug, Default)]
pub(crate) struct Labelled<'r> {
    all: Vec<&'r Labels>,
    by_pair: HashMap<Pair<'r>, Vec<usize>>,
}

impl<'r> Labelled<'r> {
    pub(crate) fn add(&mut self, labels: &'r Labels) {
        for pair in pairs(labels) {
            self.by_pair.entry(pair).or_default().push(self.all.len());
        }
        self.all.push(labels);
    }

    /// All that a selector picks.
    pub(crate) fn picked_by(&self, wanted: &Labels) -> Vec<usize> {
        let lists: Option<Vec<&Vec<usize>>> = pairs(wanted).map(|pair| self.by_pair.get(&pair)).collect();
        let Some(lists) = lists else { return Vec::new() };
        let Some(shortest) = lists.into_iter().min_by_key(|list| list.len()) else {
            return (0..self.all.len()).collect();
        };
        let is_picked = |number: &usize| self.all.get(*number).is_some_and(|labels| picks(wanted, labels));
        shortest.iter().copied().filter(is_picked).collect()
    }
}

/// Whether all pairs of a selector are among `labels`, compared literally.
pub(crate) fn picks(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn picking<'s>(
    candidates: &'s [(usize, &Labels)],
    labels: &'s Labels,
) -> impl Iterator<Item = usize> + use<'s> {
    candidates.iter().filter(|(_, wanted)| picks(wanted, labels)).map(|(number, _)| *number)
}

fn pairs(labels: &Labels) -> impl Iterator<Item = Pair<'_>> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> impl Strategy<Value = Labels> {
        prop::collection::btree_map("[ab]", "[xy]", 0..3)
    }

    proptest! {
        /// Both indexes against asking each about each.
        #[test]
        fn whoever_is_picked_is_found_and_nobody_else(
            selectors in prop::collection::vec(labels(), 0..12),
            things in prop::collection::vec(labels(), 0..12),
        ) {
            let by_labels = Selectors::new(&selectors);
            for thing in &things {
                let expected: Vec<usize> =
                    (0..selectors.len()).filter(|number| picks(&selectors[*number], thing)).collect();
                prop_assert_eq!(by_labels.first_picking(thing), expected.first().copied());
                prop_assert_eq!(by_labels.picking(thing), expected);
            }
            let mut by_selector = Labelled::default();
            things.iter().for_each(|thing| by_selector.add(thing));
            for selector in &selectors {
                let expected: Vec<usize> =
                    (0..things.len()).filter(|number| picks(selector, &things[*number])).collect();
                prop_assert_eq!(by_selector.picked_by(selector), expected);
            }
        }
    }

    /// A pair that all of them have says nothing; the rare one is looked under.
    #[test]
    fn selectors_that_share_a_pair_are_told_apart_by_another() {
        let of = |number: usize| -> Labels {
            [("app".to_owned(), "web".to_owned()), ("version".to_owned(), format!("v{number}"))].into()
        };
        let selectors: Vec<Labels> = (0..1_000).map(of).collect();
        let all = Selectors::new(&selectors);
        assert_eq!(all.candidates(&of(7)).map(<[_]>::len).sum::<usize>(), 1);
        assert_eq!(all.picking(&of(7)), [7]);
    }
}
