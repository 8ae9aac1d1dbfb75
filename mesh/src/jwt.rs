//! What a JSON Web Token must say before it proves an identity (RFC 7519, RFC 8725), and whose it proves. That its
//! signature verifies, the caller has seen to.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use crate::spiffe::{SpiffeId, TrustDomain};
use crate::wire::rfc3339;

/// How far an issuer's clock may be ahead of ours. Behind ours it need not be: an end is an end.
pub const AHEAD: Duration = Duration::from_secs(60);
/// Begins the subject of a token of Kubernetes.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The claims that are judged.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Claims {
    /// Who issued it.
    pub iss: String,
    /// Whom it speaks of.
    #[serde(default)]
    pub sub: Option<String>,
    /// For whom it was issued.
    #[serde(default)]
    aud: Audience,
    /// The end of its validity, in seconds since 1970.
    #[serde(default)]
    exp: Option<f64>,
    /// The begin of its validity, likewise.
    #[serde(default)]
    nbf: Option<f64>,
}

/// One audience as a text, or several (RFC 7519 4.1.3).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Audience::Many(Vec::new())
    }
}

/// Why a token proves nothing. Holds nothing of the token but what names its owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// No `exp`, or one that is no time.
    #[error("the token does not say when it expires (exp)")]
    Endless,
    /// `exp` is over.
    #[error("the token expired at {} (exp); our clock says {}", rfc3339::print(*.at), rfc3339::print(*.now))]
    Expired {
        /// The end.
        at: SystemTime,
        /// By which clock.
        now: SystemTime,
    },
    /// `nbf` is still to come.
    #[error("the token is valid from {} on (nbf); our clock says {}", rfc3339::print(*.at), rfc3339::print(*.now))]
    NotYetValid {
        /// The begin.
        at: SystemTime,
        /// By which clock.
        now: SystemTime,
    },
    /// Another issuer.
    #[error("the token is of the issuer {seen:?}; expected {expected:?}")]
    Issuer {
        /// Of the settings.
        expected: String,
        /// Of the token.
        seen: String,
    },
    /// Another audience, or none.
    #[error("the token is for {seen:?} (aud); expected {expected:?}")]
    Audience {
        /// Of the settings.
        expected: String,
        /// Of the token.
        seen: Vec<String>,
    },
    /// A subject that is no service account.
    #[error("the token's subject is {0:?}; expected {SERVICE_ACCOUNT}NAMESPACE:NAME")]
    Subject(String),
}

impl Claims {
    /// Whether the token is of this issuer, for this audience, and valid at `now`.
    ///
    /// # Errors
    /// The first that is not so.
    pub fn check(&self, issuer: &str, audience: &str, now: SystemTime) -> Result<(), ClaimError> {
        if self.iss != issuer {
            return Err(ClaimError::Issuer { expected: issuer.to_owned(), seen: self.iss.clone() });
        }
        let at = self.exp.and_then(time).ok_or(ClaimError::Endless)?;
        if at <= now {
            return Err(ClaimError::Expired { at, now });
        }
        if let Some(begin) = self.nbf {
            let at = time(begin).ok_or(ClaimError::Endless)?;
            if at > now + AHEAD {
                return Err(ClaimError::NotYetValid { at, now });
            }
        }
        let seen = match &self.aud {
            Audience::One(audience) => std::slice::from_ref(audience),
            Audience::Many(audiences) => audiences,
        };
        if seen.iter().any(|seen| seen == audience) {
            return Ok(());
        }
        Err(ClaimError::Audience { expected: audience.to_owned(), seen: seen.to_vec() })
    }

    /// The identity of the service account that is the subject: `system:serviceaccount:<namespace>:<name>` is
    /// `spiffe://<trust domain>/ns/<namespace>/sa/<name>`.
    ///
    /// # Errors
    /// For any other subject.
    pub fn service_account(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, ClaimError> {
        let subject = self.sub.as_deref().unwrap_or_default();
        let parts = subject.strip_prefix(SERVICE_ACCOUNT).and_then(|rest| rest.split_once(':'));
        parts
            .and_then(|(namespace, name)| SpiffeId::of_service_account(trust_domain, namespace, name).ok())
            .ok_or_else(|| ClaimError::Subject(subject.to_owned()))
    }
}

/// Seconds since 1970, fractions allowed (RFC 7519 2, NumericDate).
fn time(seconds: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(seconds).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn good() -> serde_json::Value {
        json!({
            "iss": "https://issuer.example",
            "sub": "system:serviceaccount:shop:backend",
            "aud": ["pillion-ca", "other"],
            "exp": NOW + 600,
            "nbf": NOW - 5,
            "kubernetes.io": {"namespace": "shop"},
        })
    }

    fn check(claims: serde_json::Value) -> Result<(), ClaimError> {
        let claims: Claims = serde_json::from_value(claims).unwrap();
        claims.check("https://issuer.example", "pillion-ca", at(NOW))
    }

    #[test]
    fn a_token_of_the_issuer_for_the_audience_within_its_time_is_good() {
        assert_eq!(check(good()), Ok(()));
    }

    #[rstest]
    #[case::issuer("iss", json!("https://issuer.example/"), "expected \"https://issuer.example\"")]
    #[case::issuer_in_capitals("iss", json!("https://ISSUER.example"), "expected \"https://issuer.example\"")]
    #[case::audience("aud", json!("pillion"), "for [\"pillion\"]")]
    #[case::audience_prefix("aud", json!(["pillion-ca2", "PILLION-CA"]), "expected \"pillion-ca\"")]
    #[case::no_audience("aud", json!([]), "for []")]
    #[case::expired("exp", json!(NOW), "expired at")]
    #[case::expired_long_ago("exp", json!(0), "expired at 1970-01-01T00:00:00")]
    #[case::negative_end("exp", json!(-1), "does not say when it expires")]
    #[case::endless("exp", json!(null), "does not say when it expires")]
    #[case::end_beyond_time("exp", json!(1e300), "does not say when it expires")]
    #[case::not_yet("nbf", json!(NOW + 61), "is valid from")]
    fn req_33_a_token_that_is_foreign_or_out_of_its_time_is_refused(
        #[case] claim: &str,
        #[case] value: serde_json::Value,
        #[case] expected: &str,
    ) {
        let mut claims = good();
        claims[claim] = value;
        let error = check(claims).unwrap_err().to_string();
        assert!(error.contains(expected), "expected {expected:?}; seen {error:?}");
    }

    #[rstest]
    #[case::one_audience("aud", json!("pillion-ca"))]
    #[case::a_fraction("exp", json!(1_800_000_000.5))]
    #[case::no_begin("nbf", json!(null))]
    #[case::an_issuer_that_is_ahead("nbf", json!(NOW + 60))]
    fn what_is_good_in_another_way_is_good(#[case] claim: &str, #[case] value: serde_json::Value) {
        let mut claims = good();
        claims[claim] = value;
        assert_eq!(check(claims), Ok(()));
    }

    #[rstest]
    #[case("system:serviceaccount:shop:backend", Some("spiffe://cluster.local/ns/shop/sa/backend"))]
    #[case("system:serviceaccount:shop", None)]
    #[case("system:serviceaccount:shop:", None)]
    #[case("system:serviceaccount::backend", None)]
    #[case("system:serviceaccount:shop:backend:more", None)]
    #[case("system:serviceaccount:shop:back/end", None)]
    #[case("system:serviceaccount:..:backend", None)]
    #[case("system:node:backend", None)]
    #[case("SYSTEM:serviceaccount:shop:backend", None)]
    #[case(" system:serviceaccount:shop:backend", None)]
    #[case("", None)]
    fn req_31_a_service_account_is_one_identity_and_nothing_else_is_any(
        #[case] subject: &str,
        #[case] expected: Option<&str>,
    ) {
        let mut claims = good();
        claims["sub"] = json!(subject);
        let claims: Claims = serde_json::from_value(claims).unwrap();
        let id = claims.service_account(&"cluster.local".parse().unwrap());
        assert_eq!(id.ok().as_ref().map(SpiffeId::as_str), expected);
    }

    proptest! {
        #[test]
        fn req_31_two_subjects_are_never_one_identity(
            one in "[a-z:/.]{0,12}", other in "[a-z:/.]{0,12}",
        ) {
            let identity = |rest: &str| {
                let claims = Claims {
                    iss: String::new(),
                    sub: Some(format!("{SERVICE_ACCOUNT}{rest}")),
                    aud: Audience::default(),
                    exp: None,
                    nbf: None,
                };
                claims.service_account(&"cluster.local".parse().unwrap()).ok()
            };
            if let (Some(first), Some(second)) = (identity(&one), identity(&other)) {
                prop_assert_eq!(first == second, one == other);
            }
        }
    }
}
