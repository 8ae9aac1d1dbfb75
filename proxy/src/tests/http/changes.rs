//! A thousand changes of policy while all kinds of clients call: nobody who may is refused, nobody who may not is let in, and
//! each decision comes from one policy set as a whole.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use hyper::client::conn::http2;
use pillion_mesh::policy::Snapshot;
use pillion_mesh::resource::Resources;
use pillion_mesh::wire::{AuthorizationRecord, ConnectionRecord, RequestRecord};
use pillion_testkit::peer;
use tokio::task::JoinSet;
use tracing::field::{Field, Visit};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::*;

const CHANGES: usize = 1_000;

/// Everybody but those who are not the frontend. Without its DENY it would let everybody in.
const ALL_BUT_OTHERS: &str = "\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all-but-others-allow}
spec: {rules: [{}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all-but-others-deny}
spec: {action: DENY, rules: [{from: [{source: {notPrincipals: [cluster.local/ns/default/sa/frontend]}}]}]}
";

/// The frontend only. Without its ALLOW it would let nobody in.
const ONLY_FRONTEND: &str = "\
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-frontend-allow}
spec: {rules: [{from: [{source: {serviceAccounts: [frontend]}}], to: [{operation: {methods: [GET]}}]}, {from: [{source: {serviceAccounts: [frontend]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-frontend-deny}
spec: {action: DENY, rules: [{from: [{source: {namespaces: [elsewhere]}}]}]}
";

const SETS: [&str; 2] = [ALL_BUT_OTHERS, ONLY_FRONTEND];

/// How a decision names the set that it comes from.
const NAMES: [&str; 2] = ["policy[all-but-others-", "policy[only-frontend-"];

#[test]
fn a_thousand_changes_of_policy_refuse_nobody_and_let_nobody_in() {
    let records = Records::default();
    let log = Dispatch::new(tracing_subscriber::registry().with(records.clone()));
    let of_workers = log.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        // For as long as the worker lives.
        .on_thread_start(move || std::mem::forget(tracing::dispatcher::set_default(&of_workers)))
        .enable_all()
        .build()
        .unwrap();
    let callers = runtime.block_on(async { tokio::spawn(change_under_load()).await.unwrap() });
    // All connections have ended, and with them their records are written.
    drop(runtime);
    records.assert_whole_decisions(&callers);
}

/// Who asked how often, by whether they may.
struct Callers {
    may: u64,
    may_not: u64,
}

async fn change_under_load() -> Callers {
    let lab = Lab::new();
    let (web, echo) = (App::start().await, peer::echo_app().await);
    let services =
        declared(web.address, "HTTP") + &declared(echo.address, "TCP").replace("name: backend", "name: echo");
    lab.resources(Some(&(services.clone() + ALL_BUT_OTHERS)));
    let listeners =
        [web.address, echo.address].map(|app| format!("{{address: \"127.0.0.1:0\", forward: \"{app}\"}}"));
    let sidecar =
        lab.sidecar("backend", &format!("inbound: {{listeners: [{}]}}", listeners.join(", "))).await;
    let address = |app: SocketAddr| {
        let listens = &sidecar.running.addresses.inbound;
        listens.iter().find(|(_, what)| what.contains(&app.to_string())).unwrap().0
    };
    let load = Load::start(&lab, address(web.address), address(echo.address));

    let settings = &sidecar.running.shared.settings;
    let snapshots = SETS.map(|set| {
        let mut resources = Resources::default();
        resources.read("set.yaml", &(services.clone() + set)).unwrap();
        Snapshot::build(&resources, &settings.workload, &settings.mesh_config)
    });
    for change in 0..CHANGES {
        let before = load.shared.answered();
        sidecar.running.publisher.policy(&snapshots[(change + 1) % 2], SystemTime::now());
        // Somebody is decided upon under each.
        let next = timeout(PATIENCE, async {
            while load.shared.answered() == before && load.shared.has_no_fault() {
                tokio::task::yield_now().await;
            }
        });
        next.await.expect("nobody is answered any more");
        if !load.shared.has_no_fault() {
            break;
        }
    }
    let callers = load.finish().await;
    assert!(sidecar.running.shared.snapshot.borrow().version > CHANGES as u64);
    for heard in web.heard() {
        let who = heard.field("x-forwarded-client-cert").join("|");
        assert!(who.ends_with("/sa/frontend"), "the app was asked by {who:?}");
    }
    sidecar.running.stop().await;
    callers
}

/// Clients that go on until they are stopped.
struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    may: AtomicU64,
    may_not: AtomicU64,
    faults: Mutex<Vec<String>>,
}

/// One client: how it reaches the sidecar, and as whom.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    /// `None` asks in plaintext.
    tls: Option<TlsConnector>,
    may: bool,
    shared: Arc<Shared>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

impl Load {
    /// The frontend, who may, and payments and a stranger, who may not, each in all the ways there are.
    fn start(lab: &Lab, web: SocketAddr, echo: SocketAddr) -> Self {
        let mut load = Self { shared: Arc::default(), clients: JoinSet::new() };
        for (name, may) in [(Some("frontend"), true), (Some("payments"), false), (None, false)] {
            let tls = name.map(|name| {
                let config = pillion_testkit::tls::client(&lab.ca, Some(&lab.held(name)));
                TlsConnector::from(Arc::new(config))
            });
            let client = |address| Client { address, tls: tls.clone(), may, shared: load.shared.clone() };
            load.clients.spawn(client(web).keeps_its_connection());
            load.clients.spawn(client(web).connects_anew());
            load.clients.spawn(client(web).asks_by_http2());
            load.clients.spawn(client(echo).sends_bytes());
            if may {
                load.clients.spawn(client(echo).keeps_sending_bytes());
            }
        }
        load
    }

    async fn finish(mut self) -> Callers {
        self.shared.stop.store(true, Ordering::Relaxed);
        timeout(PATIENCE, async { while self.clients.join_next().await.is_some() {} }).await.unwrap();
        assert_eq!(*self.shared.faults.lock().unwrap(), [""; 0]);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Callers { may: count(&self.shared.may), may_not: count(&self.shared.may_not) }
    }
}

impl Shared {
    fn answered(&self) -> u64 {
        self.may.load(Ordering::Relaxed) + self.may_not.load(Ordering::Relaxed)
    }

    fn has_no_fault(&self) -> bool {
        self.faults.lock().unwrap().is_empty()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.has_no_fault()
    }
}

impl Client {
    async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(self.address).await?;
        Ok(match &self.tls {
            Some(tls) => Box::new(tls.connect(pillion_testkit::tls::any_name(), stream).await?),
            None => Box::new(stream),
        })
    }

    /// Each answer must be the one that this client is due: 200, or 403 and a connection that stays open.
    fn judge(&self, how: &str, status: &Result<u16, impl Debug>) {
        let due = if self.may { 200 } else { 403 };
        if status.as_ref().is_ok_and(|status| *status == due) {
            let counter = if self.may { &self.shared.may } else { &self.shared.may_not };
            counter.fetch_add(1, Ordering::Relaxed);
        } else {
            self.shared.faults.lock().unwrap().push(format!("{how}: {due} is due, seen {status:?}"));
        }
    }

    async fn keeps_its_connection(self) {
        let mut stream = self.connect().await.unwrap();
        while self.shared.goes_on() {
            let answer = ask(&mut stream, &head("GET", "/kept", "")).await;
            self.judge("kept connection", &answer.map(|answer| answer.status));
        }
    }

    async fn connects_anew(self) {
        while self.shared.goes_on() {
            let answer = async { ask(&mut self.connect().await?, &head("GET", "/new", "")).await };
            self.judge("new connection", &answer.await.map(|answer| answer.status));
        }
    }

    /// Three requests at a time.
    async fn asks_by_http2(self) {
        let io = TokioIo::new(self.connect().await.unwrap());
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        let connection = tokio::spawn(connection);
        let asks = || async {
            let mut sender = sender.clone();
            while self.shared.goes_on() {
                let request = Request::get("http://backend/stream").body(Full::<Bytes>::default()).unwrap();
                let answer = timeout(PATIENCE, sender.send_request(request)).await.unwrap();
                self.judge("HTTP/2", &answer.map(|answer| answer.status().as_u16()));
            }
        };
        tokio::join!(asks(), asks(), asks());
        drop(sender);
        let _ = timeout(PATIENCE, connection).await.unwrap();
    }

    /// A connection that is not read as HTTP is refused as a whole, by reset.
    async fn sends_bytes(self) {
        while self.shared.goes_on() {
            let echo = async {
                let mut stream = self.connect().await?;
                echoes(&mut stream).await
            };
            let status = match echo.await {
                Ok(()) => Ok(200),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(403),
                Err(error) => Err(error),
            };
            self.judge("bytes", &status);
        }
    }

    /// It is decided upon once, when it begins, however many bytes follow: its echoes are not counted.
    async fn keeps_sending_bytes(self) {
        let mut stream = self.connect().await.unwrap();
        while self.shared.goes_on() {
            if let Err(fault) = echoes(&mut stream).await {
                self.judge("bytes on a kept connection", &Err::<u16, _>(fault));
            }
        }
    }
}

async fn echoes(stream: &mut Box<dyn Stream>) -> io::Result<()> {
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// The records that are logged, as JSON.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Records {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("access") {
            event.record(&mut Record(&self.0));
        }
    }
}

struct Record<'r>(&'r Mutex<Vec<String>>);

impl Visit for Record<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "record" {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }
}

impl Records {
    /// Every request and every connection that was decided upon was let in or refused as its peer is due, and because of
    /// exactly one of the sets.
    fn assert_whole_decisions(&self, callers: &Callers) {
        let mut counts: BTreeMap<(bool, &str), u64> = BTreeMap::new();
        for record in self.0.lock().unwrap().iter() {
            let Some((peer, AuthorizationRecord { allowed, because, .. })) = decided(record) else {
                continue;
            };
            let may = peer.is_some_and(|peer| peer == Lab::id("frontend"));
            assert_eq!(allowed, may, "{record}");
            let sets: Vec<&str> = NAMES.into_iter().filter(|name| because.contains(name)).collect();
            let [set] = sets.as_slice() else { panic!("{because} comes from {sets:?}") };
            *counts.entry((may, set)).or_default() += 1;
        }
        let count = |may| NAMES.map(|name| counts.get(&(may, name)).copied().unwrap_or_default());
        for (may, answered) in [(true, callers.may), (false, callers.may_not)] {
            let [one, other] = count(may);
            assert!(one.min(other) * 10 >= answered, "may: {may}, of {answered}: {one} and {other}");
        }
        assert!(callers.may >= 500 && callers.may_not >= 500, "{} and {}", callers.may, callers.may_not);
    }
}

/// Who was decided upon and how, in the record of a request or of a connection.
fn decided(record: &str) -> Option<(Option<String>, AuthorizationRecord)> {
    if let Ok(RequestRecord { tls, authorization, .. }) = serde_json::from_str(record) {
        return Some((tls.map(|tls| tls.peer), authorization?));
    }
    let ConnectionRecord { tls, authorization, .. } = serde_json::from_str(record).unwrap();
    Some((tls.map(|tls| tls.peer), authorization?))
}
