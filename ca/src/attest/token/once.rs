//! Tokens that count for one certificate: handed to a person or a machine's first start, of no use to who reads it later.
//!
//! A one-time token is spent when its certificate is about to be signed, so that a request that is refused for another
//! reason costs nothing. Its record is then called `.spent` instead of `.json`. A rename is done by one of two who try, and
//! is on the disk before the certificate leaves: neither a race nor a kill gives a second one. The spent record stays
//! until the token would have expired, so that a replay is known as one.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use pillion_mesh::spiffe::SpiffeId;

use super::{DeliveryError, Token, TokenError, TokenStore, read_record};
use crate::files;

/// The extension of a spent record.
pub(super) const SPENT: &str = "spent";

/// A one-time token that was shown and not spent then.
#[derive(Debug)]
pub(crate) struct OneTime {
    id: SpiffeId,
    record: PathBuf,
}

/// Why a one-time token gives no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpendError {
    #[error(transparent)]
    Spent(TokenError),
    #[error("cannot write down that the one-time token is spent: {0}")]
    File(io::Error),
}

impl TokenStore {
    /// Makes a token for `id` that counts once, until `not_after`.
    pub(crate) fn create_once(&self, id: &SpiffeId, not_after: SystemTime) -> Result<Token, DeliveryError> {
        self.create_record(id, Some(not_after), true)
    }

    pub(super) fn one_time(&self, token: &Token, id: &SpiffeId) -> OneTime {
        OneTime { id: id.clone(), record: self.path_of(&token.sha256()) }
    }

    /// Where a token that nobody knows was a one-time token: that it is spent.
    pub(super) fn spent(&self, token: &Token) -> Option<TokenError> {
        let sha256 = token.sha256();
        let record = read_record(&self.path_of(&sha256).with_extension(SPENT), &sha256).ok()?;
        Some(TokenError::Spent { id: record.id })
    }
}

impl OneTime {
    /// Takes the token: whoever returns from here without an error was the only one.
    pub(crate) fn spend(&self) -> Result<(), SpendError> {
        match fs::rename(&self.record, self.record.with_extension(SPENT)) {
            Ok(()) => files::sync_folder(files::parent_of(&self.record)).map_err(SpendError::File),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SpendError::Spent(TokenError::Spent { id: self.id.clone() }))
            }
            Err(error) => Err(SpendError::File(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;
    use crate::testing::{HOUR, id};

    fn store() -> (tempfile::TempDir, TokenStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = TokenStore::new(folder.path().to_owned());
        (folder, store)
    }

    fn header(token: &Token) -> Vec<u8> {
        format!("Bearer {}", token.reveal()).into_bytes()
    }

    #[test]
    fn req_33_a_one_time_token_counts_once_and_its_replay_is_known_as_one() {
        let (_folder, store) = store();
        let now = SystemTime::now();
        let header = header(&store.create_once(&id("backend"), now + HOUR).unwrap());
        let shown = store.identify(&header, now).unwrap();
        assert_eq!(shown.id, id("backend"));
        // Shown twice before it is spent, it is good for the first who spends it.
        let again = store.identify(&header, now).unwrap();
        shown.once.unwrap().spend().unwrap();
        let late = again.once.unwrap().spend().unwrap_err();
        assert!(matches!(late, SpendError::Spent(TokenError::Spent { .. })), "{late}");
        let replay = store.identify(&header, now).unwrap_err();
        assert!(replay.to_string().contains("a replay"), "{replay}");
    }

    #[test]
    fn req_33_of_many_who_spend_a_token_at_once_one_succeeds() {
        let (_folder, store) = store();
        let now = SystemTime::now();
        for _ in 0..20 {
            let header = header(&store.create_once(&id("backend"), now + HOUR).unwrap());
            let start = Barrier::new(8);
            let one = || {
                let shown = store.identify(&header, now).unwrap();
                start.wait();
                shown.once.unwrap().spend().is_ok()
            };
            let successes = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
                all.into_iter().map(|one| one.join().unwrap()).filter(|spent| *spent).count()
            });
            assert_eq!(successes, 1);
        }
    }

    #[test]
    fn a_spent_record_stays_until_the_token_would_have_expired() {
        let (folder, store) = store();
        let now = SystemTime::now();
        let header = header(&store.create_once(&id("backend"), now + HOUR).unwrap());
        store.identify(&header, now).unwrap().once.unwrap().spend().unwrap();
        let records = || fs::read_dir(folder.path()).unwrap().count();
        store.deliver(&[], None, now).unwrap();
        assert_eq!(records(), 1);
        store.deliver(&[], None, now + HOUR).unwrap();
        assert_eq!(records(), 0);
    }

    #[test]
    fn a_one_time_token_that_expired_is_not_told_from_others() {
        let (_folder, store) = store();
        let now = SystemTime::now();
        let header = header(&store.create_once(&id("backend"), now + HOUR).unwrap());
        assert!(matches!(store.identify(&header, now + HOUR), Err(TokenError::Expired { .. })));
    }
}
