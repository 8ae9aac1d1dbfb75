//! A plain HTTP GET, or POST without a body, by the standard library alone, for health checks and admin ports.
//!
//! HTTP/1.0, so that the answer ends where the connection ends. No TLS, no redirects.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// The largest answer that is read, head and body together.
pub const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code, 100 to 999.
    pub status: u16,
    /// The body; text that is not UTF-8 is replaced.
    pub body: String,
}

impl Answer {
    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// What is asked of whom: `http://authority/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// Asks `url` once. `timeout` bounds the whole: name look-up aside, from dial to the last byte.
///
/// # Errors
/// When the URL is not `http://host[:port][/path]`, when the server cannot be reached or resets, when it is not done
/// in time, when its answer is not HTTP or is larger than [`MAX_ANSWER`].
pub fn get(url: &str, timeout: Duration) -> io::Result<Answer> {
    ask("GET", url, timeout)
}

/// The same by POST, without a body: a button of an admin API is pressed.
///
/// # Errors
/// As [`get`].
pub fn post(url: &str, timeout: Duration) -> io::Result<Answer> {
    ask("POST", url, timeout)
}

/// Whether [`get`] could ask `url`, without asking.
///
/// # Errors
/// When it is not `http://host[:port][/path]`.
pub(crate) fn check(url: &str) -> io::Result<()> {
    parse(url).map(drop)
}

fn ask(method: &str, url: &str, timeout: Duration) -> io::Result<Answer> {
    let deadline = Instant::now() + timeout;
    let target = parse(url)?;
    let stream = dial(&target, deadline)?;
    exchange(stream, method, &target, deadline)
}

/// The same over a connection that exists already; `url` gives path and `Host`.
///
/// # Errors
/// As [`get`].
pub fn get_over(stream: TcpStream, url: &str, timeout: Duration) -> io::Result<Answer> {
    exchange(stream, "GET", &parse(url)?, Instant::now() + timeout)
}

fn exchange(mut stream: TcpStream, method: &str, target: &Target, deadline: Instant) -> io::Result<Answer> {
    stream.set_write_timeout(Some(left(deadline)?))?;
    // A POST without a body says so (RFC 9110, 8.6).
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let request = format!(
        "{method} {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: pillion\r\n{length}\r\n",
        target.path, target.authority
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut chunk = [0_u8; 8192];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut chunk) {
            Ok(0) => return read_answer(&answer),
            Ok(n) => answer.extend_from_slice(chunk.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(too_late()),
            Err(error) => return Err(error),
        }
        if answer.len() > MAX_ANSWER {
            return Err(invalid(format!("the answer is larger than {MAX_ANSWER} bytes")));
        }
    }
}

fn dial(target: &Target, deadline: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, format!("{} has no address", target.host));
    for address in (target.host.as_str(), target.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = name(&error, address),
        }
    }
    Err(last)
}

fn name(error: &io::Error, address: SocketAddr) -> io::Error {
    io::Error::new(error.kind(), format!("{address}: {error}"))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(too_late()) } else { Ok(left) }
}

fn too_late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no whole answer in time")
}

fn invalid(detail: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, detail)
}

fn parse(url: &str) -> io::Result<Target> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(invalid(format!("{url:?} does not begin with http://")));
    };
    if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(invalid(format!("{url:?} holds a space or a control character")));
    }
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let (host, port) = split_authority(authority)
        .ok_or_else(|| invalid(format!("{authority:?} is not host, host:port or [v6]:port")))?;
    Ok(Target { authority: authority.to_owned(), host: host.to_owned(), port, path: path.to_owned() })
}

fn split_authority(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(80), |port| port.parse().ok())?;
    (!host.is_empty()).then_some((host, port))
}

fn read_answer(bytes: &[u8]) -> io::Result<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let not_http = || {
        let start: String = text.chars().take(40).collect();
        io::Error::new(ErrorKind::InvalidData, format!("expected an HTTP answer, got {start:?}"))
    };
    if bytes.is_empty() {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed without an answer"));
    }
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(not_http)?;
    let (version, rest) = head.split_once(' ').ok_or_else(not_http)?;
    let status = rest.get(..3).and_then(|digits| digits.parse().ok()).ok_or_else(not_http)?;
    if !version.starts_with("HTTP/1.") {
        return Err(not_http());
    }
    Ok(Answer { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("http://localhost", "localhost", 80, "/")]
    #[case("http://127.0.0.1:15021/healthz/ready", "127.0.0.1", 15021, "/healthz/ready")]
    #[case("http://[fd00::3]:8080/a/b?c=d", "fd00::3", 8080, "/a/b?c=d")]
    #[case("http://[::1]", "::1", 80, "/")]
    fn a_url_names_host_port_and_path(
        #[case] url: &str,
        #[case] host: &str,
        #[case] port: u16,
        #[case] path: &str,
    ) {
        let target = parse(url).unwrap();
        assert_eq!((target.host.as_str(), target.port, target.path.as_str()), (host, port, path));
    }

    #[rstest]
    #[case("https://localhost")]
    #[case("localhost:80")]
    #[case("http://")]
    #[case("http://:80/")]
    #[case("http://host:port/")]
    #[case("http://host:70000/")]
    #[case("http://[::1/")]
    #[case("http://host/a b")]
    #[case("http://host/\r\nX: y")]
    fn what_is_no_plain_http_url_is_refused(#[case] url: &str) {
        assert_eq!(parse(url).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    /// Serves one connection with `answer`, then closes.
    fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
        });
        address
    }

    #[test]
    fn status_and_body_come_back() {
        let address = server(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n");
        let answer = get(&format!("http://{address}/"), Duration::from_secs(2)).unwrap();
        assert_eq!(answer, Answer { status: 503, body: "no\n".to_owned() });
        assert!(!answer.is_success());
    }

    #[rstest]
    #[case(b"", ErrorKind::UnexpectedEof)]
    #[case(b"SSH-2.0-OpenSSH\r\n", ErrorKind::InvalidData)]
    #[case(b"HTTP/1.1 abc\r\n\r\n", ErrorKind::InvalidData)]
    fn what_is_no_http_answer_is_an_error(#[case] answer: &'static [u8], #[case] kind: ErrorKind) {
        let address = server(answer);
        assert_eq!(get(&format!("http://{address}/"), Duration::from_secs(2)).unwrap_err().kind(), kind);
    }

    #[test]
    fn a_server_that_says_nothing_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let started = Instant::now();
        let error = get(&url, Duration::from_millis(200)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
}
