//! Faults on purpose, for lessons and tests: `pillion-ca serve --fault NAME`. What each does to a CA is in
//! `server::faults`; here is what they are called.

use std::fmt;
use std::time::Duration;

use pillion_mesh::duration;

/// The longest delay of `slow`.
const SLOWEST: Duration = Duration::from_secs(600);

/// One way to misbehave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The API refuses connections, as if the CA were not there. Monitoring goes on.
    Down,
    /// Every answer of the API comes this much later.
    Slow(Duration),
    /// Every connection is reset after its handshake.
    HangUp,
    /// Every CSR is answered with 500.
    Error,
    /// Every CSR is answered with 429.
    Busy,
    /// Every CSR is answered with 401.
    Refuse,
    /// Certificates that are none.
    Garbage,
    /// Certificates of another identity than the evidence proves.
    WrongIdentity,
    /// Certificates of another key than the CSR's.
    OtherKey,
    /// Certificates signed by a root that is not in the bundle.
    OtherRoot,
    /// Certificates that begin in an hour.
    NotYetValid,
    /// Certificates that ended an hour ago.
    Expired,
    /// A bundle that holds another root than the one that signs.
    BundleWithoutOwnRoot,
    /// A bundle that is none.
    GarbageBundle,
}

/// Every fault as a person writes it, with what it does.
const NAMES: [(&str, &str); 14] = [
    ("down", "refuse every connection"),
    ("slow=DURATION", "answer that much later"),
    ("hang-up", "reset every connection after its handshake"),
    ("error", "answer every CSR with 500"),
    ("busy", "answer every CSR with 429"),
    ("refuse", "answer every CSR with 401"),
    ("garbage", "issue what is no certificate"),
    ("wrong-identity", "issue certificates of another identity"),
    ("other-key", "issue certificates of another key"),
    ("other-root", "sign with a root that is not in the bundle"),
    ("not-yet-valid", "issue certificates that begin in an hour"),
    ("expired", "issue certificates that ended an hour ago"),
    ("bundle-without-own-root", "publish another root than the one that signs"),
    ("garbage-bundle", "publish what is no bundle"),
];

impl Fault {
    /// Reads `down`, `slow=5s` and so on.
    ///
    /// # Errors
    /// All that can be written, where this cannot.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(delay) = text.strip_prefix("slow=") {
            let delay = duration::parse(delay).map_err(|error| error.to_string())?;
            let possible = !delay.is_zero() && delay <= SLOWEST;
            return if possible { Ok(Fault::Slow(delay)) } else { Err("expected at most 10m".to_owned()) };
        }
        let plain = [
            Fault::Down,
            Fault::HangUp,
            Fault::Error,
            Fault::Busy,
            Fault::Refuse,
            Fault::Garbage,
            Fault::WrongIdentity,
            Fault::OtherKey,
            Fault::OtherRoot,
            Fault::NotYetValid,
            Fault::Expired,
            Fault::BundleWithoutOwnRoot,
            Fault::GarbageBundle,
        ];
        plain.into_iter().find(|fault| fault.name() == text).ok_or_else(|| {
            let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("expected one of {}", names.join(", "))
        })
    }

    /// Its name, without a value.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Down => "down",
            Fault::Slow(_) => "slow",
            Fault::HangUp => "hang-up",
            Fault::Error => "error",
            Fault::Busy => "busy",
            Fault::Refuse => "refuse",
            Fault::Garbage => "garbage",
            Fault::WrongIdentity => "wrong-identity",
            Fault::OtherKey => "other-key",
            Fault::OtherRoot => "other-root",
            Fault::NotYetValid => "not-yet-valid",
            Fault::Expired => "expired",
            Fault::BundleWithoutOwnRoot => "bundle-without-own-root",
            Fault::GarbageBundle => "garbage-bundle",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Slow(delay) => write!(f, "slow={}", duration::print(*delay)),
            fault => f.write_str(fault.name()),
        }
    }
}

/// What `--help` says of them.
pub(crate) fn help() -> String {
    let width = NAMES.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<_> = NAMES.iter().map(|(name, what)| format!("- {name:width$}  {what}")).collect();
    format!("Misbehave on purpose, for lessons and tests; can be given more than once:\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_help_is_read_and_printed_as_it_was_written() {
        for (name, _) in NAMES {
            let name = name.replace("DURATION", "5s");
            assert_eq!(Fault::parse(&name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn another_name_is_refused_with_those_there_are() {
        for (text, expected) in [
            ("dwon", "expected one of down, slow=DURATION"),
            ("slow=1h", "at most 10m"),
            ("slow=", "duration"),
        ] {
            let error = Fault::parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
