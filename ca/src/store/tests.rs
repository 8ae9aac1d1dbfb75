//! The state folder after accidents: the same root, or no start.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use rstest::rstest;

use super::*;
use crate::testing::{self, trust_domain};

fn fingerprint(folder: &Path) -> String {
    summary_beside(folder).unwrap().sha256
}

/// A state folder after a first start that ended cleanly.
fn served() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    start(&folder).unwrap();
    (parent, folder)
}

/// What `serve` does with the folder.
fn start(folder: &Path) -> Result<(), StateError> {
    let state = State::open(folder)?;
    state.signer(&trust_domain(), SystemTime::now())?;
    state.tokens()?;
    Ok(())
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            files.insert(path, bytes);
        }
    }
    files
}

#[test]
fn req_35_every_start_finds_the_same_root() {
    let (_parent, folder) = served();
    let first = fingerprint(&folder);
    for _ in 0..3 {
        start(&folder).unwrap();
        assert_eq!(fingerprint(&folder), first);
    }
}

#[test]
fn req_36_the_state_is_closed_to_others() {
    let (_parent, folder) = served();
    assert_eq!(mode_of(&folder).unwrap(), 0o700);
    for path in contents(&folder).keys() {
        assert_eq!(mode_of(path).unwrap(), 0o600, "{}", path.display());
    }
}

#[rstest]
#[case::key_gone("current/key.pem", None, "key.pem is missing, though this CA has served before")]
#[case::certificate_gone("current/certificate.pem", None, "certificate.pem is missing, though")]
#[case::key_empty("current/key.pem", Some(""), "key.pem: the key is damaged")]
#[case::certificate_empty("current/certificate.pem", Some(""), "certificate.pem: the certificate is damaged")]
#[case::key_of_zeros("current/key.pem", Some("\0\0\0\0"), "key.pem: the key is damaged")]
#[case::certificate_text("current/certificate.pem", Some("hello"), "the certificate is damaged")]
fn req_35_a_damaged_signer_stops_the_start_and_is_left_as_it_is(
    #[case] file: &str,
    #[case] text: Option<&str>,
    #[case] expected: &str,
) {
    let (_parent, folder) = served();
    match text {
        Some(text) => fs::write(folder.join(file), text).unwrap(),
        None => fs::remove_file(folder.join(file)).unwrap(),
    }
    let before = contents(&folder);
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?}; seen {error:?}");
    assert_eq!(contents(&folder), before);
}

#[rstest]
#[case("current/key.pem")]
#[case("current/certificate.pem")]
fn req_35_a_truncated_file_stops_the_start(#[case] file: &str) {
    let (_parent, folder) = served();
    let whole = fs::read(folder.join(file)).unwrap();
    for length in [1, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
        fs::write(folder.join(file), &whole[..length]).unwrap();
        assert!(start(&folder).is_err(), "{file} cut to {length} of {} bytes", whole.len());
    }
    fs::write(folder.join(file), whole).unwrap();
    start(&folder).unwrap();
}

#[test]
fn req_35_a_signer_that_has_gone_stops_the_start() {
    let (_parent, folder) = served();
    fs::remove_dir_all(folder.join(CURRENT)).unwrap();
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains("current is missing, though this CA has served before"), "{error}");
    assert!(!folder.join(CURRENT).exists(), "a new root was made");
}

#[test]
fn req_35_a_start_killed_while_making_the_root_is_repeated() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    drop(State::open(&folder).unwrap());
    let half = folder.join(".current.tmp");
    fs::create_dir(&half).unwrap();
    fs::write(half.join(KEY), "-----BEGIN PRI").unwrap();
    start(&folder).unwrap();
    assert!(!half.exists());
    assert!(!fingerprint(&folder).is_empty());
}

#[test]
fn a_root_of_another_trust_domain_stops_the_start() {
    let (_parent, folder) = served();
    let state = State::open(&folder).unwrap();
    let Err(error) = state.signer(&"other.example".parse().unwrap(), SystemTime::now()) else {
        panic!("the signer of another trust domain was taken up")
    };
    assert!(error.to_string().contains("trustDomain: other.example"), "{error}");
}

#[test]
fn req_36_a_key_that_others_may_read_stops_the_start() {
    let (_parent, folder) = served();
    let key = folder.join("current/key.pem");
    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains("may be read by others (mode 0640)") && error.contains("chmod 600"), "{error}");
}

#[test]
fn an_empty_folder_is_closed_to_others_and_taken() {
    let volume = tempfile::tempdir().unwrap();
    fs::set_permissions(volume.path(), Permissions::from_mode(0o755)).unwrap();
    start(volume.path()).unwrap();
    assert_eq!(mode_of(volume.path()).unwrap(), 0o700);
}

#[test]
fn an_open_folder_with_contents_is_left_alone() {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    fs::write(home.path().join("diary"), "mine").unwrap();
    let error = start(home.path()).unwrap_err().to_string();
    assert!(error.contains("mode 0755") && error.contains("chmod 700"), "{error}");
    assert_eq!(mode_of(home.path()).unwrap(), 0o755);
}

#[test]
fn one_process_has_a_state_folder() {
    let (_parent, folder) = served();
    let held = State::open(&folder).unwrap();
    let Err(error) = State::open(&folder) else { panic!("two hold the folder") };
    assert!(error.to_string().contains("in use by another pillion-ca"), "{error}");
    drop(held);
    State::open(&folder).unwrap();
}

#[test]
fn beside_a_folder_without_a_root_there_is_nothing_to_show() {
    let folder = tempfile::tempdir().unwrap();
    let Err(error) = summary_beside(folder.path()) else { panic!("a root of nothing") };
    assert!(error.to_string().contains("start `pillion-ca serve`"), "{error}");
    assert!(tokens_beside(folder.path()).is_err());
}

#[test]
fn the_key_on_the_disk_is_the_signers() {
    let (_parent, folder) = served();
    let owner = fs::metadata(folder.join("current/key.pem")).unwrap().uid();
    assert_eq!(owner, rustix::process::geteuid().as_raw());
    let other = testing::new_root(SystemTime::now());
    fs::write(folder.join("current/key.pem"), other.key_pem.as_bytes()).unwrap();
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains("do not belong together"), "{error}");
}
