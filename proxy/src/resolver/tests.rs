use std::fs;
use std::time::SystemTime;

use pillion_mesh::policy::Snapshot;
use pillion_mesh::resource::Resources;
use pillion_mesh::workload::{Labels, MeshConfig, Workload};
use pillion_testkit::dns::{NameServer, Reply};
use rstest::rstest;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::*;
use crate::dns::Places;

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn snapshot(names: &[&str]) -> Snapshot {
    let mut resources = Resources::default();
    for name in names {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
             spec: {{hosts: [{name}], resolution: DNS, ports: [{{number: 80, name: http}}]}}\n"
        );
        resources.read("mesh.yaml", &text).unwrap();
    }
    let workload = Workload {
        name: "a".to_owned(),
        trust_domain: "cluster.local".parse().unwrap(),
        namespace: "default".to_owned(),
        service_account: "a".to_owned(),
        labels: Labels::new(),
    };
    Snapshot::build(&resources, &workload, &MeshConfig::default())
}

/// A resolver that runs, and the server that it asks.
struct Running {
    server: NameServer,
    publisher: Publisher,
    resolver: Arc<Resolver>,
    stop: CancellationToken,
    _folder: TempDir,
}

impl Running {
    async fn start(replies: &[(&str, Reply)], longest: Duration) -> Self {
        let server = NameServer::start().await;
        replies.iter().for_each(|(name, reply)| server.says(name, reply.clone()));
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n").unwrap();
        let places = Places { hosts: folder.path().join("hosts"), resolv_conf, port: server.address.port() };
        let names: Vec<&str> = replies.iter().map(|(name, _)| *name).collect();
        let (publisher, _live) = Publisher::new(snapshot(&names), SystemTime::now());
        let resolver = Resolver::new(publisher.clone(), Dns::new(places, false), longest);
        let stop = CancellationToken::new();
        tokio::spawn(Arc::clone(&resolver).run(stop.clone()));
        Self { server, publisher, resolver, stop, _folder: folder }
    }

    fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.publisher.addresses_now().get(name).cloned().unwrap_or_default()
    }

    /// Waits until a name has these addresses in the snapshot in force.
    async fn resolved(&self, name: &str, expected: &[&str]) {
        let in_force = || {
            let found = self.publisher.current().snapshot.registry.lookup_host(name, 80, 0);
            found.ok().map(|found| found.endpoint.ip())
        };
        self.eventually(&format!("{name} at {expected:?}"), || {
            self.addresses(name) == ips(expected) && in_force() == ips(expected).first().copied()
        })
        .await;
    }

    async fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        let waited = timeout(PATIENCE, async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        });
        assert!(waited.await.is_ok(), "{what} was not seen");
    }

    fn trouble(&self, name: &str) -> Option<Trouble> {
        self.resolver.last.lock().unwrap().get(name).and_then(|last| last.trouble)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test]
async fn a_name_is_asked_for_again_when_its_time_to_live_has_passed_and_not_before() {
    let replies = [
        ("short.test", Reply::Addresses(1, ips(&["10.0.0.1"]))),
        ("long.test", Reply::Addresses(300, ips(&["10.0.0.2"]))),
        ("none.test", Reply::Addresses(0, ips(&["10.0.0.3"]))),
    ];
    let running = Running::start(&replies, HOUR).await;
    let started = Instant::now();
    running.resolved("short.test", &["10.0.0.1"]).await;
    running.server.says("short.test", Reply::Addresses(1, ips(&["10.0.0.9"])));
    running.resolved("short.test", &["10.0.0.9"]).await;
    running.eventually("a third question", || running.server.asked("short.test") > 2).await;
    assert!(started.elapsed() >= Duration::from_secs(2), "it was asked for too often");
    assert_eq!(running.server.asked("long.test"), 1);
    let most = 1 + usize::try_from(started.elapsed().as_secs()).unwrap();
    assert!(running.server.asked("none.test") <= most, "more than once a second");
}

#[tokio::test]
async fn the_setting_is_the_longest_time_between_two_questions() {
    let replies = [("a.test", Reply::Addresses(300, ips(&["10.0.0.1"])))];
    let running = Running::start(&replies, Duration::from_millis(50)).await;
    running.resolved("a.test", &["10.0.0.1"]).await;
    running.server.says("a.test", Reply::Addresses(300, ips(&["10.0.0.2"])));
    running.resolved("a.test", &["10.0.0.2"]).await;
}

#[rstest]
#[case::failure(Reply::Failure, Trouble::Failed)]
#[case::no_such_name(Reply::NoSuchName, Trouble::Unknown)]
#[case::silence(Reply::Silence, Trouble::Failed)]
#[tokio::test]
async fn a_name_that_cannot_be_resolved_keeps_its_addresses(#[case] reply: Reply, #[case] expected: Trouble) {
    let replies = [("a.test", Reply::Addresses(1, ips(&["10.0.0.1", "fd00::1"])))];
    let running = Running::start(&replies, Duration::from_millis(50)).await;
    running.resolved("a.test", &["10.0.0.1", "fd00::1"]).await;
    running.server.says("a.test", reply);
    running.eventually("the trouble", || running.trouble("a.test") == Some(expected)).await;
    running.resolved("a.test", &["10.0.0.1", "fd00::1"]).await;
    running.server.says("a.test", Reply::Addresses(1, ips(&["10.0.0.2"])));
    running.resolved("a.test", &["10.0.0.2"]).await;
    assert_eq!(running.trouble("a.test"), None);
}

#[tokio::test]
async fn a_family_that_fails_keeps_its_addresses() {
    let replies = [("a.test", Reply::Addresses(1, ips(&["10.0.0.1", "fd00::1"])))];
    let running = Running::start(&replies, Duration::from_millis(50)).await;
    running.resolved("a.test", &["10.0.0.1", "fd00::1"]).await;
    running.server.says("a.test", Reply::FailingIpv6(1, ips(&["10.0.0.2"])));
    running.resolved("a.test", &["10.0.0.2", "fd00::1"]).await;
}

/// A name that nobody answers for does not hold up the others.
#[tokio::test]
async fn silence_about_one_name_holds_up_no_other() {
    let mut replies = vec![("silent.test", Reply::Silence)];
    let names: Vec<String> = (0..100).map(|number| format!("n{number}.test")).collect();
    replies.extend(names.iter().map(|name| (name.as_str(), Reply::Addresses(300, ips(&["10.0.0.1"])))));
    let running = Running::start(&replies, HOUR).await;
    running.resolved("n99.test", &["10.0.0.1"]).await;
    assert_eq!(running.trouble("silent.test"), None, "it was waited for");
}

#[tokio::test]
async fn a_round_asks_at_once_and_is_shared() {
    let replies = [("a.test", Reply::Addresses(300, ips(&["10.0.0.1"])))];
    let running = Running::start(&replies, HOUR).await;
    running.resolved("a.test", &["10.0.0.1"]).await;
    running.server.says("a.test", Reply::Addresses(300, ips(&["10.0.0.2"])));
    let resolver = &running.resolver;
    tokio::join!(resolver.refresh(), resolver.refresh(), resolver.refresh());
    assert_eq!(running.addresses("a.test"), ips(&["10.0.0.2"]));
    assert!(running.server.asked("a.test") <= 3, "{}", running.server.asked("a.test"));
}

#[tokio::test]
async fn names_of_a_changed_registry_are_asked_for_at_once_and_others_forgotten() {
    let replies = [("a.test", Reply::Addresses(300, ips(&["10.0.0.1"])))];
    let running = Running::start(&replies, HOUR).await;
    running.resolved("a.test", &["10.0.0.1"]).await;
    running.server.says("b.test", Reply::Addresses(300, ips(&["10.0.0.2"])));
    running.publisher.policy(&snapshot(&["b.test"]), SystemTime::now());
    running.resolved("b.test", &["10.0.0.2"]).await;
    running.eventually("the other forgotten", || running.addresses("a.test").is_empty()).await;
}

#[rstest]
#[case::a_time_to_live(Some(2_000), 60_000, 2_000)]
#[case::none(Some(0), 60_000, 1_000)]
#[case::longer_than_the_setting(Some(300_000), 5_000, 5_000)]
#[case::the_setting_is_short(Some(300_000), 100, 100)]
#[case::of_the_system(None, 5_000, 5_000)]
#[tokio::test]
async fn the_next_question_waits(
    #[case] holds_for: Option<u64>,
    #[case] longest: u64,
    #[case] expected: u64,
) {
    let (publisher, _live) = Publisher::new(snapshot(&[]), SystemTime::now());
    let resolver = Resolver::new(publisher, Dns::system(), Duration::from_millis(longest));
    let holds_for = holds_for.map(Duration::from_millis);
    let found = Answer::Found(Found { v4: Some(Vec::new()), v6: None, holds_for });
    assert_eq!(resolver.wait(&found), Duration::from_millis(expected));
    for trouble in [Answer::Unknown, Answer::Failed(String::new())] {
        assert_eq!(resolver.wait(&trouble), Duration::from_millis(longest.min(5_000)));
    }
}
