//! A story as text: a mark, what a step is about, when it was done, what was so.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use super::{Step, Story};
use crate::words::Elapsed;

impl Display for Story {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.title)?;
        self.steps.iter().try_for_each(|step| write!(f, "\n  {step}"))?;
        match &self.cure {
            Some(cure) => write!(f, "\ncure: {cure}"),
            None => Ok(()),
        }
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mark = if self.passed { "√" } else { "×" };
        let at = self.at_micros.map(|micros| format!("+{}", Elapsed(Duration::from_micros(micros))));
        write!(f, "{mark} {:<11} {:>9}  {}", self.about.as_str(), at.unwrap_or_default(), self.told)
    }
}
