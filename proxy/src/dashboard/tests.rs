//! The dashboard before real admin APIs on loopback.

use pillion_mesh::wire::Direction;
use rstest::rstest;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::admin::tests::{Lab, Onlooker, PATIENCE, Reply, ask, listen};
use crate::connections::Connection;

/// A dashboard that shows two sidecars, and a third that does not answer.
struct Stage {
    labs: [Lab; 2],
    at: SocketAddr,
    server: JoinHandle<io::Result<()>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Stage {
    async fn new() -> Self {
        let labs = [Lab::ready().await, Lab::ready().await];
        let nobody = listen().await.local_addr().unwrap();
        let proxies = [labs[0].admin(), labs[1].admin(), nobody].map(|at| at.to_string().parse().unwrap());
        let listener = listen().await;
        let at = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, proxies.into(), |_| {}, CancellationToken::new()));
        Self { labs, at, server }
    }

    async fn get(&self, path: &str) -> Reply {
        ask(self.at, "GET", path, "").await
    }

    /// Waits until both are followed and the third is known not to answer.
    async fn settled(&self) -> Value {
        let settled = async {
            loop {
                let page = self.get("/proxies").await.json();
                let down = |number: usize| page["proxies"][number]["down"].clone();
                if down(0).is_null() && down(1).is_null() && down(2) != "not asked yet" {
                    return page;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, settled).await.expect("both are followed")
    }
}

#[tokio::test]
async fn it_serves_the_page_and_the_pages_of_each_sidecar() {
    let stage = Stage::new().await;
    stage.labs[1].refused();
    for path in ["/", "/page/app.js"] {
        assert_eq!(stage.get(path).await.status, 200, "{path}");
    }
    let page = stage.settled().await;
    assert_eq!(page["proxies"][1]["at"], "proxies/1/");
    let why = page["proxies"][2]["down"].as_str().unwrap();
    assert!(why.contains("refused") && why.contains("is the proxy running"), "{why}");
    assert_eq!(stage.get("/proxies/0/page/state").await.json()["connections"], json!([]));
    assert_eq!(
        stage.get("/proxies/1/page/state").await.json()["connections"][0]["edge"]["secured"],
        "refused"
    );
    assert_eq!(stage.get("/proxies/1/explain?id=1").await.json()["connection"]["id"], 1);
    let unknown = stage.get("/proxies/1/explain?id=99").await;
    assert_eq!(unknown.status, 404);
    assert_eq!(stage.get("/proxies/2/certs").await.status, 502);
}

#[rstest]
#[case("GET", "/proxies/0/drain", "", 404)]
#[case("GET", "/proxies/0/quitquitquit", "", 404)]
#[case("GET", "/proxies/0/../quitquitquit", "", 404)]
#[case("GET", "/proxies/9/certs", "", 404)]
#[case("GET", "/proxies/0/events", "", 404)]
#[case("GET", "/leg?proxy=0", "", 400)]
#[case("POST", "/proxies/0/certs", "", 405)]
#[case("POST", "/quitquitquit", "", 405)]
#[case("GET", "/proxies/0/certs", "Origin: http://evil.example\r\n", 403)]
#[case("GET", "/events", "Origin: http://evil.example\r\n", 403)]
#[case("GET", "/", "Host: evil.example\r\n", 421)]
#[tokio::test]
async fn what_does_something_or_comes_from_elsewhere_is_refused(
    #[case] method: &str,
    #[case] path: &str,
    #[case] headers: &str,
    #[case] status: u16,
) {
    let stage = Stage::new().await;
    assert_eq!(ask(stage.at, method, path, headers).await.status, status);
    assert!(!stage.labs[0].state.drain.is_draining());
}

#[tokio::test]
async fn what_each_sidecar_tells_is_told_with_its_number() {
    let stage = Stage::new().await;
    stage.settled().await;
    let mut page = Onlooker::at(stage.at).await;
    assert_eq!(page.next("hello").await["proxy"], Value::Null);
    stage.labs[1].refused();
    let told = page.next("connection").await;
    assert_eq!((&told["proxy"], &told["connection"]["reason"]), (&json!(1), &json!("strict_plaintext")));
    stage.labs[0].refused();
    assert_eq!(page.next("connection").await["proxy"], 0);
}

#[tokio::test]
async fn a_sidecar_that_ends_is_told_of() {
    let stage = Stage::new().await;
    stage.settled().await;
    let mut page = Onlooker::at(stage.at).await;
    page.next("hello").await;
    stage.labs[1].state.drain.quit();
    let told = page.next("down").await;
    assert_eq!((&told["proxy"], &told["why"]), (&json!(1), &json!("it has ended")));
}

#[tokio::test]
async fn the_other_leg_of_a_connection_is_found_at_the_other_sidecar() {
    let stage = Stage::new().await;
    let [client, server] = &stage.labs;
    server.refused(); // so that the numbers differ
    let begin = |lab: &Lab, direction, from: &str| {
        let state = &lab.state;
        Connection::begin(&state.connections, &state.telemetry, direction, from.parse().unwrap())
    };
    let outbound = begin(client, Direction::Outbound, "10.0.0.7:5000");
    outbound.note(|record| {
        record.upstream = Some("10.0.0.8:8080".parse().unwrap());
        record.dialled_from = Some("10.0.0.7:41000".parse().unwrap());
    });
    let _inbound = begin(server, Direction::Inbound, "10.0.0.7:41000");
    let _stranger = begin(server, Direction::Inbound, "10.0.0.7:41001");
    assert_eq!(stage.get("/leg?proxy=0&id=1").await.json()["other"], json!({"proxy": 1, "id": 2}));
    assert_eq!(stage.get("/leg?proxy=1&id=2").await.json()["other"], json!({"proxy": 0, "id": 1}));
    let alone = stage.get("/leg?proxy=1&id=3").await.json();
    assert_eq!(alone["other"], Value::Null);
    assert!(alone["because"].as_str().unwrap().contains("its peer has none"), "{alone}");
    let unknown = stage.get("/leg?proxy=1&id=99").await.json();
    assert!(unknown["because"].as_str().unwrap().contains("not known any more"), "{unknown}");
}

#[tokio::test]
async fn a_page_that_comes_behind_is_told_how_much_it_has_lost() {
    const ROOM: usize = 4;
    let events = broadcast::Sender::new(ROOM);
    let behind = Mutex::new(Some(events.subscribe()));
    for number in 0..10 {
        events.send(frame("request", &json!({ "proxy": number }))).unwrap();
    }
    let (listener, stop) = (listen().await, CancellationToken::new());
    let (at, _stop_at_last) = (listener.local_addr().unwrap(), stop.clone().drop_guard());
    let stopping = stop.clone();
    tokio::spawn(server::run(listener, stop, move |_| {
        let (answer, sender) = Answer::in_parts(EVENT_STREAM);
        tokio::spawn(pass_on(lock(&behind).take().unwrap(), sender, stopping.clone()));
        std::future::ready(answer)
    }));
    let mut page = Onlooker::at(at).await;
    assert_eq!(page.next("lost").await["events"], 6);
    assert_eq!(page.next("request").await["proxy"], 6);
}

#[rstest]
#[case("0.0.0.0:0")]
#[case("[::]:0")]
#[case("192.0.2.1:0")]
fn it_listens_on_loopback_only(#[case] listen: SocketAddr) {
    let error = run(listen, Vec::new(), |_| panic!("it listens"), |_| {}).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(error.to_string().contains("ssh -L"), "{error}");
}

#[rstest]
#[case("http://web:15000", Some("http://web:15000"))]
#[case("http://[::1]:15000/", Some("http://[::1]:15000"))]
#[case("127.0.0.1:15000", Some("http://127.0.0.1:15000"))]
#[case("https://web:15000", None)]
#[case("http://user@web:15000", None)]
#[case("http://web:15000/certs", None)]
#[case("", None)]
fn a_sidecar_is_named_by_the_url_of_its_admin_api(#[case] url: &str, #[case] expected: Option<&str>) {
    let seen = url.parse::<Proxy>().ok().map(|proxy| proxy.to_string());
    assert_eq!(seen.as_deref(), expected);
}
