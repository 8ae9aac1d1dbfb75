//! What a person sees of the admin API's pages: `tests/look/PAGE.json` was recorded of a proxy (and has more of what there can
//! be), `*.txt` is the table or the screen that is made of it. `UPDATE_GOLDEN=1` writes those anew.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pillion_mesh::proxy_config::{Connections, Endpoints, Filter, Listeners, Secrets};
use pillion_mesh::top::{Emphasis, Line, Look, Silent, Sort, Traffic, View};
use pillion_mesh::wire::Direction;
use rstest::rstest;
use serde::de::DeserializeOwned;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/look").join(name)
}

fn page<T: DeserializeOwned>(name: &str) -> T {
    let text = std::fs::read_to_string(path(&format!("{name}.json"))).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn assert_shows(name: &str, seen: impl Display) {
    let path = path(&format!("{name}.txt"));
    let seen = format!("{seen}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &seen).unwrap();
    }
    snapbox::assert_data_eq!(seen, snapbox::Data::read_from(&path, None).raw());
}

#[test]
fn the_listeners_have_a_row_for_each_port_of_the_app_and_its_mode() {
    let all = page::<Listeners>("listeners").rows(&page("endpoints"), &Filter::default());
    assert_shows("listeners", all);
}

#[test]
fn the_endpoints_show_the_mode_of_their_port_and_how_they_are_dialled() {
    assert_shows("endpoints", page::<Endpoints>("endpoints"));
}

#[rstest]
#[case("certs")]
#[case("certs-none")]
fn the_secrets_are_the_own_chain_and_the_roots_by_the_proxys_clock(#[case] name: &str) {
    assert_shows(name, page::<Secrets>(name).rows());
}

#[test]
fn the_connections_show_both_sides_and_what_protects_them() {
    assert_shows("connections", page::<Connections>("connections"));
}

/// Which ids are left of 1 to 5, whose records `connections.json` has.
#[rstest]
#[case::all(Filter::default(), &[1, 2, 3, 4, 5])]
#[case::inbound(Filter { direction: Some(Direction::Inbound), ..Filter::default() }, &[1, 2, 5])]
#[case::outbound(Filter { direction: Some(Direction::Outbound), ..Filter::default() }, &[3, 4])]
#[case::host(Filter { service: Some("Customers".to_owned()), ..Filter::default() }, &[3])]
#[case::service(Filter { service: Some("server:8080".to_owned()), ..Filter::default() }, &[1, 2])]
#[case::another_port(Filter { service: Some("server:80".to_owned()), ..Filter::default() }, &[])]
#[case::port_of_the_client(Filter { port: Some(50112), ..Filter::default() }, &[3, 4])]
#[case::port_of_the_endpoint(Filter { port: Some(3000), ..Filter::default() }, &[3])]
#[case::address(Filter { address: Some("10.83.0.4".parse().unwrap()), ..Filter::default() }, &[2, 5])]
#[case::mapped(Filter { address: Some("::ffff:10.83.0.4".parse().unwrap()), ..Filter::default() }, &[2, 5])]
#[case::both(Filter { port: Some(443), address: Some("10.83.0.4".parse().unwrap()), ..Filter::default() }, &[])]
fn a_filter_keeps_the_connections_that_have_all_of_it(#[case] filter: Filter, #[case] left: &[u64]) {
    let wanted = page::<Connections>("connections").wanted(&filter);
    let ids: Vec<u64> = wanted.connections.iter().map(|record| record.id).collect();
    assert_eq!(ids, left);
}

/// Which are left of the endpoints, by their names.
#[rstest]
#[case::port_of_the_service(Filter { port: Some(443), ..Filter::default() }, &["as dialled"])]
#[case::port_of_the_endpoint(Filter { port: Some(3000), ..Filter::default() }, &["10.0.0.9:3000", "10.0.0.10:3000"])]
#[case::port_of_a_name(Filter { port: Some(8080), ..Filter::default() }, &["orders:8080"])]
#[case::address(Filter { address: Some("10.0.0.9".parse().unwrap()), ..Filter::default() }, &["10.0.0.9:3000"])]
#[case::service(Filter { service: Some("lost:80".to_owned()), ..Filter::default() }, &["10.0.0.11:80"])]
fn a_filter_keeps_the_endpoints_that_have_all_of_it(#[case] filter: Filter, #[case] left: &[&str]) {
    let wanted = page::<Endpoints>("endpoints").wanted(&filter);
    let names: Vec<&str> = wanted.endpoints.iter().map(|endpoint| endpoint.endpoint.as_str()).collect();
    assert_eq!(names, left);
}

/// How many rows of the listeners are left, and what the first matches.
#[rstest]
#[case::of_the_app(Filter { port: Some(8080), ..Filter::default() }, 2, "Addr: *:8080")]
#[case::listened_on(Filter { port: Some(15006), ..Filter::default() }, 3, "Addr: *:8080")]
#[case::outbound(Filter { direction: Some(Direction::Outbound), ..Filter::default() }, 3, "ALL")]
#[case::address(Filter { address: Some("127.0.0.1".parse().unwrap()), ..Filter::default() }, 4, "ALL")]
fn a_filter_keeps_the_listeners_that_have_all_of_it(
    #[case] filter: Filter,
    #[case] rows: usize,
    #[case] first: &str,
) {
    let wanted = page::<Listeners>("listeners").rows(&page("endpoints"), &filter);
    assert_eq!((wanted.listeners.len(), wanted.listeners[0].matches.as_str()), (rows, first), "{wanted}");
}

/// Half a second of the two ends of a lab, and a proxy that does not answer.
fn view() -> View {
    let pages = ["", "-client"].map(|of| {
        let read = |when: &str| page::<Traffic>(&format!("traffic-{when}{of}"));
        (read("before"), read("after"))
    });
    let silent =
        Silent { proxy: "http://gone:15000".to_owned(), why: "connection refused \u{1b}[2J".to_owned() };
    View::between(pages.iter().map(|(before, after)| (before, after)), vec![silent])
}

fn look(width: usize, height: usize, sort: Sort) -> Look {
    Look { width, height, sort, paused: false, interval: Duration::from_secs(1) }
}

/// `!` before what is loud, `#` before a heading.
fn drawn(lines: &[Line]) -> String {
    let drawn = lines.iter().map(|line| {
        let sign = match line.emphasis {
            Emphasis::Plain => ' ',
            Emphasis::Heading => '#',
            Emphasis::Alarm => '!',
        };
        format!("{sign}{}", line.text).trim_end().to_owned()
    });
    drawn.collect::<Vec<_>>().join("\n")
}

#[rstest]
#[case("screen-wide", look(160, 24, Sort::New))]
#[case("screen-small", look(72, 14, Sort::Refused))]
#[case("screen-paused", Look { paused: true, ..look(100, 16, Sort::Bytes) })]
fn a_screen_shows_rates_by_edge_and_the_newest_connections(#[case] name: &str, #[case] look: Look) {
    assert_shows(name, drawn(&view().screen(&look)));
}

#[test]
fn without_a_screen_everything_is_told() {
    assert_shows("top", view());
}

#[test]
fn no_screen_is_so_small_that_more_is_drawn_than_fits() {
    for (width, height) in (0..50).flat_map(|width| (0..30).map(move |height| (width, height))) {
        let lines = view().screen(&look(width, height, Sort::Who));
        assert_eq!(lines.len(), height, "{width} x {height}");
        for line in lines {
            assert!(line.text.chars().count() <= width, "{width} x {height}: {line:?}");
        }
    }
}

/// The how-to page shows what these pages come to, letter by letter.
#[rstest]
#[case("listeners")]
#[case("endpoints")]
#[case("certs")]
#[case("connections")]
#[case("top")]
fn the_documentation_shows_these_tables(#[case] name: &str) {
    let shown = std::fs::read_to_string(path("../../../docs/how-to/look.md")).unwrap();
    let table = std::fs::read_to_string(path(&format!("{name}.txt"))).unwrap();
    assert!(shown.contains(&table), "docs/how-to/look.md has not what {name}.txt has; copy it there");
}
