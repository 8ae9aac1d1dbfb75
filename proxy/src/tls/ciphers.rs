//! Which cipher suites and groups settings may choose for mesh TLS, by the names that they have in Istio's resources.

use std::fmt;
use std::str::FromStr;

use rustls::CipherSuite::{self, *};
use rustls::NamedGroup;
use rustls::crypto::CryptoProvider;

use super::TlsVersion;

/// What may be negotiated, in the order in which it is preferred. A list that is empty leaves the choice to rustls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Ciphers {
    suites: &'static [Suite],
    groups: &'static [Group],
}

/// A cipher suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suite(CipherSuite);

/// A group of the key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group(NamedGroup);

/// What is known of a suite: IANA's name, which the connection record has, and OpenSSL's, which Istio's resources have. Of TLS
/// 1.3 they are the same.
const SUITES: [(CipherSuite, &str, &str); 9] = [
    (TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
    (TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
    (TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
    (
        TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
    ),
    (
        TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-ECDSA-AES128-GCM-SHA256",
    ),
    (
        TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
    ),
    (
        TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ),
    (
        TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ),
    (
        TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "ECDHE-RSA-CHACHA20-POLY1305",
    ),
];

/// The groups by Istio's names.
const GROUPS: [(NamedGroup, &str); 4] = [
    (NamedGroup::X25519MLKEM768, "X25519MLKEM768"),
    (NamedGroup::X25519, "X25519"),
    (NamedGroup::secp256r1, "P-256"),
    (NamedGroup::secp384r1, "P-384"),
];

/// A name that is not spoken here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnknownCipher {
    /// In a list of suites.
    #[error("`{0}` is no cipher suite that is spoken here; known are {known}, by OpenSSL's or by IANA's names", known = listed(SUITES.map(|(_, _, name)| name)))]
    Suite(String),
    /// In a list of groups.
    #[error("`{0}` is no group that is spoken here; known are {known}", known = listed(GROUPS.map(|(_, name)| name)))]
    Group(String),
}

fn listed<const N: usize>(names: [&str; N]) -> String {
    names.join(", ")
}

impl Suite {
    /// The only version that has it.
    fn version(self) -> TlsVersion {
        match self.0 {
            TLS13_AES_256_GCM_SHA384 | TLS13_AES_128_GCM_SHA256 | TLS13_CHACHA20_POLY1305_SHA256 => {
                TlsVersion::Tls13
            }
            _ => TlsVersion::Tls12,
        }
    }
}

impl FromStr for Suite {
    type Err = UnknownCipher;

    fn from_str(text: &str) -> Result<Self, UnknownCipher> {
        let found = SUITES.iter().find(|(_, iana, openssl)| text == *iana || text == *openssl);
        found.map(|(suite, _, _)| Self(*suite)).ok_or_else(|| UnknownCipher::Suite(text.to_owned()))
    }
}

/// IANA's name.
impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(iana_name(self.0).unwrap_or_default())
    }
}

/// IANA's name of a suite that is spoken here; rustls has names of its own for those of TLS 1.3.
pub(super) fn iana_name(suite: CipherSuite) -> Option<&'static str> {
    SUITES.iter().find(|(known, _, _)| *known == suite).map(|(_, iana, _)| *iana)
}

impl FromStr for Group {
    type Err = UnknownCipher;

    fn from_str(text: &str) -> Result<Self, UnknownCipher> {
        let found = GROUPS.iter().find(|(_, name)| text == *name);
        found.map(|(group, _)| Self(*group)).ok_or_else(|| UnknownCipher::Group(text.to_owned()))
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = GROUPS.iter().find(|(group, _)| *group == self.0);
        f.write_str(known.map_or("", |(_, name)| name))
    }
}

impl Ciphers {
    /// For the life of the process, which is the life of the setting.
    pub(crate) fn of(suites: Vec<Suite>, groups: Vec<Group>) -> Self {
        Self { suites: suites.leak(), groups: groups.leak() }
    }

    /// The suites that were chosen; none leaves them to rustls.
    pub(crate) fn suites(self) -> &'static [Suite] {
        self.suites
    }

    /// The groups that were chosen; none leaves them to rustls.
    pub(crate) fn groups(self) -> &'static [Group] {
        self.groups
    }

    /// Whether this version has a suite among those that were chosen.
    pub(crate) fn has_suite_of(self, version: TlsVersion) -> bool {
        self.suites.iter().any(|suite| suite.version() == version)
    }

    /// Whether TLS 1.2 has a group among those that were chosen; 1.3 has all.
    pub(crate) fn has_group_of_1_2(self) -> bool {
        self.groups.iter().any(|group| group.0 != NamedGroup::X25519MLKEM768)
    }

    /// Takes from `provider` what was not chosen. A version of which no suite was chosen keeps all of its own: in Istio's
    /// resources those of TLS 1.3 cannot be chosen.
    pub(super) fn narrow(self, provider: &mut CryptoProvider) {
        if !self.suites.is_empty() {
            let all = std::mem::take(&mut provider.cipher_suites);
            let chosen =
                self.suites.iter().filter_map(|suite| all.iter().find(|known| known.suite() == suite.0));
            let left = all.iter().filter(|known| !self.has_suite_of(Suite(known.suite()).version()));
            provider.cipher_suites = left.chain(chosen).copied().collect();
        }
        if !self.groups.is_empty() {
            let all = std::mem::take(&mut provider.kx_groups);
            let chosen =
                self.groups.iter().filter_map(|group| all.iter().find(|known| known.name() == group.0));
            provider.kx_groups = chosen.copied().collect();
        }
    }
}

/// What was chosen, after what is spoken: `, of cipher suites …, of groups …`.
impl fmt::Display for Ciphers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [first, rest @ ..] = self.suites {
            write!(f, ", of cipher suites {first}")?;
            rest.iter().try_for_each(|suite| write!(f, " {suite}"))?;
        }
        if let [first, rest @ ..] = self.groups {
            write!(f, ", of groups {first}")?;
            rest.iter().try_for_each(|group| write!(f, " {group}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::super::provider;
    use super::*;

    #[test]
    fn all_that_rustls_speaks_by_default_has_a_name() {
        let provider = provider();
        let suites: Vec<_> = provider.cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(suites, SUITES.map(|(suite, _, _)| suite));
        let groups: Vec<_> = provider.kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, GROUPS.map(|(group, _)| group));
        for suite in &provider.cipher_suites {
            let version = Suite(suite.suite()).version();
            assert_eq!(version == TlsVersion::Tls13, suite.tls13().is_some(), "{suite:?}");
        }
    }

    #[rstest]
    #[case::openssl("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]
    #[case::iana("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]
    #[case::tls_1_3("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256")]
    fn a_suite_is_known_by_both_names_and_shown_by_ianas(#[case] text: &str, #[case] shown: &str) {
        assert_eq!(text.parse::<Suite>().unwrap().to_string(), shown);
    }

    #[rstest]
    #[case::of_another_kind("AES128-SHA")]
    #[case::in_small_letters("tls_aes_128_gcm_sha256")]
    #[case::as_rustls_has_it("TLS13_AES_128_GCM_SHA256")]
    fn a_suite_that_is_not_spoken_is_refused_with_those_that_are(#[case] text: &str) {
        let error = text.parse::<Suite>().unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("ECDHE-RSA-CHACHA20-POLY1305"), "{error}");
    }

    #[rstest]
    #[case::nothing(&[], &[], 9, 4)]
    #[case::one_of_1_3(&["TLS_AES_128_GCM_SHA256"], &["X25519"], 7, 1)]
    #[case::one_of_1_2(&["ECDHE-RSA-AES128-GCM-SHA256"], &["P-384", "P-256"], 4, 2)]
    #[case::one_of_both(&["ECDHE-RSA-AES128-GCM-SHA256", "TLS_AES_128_GCM_SHA256"], &[], 2, 4)]
    fn what_was_not_chosen_goes_and_a_version_without_a_choice_keeps_its_own(
        #[case] suites: &[&str],
        #[case] groups: &[&str],
        #[case] suites_left: usize,
        #[case] groups_left: usize,
    ) {
        let suites = suites.iter().map(|name| name.parse().unwrap()).collect();
        let ciphers = Ciphers::of(suites, groups.iter().map(|name| name.parse().unwrap()).collect());
        let mut narrowed = CryptoProvider::clone(&provider());
        ciphers.narrow(&mut narrowed);
        assert_eq!((narrowed.cipher_suites.len(), narrowed.kx_groups.len()), (suites_left, groups_left));
        if let Some(first) = ciphers.groups().first() {
            assert_eq!(narrowed.kx_groups[0].name(), first.0, "the order is that of the list");
        }
    }
}
