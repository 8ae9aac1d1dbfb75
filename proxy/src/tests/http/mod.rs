//! Requests over real sockets, through a whole sidecar: who is let through, what the app gets, what cannot be smuggled past.

mod bypass;
mod changes;
mod identity;
mod live;
mod messages;
mod random;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

/// What an app was asked, as it understood it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    pub(super) host: String,
    pub(super) version: String,
    /// `name: value` of every field, in order of names.
    fields: Vec<String>,
    pub(super) body: Vec<u8>,
    trailers: Vec<String>,
}

impl Heard {
    pub(super) fn field(&self, name: &str) -> Vec<&str> {
        let of = |line: &'_ String| line.split_once(": ").is_some_and(|(known, _)| known == name);
        self.fields.iter().filter(|line| of(line)).map(|line| line.split_once(": ").unwrap().1).collect()
    }
}

/// An app that speaks HTTP/1.1 and HTTP/2 and answers each request with `heard <method> <target>`.
pub(super) struct App {
    pub(super) address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
    task: JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl App {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let all = heard.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let heard = all.clone();
                let service = service_fn(move |request: Request<Incoming>| hear(heard.clone(), request));
                open.spawn(async move {
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, heard, task }
    }

    pub(super) fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The targets that were asked for.
    fn targets(&self) -> Vec<String> {
        self.heard().into_iter().map(|heard| heard.target).collect()
    }
}

async fn hear(
    heard: Arc<Mutex<Vec<Heard>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut fields: Vec<String> =
        parts.headers.iter().map(|(name, value)| format!("{name}: {}", text(value))).collect();
    fields.sort();
    let collected = body.collect().await.ok();
    let trailers = collected
        .as_ref()
        .and_then(|body| body.trailers())
        .map(|trailers| trailers.iter().map(|(name, value)| format!("{name}: {}", text(value))).collect());
    let one = Heard {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        host: parts
            .headers
            .get("host")
            .map(text)
            .or(parts.uri.authority().map(ToString::to_string))
            .unwrap_or_default(),
        version: format!("{:?}", parts.version),
        fields,
        trailers: trailers.unwrap_or_default(),
        body: collected.map(|body| body.to_bytes().to_vec()).unwrap_or_default(),
    };
    let answer = format!("heard {} {}", one.method, one.target);
    heard.lock().unwrap().push(one);
    Ok(Response::new(Full::from(answer)))
}

/// An app that answers whatever comes with `answer`, once on each connection, and keeps what it got to the byte.
struct RawApp {
    address: SocketAddr,
    got: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Drop for RawApp {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawApp {
    async fn answering(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let got: Arc<Mutex<Vec<u8>>> = Arc::default();
        let all = got.clone();
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let got = all.clone();
                open.spawn(async move {
                    let (mut buffer, mut answered) = (vec![0; 4096], false);
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        got.lock().unwrap().extend_from_slice(&buffer[..count]);
                        if !answered && got.lock().unwrap().windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                            answered = true;
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                    }
                });
            }
        });
        Self { address, got, task }
    }

    fn got(&self) -> String {
        String::from_utf8_lossy(&self.got.lock().unwrap()).into_owned()
    }
}

pub(super) fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

/// Denies `/admin` and all below it, and lets everything else in.
fn deny_admin() -> String {
    policy("deny-admin", "{action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}")
}

/// Sends `bytes` and reads one answer, or what there is before the end. The connection stays open where the answer says so.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    bytes: &[u8],
) -> io::Result<Answered> {
    stream.write_all(bytes).await?;
    timeout(PATIENCE, read_answer(stream)).await?
}

/// An answer as it came.
#[derive(Debug, Clone)]
pub(super) struct Answered {
    pub(super) status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answered {
    pub(super) fn body(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(": ")?;
            known.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// Reads an answer with `Content-Length`, without a body, or to the end of the connection. Interim answers are passed over.
async fn read_answer<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Answered> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && head.is_empty() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Err(error) => return Err(error),
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status: u16 =
            head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{head:?}"));
        let mut answered = Answered { status, head, body: Vec::new() };
        if status == 100 {
            continue;
        }
        match answered.field("content-length").map(|length| length.parse::<usize>().unwrap()) {
            Some(length) => {
                answered.body.resize(length, 0);
                stream.read_exact(&mut answered.body).await?;
            }
            None if status == 101 || answered.field("transfer-encoding").is_some() => {}
            None => {
                stream.read_to_end(&mut answered.body).await?;
            }
        }
        return Ok(answered);
    }
}

/// A head of HTTP/1.1 with a host, and `more` lines.
pub(super) fn head(method: &str, target: &str, more: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: backend\r\n{more}\r\n").into_bytes()
}

/// Asks for `target` as a stranger, on a connection of its own.
async fn get(sidecar: &Sidecar, target: &str) -> io::Result<Answered> {
    let mut stream = TcpStream::connect(sidecar.inbound()).await?;
    ask(&mut stream, &head("GET", target, "")).await
}

/// A frame of HTTP/2 (RFC 9113 4.1).
fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HPACK without indexing and without Huffman (RFC 7541 6.2.2).
fn literal_fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        assert!(text.len() < 127);
        [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    };
    fields.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
