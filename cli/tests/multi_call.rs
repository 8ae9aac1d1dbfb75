//! One file that is every tool: by its first argument, and by the name it is called by.

// Tests assert by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::thread;

use rstest::rstest;

const PILLION: &str = env!("CARGO_BIN_EXE_pillion");

#[rstest]
#[case("proxy", "--config")]
#[case("ca", "serve")]
#[case("iptables", "apply")]
fn each_tool_answers_to_its_command_and_to_its_name(#[case] tool: &str, #[case] knows: &str) {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join(format!("pillion-{tool}"));
    symlink(PILLION, &link).unwrap();
    let mut by_command = Command::new(PILLION);
    by_command.args([tool, "--help"]);
    let mut by_name = Command::new(link);
    by_name.arg("--help");
    for mut command in [by_command, by_name] {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains(knows), "{command:?}");
    }
}

#[rstest]
#[case("frontend")]
#[case("backend")]
#[case("echo")]
#[case("greeter")]
fn each_example_app_answers_to_its_name(#[case] app: &str) {
    let output = Command::new(PILLION).args(["example", app, "--help"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("--listen"));
}

#[test]
fn wrong_arguments_end_with_2() {
    for arguments in [&["demonstrate"][..], &[], &["example", "sidecar"], &["proxy", "--nonsense"]] {
        let status = Command::new(PILLION).args(arguments).output().unwrap().status;
        assert_eq!(status.code(), Some(2), "{arguments:?}");
    }
}

#[rstest]
#[case::ready("200 OK", Some(0))]
#[case::empty("204 No Content", Some(0))]
#[case::redirect("302 Found", Some(1))]
#[case::not_ready("503 Service Unavailable", Some(1))]
fn a_probe_is_true_to_the_answer(#[case] status: &'static str, #[case] code: Option<i32>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/healthz/ready", listener.local_addr().unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let length = stream.read(&mut request).unwrap();
        assert!(request[..length].starts_with(b"GET /healthz/ready HTTP/1.0\r\n"));
        write!(stream, "HTTP/1.1 {status}\r\n\r\n").unwrap();
    });
    let output = Command::new(PILLION).args(["probe", &url]).output().unwrap();
    server.join().unwrap();
    assert_eq!(output.status.code(), code, "{output:?}");
}

#[test]
fn a_probe_of_what_cannot_be_asked_fails_with_the_cause() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, cause) in
        [(format!("http://{closed}/"), "refused"), ("https://localhost/".to_owned(), "http://")]
    {
        let output = Command::new(PILLION).args(["probe", &url]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8(output.stderr).unwrap().contains(cause), "{url}");
    }
}
