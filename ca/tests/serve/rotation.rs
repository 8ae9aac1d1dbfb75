//! Roots that are replaced while the CA serves: by hand beside it, and by age.

use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use pillion_mesh::wire::rfc3339;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rstest::rstest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde_json::Value;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use crate::support::{Ca, Client, Home, Identity, csr, current, plain_params, stored_root, wait_for};

fn root(home: &Home, arguments: &[&str]) -> Output {
    let arguments: Vec<_> = ["root"].iter().chain(arguments).copied().collect();
    home.command(&arguments).output().unwrap()
}

/// What a command that has to work says.
#[track_caller]
fn done(home: &Home, arguments: &[&str]) -> String {
    let output = root(home, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command that is refused says.
#[track_caller]
fn refused(home: &Home, arguments: &[&str]) -> String {
    let output = root(home, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// The roots in the bundle file.
fn bundle(home: &Home) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(home.path("run/bundle.pem")).unwrap().map(Result::unwrap).collect()
}

fn is_issued_by(identity: &Identity, root: &CertificateDer<'_>) -> bool {
    let leaf = EndEntityCert::try_from(identity.leaf()).unwrap();
    let (anchors, algorithms) = ([anchor_from_trusted_cert(root).unwrap()], webpki::ALL_VERIFICATION_ALGS);
    let usage = KeyUsage::client_auth();
    let below = identity.chain.get(1..).unwrap_or_default();
    leaf.verify_for_usage(algorithms, &anchors, below, UnixTime::now(), usage, None, None).is_ok()
}

#[tokio::test]
async fn a_root_is_replaced_by_hand_beside_a_running_ca_and_nobody_is_refused() {
    let home = Home::new();
    let ca = home.start();
    let old_root = home.root();
    let old = Client::new(&ca, &home).enroll(&home.token(), "").await;

    assert!(done(&home, &["prepare"]).contains("everybody knows it from"), "nothing tells when");
    wait_for("the next root to be published", || (bundle(&home).len() == 2).then_some(()));
    let new_root = bundle(&home).remove(1);
    assert!(refused(&home, &["prepare"]).contains("there is a next root already"));
    let refusal = refused(&home, &["activate"]);
    assert!(
        refusal.contains("would refuse its certificates until") && refusal.contains("--force"),
        "{refusal}"
    );
    let status = done(&home, &["status"]);
    assert!(status.contains("(current)") && status.contains("(next)"), "{status}");

    done(&home, &["activate", "--force"]);
    wait_for("the CA to take it up", || {
        ca.log().iter().find(|line| line["roots"].to_string().contains("(old)")).map(|_| ())
    });
    // Who knows the old root alone still knows the CA, and gets a certificate of the new one.
    let client = Client::trusting(ca.api, &old_root, Some(&old), &[&rustls::version::TLS13]);
    let renewed = client.enroll(&home.token(), "").await;
    assert!(is_issued_by(&renewed, &new_root) && !is_issued_by(&renewed, &old_root));
    let by_certificate = client.sign(None, csr(&old.key)).await.unwrap();
    assert_eq!(by_certificate.status, 201, "a certificate of the old root is evidence still");
    assert!(ca.monitor("/metrics").await.1.contains("stage=\"old\""));

    assert!(refused(&home, &["retire"]).contains("would be refused everywhere"));
    done(&home, &["retire", "--force"]);
    wait_for("the old root to be withdrawn", || (bundle(&home) == [new_root.clone()]).then_some(()));
    let client = Client::trusting(ca.api, &new_root, Some(&old), &[&rustls::version::TLS13]);
    assert!(client.sign(None, csr(&old.key)).await.is_err(), "a withdrawn root is believed");
    let client = Client::trusting(ca.api, &new_root, Some(&renewed), &[&rustls::version::TLS13]);
    client.enroll(&home.token(), "").await;
    assert!(refused(&home, &["retire"]).contains("there is no old root"));
}

/// Beside a CA that does not serve nobody can learn of a root.
#[test]
fn without_a_serving_ca_a_root_is_activated_by_force_alone() {
    let home = Home::with("rotation: {publishAhead: 1ms}\nworkloadTtl: {default: 1s}");
    drop(home.start());
    done(&home, &["prepare"]);
    let long_ago = |text: String| text.contains("has served for 0") || text.contains("would refuse");
    assert!(long_ago(refused(&home, &["activate"])));
    done(&home, &["activate", "--force"]);
    drop(home.start());
}

#[rstest]
#[case::prepare(&["prepare"])]
#[case::activate(&["activate", "--force"])]
#[case::retire(&["retire", "--force"])]
fn req_35_a_kill_in_a_change_of_roots_leaves_it_done_or_not_begun(#[case] arguments: &[&str]) {
    let home = Home::new();
    drop(home.start());
    for round in 0..12u64 {
        // The way to where the change begins.
        for step in [&["prepare"][..], &["activate", "--force"]] {
            if step == arguments {
                break;
            }
            root(&home, step);
        }
        let first = stored_root(&home).unwrap();
        let arguments: Vec<_> = ["root"].iter().chain(arguments).copied().collect();
        let mut command = home.command(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(700 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let ca = home.start();
        let published = bundle(&home);
        let known = |pem: &[u8]| published.contains(&CertificateDer::from_pem_slice(pem).unwrap());
        assert!(known(&first) || arguments[1] == "retire", "round {round}: the signing root was lost");
        assert!(known(&stored_root(&home).unwrap()), "round {round}");
        drop(ca);
        root(&home, &["retire", "--force"]);
    }
}

/// Certificates of six hours, roots of 27 hours, and ten thousand times the world's speed.
#[test]
fn a_root_is_replaced_by_age_alone() {
    let origin = rfc3339::print(SystemTime::now());
    let home = Home::with(&format!(
        "time: {{scale: 10000, origin: '{origin}'}}\nworkloadTtl: {{default: 6h, max: 6h}}\n\
         rotation: {{rootLife: 27h, publishAhead: 6h}}"
    ));
    let ca = home.start();
    let first = current(&home).unwrap();
    let told = |what: &str| {
        wait_for(what, || ca.log().into_iter().find(|line| line["message"].as_str() == Some(what)))
    };
    told("published a next root");
    told("the next root signs from now on");
    let withdrawn = told("withdrew an old root from the bundle");
    assert!(first.ends_with(withdrawn["root"].as_str().unwrap()), "{withdrawn}");
    assert_ne!(current(&home).unwrap(), first);
    wait_for("the bundle to follow", || {
        let stored = CertificateDer::from_pem_slice(&stored_root(&home)?).unwrap();
        bundle(&home).contains(&stored).then_some(())
    });
    assert!(!ca.log().iter().any(|line| line["level"] == "ERROR"), "{:#?}", ca.log());
}

#[tokio::test]
async fn with_an_intermediate_the_root_signs_no_workload_and_every_chain_leads_to_it() {
    let home = Home::with("rotation: {intermediateLife: 30d}");
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let identity = client.enroll(&home.token(), "").await;
    assert_eq!(identity.chain.len(), 2, "leaf and intermediate");
    assert!(is_issued_by(&identity, &home.root()));
    let alone = Identity { chain: vec![identity.leaf().clone()], key: KeyPair::generate().unwrap() };
    assert!(!is_issued_by(&alone, &home.root()), "the root signed the workload itself");
    let renewing = Client::with_certificate(&ca, &home, &identity);
    let answer = renewing.sign(None, csr(&identity.key)).await.unwrap();
    assert_eq!(answer.chain().len(), 2);
}

#[tokio::test]
async fn a_longer_life_than_ever_before_is_noted_down_before_it_is_granted() {
    let home = Home::new();
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let longest = || {
        let record = std::fs::read(home.path("state/signers.json")).unwrap();
        serde_json::from_slice::<Value>(&record).unwrap()["signers"][0]["longest"].clone()
    };
    client.enroll(&home.token(), "?ttl=1h").await;
    assert_eq!(longest(), "1d");
    client.enroll(&home.token(), "?ttl=48h").await;
    assert_eq!(longest(), "2d");
    // A record that cannot be written: nothing longer is granted, and whoever asks is not turned away.
    std::fs::create_dir(home.path("state/.signers.json.tmp")).unwrap();
    client.enroll(&home.token(), "?ttl=96h").await;
    let not_after = ca.audit_line(3)["not_after"].as_str().unwrap().to_owned();
    assert!(not_after < rfc3339::print(SystemTime::now() + Duration::from_secs(49 * 3600)), "{not_after}");
    assert_eq!(longest(), "2d");
}

/// The record is damaged under a running CA: what is in force stays, and is loudly missed.
#[tokio::test]
async fn a_record_that_is_damaged_while_the_ca_serves_changes_nothing() {
    let home = Home::new();
    let ca = home.start();
    let record = home.path("state/signers.json");
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    let error = wait_for("an error", || ca.log().into_iter().find(|line| line["level"] == "ERROR"));
    assert!(error["error"].as_str().unwrap().contains("restore it from a backup"), "{error}");
    Client::new(&ca, &home).enroll(&home.token(), "").await;
    std::fs::write(&record, &whole).unwrap();
    wait_for("the recovery", || {
        ca.log().into_iter().find(|line| line["message"] == "the signers are looked after again")
    });
}

/// Two that ask at once: each waits for the other.
#[test]
fn commands_at_the_same_time_lose_no_change() {
    let home = Home::new();
    let _ca: Ca = home.start();
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4).map(|_| scope.spawn(|| root(&home, &["prepare"]))).collect();
        running.into_iter().map(|command| command.join().unwrap().status.code()).collect()
    });
    assert_eq!(outcomes.iter().filter(|code| **code == Some(0)).count(), 1, "{outcomes:?}");
    wait_for("the next root to be published", || (bundle(&home).len() == 2).then_some(()));
}

/// Somebody else's authority: a root, and intermediates below it.
struct Pki {
    root: rcgen::CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = authority_params("somebody's root");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        Pki { root: rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn root(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    /// Puts a new intermediate into the files, and into the chain these roots behind our own.
    fn lend(&self, home: &Home, more: &[&Pki]) {
        let key = KeyPair::generate().unwrap();
        let certificate = authority_params("somebody's intermediate").signed_by(&key, &self.root).unwrap();
        let chain: String =
            std::iter::once(self).chain(more.iter().copied()).map(|pki| pki.root.pem()).collect();
        std::fs::write(home.path("ca.pem"), certificate.pem()).unwrap();
        std::fs::write(home.path("chain.pem"), chain).unwrap();
        std::fs::write(home.path("ca.key"), key.serialize_pem()).unwrap();
    }
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = plain_params();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = time::OffsetDateTime::now_utc() - Duration::from_secs(60);
    params.not_after = time::OffsetDateTime::now_utc() + Duration::from_secs(30 * 24 * 3600);
    params
}

/// A CA that signs by an intermediate of this authority.
fn home_of(pki: &Pki) -> Home {
    let home = Home::new();
    let [certificate, key, chain] = ["ca.pem", "ca.key", "chain.pem"].map(|name| home.path(name));
    let signer = format!(
        "signer: {{certificate: '{}', key: '{}', chain: '{}'}}\n",
        certificate.display(),
        key.display(),
        chain.display()
    );
    let text = std::fs::read_to_string(home.config()).unwrap() + &signer;
    std::fs::write(home.config(), text).unwrap();
    pki.lend(&home, &[]);
    home
}

#[tokio::test]
async fn an_external_intermediate_signs_and_its_root_is_the_bundle() {
    let pki = Pki::new();
    let home = home_of(&pki);
    let ca = home.start();
    assert_eq!(bundle(&home), [pki.root()]);
    let identity = Client::new(&ca, &home).enroll(&home.token(), "").await;
    assert_eq!(identity.chain.len(), 2);
    assert!(is_issued_by(&identity, &pki.root()));
    let key = std::fs::read_to_string(home.path("ca.key")).unwrap();
    for file in crate::support::files_below(&home.path("state")) {
        assert_ne!(std::fs::read_to_string(&file).unwrap_or_default(), key, "{} has the key", file.display());
    }
    assert!(done(&home, &["status"]).contains("somebody's intermediate"));
    assert_eq!(root(&home, &["prepare"]).status.code(), Some(2));
    drop(ca);
    let ca = home.start();
    Client::with_certificate(&ca, &home, &identity).sign(None, csr(&identity.key)).await.unwrap();
}

#[tokio::test]
async fn another_intermediate_of_the_same_root_signs_as_soon_as_its_files_are_there() {
    let pki = Pki::new();
    let home = home_of(&pki);
    let ca = home.start();
    let client = Client::new(&ca, &home);
    let first = client.enroll(&home.token(), "").await;
    pki.lend(&home, &[]);
    wait_for("the other one to sign", || {
        ca.log().into_iter().find(|line| line["why"] == "its root is known")
    });
    let second = client.enroll(&home.token(), "").await;
    assert_ne!(first.chain[1], second.chain[1]);
    assert!(is_issued_by(&second, &pki.root()));
    assert_eq!(bundle(&home), [pki.root()]);
}

/// The last one goes on signing: nobody knows the other root yet.
#[tokio::test]
async fn an_intermediate_of_another_root_is_published_before_it_signs() {
    let (pki, other) = (Pki::new(), Pki::new());
    let home = home_of(&pki);
    let ca = home.start();
    let client = Client::new(&ca, &home);
    other.lend(&home, &[]);
    wait_for("the other root to be published", || {
        (bundle(&home) == [pki.root(), other.root()]).then_some(())
    });
    assert!(is_issued_by(&client.enroll(&home.token(), "").await, &pki.root()));
    done(&home, &["activate", "--force"]);
    wait_for("the other one to sign", || {
        ca.log().iter().any(|line| line["roots"].to_string().contains("(old)")).then_some(())
    });
    wait_for("its key to be in use", || {
        let client = Client::trusting(ca.api, &other.root(), None, &[&rustls::version::TLS13]);
        std::thread::scope(|scope| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            scope.spawn(move || runtime.block_on(client.connect()).ok().map(drop)).join().unwrap()
        })
    });
    let client = Client::trusting(ca.api, &other.root(), None, &[&rustls::version::TLS13]);
    assert!(is_issued_by(&client.enroll(&home.token(), "").await, &other.root()));
}

/// As the operator is told to do it: first the root, into the chain; later the intermediate.
#[tokio::test]
async fn a_root_that_joins_the_chain_is_published() {
    let (pki, other) = (Pki::new(), Pki::new());
    let home = home_of(&pki);
    let _ca = home.start();
    let chain = pki.root.pem() + &other.root.pem();
    std::fs::write(home.path("chain.pem"), chain).unwrap();
    wait_for("the other root to be published", || {
        (bundle(&home) == [pki.root(), other.root()]).then_some(())
    });
}

#[rstest]
#[case::key_cut("ca.key", "the key is damaged")]
#[case::certificate_cut("ca.pem", "the certificate is damaged")]
#[case::chain_cut("chain.pem", "chain is damaged")]
#[tokio::test]
async fn external_files_that_are_damaged_leave_the_last_good_ones_in_force_and_stop_a_start(
    #[case] file: &str,
    #[case] expected: &str,
) {
    let pki = Pki::new();
    let home = home_of(&pki);
    let ca = home.start();
    let whole = std::fs::read(home.path(file)).unwrap();
    std::fs::write(home.path(file), &whole[..whole.len() / 2]).unwrap();
    let complaint = wait_for("a complaint", || ca.log().into_iter().find(|line| line["level"] == "ERROR"));
    assert!(complaint["error"].as_str().unwrap().contains(expected), "{complaint}");
    Client::new(&ca, &home).enroll(&home.token(), "").await;
    drop(ca);
    let output = home.command(&["serve"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains(expected) && error.contains(file), "{error}");
    std::fs::write(home.path(file), whole).unwrap();
    home.start();
}

#[test]
fn an_external_key_of_another_certificate_or_a_chain_without_its_root_is_refused() {
    let (pki, other) = (Pki::new(), Pki::new());
    let home = home_of(&pki);
    let refusal = || {
        let output = home.command(&["serve"]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    std::fs::write(home.path("ca.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(refusal().contains("do not belong together"));
    pki.lend(&home, &[]);
    std::fs::write(home.path("chain.pem"), other.root.pem()).unwrap();
    assert!(refusal().contains("workloads would not accept what it signs"), "{}", refusal());
    std::fs::write(home.path("chain.pem"), "").unwrap();
    assert!(refusal().contains("there is no root"), "{}", refusal());
    assert!(!home.path("state/signers.json").exists(), "a root of our own was made");
}

/// An hour is 36 ms here, and files are looked at once a second; so a life of 40 hours is replaced every other second.
#[test]
fn a_token_in_a_file_is_replaced_while_the_ca_serves() {
    let origin = rfc3339::print(SystemTime::now());
    let home = Home::with(&format!("time: {{scale: 100000, origin: '{origin}'}}\ntokens: {{life: 40h}}"));
    let ca = home.start();
    let first = home.token();
    wait_for("another token", || (home.token() != first).then_some(()));
    assert!(!ca.log().iter().any(|line| line["level"] == "ERROR"), "{:#?}", ca.log());
}
