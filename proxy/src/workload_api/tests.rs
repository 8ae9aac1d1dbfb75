//! The server over real sockets, asked by the client that tonic makes of the same file, and the messages.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_mesh::workload::Workload;
use pillion_testkit::authority::{after, before, valid_between};
use pillion_testkit::{Held, TestCa};
use proptest::prelude::*;
use rstest::rstest;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};

use super::proto::{X509svid, X509svidResponse};
use super::*;
use crate::telemetry::{Scraped, Telemetry};
use crate::tls::{Bundles, Clock, Credentials, TlsSettings};

use proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;

const ID: &str = "spiffe://cluster.local/ns/default/sa/backend";
const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";
const LONG: Duration = Duration::from_secs(20);

type Client = SpiffeWorkloadApiClient<Sender>;

/// A server on a socket of its own.
struct Served {
    ca: TestCa,
    folder: TempDir,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    telemetry: Arc<Telemetry>,
    _stop: DropGuard,
}

impl Served {
    /// Without an identity as yet.
    fn new() -> Served {
        let folder = tempfile::tempdir().unwrap();
        let (credentials, live) = watch::channel(None);
        let workload = Workload {
            name: "backend".to_owned(),
            trust_domain: "cluster.local".parse().unwrap(),
            namespace: "default".to_owned(),
            service_account: "backend".to_owned(),
            labels: [].into(),
        };
        let telemetry = Arc::new(Telemetry::new(&workload));
        let stop = CancellationToken::new();
        let socket = Socket::bind(&folder.path().join("api.sock"), 0o600).unwrap();
        tokio::spawn(serve(socket, live, telemetry.clone(), stop.clone()));
        Served { ca: TestCa::root("root"), folder, credentials, telemetry, _stop: stop.drop_guard() }
    }

    fn with_identity() -> Served {
        let served = Served::new();
        served.give(&served.ca.issue(ID), &served.ca.bundle_pem());
        served
    }

    fn give(&self, held: &Held, bundle: &str) {
        let bundles = Bundles::from_pem(&"cluster.local".parse().unwrap(), bundle.as_bytes()).unwrap();
        self.give_with(held, bundles);
    }

    fn give_with(&self, held: &Held, bundles: Bundles) {
        let (chain, clock) = (held.chain.clone(), Clock::system());
        let credentials =
            Credentials::new(chain, &held.key, bundles, TlsSettings::default(), &clock, 1).unwrap();
        self.credentials.send_replace(Some(Arc::new(credentials)));
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("api.sock")
    }

    async fn client(&self) -> Client {
        client(&self.path()).await
    }

    fn metrics(&self) -> String {
        self.telemetry.encode(&Scraped::default())
    }
}

/// With the windows of the standard, which hold some dozens of messages; hyper's are larger.
async fn client(path: &Path) -> Client {
    const WINDOW: u32 = 65_535;
    let stream = UnixStream::connect(path).await.unwrap();
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    SpiffeWorkloadApiClient::with_origin(Sender::new(sender), "http://localhost".parse().unwrap())
}

fn asking<M>(message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().unwrap());
    request
}

async fn svids(client: &mut Client) -> Result<tonic::Streaming<X509svidResponse>, Status> {
    let call = client.fetch_x509svid(asking(proto::X509svidRequest {}));
    timeout(LONG, call).await.unwrap().map(tonic::Response::into_inner)
}

async fn next<M>(stream: &mut tonic::Streaming<M>) -> Result<Option<M>, Status> {
    timeout(LONG, stream.message()).await.unwrap()
}

fn chain(held: &Held) -> Vec<u8> {
    held.chain.iter().flat_map(|certificate| certificate.to_vec()).collect()
}

#[tokio::test]
async fn an_app_gets_the_identity_with_its_key_and_every_bundle() {
    let served = Served::new();
    let intermediate = served.ca.intermediate("intermediate");
    let (held, foreign) = (intermediate.issue(ID), TestCa::root("foreign root"));
    let bundle = |name: &str, ca: &TestCa| {
        Bundles::from_der(&name.parse().unwrap(), [ca.root_certificate().clone()]).unwrap()
    };
    let own = bundle("cluster.local", &served.ca);
    served.give_with(&held, own.with_foreign(&bundle("other.example", &foreign)));

    let mut client = served.client().await;
    let message = next(&mut svids(&mut client).await.unwrap()).await.unwrap().unwrap();
    let [svid] = message.svids.as_slice() else { panic!("one identity, not {}", message.svids.len()) };
    assert_eq!(svid.spiffe_id, ID);
    assert_eq!(svid.x509_svid, chain(&held), "leaf first, then the intermediate, no root");
    assert_eq!(svid.x509_svid_key, held.key.secret_der());
    assert_eq!(svid.bundle, served.ca.root_certificate().as_ref());
    let foreign = foreign.root_certificate().to_vec();
    let federated = [("spiffe://other.example".to_owned(), foreign.clone())];
    assert_eq!(message.federated_bundles, federated.clone().into());
    assert!(message.crl.is_empty());

    let bundles = client.fetch_x509_bundles(asking(proto::X509BundlesRequest {})).await.unwrap();
    let bundles = next(&mut bundles.into_inner()).await.unwrap().unwrap().bundles;
    let own = ("spiffe://cluster.local".to_owned(), served.ca.root_certificate().to_vec());
    assert_eq!(bundles, federated.into_iter().chain([own]).collect());
}

#[tokio::test]
async fn every_renewal_and_every_new_bundle_comes_by_itself() {
    let served = Served::with_identity();
    let mut client = served.client().await;
    let mut stream = svids(&mut client).await.unwrap();
    let bundles = client.fetch_x509_bundles(asking(proto::X509BundlesRequest {})).await.unwrap();
    let mut bundles = bundles.into_inner();
    next(&mut stream).await.unwrap().unwrap();
    next(&mut bundles).await.unwrap().unwrap();

    let renewed = served.ca.issue(ID);
    served.give(&renewed, &served.ca.bundle_pem());
    let message = next(&mut stream).await.unwrap().unwrap();
    assert_eq!(message.svids[0].x509_svid, chain(&renewed));
    next(&mut bundles).await.unwrap().unwrap();

    let next_root = TestCa::root("next root");
    served.give(&renewed, &(served.ca.bundle_pem() + &next_root.bundle_pem()));
    let both = [served.ca.root_certificate().as_ref(), next_root.root_certificate()].concat();
    assert_eq!(next(&mut stream).await.unwrap().unwrap().svids[0].bundle, both);
    assert_eq!(next(&mut bundles).await.unwrap().unwrap().bundles["spiffe://cluster.local"], both);
}

#[tokio::test]
async fn an_app_that_reads_slowly_gets_the_newest_and_not_all() {
    let served = Served::with_identity();
    let mut client = served.client().await;
    let mut stream = svids(&mut client).await.unwrap();
    const CHANGES: usize = 400; // far more than the windows of HTTP/2 hold
    let (old, newest) = (served.ca.issue(ID), served.ca.issue(ID));
    for change in 1..=CHANGES {
        let held = if change == CHANGES { &newest } else { &old };
        served.give(held, &served.ca.bundle_pem());
        sleep(Duration::from_millis(1)).await; // time enough for each to be sent
    }
    let mut messages = 1;
    while next(&mut stream).await.unwrap().unwrap().svids[0].x509_svid != chain(&newest) {
        messages += 1;
    }
    assert!(messages < CHANGES / 2, "{messages} messages");
}

#[rstest]
#[case::absent(&[])]
#[case::empty(&[""])]
#[case::another_value(&["false"])]
#[case::another_case(&["True"])]
#[case::twice(&["true", "true"])]
#[tokio::test]
async fn without_the_security_header_nothing_is_answered(
    #[case] values: &[&'static str],
    #[values("FetchX509SVID", "FetchX509Bundles", "FetchJWTSVID", "none")] method: &str,
) {
    let served = Served::with_identity();
    let status = call(&served, method, values).await;
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("workload.spiffe.io: true"), "{status}");
    assert!(
        served
            .metrics()
            .contains("pillion_workload_api_calls_total{method=\"any\",code=\"INVALID_ARGUMENT\"} 1")
    );
}

#[rstest]
#[case("FetchJWTSVID")]
#[case("FetchJWTBundles")]
#[case("ValidateJWTSVID")]
#[case("FetchWITSVID")]
#[tokio::test]
async fn other_profiles_are_not_implemented(#[case] method: &str) {
    assert_eq!(call(&Served::with_identity(), method, &["true"]).await.code(), Code::Unimplemented);
}

/// What a call of `method` with an empty message is refused with.
async fn call(served: &Served, method: &str, header: &[&'static str]) -> Status {
    let stream = UnixStream::connect(served.path()).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::post(format!("http://localhost/SpiffeWorkloadAPI/{method}"))
        .header("content-type", "application/grpc");
    for value in header {
        request = request.header("workload.spiffe.io", *value);
    }
    let body = http_body_util::Full::new(hyper::body::Bytes::from_static(&[0; 5]));
    let answer = timeout(LONG, sender.send_request(request.body(body).unwrap())).await.unwrap().unwrap();
    Status::from_header_map(answer.headers()).expect("a status in the head of the answer")
}

#[tokio::test]
async fn without_a_valid_certificate_permission_is_denied() {
    let served = Served::new();
    let mut client = served.client().await;
    let status = svids(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("no certificate yet"), "{status}");
    let bundles = client.fetch_x509_bundles(asking(proto::X509BundlesRequest {})).await.unwrap_err();
    assert_eq!(bundles.code(), Code::PermissionDenied);

    served.give(&served.ca.issue(ID), &served.ca.bundle_pem());
    let mut stream = svids(&mut client).await.unwrap();
    next(&mut stream).await.unwrap().unwrap();

    let hour = Duration::from_secs(3600);
    let expired = served.ca.issue_with(ID, |params| valid_between(params, before(2 * hour), before(hour)));
    served.give(&expired, &served.ca.bundle_pem());
    let status = next(&mut stream).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "of an open stream too");
    let status = svids(&mut client).await.unwrap_err();
    assert!(status.message().contains("the sidecar's clock says"), "{status}");

    let early = served.ca.issue_with(ID, |params| valid_between(params, after(hour), after(2 * hour)));
    served.give(&early, &served.ca.bundle_pem());
    assert_eq!(svids(&mut client).await.unwrap_err().code(), Code::PermissionDenied);
    let metrics = served.metrics();
    for line in [
        "pillion_workload_api_calls_total{method=\"FetchX509SVID\",code=\"PERMISSION_DENIED\"} 3",
        "pillion_workload_api_calls_total{method=\"FetchX509Bundles\",code=\"PERMISSION_DENIED\"} 1",
        "pillion_workload_api_calls_total{method=\"FetchX509SVID\",code=\"OK\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn open_streams_are_counted_and_end_with_the_sidecar() {
    let served = Served::with_identity();
    let mut client = served.client().await;
    let mut first = svids(&mut client).await.unwrap();
    let second = svids(&mut client).await.unwrap();
    assert!(served.metrics().contains("pillion_workload_api_streams 2"));
    drop(second);
    let fewer = async {
        while !served.metrics().contains("pillion_workload_api_streams 1") {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LONG, fewer).await.expect("a stream that its client has left is no longer counted");
    next(&mut first).await.unwrap().unwrap();
    drop(served);
    assert!(!matches!(next(&mut first).await, Ok(Some(_))));
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_call_ends() {
    use tokio::io::AsyncReadExt;
    let served = Served::with_identity();
    let mut silent = UnixStream::connect(served.path()).await.unwrap();
    let mut rest = Vec::new();
    timeout(Duration::from_secs(60), silent.read_to_end(&mut rest)).await.unwrap().unwrap();
}

// The socket

#[rstest]
#[case(0o600)]
#[case(0o660)]
#[case(0o666)]
#[tokio::test]
async fn req_36_the_socket_has_the_mode_that_was_asked_for_whatever_the_umask(#[case] mode: u32) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let socket = Socket::bind(&path, mode).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    drop(socket);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "it goes with the process");
}

#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file
    let _socket = Socket::bind(&path, 0o600).unwrap();
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn the_socket_of_a_living_process_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let _socket = Socket::bind(&path, 0o600).unwrap();
    assert!(matches!(Socket::bind(&path, 0o600), Err(SocketError::Taken)));
    UnixStream::connect(&path).await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_no_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    fs::write(&path, "somebody's").unwrap();
    assert!(matches!(Socket::bind(&path, 0o600), Err(SocketError::NoSocket)));
    assert_eq!(fs::read_to_string(&path).unwrap(), "somebody's");
}

#[tokio::test]
async fn a_socket_that_another_has_put_there_since_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let socket = Socket::bind(&path, 0o600).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    drop(socket);
    assert!(path.exists());
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = Socket::bind(&folder.path().join("missing/api.sock"), 0o600).unwrap_err();
    assert!(
        error.to_string().ends_with("; its folder must be there and be writable for this process"),
        "{error}"
    );
}

// Messages of an agent

fn message(held: &Held, ca: &TestCa) -> X509svidResponse {
    let svid = X509svid {
        spiffe_id: ID.to_owned(),
        x509_svid: chain(held),
        x509_svid_key: held.key.secret_der().to_vec(),
        bundle: ca.root_certificate().to_vec(),
        hint: String::new(),
    };
    X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: [].into() }
}

fn given(message: X509svidResponse) -> Result<Given, String> {
    Given::of(message, &ID.parse().unwrap()).map_err(|error| error.to_string())
}

#[test]
fn of_several_identities_ours_is_taken() {
    let ca = TestCa::root("root");
    let (ours, other) = (ca.issue(ID), ca.issue(OTHER));
    let mut message = message(&ours, &ca);
    message
        .svids
        .insert(0, X509svid { spiffe_id: OTHER.to_owned(), ..self::message(&other, &ca).svids.remove(0) });
    assert_eq!(given(message).unwrap().chain, ours.chain);
}

#[test]
fn an_agent_that_has_only_others_is_refused_with_their_names() {
    let ca = TestCa::root("root");
    let mut message = message(&ca.issue(OTHER), &ca);
    message.svids[0].spiffe_id = OTHER.to_owned();
    let error = given(message).err().unwrap();
    assert!(error.starts_with(&format!("it gives {OTHER}; this proxy is to be {ID}")), "{error}");
    let nothing = given(X509svidResponse::default()).err().unwrap();
    assert!(nothing.starts_with("it gives no identity at all"), "{nothing}");
}

#[rstest]
#[case::chain_cut_off(|svid: &mut X509svid| _ = svid.x509_svid.pop(), "x509_svid")]
#[case::garbage_behind_the_chain(|svid: &mut X509svid| svid.x509_svid.push(1), "x509_svid")]
#[case::bundle_cut_off(|svid: &mut X509svid| _ = svid.bundle.pop(), "in bundle")]
#[case::leaf_as_root(|svid: &mut X509svid| svid.bundle.clone_from(&svid.x509_svid), "cannot be a root")]
fn a_damaged_message_is_refused_with_the_field(#[case] damage: fn(&mut X509svid), #[case] expected: &str) {
    let ca = TestCa::root("root");
    let mut message = message(&ca.issue(ID), &ca);
    damage(&mut message.svids[0]);
    let error = given(message).err().unwrap();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn bundles_of_other_trust_domains_come_along_and_a_bad_one_is_left_out() {
    let (ca, foreign) = (TestCa::root("root"), TestCa::root("foreign"));
    let mut message = message(&ca.issue(ID), &ca);
    let root = foreign.root_certificate().to_vec();
    message.federated_bundles = [
        ("spiffe://other.example".to_owned(), root.clone()),
        ("spiffe://broken.example".to_owned(), root[1..].to_vec()),
        ("spiffe://other.example/path".to_owned(), root.clone()),
        ("spiffe://cluster.local".to_owned(), root),
    ]
    .into();
    let given = given(message).unwrap();
    let bundles = given.own_bundle.with_foreign(&given.foreign);
    let names: Vec<_> = bundles.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["cluster.local", "other.example"]);
    let own = bundles.roots(&"cluster.local".parse().unwrap()).unwrap();
    assert_eq!(own.len(), 1);
    assert_eq!(&own[0].der, ca.root_certificate(), "our own bundle is nobody else's to give");
    assert_eq!(given.faults.len(), 2);
}

proptest! {
    /// Whatever an agent sends is used or refused, and never more than it is.
    #[test]
    fn any_message_is_used_or_refused(
        chain in prop::collection::vec(any::<u8>(), 0..80),
        bundle in prop::collection::vec(any::<u8>(), 0..80),
        name in "(spiffe://)?[a-z./%]{0,12}",
        ours in any::<bool>(),
    ) {
        let svid = X509svid {
            spiffe_id: if ours { ID.to_owned() } else { name.clone() },
            x509_svid: chain,
            x509_svid_key: vec![0; 8],
            bundle: bundle.clone(),
            hint: String::new(),
        };
        let message = X509svidResponse { svids: vec![svid], crl: Vec::new(), federated_bundles: [(name, bundle)].into() };
        if let Ok(given) = given(message) {
            prop_assert!(ours);
            prop_assert!(given.foreign.iter().all(|(_, roots)| roots.is_empty()), "no root can come of noise");
        }
    }

    /// Damage to a good message is found, or does no harm to the chain.
    #[test]
    fn a_message_cut_off_anywhere_loses_no_certificate_unseen(at in any::<prop::sample::Index>()) {
        static CA: LazyLock<(TestCa, Held)> = LazyLock::new(|| {
            let ca = TestCa::root("root");
            let held = ca.intermediate("intermediate").issue(ID);
            (ca, held)
        });
        let (ca, held) = &*CA;
        let mut message = message(held, ca);
        let whole = message.svids[0].x509_svid.len();
        let cut = at.index(whole);
        message.svids[0].x509_svid.truncate(cut);
        match given(message) {
            Ok(given) => {
                let length: usize = given.chain.iter().map(|certificate| certificate.len()).sum();
                prop_assert_eq!(length, cut, "cut between two certificates, or before the first");
            }
            Err(error) => prop_assert!(error.contains("x509_svid"), "{}", error),
        }
    }
}
