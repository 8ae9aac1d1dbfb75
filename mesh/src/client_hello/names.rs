//! The names that IANA has registered for the numbers in a ClientHello, as far as clients send them ("TLS Parameters",
//! iana.org/assignments/tls-parameters). A number of another kind is told as `0x1234`.
//!
//! Records keep numbers and show names: a name is made only when somebody asks to see it.

use std::borrow::Cow;

/// The names of numbers of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names(&'static [(u16, &'static str)]);

impl Names {
    /// The number's name, or `0x1234`.
    #[must_use]
    pub fn name(self, number: u16) -> Cow<'static, str> {
        match self.0.iter().find(|(known, _)| *known == number) {
            Some((_, name)) => Cow::Borrowed(name),
            None => Cow::Owned(format!("{number:#06x}")),
        }
    }

    /// The number of a name, or of `0x1234`.
    #[must_use]
    pub fn number(self, name: &str) -> Option<u16> {
        let known = self.0.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
        known.or_else(|| u16::from_str_radix(name.strip_prefix("0x")?, 16).ok())
    }

    /// The names of some numbers.
    #[must_use]
    pub fn names(self, numbers: &[u16]) -> Vec<Cow<'static, str>> {
        numbers.iter().map(|number| self.name(*number)).collect()
    }
}

/// A list of numbers of one kind that is a list of their names in JSON. Names that a reader does not know it leaves out.
macro_rules! as_names {
    ($(#[$doc:meta])* $module:ident, $names:ident) => {
        $(#[$doc])*
        pub mod $module {
            use serde::{Deserialize, Deserializer, Serializer};

            /// Serde's `serialize_with`.
            ///
            /// # Errors
            /// Those of the serializer.
            pub fn serialize<S: Serializer>(numbers: &[u16], serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(numbers.iter().map(|number| super::$names.name(*number)))
            }

            /// Serde's `deserialize_with`.
            ///
            /// # Errors
            /// When it is not a list of texts.
            pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u16>, D::Error> {
                let names = Vec::<String>::deserialize(deserializer)?;
                Ok(names.iter().filter_map(|name| super::$names.number(name)).collect())
            }
        }
    };
}

as_names! {
    /// Protocol versions as their names.
    versions, VERSIONS
}
as_names! {
    /// Groups as their names.
    groups, GROUPS
}
as_names! {
    /// Cipher suites as their names.
    cipher_suites, CIPHER_SUITES
}
as_names! {
    /// Signature algorithms as their names.
    signature_algorithms, SIGNATURE_ALGORITHMS
}

/// Protocol versions, written as elsewhere in a connection's record.
pub const VERSIONS: Names = Names(&[
    (0x0300, "SSLv3"),
    (0x0301, "TLSv1.0"),
    (0x0302, "TLSv1.1"),
    (0x0303, "TLSv1.2"),
    (0x0304, "TLSv1.3"),
]);

/// "TLS Supported Groups": of key exchange (RFC 8446 4.2.7).
pub const GROUPS: Names = Names(&[
    (0x0013, "secp192r1"),
    (0x0015, "secp224r1"),
    (0x0016, "secp256k1"),
    (0x0017, "secp256r1"),
    (0x0018, "secp384r1"),
    (0x0019, "secp521r1"),
    (0x001a, "brainpoolP256r1"),
    (0x001b, "brainpoolP384r1"),
    (0x001c, "brainpoolP512r1"),
    (0x001d, "x25519"),
    (0x001e, "x448"),
    (0x001f, "brainpoolP256r1tls13"),
    (0x0020, "brainpoolP384r1tls13"),
    (0x0021, "brainpoolP512r1tls13"),
    (0x0029, "curveSM2"),
    (0x0100, "ffdhe2048"),
    (0x0101, "ffdhe3072"),
    (0x0102, "ffdhe4096"),
    (0x0103, "ffdhe6144"),
    (0x0104, "ffdhe8192"),
    (0x0200, "MLKEM512"),
    (0x0201, "MLKEM768"),
    (0x0202, "MLKEM1024"),
    (0x11eb, "SecP256r1MLKEM768"),
    (0x11ec, "X25519MLKEM768"),
    (0x11ed, "SecP384r1MLKEM1024"),
    (0x6399, "X25519Kyber768Draft00"),
]);

/// "TLS SignatureScheme" (RFC 8446 4.2.3), with the pairs of hash and signature of TLS 1.2 that OpenSSL and Java still
/// offer.
pub const SIGNATURE_ALGORITHMS: Names = Names(&[
    (0x0201, "rsa_pkcs1_sha1"),
    (0x0202, "dsa_sha1"),
    (0x0203, "ecdsa_sha1"),
    (0x0301, "rsa_pkcs1_sha224"),
    (0x0302, "dsa_sha224"),
    (0x0303, "ecdsa_sha224"),
    (0x0401, "rsa_pkcs1_sha256"),
    (0x0402, "dsa_sha256"),
    (0x0403, "ecdsa_secp256r1_sha256"),
    (0x0501, "rsa_pkcs1_sha384"),
    (0x0502, "dsa_sha384"),
    (0x0503, "ecdsa_secp384r1_sha384"),
    (0x0601, "rsa_pkcs1_sha512"),
    (0x0602, "dsa_sha512"),
    (0x0603, "ecdsa_secp521r1_sha512"),
    (0x0804, "rsa_pss_rsae_sha256"),
    (0x0805, "rsa_pss_rsae_sha384"),
    (0x0806, "rsa_pss_rsae_sha512"),
    (0x0807, "ed25519"),
    (0x0808, "ed448"),
    (0x0809, "rsa_pss_pss_sha256"),
    (0x080a, "rsa_pss_pss_sha384"),
    (0x080b, "rsa_pss_pss_sha512"),
    (0x081a, "ecdsa_brainpoolP256r1tls13_sha256"),
    (0x081b, "ecdsa_brainpoolP384r1tls13_sha384"),
    (0x081c, "ecdsa_brainpoolP512r1tls13_sha512"),
    (0x0904, "mldsa44"),
    (0x0905, "mldsa65"),
    (0x0906, "mldsa87"),
]);

/// "TLS Cipher Suites".
#[rustfmt::skip] // one a line
pub const CIPHER_SUITES: Names = Names(&[
    (0x0004, "TLS_RSA_WITH_RC4_128_MD5"),
    (0x0005, "TLS_RSA_WITH_RC4_128_SHA"),
    (0x000a, "TLS_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x0013, "TLS_DHE_DSS_WITH_3DES_EDE_CBC_SHA"),
    (0x0016, "TLS_DHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0x002f, "TLS_RSA_WITH_AES_128_CBC_SHA"),
    (0x0032, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA"),
    (0x0033, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA"),
    (0x0035, "TLS_RSA_WITH_AES_256_CBC_SHA"),
    (0x0038, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA"),
    (0x0039, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA"),
    (0x003c, "TLS_RSA_WITH_AES_128_CBC_SHA256"),
    (0x003d, "TLS_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0040, "TLS_DHE_DSS_WITH_AES_128_CBC_SHA256"),
    (0x0041, "TLS_RSA_WITH_CAMELLIA_128_CBC_SHA"),
    (0x0044, "TLS_DHE_DSS_WITH_CAMELLIA_128_CBC_SHA"),
    (0x0045, "TLS_DHE_RSA_WITH_CAMELLIA_128_CBC_SHA"),
    (0x0067, "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0x006a, "TLS_DHE_DSS_WITH_AES_256_CBC_SHA256"),
    (0x006b, "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256"),
    (0x0084, "TLS_RSA_WITH_CAMELLIA_256_CBC_SHA"),
    (0x0087, "TLS_DHE_DSS_WITH_CAMELLIA_256_CBC_SHA"),
    (0x0088, "TLS_DHE_RSA_WITH_CAMELLIA_256_CBC_SHA"),
    (0x009c, "TLS_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009d, "TLS_RSA_WITH_AES_256_GCM_SHA384"),
    (0x009e, "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0x009f, "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0x00a2, "TLS_DHE_DSS_WITH_AES_128_GCM_SHA256"),
    (0x00a3, "TLS_DHE_DSS_WITH_AES_256_GCM_SHA384"),
    (0x00ff, "TLS_EMPTY_RENEGOTIATION_INFO_SCSV"),
    (0x1301, "TLS_AES_128_GCM_SHA256"),
    (0x1302, "TLS_AES_256_GCM_SHA384"),
    (0x1303, "TLS_CHACHA20_POLY1305_SHA256"),
    (0x1304, "TLS_AES_128_CCM_SHA256"),
    (0x1305, "TLS_AES_128_CCM_8_SHA256"),
    (0x5600, "TLS_FALLBACK_SCSV"),
    (0xc003, "TLS_ECDH_ECDSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc004, "TLS_ECDH_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc005, "TLS_ECDH_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc007, "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA"),
    (0xc008, "TLS_ECDHE_ECDSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc009, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"),
    (0xc00a, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA"),
    (0xc00d, "TLS_ECDH_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc00e, "TLS_ECDH_RSA_WITH_AES_128_CBC_SHA"),
    (0xc00f, "TLS_ECDH_RSA_WITH_AES_256_CBC_SHA"),
    (0xc011, "TLS_ECDHE_RSA_WITH_RC4_128_SHA"),
    (0xc012, "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA"),
    (0xc013, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA"),
    (0xc014, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA"),
    (0xc023, "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc024, "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc025, "TLS_ECDH_ECDSA_WITH_AES_128_CBC_SHA256"),
    (0xc026, "TLS_ECDH_ECDSA_WITH_AES_256_CBC_SHA384"),
    (0xc027, "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc028, "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384"),
    (0xc029, "TLS_ECDH_RSA_WITH_AES_128_CBC_SHA256"),
    (0xc02a, "TLS_ECDH_RSA_WITH_AES_256_CBC_SHA384"),
    (0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02d, "TLS_ECDH_ECDSA_WITH_AES_128_GCM_SHA256"),
    (0xc02e, "TLS_ECDH_ECDSA_WITH_AES_256_GCM_SHA384"),
    (0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    (0xc031, "TLS_ECDH_RSA_WITH_AES_128_GCM_SHA256"),
    (0xc032, "TLS_ECDH_RSA_WITH_AES_256_GCM_SHA384"),
    (0xc09c, "TLS_RSA_WITH_AES_128_CCM"),
    (0xc09d, "TLS_RSA_WITH_AES_256_CCM"),
    (0xc09e, "TLS_DHE_RSA_WITH_AES_128_CCM"),
    (0xc09f, "TLS_DHE_RSA_WITH_AES_256_CCM"),
    (0xc0a0, "TLS_RSA_WITH_AES_128_CCM_8"),
    (0xc0a1, "TLS_RSA_WITH_AES_256_CCM_8"),
    (0xc0a2, "TLS_DHE_RSA_WITH_AES_128_CCM_8"),
    (0xc0a3, "TLS_DHE_RSA_WITH_AES_256_CCM_8"),
    (0xc0ac, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM"),
    (0xc0ad, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM"),
    (0xc0ae, "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
    (0xc0af, "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8"),
    (0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    (0xccaa, "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
]);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rstest::rstest;
    use rustls::{CipherSuite, NamedGroup, SignatureScheme};

    use super::*;

    #[rstest]
    #[case(VERSIONS)]
    #[case(GROUPS)]
    #[case(CIPHER_SUITES)]
    #[case(SIGNATURE_ALGORITHMS)]
    fn every_number_is_read_back_from_its_name(#[case] names: Names) {
        let mut seen = HashSet::new();
        for number in 0..=u16::MAX {
            let name = names.name(number);
            assert_eq!(names.number(&name), Some(number), "{name}");
            assert!(seen.insert(name.clone()), "{name} stands twice");
        }
        assert_eq!((names.number("invented"), names.number("0x10000")), (None, None));
    }

    /// IANA's spelling is another than rustls' in case, and in `TLS13_`.
    #[test]
    fn the_numbers_are_those_of_the_tls_library() {
        let same = |ours: &str, theirs: String| {
            let spelling = |name: &str| name.replace("TLS13_", "TLS_").replace('_', "").to_lowercase();
            // What it does not know it tells by its number.
            theirs.contains("0x") || spelling(ours) == spelling(&theirs)
        };
        for (number, name) in CIPHER_SUITES.0 {
            let theirs = format!("{:?}", CipherSuite::from(*number));
            assert!(same(name, theirs.clone()), "{number:#x}: {name} and {theirs}");
        }
        for (number, name) in GROUPS.0 {
            let theirs = format!("{:?}", NamedGroup::from(*number));
            assert!(same(name, theirs.clone()), "{number:#x}: {name} and {theirs}");
        }
        for (number, name) in SIGNATURE_ALGORITHMS.0 {
            let theirs = format!("{:?}", SignatureScheme::from(*number));
            let pairs_with_a_curve = theirs.starts_with("ECDSA_NISTP") || theirs.ends_with("SHA1_Legacy");
            assert!(
                pairs_with_a_curve || same(name, theirs.clone().replace("RSA_PSS_", "RSA_PSS_RSAE_")),
                "{number:#x}: {name} and {theirs}"
            );
        }
    }
}
