//! Listening to an agent: one made by hand, whose every byte is written here, and our own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pillion_mesh::workload::Workload;
use pillion_testkit::authority::{after, before, valid_between};
use pillion_testkit::{Held, TestCa};
use rstest::rstest;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::DropGuard;

use super::*;
use crate::identity::workload_api::Agent;
use crate::telemetry::Telemetry;
use crate::tls::Credentials;
use crate::workload_api::{Socket, serve};

const LONG: Duration = Duration::from_secs(20);

// Protocol buffers and gRPC by hand

/// A field of bytes, text or a message.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = value.len();
    while length > 0x7f {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend_from_slice(value);
    bytes
}

/// An `X509SVID`.
fn svid(id: &str, held: &Held, bundle: &[u8]) -> Vec<u8> {
    let chain: Vec<u8> = held.chain.iter().flat_map(|certificate| certificate.to_vec()).collect();
    let fields = [(1, id.as_bytes()), (2, &chain), (3, held.key.secret_der()), (4, bundle), (5, b"a hint")];
    fields.into_iter().flat_map(|(number, value)| field(number, value)).collect()
}

/// An `X509SVIDResponse` of one identity.
fn response(id: &str, held: &Held, bundle: &[u8]) -> Vec<u8> {
    field(1, &svid(id, held, bundle))
}

/// An entry of `federated_bundles`.
fn federated(name: &str, bundle: &[u8]) -> Vec<u8> {
    field(3, &[field(1, name.as_bytes()), field(2, bundle)].concat())
}

/// The message in a frame of gRPC.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], length.as_slice(), message].concat().into()
}

/// What the agent does with the next call.
enum Answer {
    /// Sends what comes, then OK where the sender goes.
    Stream(mpsc::Receiver<Bytes>),
    /// A code and its words.
    Refusal(u8, &'static str),
    /// Nothing at all.
    Silence,
}

struct HandMade {
    folder: TempDir,
    calls: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl HandMade {
    /// Gives these answers, one for each call, then refuses.
    fn new(mut answers: Vec<Answer>) -> HandMade {
        answers.reverse();
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent.sock")).unwrap();
        let answers = Arc::new(Mutex::new(answers)); // the next is the last
        let calls = Arc::new(Mutex::new(Vec::new()));
        let agent = HandMade { folder, calls: calls.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, calls) = (answers.clone(), calls.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    calls.lock().unwrap().push((request.uri().path().to_owned(), request.headers().clone()));
                    answer(answers.lock().unwrap().pop().unwrap_or(Answer::Refusal(14, "no more")))
                });
                let served =
                    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                tokio::spawn(served);
            }
        });
        agent
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// A stream of messages that goes on.
    fn stream() -> (mpsc::Sender<Bytes>, Answer) {
        let (sender, messages) = mpsc::channel(8);
        (sender, Answer::Stream(messages))
    }
}

type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

async fn answer(answer: Answer) -> Result<Response<Body>, Infallible> {
    let (sender, frames) = mpsc::channel(8);
    let head = Response::builder().header("content-type", "application/grpc");
    let head = match answer {
        Answer::Silence => return std::future::pending().await,
        Answer::Refusal(code, words) => {
            head.header("grpc-status", code.to_string()).header("grpc-message", words)
        }
        Answer::Stream(mut messages) => {
            tokio::spawn(async move {
                while let Some(message) = messages.recv().await {
                    let _ = sender.send(Ok(Frame::data(message))).await;
                }
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", 0.into());
                let _ = sender.send(Ok(Frame::trailers(trailers))).await;
            });
            head
        }
    };
    Ok(head.body(StreamBody::new(ReceiverStream::new(frames))).unwrap())
}

/// The identity of a proxy that listens to the agent on `socket`.
fn listening(socket: &Path) -> (Identity, DropGuard) {
    let (publisher, identity) = Publisher::new();
    let clock = Clock::system();
    let agent = Agent::new(id().into(), socket.to_owned(), TlsSettings::default(), clock, publisher);
    let cancel = CancellationToken::new();
    tokio::spawn(cancel.clone().run_until_cancelled_owned(agent.run()));
    (identity, cancel.drop_guard())
}

async fn credentials(identity: &Identity, serial: Option<&str>) -> Arc<Credentials> {
    let mut live = identity.credentials.clone();
    let wanted = |current: &Option<Arc<Credentials>>| {
        current.as_ref().is_some_and(|current| serial.is_none_or(|serial| current.svid.serial == serial))
    };
    timeout(LONG, live.wait_for(wanted)).await.expect("they did not come").unwrap().clone().unwrap()
}

async fn last_error(identity: &Identity) -> String {
    let mut status = identity.status.clone();
    let failed = timeout(LONG, status.wait_for(|status| status.last_error.is_some())).await;
    failed.expect("nothing failed").unwrap().last_error.clone().unwrap()
}

fn serial(held: &Held) -> String {
    pillion_mesh::svid::check_leaf(&held.chain[0]).unwrap().serial
}

#[tokio::test]
async fn the_identity_and_every_change_of_it_come_from_the_agent() {
    let (ca, foreign) = (TestCa::root("root"), TestCa::root("foreign"));
    let root = ca.root_certificate();
    let (messages, stream) = HandMade::stream();
    let agent = HandMade::new(vec![stream]);
    let (identity, _stop) = listening(&agent.path());

    let first = ca.issue(ID);
    messages.send(framed(&response(ID, &first, root))).await.unwrap();
    let used = credentials(&identity, Some(&serial(&first))).await;
    assert_eq!(used.svid.id, id());

    let second = ca.issue(ID);
    let message =
        [response(ID, &second, root), federated("spiffe://other.example", foreign.root_certificate())];
    messages.send(framed(&message.concat())).await.unwrap();
    let used = credentials(&identity, Some(&serial(&second))).await;
    let other = used.bundles().roots(&"other.example".parse().unwrap()).unwrap();
    assert_eq!(&other[0].der, foreign.root_certificate());

    let third = ca.issue(ID);
    messages.send(framed(&response(ID, &third, root))).await.unwrap();
    let used = credentials(&identity, Some(&serial(&third))).await;
    assert!(
        used.bundles().roots(&"other.example".parse().unwrap()).is_none(),
        "what a message leaves out is gone"
    );

    let calls = agent.calls.lock().unwrap();
    let [(path, head)] = calls.as_slice() else { panic!("{} calls", calls.len()) };
    assert_eq!(path, "/SpiffeWorkloadAPI/FetchX509SVID");
    assert_eq!(head["workload.spiffe.io"], "true");
    assert_eq!(identity.status().last_error, None);
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again() {
    let ca = TestCa::root("root");
    let (first, second) = (ca.issue(ID), ca.issue(ID));
    let ((one, stream), (two, next)) = (HandMade::stream(), HandMade::stream());
    let agent = HandMade::new(vec![stream, next]);
    let (identity, _stop) = listening(&agent.path());
    one.send(framed(&response(ID, &first, ca.root_certificate()))).await.unwrap();
    credentials(&identity, Some(&serial(&first))).await;
    drop(one);
    two.send(framed(&response(ID, &second, ca.root_certificate()))).await.unwrap();
    credentials(&identity, Some(&serial(&second))).await;
}

#[tokio::test]
async fn an_agent_that_comes_later_is_waited_for() {
    let ca = TestCa::root("root");
    let folder = tempfile::tempdir().unwrap();
    let (identity, _stop) = listening(&folder.path().join("agent.sock"));
    let error = last_error(&identity).await;
    assert!(error.contains("it cannot be reached: "), "{error}");
    assert!(error.ends_with("is the agent running, and may this user open its socket?"), "{error}");

    let (messages, stream) = HandMade::stream();
    let agent = HandMade::new(vec![stream]);
    fs::rename(agent.path(), folder.path().join("agent.sock")).unwrap();
    let held = ca.issue(ID);
    messages.send(framed(&response(ID, &held, ca.root_certificate()))).await.unwrap();
    credentials(&identity, Some(&serial(&held))).await;
    assert_eq!(identity.status().last_error, None);
}

/// A message of the agent that cannot be used.
enum Bad {
    OtherIdentity,
    OtherKey,
    OtherRoot,
    NoRoot,
    IdentityOnlySaid,
    Expired,
    NotYetValid,
    ChainCutOff,
    NoProtobuf,
    NoIdentity,
}

fn bad(what: &Bad, ca: &TestCa) -> Vec<u8> {
    const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";
    let (held, root, hour) = (ca.issue(ID), ca.root_certificate(), Duration::from_secs(3600));
    match what {
        Bad::OtherIdentity => response(OTHER, &ca.issue(OTHER), root),
        Bad::OtherKey => response(ID, &Held { chain: held.chain, key: ca.issue(ID).key }, root),
        Bad::OtherRoot => response(ID, &held, TestCa::root("another").root_certificate()),
        Bad::NoRoot => response(ID, &held, &[]),
        Bad::IdentityOnlySaid => response(ID, &ca.issue(OTHER), root),
        Bad::Expired => response(
            ID,
            &ca.issue_with(ID, |params| valid_between(params, before(2 * hour), before(hour))),
            root,
        ),
        Bad::NotYetValid => response(
            ID,
            &ca.issue_with(ID, |params| valid_between(params, after(hour), after(2 * hour))),
            root,
        ),
        Bad::ChainCutOff => {
            let whole = &held.chain[0];
            let cut = whole[..whole.len() - 1].to_vec().into();
            response(ID, &Held { chain: vec![cut], key: held.key }, root)
        }
        Bad::NoProtobuf => vec![0xff; 20],
        Bad::NoIdentity => Vec::new(),
    }
}

#[rstest]
#[case::other_identity(Bad::OtherIdentity, "register that there, or set `workload` to what it gives")]
#[case::other_key(Bad::OtherKey, "the private key is not the one that the certificate of")]
#[case::other_root(Bad::OtherRoot, "does not verify by its own bundle")]
#[case::no_root(Bad::NoRoot, "does not verify by its own bundle")]
#[case::identity_only_said(
    Bad::IdentityOnlySaid,
    "expected a certificate of spiffe://cluster.local/ns/default/sa/backend"
)]
#[case::expired(Bad::Expired, "our clock says")]
#[case::not_yet_valid(Bad::NotYetValid, "our clock says")]
#[case::chain_cut_off(Bad::ChainCutOff, "expected in x509_svid certificates in DER")]
#[case::no_protobuf(Bad::NoProtobuf, "it answered Internal")]
#[case::no_identity(Bad::NoIdentity, "it gives no identity at all")]
#[tokio::test]
async fn what_cannot_be_used_is_told_and_takes_nothing_away(#[case] what: Bad, #[case] expected: &str) {
    let ca = TestCa::root("root");
    let good = ca.issue(ID);
    let (messages, stream) = HandMade::stream();
    let agent = HandMade::new(vec![stream]);
    let (identity, _stop) = listening(&agent.path());
    messages.send(framed(&response(ID, &good, ca.root_certificate()))).await.unwrap();
    credentials(&identity, Some(&serial(&good))).await;
    messages.send(framed(&bad(&what, &ca))).await.unwrap();
    let error = last_error(&identity).await;
    assert!(error.contains(expected), "{error}");
    assert_eq!(credentials(&identity, None).await.svid.serial, serial(&good));
}

#[tokio::test]
async fn an_agent_that_no_longer_has_an_identity_for_us_takes_nothing_away() {
    let ca = TestCa::root("root");
    let held = ca.issue(ID);
    let (messages, stream) = HandMade::stream();
    let agent = HandMade::new(vec![stream, Answer::Refusal(7, "no identity issued%0Aforged line")]);
    let (identity, _stop) = listening(&agent.path());
    messages.send(framed(&response(ID, &held, ca.root_certificate()))).await.unwrap();
    credentials(&identity, None).await;
    drop(messages);
    let denied = async {
        loop {
            let error = last_error(&identity).await;
            if error.contains("PermissionDenied") {
                return error;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let error = timeout(LONG, denied).await.unwrap();
    assert!(error.contains("it has no identity for this process: register it there"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    assert_eq!(credentials(&identity, None).await.svid.serial, serial(&held));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_not_waited_for() {
    let agent = HandMade::new(vec![Answer::Silence]);
    let (identity, _stop) = listening(&agent.path());
    let error = last_error(&identity).await;
    assert!(error.ends_with("it did not answer within 10 s"), "{error}");
}

#[tokio::test]
async fn our_own_server_is_such_an_agent() {
    let ca = TestCa::root("root");
    let held = ca.issue(ID);
    let bundles = Bundles::from_der(&trust_domain(), [ca.root_certificate().clone()]).unwrap();
    let shown =
        Credentials::new(held.chain.clone(), &held.key, bundles, TlsSettings::default(), &Clock::system(), 1);
    let (_sender, live) = watch::channel(Some(Arc::new(shown.unwrap())));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let workload = Workload {
        name: "backend".to_owned(),
        trust_domain: trust_domain(),
        namespace: "default".to_owned(),
        service_account: "backend".to_owned(),
        labels: HashMap::new().into_iter().collect(),
    };
    let stop = CancellationToken::new();
    let _server = stop.clone().drop_guard();
    let socket = Socket::bind(&path, 0o600).unwrap();
    tokio::spawn(serve(socket, live, Arc::new(Telemetry::new(&workload)), stop));
    let (identity, _stop) = listening(&path);
    assert_eq!(credentials(&identity, None).await.svid.serial, serial(&held));
}
