use std::time::Duration;

use pillion_mesh::wire::{By, FirstBytes, How};
use pillion_mesh::workload::Workload;
use rstest::rstest;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use super::history::{KEPT, REMEMBERED};
use super::*;
use crate::net::moved::Side;
use crate::settings::LogFormat;
use crate::telemetry::log;

struct Table(Arc<ConnectionTable>, Arc<Telemetry>);

impl Table {
    fn new() -> Self {
        let workload = Workload {
            name: "backend".to_owned(),
            trust_domain: "cluster.local".parse().unwrap(),
            namespace: "default".to_owned(),
            service_account: "backend".to_owned(),
            labels: [].into(),
        };
        Self(Arc::default(), Arc::new(Telemetry::new(&workload)))
    }

    fn begin(&self) -> Connection {
        Connection::begin(&self.0, &self.1, Direction::Inbound, "10.0.0.7:4312".parse().unwrap())
    }

    fn end(&self, reason: Reason) {
        self.begin().end(End { reason, detail: None });
    }
}

fn ids(records: &[ConnectionRecord]) -> Vec<u64> {
    records.iter().map(|record| record.id).collect()
}

#[rstest]
#[case(Reason::Completed, [1], [])]
#[case(Reason::PolicyChanged, [1], [])]
#[case(Reason::StrictPlaintext, [], [1])]
fn a_connection_that_is_over_is_kept_by_how_it_ended<const E: usize, const R: usize>(
    #[case] reason: Reason,
    #[case] ended: [u64; E],
    #[case] refused: [u64; R],
) {
    let table = Table::new();
    table.end(reason);
    let open = table.begin();
    assert_eq!((ids(&table.0.ended()), ids(&table.0.refused())), (ended.to_vec(), refused.to_vec()));
    assert_eq!((ids(&table.0.list()), ids(&table.0.all())), (vec![2], vec![1, 2]));
    assert_eq!(table.0.all()[0].reason, Some(reason));
    drop(open);
}

#[test]
fn the_newest_are_kept_and_a_flood_of_refusals_takes_no_room_of_the_others() {
    let table = Table::new();
    table.end(Reason::Completed);
    for _ in 0..KEPT + 3 {
        table.end(Reason::StrictSilent);
    }
    let refused = table.0.refused();
    assert_eq!((refused.len(), refused[0].id), (KEPT, 5));
    assert_eq!(ids(&table.0.ended()), [1]);
    for _ in 0..KEPT {
        table.end(Reason::ClientReset);
    }
    let ended = table.0.ended();
    assert_eq!((ended.len(), ended[0].id, table.0.refused().len()), (KEPT, KEPT as u64 + 5, KEPT));
}

#[test]
fn a_refusal_is_forgotten_after_an_hour() {
    let table = Table::new();
    let record = table.begin().entry.now();
    let refused = |id| ConnectionRecord { id, reason: Some(Reason::NoRoute), ..record.clone() };
    let (mut history, begun) = (History::default(), Instant::now());
    history.ended_now(refused(1), begun);
    history.ended_now(refused(2), begun + Duration::from_secs(1));
    assert_eq!(ids(&history.refused(begun + REMEMBERED)), [1, 2]);
    let later = begun + REMEMBERED + Duration::from_secs(1);
    assert_eq!((ids(&history.refused(later)), history.refusals(later)), (vec![2], vec![2]));
    assert!(history.refusals(later + Duration::from_secs(1)).is_empty());
}

#[test]
fn each_step_has_the_time_at_which_it_was_first_known() {
    let table = Table::new();
    let mut connection = table.begin();
    let times = || table.0.list()[0].times;
    assert_eq!(times(), Times::default());
    connection.note(|record| record.first_bytes = Some(FirstBytes::Plaintext));
    let first = times();
    assert!(first.first_bytes.is_some() && first.handshake.is_none() && first.opened.is_none(), "{first:?}");
    connection.notes().note(|record| record.upstream = Some("127.0.0.1:80".parse().unwrap()));
    connection.connected();
    connection.opened();
    connection.moved().came_from(Side::Client, b"question");
    connection.moved().came_from(Side::Server, b"answer");
    let Times { first_bytes, dialled, connected, opened, asked, answered, .. } = times();
    assert_eq!(first_bytes, first.first_bytes);
    let in_order = [first_bytes, dialled, connected, opened, asked, answered];
    assert!(in_order.is_sorted() && in_order.iter().all(Option::is_some), "{:?}", times());
}

/// The access log outlives the proxy, and others read it.
#[test]
fn bytes_that_are_kept_are_shown_to_who_asks_and_stand_in_no_log() {
    let (table, written) = (Table::new(), Written::default());
    table.0.capture().begin(Instant::now(), Duration::from_secs(60));
    let subscriber = tracing_subscriber::registry().with(log::lines(LogFormat::Json, false, written.clone()));
    tracing::subscriber::with_default(subscriber, || {
        let connection = table.begin();
        connection.moved().came_from(Side::Client, b"password");
        connection.end(End { reason: Reason::Completed, detail: None });
    });
    let app = table.0.ended()[0].wire.clone().unwrap().app.unwrap();
    assert_eq!(app.to_server, b"password");
    let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("completed"), "{log}");
    assert!(!log.contains("password") && !log.contains("70617373"), "{log}");
}

/// What is logged.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Written {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[test]
fn who_ended_it_first_is_known_from_the_end_on() {
    let table = Table::new();
    let connection = table.begin();
    connection.moved().ended(Side::Server, How::Fin);
    assert_eq!(table.0.list()[0].closed, None);
    connection.end(End { reason: Reason::Completed, detail: None });
    assert_eq!(table.0.ended()[0].closed, Some(Closed { by: By::Server, how: How::Fin }));
    table.end(Reason::StrictPlaintext);
    assert_eq!(table.0.refused()[0].closed, Some(Closed { by: By::Proxy, how: How::Reset }));
}
