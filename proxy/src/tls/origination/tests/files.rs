//! Files that are missing, broken, rotated and forgotten.

use pillion_mesh::policy::Snapshot;
use pillion_mesh::resource::Resources;
use pillion_mesh::workload::{MeshConfig, Workload};
use rstest::rstest;
use tokio::time::sleep;
use tokio_util::sync::DropGuard;

use super::*;
use crate::live::Publisher;
use crate::tls::origination::material::Content;

/// Longer than it takes to see a change twice.
const SETTLE: Duration = Duration::from_secs(1);

/// A rule whose files are watched, as long as it is in force.
struct Watching {
    web: Web,
    how: Origination,
    publisher: Publisher,
    _stop: DropGuard,
}

impl Watching {
    fn new() -> Self {
        let web = Web::new();
        let how = Origination {
            ca_crl: Some(web.write("crl.pem", &web.ca.revocation_list(&[], soon()))),
            ..web.mutual(&web.ca.issue("spiffe://other.mesh/first"))
        };
        let (publisher, snapshot) = Publisher::new(in_force(Some(&how)), SystemTime::now());
        let stop = CancellationToken::new();
        let (originator, cancel) = (web.originator.clone(), stop.clone());
        tokio::spawn(async move { originator.watch(snapshot, cancel).await });
        Self { web, how, publisher, _stop: stop.drop_guard() }
    }

    /// Whom a server that trusts only the authority gets to see.
    async fn shown(&self) -> Result<String, HandshakeError> {
        let server = pillion_testkit::tls::outside_server(&self.web.server(), Some(&self.web.ca));
        Ok(self.web.dial(&self.how, server).await.0?.0.local)
    }

    fn last_error(&self, file: &str) -> Option<String> {
        let files = self.web.originator.files();
        let state = files.into_iter().find(|state| state.paths.iter().any(|path| path.ends_with(file)));
        state.expect("a file that was needed").last_error
    }
}

/// A snapshot with one rule, or none.
fn in_force(how: Option<&Origination>) -> Snapshot {
    let mut resources = Resources::default();
    if let Some(how) = how {
        let client = how.client.as_ref().unwrap();
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: api}}\nspec:\n  hosts: [{HOST}]\n  \
             ports: [{{number: 443, name: tls}}]\n  resolution: DNS\n---\n\
             apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api}}\nspec:\n  host: {HOST}\n  \
             trafficPolicy: {{tls: {{mode: MUTUAL, clientCertificate: {}, privateKey: {}, caCertificates: {}, caCrl: {}}}}}\n",
            client.certificate,
            client.key,
            how.ca_certificates.as_ref().unwrap(),
            how.ca_crl.as_ref().unwrap(),
        );
        resources.read("mesh.yaml", &text).unwrap();
    }
    let workload = Workload {
        name: "web".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "web".to_owned(),
        labels: [].into(),
    };
    Snapshot::build(&resources, &workload, &MeshConfig::default())
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_before_a_connection_needs_it() {
    let watching = Watching::new();
    sleep(SETTLE).await;
    assert_eq!(watching.web.originator.files(), []);
    assert_eq!(watching.shown().await.unwrap(), "spiffe://other.mesh/first");
    let files = watching.web.originator.files();
    let holds: Vec<_> = files.iter().map(|state| state.holds.as_deref().unwrap()).collect();
    assert_eq!(
        holds,
        ["1 root certificate", "1 revocation list", "certificate and key of spiffe://other.mesh/first"]
    );
    assert!(files.iter().all(|state| state.loaded.is_some() && state.last_error.is_none()), "{files:?}");
    assert!(files[2].not_after.as_ref().unwrap().starts_with("20"), "{files:?}");
}

#[tokio::test(start_paused = true)]
async fn changed_files_are_taken_for_new_connections() {
    let watching = Watching::new();
    watching.shown().await.unwrap();
    let next = watching.web.ca.issue("spiffe://other.mesh/second");
    watching.web.write("client.pem", &next.chain_pem());
    watching.web.write("client.key", &next.key_pem());
    sleep(SETTLE).await;
    assert_eq!(watching.shown().await.unwrap(), "spiffe://other.mesh/second");

    watching.web.write("ca.pem", &TestCa::root("another root").bundle_pem());
    sleep(SETTLE).await;
    assert_eq!(watching.shown().await.unwrap_err().reason, Reason::CertificateUntrusted);
}

/// Somebody writes them one after the other.
#[tokio::test(start_paused = true)]
async fn certificate_and_key_that_do_not_fit_for_a_moment_are_not_taken_nor_reported() {
    let watching = Watching::new();
    watching.shown().await.unwrap();
    let next = watching.web.ca.issue("spiffe://other.mesh/second");
    watching.web.write("client.key", &next.key_pem());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(watching.last_error("client.key"), None);
    assert_eq!(watching.shown().await.unwrap(), "spiffe://other.mesh/first");
    watching.web.write("client.pem", &next.chain_pem());
    sleep(SETTLE).await;
    assert_eq!(watching.shown().await.unwrap(), "spiffe://other.mesh/second");
}

#[rstest]
#[case::a_key_of_another_certificate("client.key", "a key", "it is not the key of the certificate")]
#[case::no_pem("client.key", "no key at all", "expected a PEM private key")]
#[case::no_certificate("client.pem", "", "expected a PEM certificate chain")]
#[case::no_root("ca.pem", "", "expected one or more PEM certificates, found none")]
#[case::half_a_root("ca.pem", "half", "certificate 1")]
#[case::no_list("crl.pem", "", "expected one or more PEM revocation lists")]
#[case::missing("ca.pem", "missing", "No such file")]
#[tokio::test(start_paused = true)]
async fn the_last_good_files_stay_in_use_and_the_fault_is_told(
    #[case] file: &str,
    #[case] text: &str,
    #[case] words: &str,
) {
    let watching = Watching::new();
    watching.shown().await.unwrap();
    let path = watching.web.folder.path().join(file);
    let good = fs::read_to_string(&path).unwrap();
    match text {
        "missing" => fs::remove_file(&path).unwrap(),
        "half" => fs::write(&path, &good[..good.len() / 2]).unwrap(),
        "a key" => fs::write(&path, watching.web.ca.issue("spiffe://x/y").key_pem()).unwrap(),
        text => fs::write(&path, text).unwrap(),
    }
    sleep(SETTLE).await;
    let fault = watching.last_error(file).expect("a fault");
    assert!(fault.contains(words) && fault.contains(file), "{words} is missing in: {fault}");
    assert_eq!(watching.shown().await.unwrap(), "spiffe://other.mesh/first");

    fs::write(&path, &good).unwrap();
    sleep(SETTLE).await;
    assert_eq!(watching.last_error(file), None);
}

#[rstest]
#[case::certificate("client.pem")]
#[case::key("client.key")]
#[case::roots("ca.pem")]
#[case::lists("crl.pem")]
#[tokio::test(start_paused = true)]
async fn without_a_good_file_connections_are_refused_until_it_is_there(#[case] file: &str) {
    let watching = Watching::new();
    let path = watching.web.folder.path().join(file);
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let error = watching.shown().await.unwrap_err();
    assert_eq!(error.reason, Reason::TlsFilesUnusable);
    assert!(error.detail.contains(file) && error.detail.contains("No such file"), "{error}");
    fs::write(&path, good).unwrap();
    sleep(SETTLE).await;
    assert_eq!(watching.shown().await.unwrap(), "spiffe://other.mesh/first");
}

/// Bounded: what no rule names is let go, with its key.
#[tokio::test(start_paused = true)]
async fn files_that_no_rule_in_force_names_are_forgotten() {
    let watching = Watching::new();
    watching.shown().await.unwrap();
    assert_eq!(watching.web.originator.files().len(), 3);
    watching.publisher.policy(&in_force(None), SystemTime::now());
    sleep(SETTLE).await;
    assert_eq!(watching.web.originator.files(), []);
}

#[tokio::test]
async fn a_file_without_an_end_is_refused() {
    let web = Web::new();
    let how = Origination { ca_certificates: Some("/dev/zero".to_owned()), ..web.simple() };
    let error = web.refused(&how, &web.server()).await;
    assert_eq!(error.reason, Reason::TlsFilesUnusable);
    assert!(error.detail.contains("/dev/zero: it is no regular file"), "{error}");
}

#[test]
fn what_is_shown_does_not_print_its_key() {
    let held = TestCa::root("root").issue("spiffe://other.mesh/first");
    let texts = [held.chain_pem(), held.key_pem()].map(|text| text.into_bytes().into());
    let shown = <Shown as Content>::parse(&["a".to_owned(), "b".to_owned()], &texts);
    assert_eq!(format!("{:?}", shown.unwrap()), "Shown { name: \"spiffe://other.mesh/first\", .. }");
}
