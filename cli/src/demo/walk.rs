//! A walk in steps, each with what is expected and what was seen. What the steps are is their story's.

use super::page::{Page, Seen};
use crate::lab::LabError;

/// Counts the steps, and those that were as expected.
pub(super) struct Walk<'a> {
    page: &'a Page,
    steps: usize,
    met: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(page: &'a Page) -> Self {
        Self { page, steps: 0, met: 0 }
    }

    /// A step that fails is one that was not as expected: the walk goes on. An interrupt ends it.
    pub(super) fn step(
        &mut self,
        title: &str,
        how: &str,
        expected: &str,
        run: impl FnOnce() -> Result<Seen, LabError>,
    ) -> Result<(), LabError> {
        self.steps += 1;
        self.page.step(self.steps, title, how, expected);
        let seen = match run() {
            Err(LabError::Interrupted) => return Err(LabError::Interrupted),
            Err(error) => {
                Seen { lines: error.to_string().lines().map(ToOwned::to_owned).collect(), met: false }
            }
            Ok(seen) => seen,
        };
        self.page.seen(&seen);
        self.met += usize::from(seen.met);
        Ok(())
    }

    /// How many steps were as expected, of how many.
    pub(super) fn result(&self) -> (usize, usize) {
        (self.met, self.steps)
    }
}
