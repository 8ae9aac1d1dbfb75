//! Host names as written in a resource.

use std::fmt;
use std::net::IpAddr;

/// A DNS name of at most 253 bytes: labels of 1 to 63 letters, digits, `-` and `_` (which names of docker-compose
/// services have); no address.
pub(super) fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.parse::<IpAddr>().is_err() && text.split('.').all(is_label)
}

/// A host, or `*.` before one.
pub(super) fn is_host_or_wildcard(text: &str) -> bool {
    is_host(text.strip_prefix("*.").unwrap_or(text))
}

/// What a person most likely wrote in place of a host: the end of a message about it.
pub(super) fn hint(text: &str) -> &'static str {
    if text.contains("://") {
        "; without a scheme"
    } else if text.parse::<IpAddr>().is_ok() {
        "; an address is no name"
    } else if text.contains(':') {
        "; the port stands in `port.number`"
    } else {
        ""
    }
}

/// A host, or all that end so.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// `shop.example.com`.
    Exact(String),
    /// `*.example.com`, held with its dot: `.example.com`.
    Below(String),
    /// `*`.
    Any,
}

impl HostPattern {
    /// A lower-case pattern as it is written; `None` where it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(_) | None if !is_host_or_wildcard(&text) => None,
            Some(suffix) => Some(Self::Below(suffix.to_owned())),
            None => Some(Self::Exact(text)),
        }
    }

    /// The hosts that both take.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (any, Self::Any) | (Self::Any, any) => Some(any.clone()),
            (Self::Exact(one), Self::Exact(two)) => (one == two).then(|| self.clone()),
            (Self::Exact(host), Self::Below(suffix)) | (Self::Below(suffix), Self::Exact(host)) => {
                host.ends_with(suffix.as_str()).then(|| Self::Exact(host.clone()))
            }
            (Self::Below(one), Self::Below(two)) if one.ends_with(two.as_str()) => Some(self.clone()),
            (Self::Below(one), Self::Below(two)) if two.ends_with(one.as_str()) => Some(other.clone()),
            (Self::Below(_), Self::Below(_)) => None,
        }
    }
}

/// As it is written.
impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("*", "*", Some("*"))]
    #[case("*", "a.example", Some("a.example"))]
    #[case("*.example", "a.example", Some("a.example"))]
    #[case("*.example", "example", None)]
    #[case("*.example", "*.b.example", Some("*.b.example"))]
    #[case("*.a.example", "*.b.example", None)]
    #[case("a.example", "a.example", Some("a.example"))]
    #[case("a.example", "b.example", None)]
    fn the_hosts_that_two_patterns_share_are(
        #[case] one: &str,
        #[case] two: &str,
        #[case] expected: Option<&str>,
    ) {
        let pattern = |text| HostPattern::parse(text).unwrap();
        let text = |pattern: Option<HostPattern>| pattern.map(|pattern| pattern.to_string());
        assert_eq!(text(pattern(one).intersection(&pattern(two))).as_deref(), expected);
        assert_eq!(text(pattern(two).intersection(&pattern(one))).as_deref(), expected);
    }

    #[rstest]
    #[case("")]
    #[case("a*")]
    #[case("*a")]
    #[case("10.0.0.1")]
    #[case("a:80")]
    fn what_is_no_host_pattern_is_refused(#[case] text: &str) {
        assert_eq!(HostPattern::parse(text), None);
    }
}
