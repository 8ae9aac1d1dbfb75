//! Tokens: who gets in, who does not, and what a restart changes.

use std::fs::Permissions;

use rstest::rstest;

use super::*;
use crate::testing::{HOUR, id};

struct Folder {
    root: tempfile::TempDir,
    store: TokenStore,
}

fn folder() -> Folder {
    let root = tempfile::tempdir().unwrap();
    let records = root.path().join("tokens");
    fs::create_dir(&records).unwrap();
    Folder { store: TokenStore::new(records), root }
}

impl Folder {
    fn token_file(&self, name: &str) -> PathBuf {
        self.root.path().join("run").join(name).join("token")
    }

    fn registration(&self, name: &str) -> Registration {
        Registration { id: id(name), token_file: Some(self.token_file(name)), owner: None }
    }

    /// What a start does; the header that the delivered token makes.
    fn deliver(&self, name: &str) -> String {
        self.store.deliver(&[self.registration(name)], None, SystemTime::now()).unwrap();
        header(&fs::read_to_string(self.token_file(name)).unwrap())
    }

    fn identify(&self, header: &str) -> Result<SpiffeId, TokenError> {
        self.store.identify(header.as_bytes(), SystemTime::now()).map(|shown| shown.id)
    }

    fn records(&self) -> usize {
        fs::read_dir(&self.store.folder).unwrap().count()
    }
}

fn header(token: &str) -> String {
    format!("Bearer {token}")
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn req_31_a_token_stands_for_the_identity_that_it_was_made_for() {
    let folder = folder();
    for name in ["backend", "frontend"] {
        let token = folder.store.create(&id(name), None).unwrap();
        assert_eq!(folder.identify(&header(token.reveal())).unwrap(), id(name));
    }
}

#[rstest]
#[case::nothing("", "not of the form")]
#[case::no_token("Bearer", "not of the form")]
#[case::empty_token("Bearer ", "not of the form that this CA")]
#[case::other_scheme("Basic dXNlcjpwYXNz", "not of the form")]
#[case::short("Bearer abc", "43 characters")]
#[case::a_path("Bearer ../../../../../../../../../../../../etc/passwd", "43 characters")]
#[case::long(&format!("Bearer {}", "a".repeat(100_000)), "43 characters")]
#[case::unknown(&format!("Bearer {}", "a".repeat(43)), "unknown")]
#[case::two(&format!("Bearer {} {}", "a".repeat(43), "b".repeat(43)), "43 characters")]
fn req_33_what_is_no_token_of_ours_is_refused(#[case] header: &str, #[case] expected: &str) {
    let folder = folder();
    folder.store.create(&id("backend"), None).unwrap();
    let error = folder.identify(header).unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?}; seen {error:?}");
}

#[test]
fn req_33_a_token_changed_in_any_character_is_refused() {
    let folder = folder();
    let token = folder.store.create(&id("backend"), None).unwrap();
    for at in 0..TOKEN_LENGTH {
        let mut changed = token.reveal().to_owned();
        let other = if &changed[at..=at] == "A" { "B" } else { "A" };
        changed.replace_range(at..=at, other);
        assert!(matches!(folder.identify(&header(&changed)), Err(TokenError::Unknown)), "character {at}");
    }
}

#[test]
fn req_33_the_whole_digest_counts_and_not_the_name_of_the_record() {
    let folder = folder();
    let token = folder.store.create(&id("backend"), None).unwrap();
    let path = folder.store.path_of(&token.sha256());
    let mut record: Record = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let last = if record.sha256.pop() == Some('0') { '1' } else { '0' };
    record.sha256.push(last);
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    assert!(matches!(folder.identify(&header(token.reveal())), Err(TokenError::Unknown)));
}

#[test]
fn req_33_an_expired_token_is_refused() {
    let folder = folder();
    let now = SystemTime::now();
    let token = folder.store.create(&id("backend"), Some(now + HOUR)).unwrap();
    let header = header(token.reveal());
    let identify = |at| folder.store.identify(header.as_bytes(), at).map(|shown| shown.id);
    assert_eq!(identify(now).unwrap(), id("backend"));
    assert!(identify(now + HOUR - Duration::from_secs(1)).is_ok());
    assert!(matches!(identify(now + HOUR), Err(TokenError::Expired { .. })));
}

#[test]
fn a_token_counts_no_more_when_its_record_is_deleted() {
    let folder = folder();
    let token = folder.store.create(&id("backend"), None).unwrap();
    fs::remove_file(folder.store.path_of(&token.sha256())).unwrap();
    assert!(matches!(folder.identify(&header(token.reveal())), Err(TokenError::Unknown)));
}

#[test]
fn req_33_neither_record_nor_error_holds_the_token() {
    let folder = folder();
    let token = folder.store.create(&id("backend"), Some(SystemTime::now() - HOUR)).unwrap();
    let record = fs::read_to_string(folder.store.path_of(&token.sha256())).unwrap();
    assert!(!record.contains(token.reveal()));
    let error = folder.identify(&header(token.reveal())).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(token.reveal()));
}

#[test]
fn req_36_delivered_tokens_and_records_are_private() {
    let folder = folder();
    folder.deliver("backend");
    let file = folder.token_file("backend");
    assert_eq!(mode_of(&file), 0o600);
    assert_eq!(mode_of(file.parent().unwrap()), 0o700);
    for entry in fs::read_dir(&folder.store.folder).unwrap() {
        assert_eq!(mode_of(&entry.unwrap().path()), 0o600);
    }
}

#[test]
fn a_restart_keeps_delivered_tokens_valid() {
    let folder = folder();
    let first = folder.deliver("backend");
    let second = folder.deliver("backend");
    assert_eq!(first, second);
    assert_eq!(folder.identify(&first).unwrap(), id("backend"));
    assert_eq!(folder.records(), 1);
}

#[rstest]
#[case::gone(|path: &Path| fs::remove_file(path).unwrap())]
#[case::empty(|path: &Path| fs::write(path, "").unwrap())]
#[case::unknown(|path: &Path| fs::write(path, "a".repeat(43)).unwrap())]
#[case::readable_by_others(|path: &Path| fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap())]
#[case::a_link(|path: &Path| {
    let target = path.with_file_name("elsewhere");
    fs::rename(path, &target).unwrap();
    std::os::unix::fs::symlink(&target, path).unwrap();
})]
fn a_spoilt_token_file_is_replaced_and_the_old_token_counts_no_more(#[case] spoil: fn(&Path)) {
    let folder = folder();
    let old = folder.deliver("backend");
    spoil(&folder.token_file("backend"));
    let new = folder.deliver("backend");
    assert_ne!(old, new);
    assert_eq!(folder.identify(&new).unwrap(), id("backend"));
    assert!(matches!(folder.identify(&old), Err(TokenError::Unknown)));
    assert_eq!(mode_of(&folder.token_file("backend")), 0o600);
    assert!(fs::symlink_metadata(folder.token_file("backend")).unwrap().is_file());
}

#[test]
fn a_token_of_another_identity_in_the_file_is_replaced() {
    let folder = folder();
    let backend = folder.registration("backend");
    let mallory = folder.store.create(&id("mallory"), None).unwrap();
    let file = folder.token_file("backend");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    files::write_atomic(&file, mallory.reveal().as_bytes(), PRIVATE_FILE, None).unwrap();
    folder.store.deliver(&[backend], None, SystemTime::now()).unwrap();
    let token = fs::read_to_string(&file).unwrap();
    assert_ne!(token, mallory.reveal());
    assert_eq!(folder.identify(&header(&token)).unwrap(), id("backend"));
}

#[test]
fn a_registration_taken_away_takes_its_token_along() {
    let folder = folder();
    let backend = folder.deliver("backend");
    folder.deliver("frontend");
    assert!(matches!(folder.identify(&backend), Err(TokenError::Unknown)));
    assert_eq!(folder.records(), 1);
}

#[test]
fn a_restart_keeps_handed_out_tokens_until_they_expire() {
    let folder = folder();
    let now = SystemTime::now();
    let token = folder.store.create(&id("backend"), Some(now + HOUR)).unwrap();
    folder.store.create(&id("backend"), Some(now - HOUR)).unwrap();
    folder.store.deliver(&[], None, now).unwrap();
    assert_eq!(folder.records(), 1);
    assert!(folder.identify(&header(token.reveal())).is_ok());
}

#[test]
fn a_damaged_record_is_cleared_away_and_its_token_replaced() {
    let folder = folder();
    let old = folder.deliver("backend");
    let record = fs::read_dir(&folder.store.folder).unwrap().next().unwrap().unwrap().path();
    fs::write(&record, "{").unwrap();
    assert!(matches!(folder.identify(&old), Err(TokenError::Damaged(_))));
    let new = folder.deliver("backend");
    assert_ne!(old, new);
    assert!(folder.identify(&new).is_ok());
    assert_eq!(folder.records(), 1);
}

#[test]
fn the_scheme_is_read_in_any_case() {
    let folder = folder();
    let token = folder.store.create(&id("backend"), None).unwrap();
    assert!(folder.identify(&format!("bearer {}", token.reveal())).is_ok());
}

#[test]
fn a_token_with_a_life_is_replaced_at_half_of_it_and_the_last_one_counts_to_its_end() {
    let folder = folder();
    let begin = SystemTime::now();
    let at = |hours: u32| begin + hours * HOUR;
    let deliver = |hours: u32| {
        folder.store.deliver(&[folder.registration("backend")], Some(8 * HOUR), at(hours)).unwrap();
        header(&fs::read_to_string(folder.token_file("backend")).unwrap())
    };
    let counts = |token: &str, hours: u32| folder.store.identify(token.as_bytes(), at(hours)).is_ok();
    let first = deliver(0);
    assert_eq!(deliver(3), first);
    let second = deliver(4);
    assert_ne!(second, first);
    assert!(counts(&first, 7) && !counts(&first, 8));
    assert!(counts(&second, 11) && !counts(&second, 12));
    deliver(9);
    assert_eq!(folder.records(), 2, "the first one's record is cleared away");
}

#[test]
fn a_token_that_was_to_last_for_ever_gets_an_end_when_tokens_get_a_life() {
    let folder = folder();
    let for_ever = folder.deliver("backend");
    let now = SystemTime::now();
    folder.store.deliver(&[folder.registration("backend")], Some(HOUR), now).unwrap();
    assert!(matches!(folder.identify(&for_ever), Err(TokenError::Unknown)));
    let token = header(&fs::read_to_string(folder.token_file("backend")).unwrap());
    assert!(folder.store.identify(token.as_bytes(), now + HOUR).is_err());
}

#[test]
fn a_file_that_cannot_be_written_keeps_no_other_from_being_written() {
    let folder = folder();
    fs::create_dir_all(folder.root.path().join("run")).unwrap();
    fs::write(folder.root.path().join("run/backend"), "in the way").unwrap();
    let both = [folder.registration("backend"), folder.registration("frontend")];
    let fault = folder.store.deliver(&both, None, SystemTime::now()).unwrap_err().to_string();
    assert!(fault.contains("backend"), "{fault}");
    let token = fs::read_to_string(folder.token_file("frontend")).unwrap();
    assert_eq!(folder.identify(&header(&token)).unwrap(), id("frontend"));
}
