//! What a policy compares a text with: all of it, its beginning, its end, or only that there is one.

use std::fmt;

use crate::matching::texts::TextKey;
use crate::yaml::quoted;

/// A value of an `AuthorizationPolicy`. Compared literally, never as a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `abc`: the whole text.
    Exact(String),
    /// `abc*`: how the text begins.
    Prefix(String),
    /// `*abc`: how the text ends.
    Suffix(String),
    /// `*`: any text.
    Present,
}

impl Pattern {
    /// The words of the fault where the text is empty or has a `*` elsewhere than at one of its ends.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let pattern = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Present,
            (Some(rest), _) => Self::Suffix(rest.to_owned()),
            (None, Some(rest)) => Self::Prefix(rest.to_owned()),
            (None, None) => Self::Exact(text.to_owned()),
        };
        match pattern.literal() {
            "" if pattern != Self::Present => Err("an empty value matches nothing; leave it out".to_owned()),
            literal if literal.contains('*') => Err(format!(
                "`*` stands for any text at the beginning or the end of a value only, and once, seen {}",
                quoted(text)
            )),
            _ => Ok(pattern),
        }
    }

    /// As it is looked up.
    pub(crate) fn key(&self) -> TextKey<'_> {
        match self {
            Self::Exact(text) => TextKey::Exact(text.as_bytes().into()),
            Self::Prefix(text) => TextKey::Beginning(text.as_bytes().into()),
            Self::Suffix(text) => TextKey::End(text.as_bytes().into()),
            Self::Present => TextKey::Any,
        }
    }

    /// The part that is compared.
    pub(crate) fn literal(&self) -> &str {
        match self {
            Self::Exact(literal) | Self::Prefix(literal) | Self::Suffix(literal) => literal,
            Self::Present => "",
        }
    }
}

/// As it is written in a policy.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(literal) => f.write_str(literal),
            Self::Prefix(literal) => write!(f, "{literal}*"),
            Self::Suffix(literal) => write!(f, "*{literal}"),
            Self::Present => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("abc", Pattern::Exact("abc".to_owned()))]
    #[case("abc*", Pattern::Prefix("abc".to_owned()))]
    #[case("*abc", Pattern::Suffix("abc".to_owned()))]
    #[case("*", Pattern::Present)]
    fn a_star_at_an_end_stands_for_any_text(#[case] text: &str, #[case] expected: Pattern) {
        assert_eq!(Pattern::parse(text), Ok(expected.clone()));
        assert_eq!(expected.to_string(), text);
    }

    #[rstest]
    #[case("")]
    #[case("**")]
    #[case("*a*")]
    #[case("a*b")]
    #[case("*a*b")]
    #[case("a**")]
    fn a_star_elsewhere_is_refused(#[case] text: &str) {
        assert!(Pattern::parse(text).is_err(), "{text}");
    }
}
