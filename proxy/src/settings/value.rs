//! Single values as people write them: an address, a duration, a destination. The file and the flags share them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use crate::tls::TlsVersion;

/// A value is written in a form that it cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ValueError(String);

/// `IP:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub(super) SocketAddr);

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse().map(Self).map_err(|_syntax| {
            ValueError(format!(
                "`{text}` is not an address with a port; write it as 0.0.0.0:15006 or [::1]:15006, names are not looked up here"
            ))
        })
    }
}

/// A whole number with a unit, `500ms`; longer than nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Period(pub(super) Duration);

/// Units of a [`Period`] in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What adds to a clock without overflow: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

impl FromStr for Period {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError(format!(
                "`{text}` is not a duration; write a whole number and a unit of ms, s, m, h or d, such as 500ms or 24h"
            ))
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(digits).ok_or_else(malformed)?;
        if number.is_empty() {
            return Err(malformed());
        }
        let (_, unit_millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*unit_millis));
        match millis.map(Duration::from_millis) {
            Some(Duration::ZERO) => Err(ValueError(format!("`{text}` is no time at all; write 1ms or more"))),
            Some(duration) if duration <= LONGEST => Ok(Self(duration)),
            _ => Err(ValueError(format!("`{text}` is too long; write 36500d or less"))),
        }
    }
}

impl fmt::Display for Period {
    /// In the largest unit that says it in a whole number; what is under a millisecond is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let (name, unit) = UNITS
            .iter()
            .find(|(_, unit)| millis.is_multiple_of(u128::from(*unit)))
            .copied()
            .unwrap_or(("ms", 1));
        write!(f, "{}{name}", millis / u128::from(unit))
    }
}

/// `HOST:PORT` of a service in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: String,
    pub(super) port: u16,
}

impl FromStr for Destination {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let name = |host: &str| {
            !host.is_empty()
                && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        match text.rsplit_once(':').map(|(host, port)| (host, port.parse::<u16>())) {
            Some((host, Ok(port))) if port != 0 && name(host) => {
                Ok(Self { host: host.to_ascii_lowercase(), port })
            }
            _ => Err(ValueError(format!(
                "`{text}` is not a host with a port; write it as a ServiceEntry names it, such as backend:8080"
            ))),
        }
    }
}

/// `https://HOST:PORT` of a certificate authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpsOrigin {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Where Istio's and pillion's authorities listen.
const CA_PORT: u16 = 15012;

impl FromStr for HttpsOrigin {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let malformed = || {
            ValueError(format!(
                "`{text}` is not the address of a CA; write it as https://ca:15012, with no path"
            ))
        };
        let uri: hyper::Uri = text.parse().map_err(|_syntax| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        let bare = uri.path().trim_matches('/').is_empty() && uri.query().is_none();
        // `Authority` keeps user information; a CA has none.
        if uri.scheme_str() != Some("https")
            || !bare
            || authority.as_str().contains('@')
            || authority.host().is_empty()
        {
            return Err(malformed());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        match authority.port_u16() {
            Some(0) => Err(malformed()),
            Some(port) => Ok(Self { host, port }),
            None if authority.as_str() == authority.host() => Ok(Self { host, port: CA_PORT }),
            None => Err(malformed()),
        }
    }
}

impl fmt::Display for HttpsOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "https://[{}]:{}", self.host, self.port),
            false => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

/// `1.2` or `1.3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MinVersion(pub(super) TlsVersion);

impl FromStr for MinVersion {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "1.2" => Ok(Self(TlsVersion::Tls12)),
            "1.3" => Ok(Self(TlsVersion::Tls13)),
            _ => Err(ValueError(format!(
                "`{text}` is not a version that is spoken here; write \"1.2\" or \"1.3\""
            ))),
        }
    }
}

impl fmt::Display for MinVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            TlsVersion::Tls12 => "1.2",
            TlsVersion::Tls13 => "1.3",
        })
    }
}

/// `NAME=VALUE`, a label on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) name: String,
    pub(super) value: String,
}

impl FromStr for Label {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), value: value.to_owned() })
            }
            _ => Err(ValueError(format!("`{text}` is not a label; write it as app=backend"))),
        }
    }
}

/// In the file these are texts.
macro_rules! deserialize_from_text {
    ($($name:ident),+) => {
        $(impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        })+
    };
}

deserialize_from_text!(Address, Period, Destination, HttpsOrigin, MinVersion);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("1ms", 1)]
    #[case("500ms", 500)]
    #[case("5s", 5_000)]
    #[case("10m", 600_000)]
    #[case("24h", 86_400_000)]
    #[case("1d", 86_400_000)]
    #[case("36500d", 3_153_600_000_000)]
    fn a_duration_is_a_whole_number_and_a_unit(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(text.parse(), Ok(Period(Duration::from_millis(millis))));
    }

    #[rstest]
    #[case("")]
    #[case("5")]
    #[case("s")]
    #[case("-5s")]
    #[case("+5s")]
    #[case("1.5s")]
    #[case("5 s")]
    #[case(" 5s")]
    #[case("5s ")]
    #[case("5S")]
    #[case("5sec")]
    #[case("1h30m")]
    #[case("٥s")]
    #[case("0s")]
    #[case("36501d")]
    #[case("18446744073709551615d")]
    #[case("99999999999999999999s")]
    fn other_durations_are_refused(#[case] text: &str) {
        assert!(text.parse::<Period>().is_err(), "{text:?} was taken for a duration");
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back_as_itself(millis in 1..=3_153_600_000_000_u64) {
            let period = Period(Duration::from_millis(millis));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }
    }

    #[rstest]
    #[case("https://ca:15012", "ca", 15012)]
    #[case("https://ca", "ca", 15012)]
    #[case("https://ca/", "ca", 15012)]
    #[case("https://10.0.0.1:443", "10.0.0.1", 443)]
    #[case("https://[::1]:15012", "::1", 15012)]
    fn a_ca_is_an_https_origin(#[case] text: &str, #[case] host: &str, #[case] port: u16) {
        assert_eq!(text.parse(), Ok(HttpsOrigin { host: host.to_owned(), port }));
    }

    #[rstest]
    #[case("ca:15012")]
    #[case("http://ca:15012")]
    #[case("https://")]
    #[case("https://ca:0")]
    #[case("https://ca:")]
    #[case("https://ca:99999")]
    #[case("https://user@ca:15012")]
    #[case("https://ca:15012/v1")]
    #[case("https://ca:15012?x")]
    fn other_addresses_of_a_ca_are_refused(#[case] text: &str) {
        assert!(text.parse::<HttpsOrigin>().is_err(), "{text:?} was taken for an origin");
    }

    #[rstest]
    #[case("backend:8080", Some(("backend", 8080)))]
    #[case("Backend.Default.svc:80", Some(("backend.default.svc", 80)))]
    #[case("backend", None)]
    #[case(":80", None)]
    #[case("backend:0", None)]
    #[case("backend:http", None)]
    #[case("back end:80", None)]
    #[case("[::1]:80", None)]
    fn a_destination_is_a_host_and_a_port(#[case] text: &str, #[case] expected: Option<(&str, u16)>) {
        let expected = expected.map(|(host, port)| Destination { host: host.to_owned(), port });
        assert_eq!(text.parse().ok(), expected);
    }
}
