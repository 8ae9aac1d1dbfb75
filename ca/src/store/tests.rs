//! The state folder after accidents: the same root, or no start.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use rstest::rstest;

use super::*;
use crate::testing::{self, trust_domain};

const SIGNER: RootPlan = testing::ROOT;

/// The files of the folder, for a process beside.
fn beside(folder: &Path) -> SignerFiles {
    signers_beside(folder, &trust_domain(), SIGNER).unwrap()
}

/// The name of the current root.
fn current(folder: &Path) -> String {
    beside(folder).read().unwrap().current().name.clone()
}

fn fingerprint(folder: &Path) -> String {
    beside(folder).summary(&current(folder)).unwrap().sha256
}

/// A file of the current root.
fn file_of(folder: &Path, file: &str) -> PathBuf {
    folder.join(SIGNERS).join(current(folder)).join(file)
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
    start_in(folder, &trust_domain())
}

fn start_in(folder: &Path, trust_domain: &TrustDomain) -> Result<(), StateError> {
    let (state, now) = (State::open(folder)?, SystemTime::now());
    let files = state.signers(trust_domain, SIGNER, testing::TTL, None, now)?;
    files.slots(&files.text()?, None, now)?;
    state.tokens()?;
    Ok(())
}

/// Publishes a next root; its name.
fn prepare(folder: &Path) -> String {
    let (files, now) = (beside(folder), SystemTime::now());
    let prepared = files.change(|signers| {
        let root = files.make(now)?;
        signers.prepare(root.record(now, testing::DAY))?;
        Ok::<_, StateError>(())
    });
    prepared.unwrap();
    files.read().unwrap().next().unwrap().name.clone()
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
#[case::key_gone("key.pem", None, "key.pem is missing, though this CA has served before")]
#[case::certificate_gone("certificate.pem", None, "certificate.pem is missing, though")]
#[case::key_empty("key.pem", Some(""), "key.pem: the key is damaged")]
#[case::certificate_empty("certificate.pem", Some(""), "certificate.pem: the certificate is damaged")]
#[case::key_of_zeros("key.pem", Some("\0\0\0\0"), "key.pem: the key is damaged")]
#[case::certificate_text("certificate.pem", Some("hello"), "the certificate is damaged")]
fn req_35_a_damaged_signer_stops_the_start_and_is_left_as_it_is(
    #[case] file: &str,
    #[case] text: Option<&str>,
    #[case] expected: &str,
) {
    let (_parent, folder) = served();
    let path = file_of(&folder, file);
    match text {
        Some(text) => fs::write(path, text).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
    let before = contents(&folder);
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains(expected), "expected {expected:?}; seen {error:?}");
    assert_eq!(contents(&folder), before);
}

/// Every file that a start reads, cut at every byte: either the start is refused and nothing changes, or the same roots
/// are there (what is cut off a PEM's last line end is nothing).
#[test]
fn req_35_a_file_truncated_at_any_byte_stops_the_start_or_changes_nothing() {
    let (_parent, folder) = served();
    prepare(&folder);
    let before = contents(&folder);
    let roots = beside(&folder).read().unwrap();
    let record = folder.join(RECORD);
    for (path, whole) in &before {
        if path.file_name().is_some_and(|name| name == LOCK || name == CHANGE) {
            continue;
        }
        for length in 0..whole.len() {
            fs::write(path, &whole[..length]).unwrap();
            let started = start(&folder);
            let cut = format!("{} cut to {length} of {} bytes", path.display(), whole.len());
            if started.is_ok() {
                assert!(*path != record && whole.len() - length <= 1, "{cut} was taken");
                assert_eq!(beside(&folder).read().unwrap(), roots, "{cut}");
            }
            assert_eq!(fs::read(path).unwrap(), whole[..length], "{cut} was written to");
            fs::write(path, whole).unwrap();
        }
    }
    start(&folder).unwrap();
    assert_eq!(contents(&folder), before);
}

#[test]
fn req_35_a_signer_or_a_record_that_has_gone_stops_the_start() {
    let (_parent, folder) = served();
    prepare(&folder);
    let whole = contents(&folder);
    for (gone, expected) in [
        (folder.join(RECORD), "signers.json is missing, though this CA has served before"),
        (folder.join(SIGNERS), "is missing, though this CA has served before"),
        (folder.join(SIGNERS).join(current(&folder)), "is missing, though this CA has served before"),
    ] {
        let away = folder.with_extension("away");
        fs::rename(&gone, &away).unwrap();
        let error = start(&folder).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        fs::rename(&away, &gone).unwrap();
        assert_eq!(contents(&folder), whole, "something was made in its place");
    }
    fs::remove_file(folder.join(RECORD)).unwrap();
    fs::remove_dir_all(folder.join(SIGNERS)).unwrap();
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains("signers is missing, though this CA has served before"), "{error}");
    assert!(!folder.join(SIGNERS).exists(), "a new root was made");
}

#[test]
fn req_35_a_start_killed_while_making_the_root_is_repeated() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("state");
    drop(State::open(&folder).unwrap());
    let half = folder.join(SIGNERS).join(".0123456789abcdef.tmp");
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join(KEY), "-----BEGIN PRI").unwrap();
    start(&folder).unwrap();
    assert!(!fingerprint(&folder).is_empty());
    prepare(&folder);
    assert!(!half.exists(), "it is swept with the next change");
}

/// A kill between the two steps of the first start leaves a root without a record.
#[test]
fn req_35_a_start_killed_before_the_record_finds_the_root_that_was_made() {
    let (_parent, folder) = served();
    let first = fingerprint(&folder);
    fs::remove_file(folder.join(RECORD)).unwrap();
    start(&folder).unwrap();
    assert_eq!(fingerprint(&folder), first);
}

/// A kill between the making of a root and its record, and between the record and the sweeping, leaves folders.
#[test]
fn req_35_a_change_killed_in_between_is_as_if_it_had_not_begun_or_had_ended() {
    let (_parent, folder) = served();
    let first = current(&folder);
    let orphan = beside(&folder).make(SystemTime::now()).unwrap().name().to_owned();
    start(&folder).unwrap();
    let signers = beside(&folder).read().unwrap();
    assert_eq!((signers.current().name.as_str(), signers.next()), (first.as_str(), None));
    let next = prepare(&folder);
    let mut names = folders_in(&folder.join(SIGNERS)).unwrap();
    names.sort();
    let mut expected = [first, next];
    expected.sort();
    assert_eq!(names, expected, "{orphan} was not swept");
}

#[test]
fn a_root_from_before_there_was_a_record_is_taken_over_and_goes_on_signing() {
    let (_parent, folder) = served();
    let first = fingerprint(&folder);
    fs::rename(folder.join(SIGNERS).join(current(&folder)), folder.join(ONLY)).unwrap();
    fs::remove_file(folder.join(RECORD)).unwrap();
    fs::remove_dir(folder.join(SIGNERS)).unwrap();
    start(&folder).unwrap();
    assert_eq!(fingerprint(&folder), first);
    assert!(!folder.join(ONLY).exists());
    let longest = beside(&folder).read().unwrap().current().longest;
    assert_eq!(longest, testing::TTL.max, "what it has granted is not known");
}

#[test]
fn a_retired_root_leaves_nothing_behind() {
    let (_parent, folder) = served();
    let first = current(&folder);
    let next = prepare(&folder);
    let files = beside(&folder);
    files.change(|signers| signers.activate(SystemTime::now()).map_err(StateError::from)).unwrap();
    assert_eq!(current(&folder), next);
    start(&folder).unwrap();
    files.change(|signers| signers.retire(&first).map_err(StateError::from)).unwrap();
    assert_eq!(folders_in(&folder.join(SIGNERS)).unwrap(), [next]);
}

#[test]
fn what_cannot_be_done_changes_nothing() {
    let (_parent, folder) = served();
    prepare(&folder);
    let before = contents(&folder);
    let error = beside(&folder).change(|signers| {
        signers.activate(SystemTime::now())?;
        signers.retire("a root that nobody knows").map_err(StateError::from)
    });
    assert!(error.unwrap_err().to_string().contains("only old ones"), "it was retired");
    assert_eq!(contents(&folder), before);
}

#[test]
fn two_processes_change_the_signers_one_after_the_other() {
    let (_parent, folder) = served();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    beside(&folder)
                        .change(|signers| {
                            let life = signers.current().longest + Duration::from_secs(1);
                            signers.grant(life);
                            Ok::<_, StateError>(())
                        })
                        .unwrap();
                }
            });
        }
    });
    let longest = beside(&folder).read().unwrap().current().longest;
    assert_eq!(longest, testing::DAY + Duration::from_secs(20), "a change was lost");
}

#[test]
fn who_looks_beside_knows_for_how_long_a_ca_has_served() {
    let (_parent, folder) = served();
    let now = SystemTime::now();
    assert_eq!(serving_beside(&folder, now), Duration::ZERO);
    let state = State::open(&folder).unwrap();
    state.serving_since(now - testing::HOUR);
    let hour = serving_beside(&folder, now);
    assert!(hour >= testing::HOUR && hour < testing::HOUR + Duration::from_secs(1), "{hour:?}");
    drop(state);
    assert_eq!(serving_beside(&folder, now), Duration::ZERO);
}

#[test]
fn a_root_of_another_trust_domain_stops_the_start() {
    let (_parent, folder) = served();
    let Err(error) = start_in(&folder, &"other.example".parse().unwrap()) else {
        panic!("the signer of another trust domain was taken up")
    };
    assert!(error.to_string().contains("trustDomain: other.example"), "{error}");
}

#[test]
fn req_36_a_key_that_others_may_read_stops_the_start() {
    let (_parent, folder) = served();
    let key = file_of(&folder, KEY);
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
    let beside = signers_beside(folder.path(), &trust_domain(), SIGNER);
    let Err(error) = beside else { panic!("a root of nothing") };
    assert!(error.to_string().contains("start `pillion-ca serve`"), "{error}");
    assert!(tokens_beside(folder.path()).is_err());
}

#[test]
fn the_key_on_the_disk_is_the_signers() {
    let (_parent, folder) = served();
    let owner = fs::metadata(file_of(&folder, KEY)).unwrap().uid();
    assert_eq!(owner, rustix::process::geteuid().as_raw());
    let other = testing::new_root(SystemTime::now());
    fs::write(file_of(&folder, KEY), other.key_pem.as_bytes()).unwrap();
    let error = start(&folder).unwrap_err().to_string();
    assert!(error.contains("do not belong together"), "{error}");
}
