//! The signers as the CA keeps them on the disk: one JSON text, replaced as a whole with every change.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{MOST, Signer, Signers, Stage};
use crate::duration;
use crate::wire::rfc3339;

/// The form of the record.
const VERSION: u32 = 1;

/// Why a text is no record of signers. Nothing is guessed in its place.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of this form.
    #[error("expected the record of the signers in JSON; seen: {0}")]
    Form(#[from] serde_json::Error),
    /// Of another version of pillion.
    #[error("it has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// JSON of this form that cannot be.
    #[error("{0}")]
    Sense(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Record {
    version: u32,
    sequence: u64,
    signers: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(with = "rfc3339")]
    not_before: SystemTime,
    #[serde(with = "rfc3339")]
    not_after: SystemTime,
    #[serde(with = "rfc3339")]
    published: SystemTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    activated: Option<Moment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<Moment>,
    longest: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
struct Moment(#[serde(with = "rfc3339")] SystemTime);

impl Signers {
    /// The record as JSON. Times are cut to the millisecond, lives rounded up to the second.
    #[must_use]
    pub fn to_json(&self) -> String {
        let signers = self.published().map(Entry::of).collect();
        let record = Record { version: VERSION, sequence: self.sequence, signers };
        // Texts and numbers only, which JSON can always say.
        let mut text = serde_json::to_string_pretty(&record).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`RecordError`]; a text that was cut anywhere is one.
    pub fn from_json(text: &[u8]) -> Result<Self, RecordError> {
        let sense = |fault: &str| RecordError::Sense(fault.to_owned());
        if text.last() != Some(&b'\n') {
            return Err(sense("it was cut: its last line has no end"));
        }
        let record: Record = serde_json::from_slice(text)?;
        if record.version != VERSION {
            return Err(RecordError::Version(record.version));
        }
        if record.signers.len() > MOST {
            return Err(sense("it holds more roots than can be published"));
        }
        let (mut current, mut next, mut old) = (None, None, Vec::new());
        let mut names: Vec<String> = Vec::new();
        for entry in record.signers {
            let signer = entry.read()?;
            if names.contains(&signer.name) {
                return Err(sense("it holds a root twice"));
            }
            names.push(signer.name.clone());
            let taken = match signer.stage() {
                Stage::Current => current.replace(signer).is_some(),
                Stage::Next => next.replace(signer).is_some(),
                Stage::Old => {
                    old.push(signer);
                    false
                }
            };
            if taken {
                return Err(sense("it holds two current or two next roots"));
            }
        }
        let current = current.ok_or_else(|| sense("it holds no current root"))?;
        Ok(Signers { current, next, old, sequence: record.sequence })
    }
}

impl Entry {
    fn of(signer: &Signer) -> Self {
        let up =
            Duration::from_secs(signer.longest.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX));
        Entry {
            name: signer.name.clone(),
            not_before: signer.not_before,
            not_after: signer.not_after,
            published: signer.published,
            activated: signer.activated.map(Moment),
            replaced: signer.replaced.map(Moment),
            longest: duration::print(up),
        }
    }

    fn read(self) -> Result<Signer, RecordError> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if self.name.len() != 16 || !self.name.bytes().all(hex) {
            return Err(RecordError::Sense("the name of a root is not of 16 hexadecimal digits".to_owned()));
        }
        let longest = duration::parse(&self.longest)
            .map_err(|error| RecordError::Sense(format!("longest of root {}: {error}", self.name)))?;
        Ok(Signer {
            name: self.name,
            not_before: self.not_before,
            not_after: self.not_after,
            published: self.published,
            activated: self.activated.map(|moment| moment.0),
            replaced: self.replaced.map(|moment| moment.0),
            longest,
        })
    }
}
