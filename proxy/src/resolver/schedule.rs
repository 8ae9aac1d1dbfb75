//! When which name is asked for again.

use std::collections::{BTreeSet, HashMap, HashSet};

use tokio::time::Instant;

/// Names with the time at which each is due; one that is asked for just now has none.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: HashMap<String, Option<Instant>>,
    in_order: BTreeSet<(Instant, String)>,
}

impl Schedule {
    /// Adds a name that is not known.
    pub(super) fn add(&mut self, name: &str, due: Instant) {
        if !self.due.contains_key(name) {
            self.due.insert(name.to_owned(), Some(due));
            self.in_order.insert((due, name.to_owned()));
        }
    }

    /// Drops all other names.
    pub(super) fn keep(&mut self, names: &[String]) {
        let names: HashSet<&String> = names.iter().collect();
        self.due.retain(|name, _| names.contains(name));
        self.in_order.retain(|(_, name)| names.contains(name));
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.due.contains_key(name)
    }

    /// The names that are due. They are being asked for from now on.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<String> {
        let mut taken = Vec::new();
        while self.next().is_some_and(|next| next <= now) {
            let Some((_, name)) = self.in_order.pop_first() else { break };
            self.due.insert(name.clone(), None);
            taken.push(name);
        }
        taken
    }

    /// A name that was asked for is due again. What was dropped meanwhile stays so.
    pub(super) fn set(&mut self, name: &str, due: Instant) {
        if let Some(asked @ None) = self.due.get_mut(name) {
            *asked = Some(due);
            self.in_order.insert((due, name.to_owned()));
        }
    }

    /// When the first name is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.in_order.first().map(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_name_is_due_once_and_again_when_it_is_set() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut schedule = Schedule::default();
        schedule.add("b", later);
        schedule.add("a", now);
        schedule.add("a", later);
        assert_eq!(schedule.take_due(now), ["a"]);
        assert_eq!((schedule.take_due(now), schedule.next()), (Vec::new(), Some(later)));
        schedule.set("a", now);
        schedule.set("a", later);
        assert_eq!(schedule.take_due(later), ["a", "b"]);
        assert_eq!(schedule.next(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_name_does_not_come_back_by_a_late_answer() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        schedule.add("a", now);
        schedule.take_due(now);
        schedule.keep(&[]);
        schedule.set("a", now);
        assert_eq!((schedule.contains("a"), schedule.next()), (false, None));
        schedule.add("a", now);
        schedule.set("a", now + Duration::from_secs(1));
        assert_eq!(schedule.take_due(now), ["a"], "the late answer does not defer it");
    }
}
