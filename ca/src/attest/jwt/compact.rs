//! The compact form of a signed token (RFC 7515 7.1): three parts of base64url with dots between.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pillion_mesh::jwt::Claims;
use serde::Deserialize;

use super::JwtError;
use super::keys::{Algorithm, Key};

/// A token taken apart; nothing of it is believed before [`Compact::verify`].
pub(super) struct Compact<'a> {
    header: Header,
    pub(super) claims: Claims,
    /// Header and claims as they were signed.
    signed: &'a str,
    signature: Vec<u8>,
}

/// What is read of the header. `jwk`, `jku`, `x5c` and others by which a token would bring its own key are not.
#[derive(Deserialize)]
struct Header {
    alg: Algorithm,
    kid: Option<String>,
    /// Extensions that a reader must understand; this one understands none (RFC 7515 4.1.11).
    crit: Option<serde_json::Value>,
}

impl<'a> Compact<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, JwtError> {
        let (signed, signature) = token.rsplit_once('.').ok_or(JwtError::Form("it has no signature"))?;
        let (header, claims) = signed.split_once('.').ok_or(JwtError::Form("it has no claims"))?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| {
            JwtError::Form("its header is malformed, or of an algorithm that is not accepted")
        })?;
        if header.crit.is_some() {
            return Err(JwtError::Form("its header has critical extensions"));
        }
        let claims = serde_json::from_slice(&decode(claims)?)
            .map_err(|_| JwtError::Form("its claims are no JSON object with iss, sub, aud, exp"))?;
        Ok(Compact { header, claims, signed, signature: decode(signature)? })
    }

    /// The key that it says it is signed with.
    pub(super) fn kid(&self) -> Option<&str> {
        self.header.kid.as_deref()
    }

    /// Whether it is signed with this key, by an algorithm that is this key's.
    pub(super) fn verify(&self, key: &Key) -> Result<(), ()> {
        key.verify(self.header.alg, self.signed.as_bytes(), &self.signature)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, JwtError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| JwtError::Form("a part is not base64url"))
}
