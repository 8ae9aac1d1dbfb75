//! HTTP/1.1 by hand, so that a test says which method, target and host go out, and over which connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use pillion_cli::lab::Node;

/// An answer with its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Asks on a connection of its own, with an empty body.
pub(crate) fn ask(from: &Node, address: SocketAddr, method: &str, target: &str) -> io::Result<Answer> {
    ask_over(&mut from.dial(address)?, method, target, &address.to_string())
}

/// Asks on a connection that stays open.
pub(crate) fn ask_over(stream: &mut TcpStream, method: &str, target: &str, host: &str) -> io::Result<Answer> {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    read_answer(stream)
}

/// Reads an answer with `Content-Length`.
fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, format!("no whole answer: {head:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_answer)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    let mut body = vec![0; length.ok_or_else(no_answer)?];
    stream.read_exact(&mut body)?;
    Ok(Answer { status, head, body: String::from_utf8_lossy(&body).into_owned() })
}
