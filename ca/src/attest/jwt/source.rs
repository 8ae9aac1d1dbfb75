//! Where an issuer's keys come from, and how they stay fresh. What was read last stays when nothing better can be had.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::fetch::{self, Origin};
use super::keys::KeySet;
use super::{Issuer, Jwks};

/// Longest set of keys, in bytes.
pub(super) const LONGEST: u64 = 1 << 20;
/// How often a file is looked at.
const FILE_PAUSE: Duration = Duration::from_secs(1);
/// How often keys are fetched while all is well.
const FETCH_PAUSE: Duration = Duration::from_secs(5 * 60);
/// How soon they are fetched again after a failure, or for a token of a key that is not among them.
const FETCH_AGAIN: Duration = Duration::from_secs(10);
/// How long one fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);

/// The keys of one issuer.
pub(super) struct Keys {
    issuer: String,
    source: Source,
    current: Mutex<Arc<KeySet>>,
    /// Told when a token names a key that is not here.
    wanted: Notify,
}

enum Source {
    File(PathBuf),
    Url(Origin),
    /// Settings that name neither are refused before.
    Nowhere,
}

/// What came of one look.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Fresh,
    Failed,
}

impl Keys {
    /// Reads a file at once; a URL is fetched by [`Keys::keep_fresh`].
    pub(super) fn new(issuer: &Issuer) -> Self {
        let Jwks { file, url, ca_file } = &issuer.jwks;
        let source = match (file, url) {
            (Some(file), _) => Source::File(file.clone()),
            (None, Some(url)) => Origin::parse(url, ca_file.clone()).map_or(Source::Nowhere, Source::Url),
            (None, None) => Source::Nowhere,
        };
        let keys =
            Keys { issuer: issuer.issuer.clone(), source, current: Mutex::default(), wanted: Notify::new() };
        if let Source::File(path) = &keys.source {
            keys.take(read(path).map_err(|error| error.to_string()), &path.display().to_string());
        }
        keys
    }

    pub(super) fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A token names a key that is not here: it may be a new one.
    pub(super) fn wanted(&self) {
        self.wanted.notify_one();
    }

    /// Never ends.
    pub(super) async fn keep_fresh(&self) {
        match &self.source {
            Source::File(path) => self.watch(path).await,
            Source::Url(origin) => self.fetch_again_and_again(origin).await,
            Source::Nowhere => {}
        }
    }

    async fn watch(&self, path: &Path) {
        // What was read at the start may have changed since: the first look takes whatever is there.
        let mut last = None;
        let mut failing = false;
        loop {
            sleep(FILE_PAUSE).await;
            match read(path) {
                Ok(bytes) if last.as_ref() == Some(&bytes) => failing = false,
                Ok(bytes) => {
                    last = Some(bytes.clone());
                    failing = false;
                    self.take(Ok(bytes), &path.display().to_string());
                }
                // Said once, not each second.
                Err(error) if !std::mem::replace(&mut failing, true) => {
                    self.take(Err(error.to_string()), &path.display().to_string());
                }
                Err(_) => {}
            }
        }
    }

    async fn fetch_again_and_again(&self, origin: &Origin) {
        loop {
            let fetched = match timeout(FETCH_TIMEOUT, fetch::fetch(origin)).await {
                Ok(fetched) => fetched,
                Err(_elapsed) => Err(format!("no whole answer within {} s", FETCH_TIMEOUT.as_secs())),
            };
            let look = self.take(fetched, origin.url());
            let start = Instant::now();
            let pause = if look == Look::Fresh { FETCH_PAUSE } else { FETCH_AGAIN };
            tokio::select! {
                () = sleep(pause) => {}
                // However many tokens name keys that are not here, the issuer is asked every ten seconds at most.
                () = self.wanted.notified() => tokio::time::sleep_until(start + FETCH_AGAIN).await,
            }
        }
    }

    /// Takes up what was read, if it is a set of keys.
    fn take(&self, read: Result<Vec<u8>, String>, place: &str) -> Look {
        let issuer = self.issuer.as_str();
        match read.and_then(|bytes| KeySet::parse(&bytes)) {
            Ok(keys) if keys == *self.current() => Look::Fresh,
            Ok(keys) => {
                tracing::info!(issuer, jwks = place, keys = %keys, "the issuer's keys");
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                Look::Fresh
            }
            Err(error) => {
                let kept = self.current();
                tracing::warn!(issuer, jwks = place, error, kept = %kept, "cannot read the issuer's keys; those read last stay");
                Look::Failed
            }
        }
    }
}

/// A file of bounded length.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        return Err(io::Error::other(format!("it has more than {LONGEST} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn issuer(file: &Path) -> Issuer {
        Issuer {
            issuer: "issuer".to_owned(),
            audience: "ca".to_owned(),
            jwks: Jwks { file: Some(file.to_owned()), ..Jwks::default() },
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_changes_is_read_again_and_one_that_breaks_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("jwks.json");
        let keys = Arc::new(Keys::new(&issuer(&file)));
        assert_eq!(keys.current().to_string(), "no keys yet");
        let watched = Arc::clone(&keys);
        let watching = tokio::spawn(async move { watched.keep_fresh().await });
        // Time is paused: what passes is what the task sleeps.
        let next_look = async || sleep(2 * FILE_PAUSE).await;
        std::fs::write(&file, ONE).unwrap();
        next_look().await;
        assert_eq!(keys.current().to_string(), r#"["one"]"#);
        for broken in ["", "{", r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#] {
            std::fs::write(&file, broken).unwrap();
            next_look().await;
            assert_eq!(keys.current().to_string(), r#"["one"]"#, "after {broken:?}");
        }
        std::fs::remove_file(&file).unwrap();
        next_look().await;
        assert_eq!(keys.current().to_string(), r#"["one"]"#);
        std::fs::write(&file, ONE.replace("one", "two")).unwrap();
        next_look().await;
        assert_eq!(keys.current().to_string(), r#"["two"]"#);
        watching.abort();
    }

    #[test]
    fn a_file_without_end_is_not_read_to_its_end() {
        assert!(read(Path::new("/dev/zero")).unwrap_err().to_string().contains("more than"));
    }
}
