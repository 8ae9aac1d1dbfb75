use std::fs;

use pillion_testkit::dns::{NameServer, Reply};
use rstest::rstest;
use tempfile::TempDir;

use super::*;

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A system with a hosts file and a `resolv.conf` of its own.
struct System {
    folder: TempDir,
    dns: Dns,
}

impl System {
    fn new(server: &NameServer, resolv_conf: &str, hosts: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let places = Places {
            hosts: folder.path().join("hosts"),
            resolv_conf: folder.path().join("resolv.conf"),
            port: server.address.port(),
        };
        fs::write(&places.hosts, hosts).unwrap();
        fs::write(&places.resolv_conf, format!("nameserver 127.0.0.1\n{resolv_conf}")).unwrap();
        Self { folder, dns: Dns::new(places, false) }
    }

    async fn found(&self, name: &str) -> Found {
        match self.dns.ask(name).await {
            Answer::Found(found) => found,
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_addresses_of_both_families_are_found_with_the_shorter_time() {
    let server = NameServer::start().await;
    server.says("both.test", Reply::Addresses(300, ips(&["10.0.0.1", "10.0.0.2", "fd00::1"])));
    server.says("four.test", Reply::Addresses(1, ips(&["10.0.0.3"])));
    let system = System::new(&server, "", "");
    let both = system.found("both.test").await;
    assert_eq!((both.v4, both.v6), (Some(ips(&["10.0.0.1", "10.0.0.2"])), Some(ips(&["fd00::1"]))));
    let holds_for = both.holds_for.unwrap();
    assert!(holds_for > Duration::from_secs(290) && holds_for <= Duration::from_secs(300), "{holds_for:?}");
    let four = system.found("four.test").await;
    assert_eq!((four.v4, four.v6), (Some(ips(&["10.0.0.3"])), Some(Vec::new())));
    assert!(four.holds_for.unwrap() <= Duration::from_secs(1));
}

/// Nothing is kept: each question goes to the server.
#[tokio::test]
async fn each_question_is_asked() {
    let server = NameServer::start().await;
    server.says("a.test", Reply::Addresses(300, ips(&["10.0.0.1"])));
    let system = System::new(&server, "", "");
    system.found("a.test").await;
    server.says("a.test", Reply::Addresses(300, ips(&["10.0.0.2"])));
    assert_eq!(system.found("a.test").await.v4, Some(ips(&["10.0.0.2"])));
    assert_eq!(server.asked("a.test"), 2);
}

#[rstest]
#[case::a_short_name("my_service", "my_service.shop.test")]
#[case::the_second_domain("other", "other.test")]
#[case::few_dots("api.v1", "api.v1.test")]
#[case::a_full_name("www.a.example", "www.a.example")]
#[tokio::test]
async fn names_are_completed_by_the_search_domains(#[case] name: &str, #[case] full: &str) {
    let server = NameServer::start().await;
    server.says(full, Reply::Addresses(300, ips(&["10.0.0.1"])));
    let system = System::new(&server, "search shop.test test\noptions ndots:2\n", "");
    assert_eq!(system.found(name).await.v4, Some(ips(&["10.0.0.1"])));
}

#[tokio::test]
async fn the_hosts_file_comes_first() {
    let server = NameServer::start().await;
    server.says("backend", Reply::Addresses(300, ips(&["10.0.0.1", "fd00::1"])));
    let system = System::new(&server, "", "10.9.9.9 backend my_own\n");
    for name in ["backend", "my_own"] {
        let found = system.found(name).await;
        assert_eq!((found.v4, found.v6), (Some(ips(&["10.9.9.9"])), Some(Vec::new())), "{name}");
        assert_eq!(found.holds_for, None);
    }
    assert_eq!(server.asked("backend"), 0);
}

#[rstest]
#[case::no_such_name(Reply::NoSuchName, Answer::Unknown)]
#[case::no_address(Reply::Addresses(300, Vec::new()), Answer::Unknown)]
#[case::failure(Reply::Failure, Answer::Failed("the name server answers Server Failure".to_owned()))]
#[tokio::test]
async fn a_name_without_addresses_is(#[case] reply: Reply, #[case] expected: Answer) {
    let server = NameServer::start().await;
    server.says("a.test", reply);
    assert_eq!(System::new(&server, "", "").dns.ask("a.test").await, expected);
}

#[tokio::test]
async fn silence_is_waited_for_a_while() {
    let server = NameServer::start().await;
    server.says("a.test", Reply::Silence);
    let system = System::new(&server, "search test\noptions timeout:1 attempts:1\n", "");
    let answer = timeout(2 * PATIENCE, system.dns.ask("a.test")).await.expect("it is waited for too long");
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    assert_eq!(server.asked("a.test.test"), 0, "another name was taken for it");
}

#[tokio::test]
async fn what_is_too_long_for_udp_comes_over_tcp() {
    let server = NameServer::start().await;
    let many: Vec<IpAddr> = (0..=255).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    server.says("many.test", Reply::OverTcp(300, many.clone()));
    let found = System::new(&server, "", "").found("many.test").await;
    assert_eq!(found.v4, Some(many));
}

#[tokio::test]
async fn a_family_that_fails_leaves_the_other() {
    let server = NameServer::start().await;
    server.says("a.test", Reply::FailingIpv6(300, ips(&["10.0.0.1"])));
    let found = System::new(&server, "", "").found("a.test").await;
    assert_eq!((found.v4, found.v6), (Some(ips(&["10.0.0.1"])), None));
}

#[tokio::test]
async fn changed_files_are_read_anew() {
    let server = NameServer::start().await;
    server.says("a.one.test", Reply::Addresses(300, ips(&["10.0.0.1"])));
    server.says("a.two.test", Reply::Addresses(300, ips(&["10.0.0.2"])));
    let system = System::new(&server, "search one.test\n", "");
    assert_eq!(system.found("a").await.v4, Some(ips(&["10.0.0.1"])));
    let resolv_conf = system.folder.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.1\nsearch two.test\n").unwrap();
    system.dns.look_anew().await;
    assert_eq!(system.found("a").await.v4, Some(ips(&["10.0.0.2"])));
    fs::write(&resolv_conf, "# being written").unwrap();
    system.dns.look_anew().await;
    assert_eq!(system.found("a").await.v4, Some(ips(&["10.0.0.2"])), "the servers of before are asked");
    fs::write(system.folder.path().join("hosts"), "10.0.0.3 a\n").unwrap();
    system.dns.look_anew().await;
    assert_eq!(system.found("a").await.v4, Some(ips(&["10.0.0.3"])));
}

/// Names that modules of the system's resolver know, and a host without name servers.
#[tokio::test]
async fn what_dns_does_not_know_the_system_is_asked_for() {
    let nowhere = |name: &str| std::path::PathBuf::from("/nonexistent").join(name);
    let places = Places { hosts: nowhere("hosts"), resolv_conf: nowhere("resolv.conf"), port: 1 };
    let Answer::Found(found) = Dns::new(places, true).ask("localhost").await else { panic!("not found") };
    let addresses = [found.v4.unwrap(), found.v6.unwrap()].concat();
    assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
    assert_eq!(found.holds_for, None);
}
