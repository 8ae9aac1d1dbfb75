//! Bearer tokens as evidence: 256 random bits, delivered in a file or handed out by `pillion-ca token create`.
//!
//! The CA keeps a record of each token, not the token: `tokens/<first 16 hex digits of its SHA-256>.json` with the
//! whole digest, the identity and, for a handed-out one, its end. The records are read when a token is shown, so one
//! that was made or deleted while the CA runs counts at once. Tokens of registrations last as long as their files; where
//! they have a life, the file gets a new one at half of it, and the last one counts to its end. One-time tokens are spent
//! in [`once`].

mod once;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pillion_mesh::spiffe::SpiffeId;
use pillion_mesh::wire::rfc3339;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::files::{self, FileError, Owner, PRIVATE_FILE};
use crate::settings::Registration;

pub(crate) use self::once::{OneTime, SpendError};

/// Bits of randomness in a token, over 8.
const TOKEN_BYTES: usize = 32;
/// Length of a token as text: base64url without padding.
const TOKEN_LENGTH: usize = 43;
/// Hexadecimal digits of the digest that name the record.
const NAME_LENGTH: usize = 16;
/// A temporary file of a record this old was left by a killed process.
const LEFTOVER_AGE: Duration = Duration::from_secs(60);

/// A secret that stands for an identity. Has no Debug, so that no log can show it.
pub(crate) struct Token(Zeroizing<String>);

/// Why a token is refused. Holds nothing of the token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the Authorization header is not of the form: Bearer <token>")]
    NotBearer,
    #[error("the token is not of the form that this CA hands out ({TOKEN_LENGTH} characters of base64url)")]
    Form,
    #[error("the token is unknown: never handed out by this CA, replaced, or deleted")]
    Unknown,
    #[error("the token for {id} expired at {}", rfc3339::print(*.at))]
    Expired { id: SpiffeId, at: SystemTime },
    #[error(
        "the one-time token for {id} was used before: a replay; if its owner did not ask twice, somebody else has read it"
    )]
    Spent { id: SpiffeId },
    #[error("the record of the token is damaged: {0}")]
    Damaged(String),
}

/// What a token proves.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) id: SpiffeId,
    /// Present where it proves it only once.
    pub(crate) once: Option<OneTime>,
}

/// Why a token could not be made or delivered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeliveryError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the system gives no randomness")]
    Randomness,
    #[error("cannot write the record of a token: {0}")]
    Record(#[from] serde_json::Error),
}

/// What the CA keeps of a token.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    /// SHA-256 of the token's text, in hexadecimal.
    sha256: String,
    id: SpiffeId,
    /// Absent for the token of a registration that lasts as long as its file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_after: Option<End>,
    /// Whether it counts for one certificate only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    once: bool,
}

/// A time as the record shows it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct End(#[serde(with = "rfc3339")] SystemTime);

impl Token {
    fn random() -> Result<Self, DeliveryError> {
        let mut bytes = Zeroizing::new([0u8; TOKEN_BYTES]);
        rand::fill(bytes.as_mut()).map_err(|_| DeliveryError::Randomness)?;
        Ok(Token(Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_ref()))))
    }

    /// Takes a text that has a token's form; white space at its ends is an editor's.
    fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim_ascii();
        let alphabet = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.len() == TOKEN_LENGTH && text.bytes().all(alphabet) {
            Ok(Token(Zeroizing::new(text.to_owned())))
        } else {
            Err(TokenError::Form)
        }
    }

    fn from_header(header: &[u8]) -> Result<Self, TokenError> {
        Token::parse(bearer(header)?)
    }

    /// The text, to be handed to its bearer and to nobody else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    fn sha256(&self) -> String {
        let digest = digest::digest(&digest::SHA256, self.0.as_bytes());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The text of a bearer token in an `Authorization` header (RFC 6750 2.1).
pub(crate) fn bearer(header: &[u8]) -> Result<&str, TokenError> {
    let header = std::str::from_utf8(header).map_err(|_| TokenError::NotBearer)?;
    let (scheme, token) = header.split_once(' ').ok_or(TokenError::NotBearer)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token) } else { Err(TokenError::NotBearer) }
}

/// The folder of token records.
pub(crate) struct TokenStore {
    folder: PathBuf,
}

impl TokenStore {
    pub(crate) fn new(folder: PathBuf) -> Self {
        TokenStore { folder }
    }

    /// The identity that the token in this `Authorization` header stands for.
    pub(crate) fn identify(&self, header: &[u8], now: SystemTime) -> Result<Shown, TokenError> {
        let token = Token::from_header(header)?;
        let record = match self.find(&token) {
            Err(TokenError::Unknown) => return Err(self.spent(&token).unwrap_or(TokenError::Unknown)),
            found => found?,
        };
        match record.not_after {
            Some(End(at)) if at <= now => Err(TokenError::Expired { id: record.id, at }),
            _ => Ok(Shown { once: record.once.then(|| self.one_time(&token, &record.id)), id: record.id }),
        }
    }

    /// Makes a token for `id`; without an end it lasts as long as its record.
    pub(crate) fn create(
        &self,
        id: &SpiffeId,
        not_after: Option<SystemTime>,
    ) -> Result<Token, DeliveryError> {
        self.create_record(id, not_after, false)
    }

    fn create_record(
        &self,
        id: &SpiffeId,
        not_after: Option<SystemTime>,
        once: bool,
    ) -> Result<Token, DeliveryError> {
        let token = Token::random()?;
        let sha256 = token.sha256();
        let path = self.path_of(&sha256);
        let record = Record { sha256, id: id.clone(), not_after: not_after.map(End), once };
        files::write_atomic(&path, &serde_json::to_vec(&record)?, PRIVATE_FILE, None)?;
        Ok(token)
    }

    /// Sees to it that each registration's file holds a token that counts, and that no other registration token does.
    ///
    /// A file that already holds the registration's token stays, so a restart changes nothing. One that is absent,
    /// holds something else, or could be read by others is written anew.
    pub(crate) fn deliver(
        &self,
        registrations: &[Registration],
        life: Option<Duration>,
        now: SystemTime,
    ) -> Result<(), DeliveryError> {
        let mut delivered = BTreeSet::new();
        let mut first_fault = None;
        for registration in registrations {
            let Some(path) = &registration.token_file else { continue };
            let token = match self.delivered_before(path, registration, life, now) {
                Some(token) => Ok(token),
                None => self.deliver_anew(path, registration, life, now),
            };
            match token {
                Ok(token) => drop(delivered.insert(self.path_of(&token.sha256()))),
                // The others get theirs nevertheless.
                Err(fault) => first_fault = first_fault.or(Some(fault)),
            }
        }
        if let Some(fault) = first_fault {
            return Err(fault);
        }
        self.sweep(&delivered, now)?;
        Ok(())
    }

    fn deliver_anew(
        &self,
        path: &Path,
        registration: &Registration,
        life: Option<Duration>,
        now: SystemTime,
    ) -> Result<Token, DeliveryError> {
        // The record first: what is in the file counts from the moment somebody can read it.
        let token = self.create(&registration.id, life.and_then(|life| now.checked_add(life)))?;
        files::ensure_private_folder(files::parent_of(path), registration.owner)?;
        files::write_atomic(path, token.reveal().as_bytes(), PRIVATE_FILE, registration.owner)?;
        tracing::info!(id = registration.id.as_str(), file = %path.display(), "delivered a new token");
        Ok(token)
    }

    /// The token that the file holds, if the file is as we would write it and the token lasts for long enough.
    fn delivered_before(
        &self,
        path: &Path,
        registration: &Registration,
        life: Option<Duration>,
        now: SystemTime,
    ) -> Option<Token> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let owned =
            |owner: Owner| metadata.uid() == owner.uid && owner.gid.is_none_or(|gid| metadata.gid() == gid);
        let as_written = metadata.is_file()
            && metadata.len() <= 4 * TOKEN_LENGTH as u64
            && metadata.permissions().mode() & 0o077 == 0
            && registration.owner.is_none_or(owned);
        if !as_written {
            return None;
        }
        let text = Zeroizing::new(fs::read_to_string(path).ok()?);
        let token = Token::parse(&text).ok()?;
        let record = self.find(&token).ok()?;
        let lasts = match (record.not_after, life) {
            (None, None) => true,
            (Some(End(at)), Some(life)) => at.duration_since(now).is_ok_and(|left| left > life / 2),
            (None, Some(_)) | (Some(_), None) => false,
        };
        (record.id == registration.id && lasts).then_some(token)
    }

    /// Looks the record up by a part of the digest and compares the whole of it in constant time.
    fn find(&self, token: &Token) -> Result<Record, TokenError> {
        let sha256 = token.sha256();
        read_record(&self.path_of(&sha256), &sha256)
    }

    fn path_of(&self, sha256: &str) -> PathBuf {
        let name: String = sha256.chars().take(NAME_LENGTH).collect();
        self.folder.join(name).with_extension("json")
    }

    /// Deletes the records of tokens that count no more: expired, replaced, of registrations taken away, damaged.
    fn sweep(&self, delivered: &BTreeSet<PathBuf>, now: SystemTime) -> Result<(), FileError> {
        let entries = fs::read_dir(&self.folder).map_err(FileError::new("list", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(FileError::new("list", &self.folder))?.path();
            if !delivered.contains(&path) && counts_no_more(&path, now) {
                fs::remove_file(&path).map_err(FileError::new("delete", &path))?;
            }
        }
        Ok(())
    }
}

fn read_record(path: &Path, sha256: &str) -> Result<Record, TokenError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TokenError::Unknown),
        Err(error) => return Err(TokenError::Damaged(error.to_string())),
    };
    let record: Record = parse_record(&bytes)?;
    constant_time::verify_slices_are_equal(record.sha256.as_bytes(), sha256.as_bytes())
        .map_err(|_| TokenError::Unknown)?;
    Ok(record)
}

fn parse_record(bytes: &[u8]) -> Result<Record, TokenError> {
    serde_json::from_slice(bytes).map_err(|error| TokenError::Damaged(error.to_string()))
}

/// Reads a record, and holds that writing it gives the same one; for fuzzers.
pub(crate) fn read_and_write(bytes: &[u8]) {
    if let Ok(record) = parse_record(bytes) {
        let written = serde_json::to_vec(&record).unwrap_or_default();
        let again = parse_record(&written).ok().and_then(|record| serde_json::to_vec(&record).ok());
        assert_eq!(again, Some(written), "a record that changes when it is written");
    }
}

/// Whether a record that belongs to no delivered token can go.
fn counts_no_more(path: &Path, now: SystemTime) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json" | once::SPENT) => {}
        // `token create` may be writing beside us.
        Some("tmp") => {
            let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
            return modified.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFTOVER_AGE));
        }
        _ => return false,
    }
    let record = fs::read(path).ok().and_then(|bytes| parse_record(&bytes).ok());
    match record {
        Some(Record { not_after: Some(End(at)), .. }) => at <= now,
        Some(Record { not_after: None, .. }) => true,
        None => {
            tracing::warn!(record = %path.display(), "deleting a damaged token record");
            true
        }
    }
}

#[cfg(test)]
mod tests;
