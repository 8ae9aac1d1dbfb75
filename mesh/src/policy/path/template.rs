//! Paths with `{*}` and `{**}`, Istio's templates.

use std::fmt;

use crate::yaml::quoted;

const ONE: &str = "{*}";
const REST: &str = "{**}";

/// A path of which some segments are open. `{*}` is one segment that is not empty; `{**}` is any text, slashes among it,
/// or none, and the last operator: `/foo/{**}` matches `/foo/` and `/foo/a/b`, not `/foo`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    /// Segments before `{**}`, or all; `None` is `{*}`.
    head: Vec<Option<String>>,
    /// How the text that `{**}` stands for ends.
    tail: Option<String>,
}

impl Template {
    /// Whether a value of `paths` is meant as a template.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.contains(ONE) || text.contains(REST)
    }

    /// The words of the fault where Istio's validation has one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err(format!("a path begins with `/`, seen {}", quoted(text)));
        };
        let segments: Vec<&str> = path.split('/').collect();
        let operators = segments.iter().filter(|segment| matches!(**segment, ONE | REST));
        let rest = segments.iter().position(|segment| *segment == REST);
        let (head, tail) = match rest.and_then(|rest| segments.split_at_checked(rest)) {
            Some((head, tail)) => (head, Some(tail)),
            None => (segments.as_slice(), None),
        };
        let behind = operators.skip_while(|segment| **segment != REST).count();
        if behind > 1 {
            return Err(format!("`{{**}}` is the last operator of a path, seen {}", quoted(text)));
        }
        let literals = segments.iter().filter(|segment| !matches!(**segment, ONE | REST));
        if segments.iter().take(segments.len() - 1).any(|segment| segment.is_empty()) {
            return Err(format!("a path has no empty segment (`//`), seen {}", quoted(text)));
        }
        for literal in literals {
            if literal.contains(['{', '}', '*']) {
                return Err(format!(
                    "`{{*}}` and `{{**}}` stand for whole segments, and no other `*`, `{{` or `}}` is known in a \
                     template, seen {}",
                    quoted(text)
                ));
            }
        }
        Ok(Self {
            head: head.iter().map(|segment| (*segment != ONE).then(|| (*segment).to_owned())).collect(),
            tail: tail.map(|tail| tail.iter().skip(1).map(|segment| format!("/{segment}")).collect()),
        })
    }

    /// How every path begins that matches.
    pub(crate) fn beginning(&self) -> String {
        let literals = self.head.iter().map_while(|segment| segment.as_deref());
        let mut beginning: String = literals.flat_map(|segment| ["/", segment]).collect();
        let is_whole = self.tail.is_none() && self.head.iter().all(Option::is_some);
        if !is_whole {
            beginning.push('/');
        }
        beginning
    }

    /// Whether a path, normalized and without query, matches.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        let Some(mut rest) = path.strip_prefix('/') else { return false };
        let mut ended = false;
        for expected in &self.head {
            if ended {
                return false;
            }
            let (segment, behind) = rest.split_once('/').unwrap_or_else(|| {
                ended = true;
                (rest, "")
            });
            let matches = match expected {
                Some(literal) => segment == literal,
                None => !segment.is_empty(),
            };
            if !matches {
                return false;
            }
            rest = behind;
        }
        match &self.tail {
            Some(tail) => !ended && rest.ends_with(tail.as_str()),
            None => ended,
        }
    }
}

/// As it is written in a policy.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.head {
            write!(f, "/{}", segment.as_deref().unwrap_or(ONE))?;
        }
        match &self.tail {
            Some(tail) => write!(f, "/{REST}{tail}"),
            None => Ok(()),
        }
    }
}
