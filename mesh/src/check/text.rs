//! The report as `linkerd check` would print it: headings, a line for each check, a hint under those that did not pass.

use std::fmt::{self, Display, Formatter};

use super::{Check, Outcome, Report};
use crate::words::Escaped;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut checks = self.checks.iter().peekable();
        let mut heading = None;
        while let Some(check) = checks.next() {
            if heading.replace(check.group) != Some(check.group) {
                let name = check.group.as_str();
                writeln!(f, "{name}\n{}", "-".repeat(name.len()))?;
            }
            writeln!(f, "{check}")?;
            if checks.peek().is_none_or(|next| next.group != check.group) {
                writeln!(f)?;
            }
        }
        let count = |outcome| self.checks.iter().filter(|check| check.outcome == outcome).count();
        match (count(Outcome::Failed), count(Outcome::Warned), count(Outcome::Passed)) {
            (0, 0, passed) => write!(f, "√ all {passed} checks passed"),
            (0, warned, passed) => write!(f, "√ no check failed: {warned} worth a look, {passed} passed"),
            (failed, warned, passed) => {
                write!(f, "× {failed} failed, {warned} worth a look, {passed} passed")
            }
        }
    }
}

impl Display for Check {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut lines = self.told.lines();
        write!(f, "{} {}", self.outcome, Escaped(lines.next().unwrap_or_default()))?;
        for line in lines {
            write!(f, "\n    {}", Escaped(line))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    {}\n    see {hint}", self.id.cure())?;
        }
        Ok(())
    }
}

impl Display for Outcome {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Outcome::Passed => "√",
            Outcome::Warned => "‼",
            Outcome::Failed => "×",
        })
    }
}
