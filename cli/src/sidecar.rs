//! The sidecar here as a job sees it, by its admin API: whether it is ready, and how it is told to end.

use std::fmt::{self, Display, Formatter};
use std::io::{self, ErrorKind};
use std::time::Duration;

use clap::Args;
use pillion_mesh::wire::Problem;
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use crate::http;
use crate::source::ADMIN;

/// Time for one answer; the sidecar is on this host.
const ANSWER: Duration = Duration::from_secs(1);
/// Between two questions: short enough that a job hardly begins later for it.
const PAUSE: Duration = Duration::from_millis(100);

/// The flag that says which sidecar is meant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Sidecar {
    /// The sidecar's admin API
    #[arg(long, value_name = "URL", default_value = ADMIN, value_parser = url)]
    admin: String,
}

/// What the sidecar says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// Connections are served; why that is known.
    Ready(String),
    /// They are not yet, or no longer.
    Unready(String),
    /// No sidecar has answered.
    Silent(String),
}

/// Nobody was ready in time.
#[derive(Debug)]
pub(crate) struct Late {
    admin: String,
    after: String,
    last: State,
}

/// The page `/ready`.
#[derive(Debug, Deserialize)]
struct Readiness {
    ready: bool,
    because: String,
}

/// What `POST /drain` answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Draining {
    open_connections: usize,
}

impl Sidecar {
    /// Asks until it is ready, for at most `timeout` and at least once; `tell` hears what is missing whenever that changes.
    ///
    /// # Errors
    /// [`Late`], with what was missing at last.
    pub(crate) async fn ready(&self, timeout: Duration, mut tell: impl FnMut(&str)) -> Result<String, Late> {
        let deadline = Instant::now() + timeout;
        let mut told = None;
        loop {
            let state = match self.state().await {
                State::Ready(because) => return Ok(because),
                state => state,
            };
            if Instant::now() >= deadline {
                let after = pillion_mesh::duration::print(timeout);
                return Err(Late { admin: self.admin.clone(), after, last: state });
            }
            if told.as_ref() != Some(&state) {
                tell(&format!("waiting for the sidecar at {}: {state}", self.admin));
                told = Some(state);
            }
            sleep_until(deadline.min(Instant::now() + PAUSE)).await;
        }
    }

    /// Tells it to take no new connections and to end when the open ones have; how many those are.
    ///
    /// # Errors
    /// When it cannot be told.
    pub(crate) async fn drain(&self) -> Result<usize, String> {
        let answer = self.ask(http::post, "/drain").await.map_err(|error| error.to_string())?;
        let draining: Option<Draining> = serde_json::from_str(&answer.body).ok();
        let draining = draining.filter(|_| answer.is_success());
        draining.map(|draining| draining.open_connections).ok_or_else(|| foreign(&answer))
    }

    /// Waits for the end of a sidecar that drains. One that is ready was started anew by its supervisor.
    pub(crate) async fn ended(&self) {
        while matches!(self.state().await, State::Unready(_)) {
            sleep(PAUSE).await;
        }
    }

    async fn state(&self) -> State {
        match self.ask(http::get, "/ready").await {
            Ok(answer) => read(&answer),
            // Somebody is there, and slow.
            Err(error) if error.kind() == ErrorKind::TimedOut => State::Unready(error.to_string()),
            Err(error) => State::Silent(error.to_string()),
        }
    }

    async fn ask(
        &self,
        method: fn(&str, Duration) -> io::Result<http::Answer>,
        page: &str,
    ) -> io::Result<http::Answer> {
        let url = format!("{}{page}", self.admin);
        spawn_blocking(move || method(&url, ANSWER)).await?
    }
}

/// An admin API as it is typed.
fn url(written: &str) -> Result<String, String> {
    http::check(written).map_err(|error| error.to_string())?;
    Ok(written.trim_end_matches('/').to_owned())
}

/// The page `/ready` is 200 or 503.
fn read(answer: &http::Answer) -> State {
    let readiness: Option<Readiness> = serde_json::from_str(&answer.body).ok();
    match readiness.filter(|readiness| readiness.ready == answer.is_success()) {
        Some(Readiness { ready: true, because }) => State::Ready(because),
        Some(Readiness { ready: false, because }) => State::Unready(because),
        None => State::Silent(foreign(answer)),
    }
}

/// An answer that no pillion-proxy of this version gives.
fn foreign(answer: &http::Answer) -> String {
    let problem: Option<Problem> = serde_json::from_str(&answer.body).ok();
    let detail = problem.and_then(|problem| problem.detail).map(|detail| format!(" ({detail})"));
    let detail = detail.unwrap_or_default();
    format!(
        "it answered {}{detail}, so it is no pillion-proxy's admin API, or one of another version",
        answer.status
    )
}

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (Self::Ready(why) | Self::Unready(why) | Self::Silent(why)) = self;
        f.write_str(why)
    }
}

impl Display for Late {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { admin, after, last } = self;
        let cure = match last {
            State::Silent(_) => {
                "is the sidecar running, and is this its admin API (admin.address)? It listens on loopback only: share its \
                 network namespace (in compose network_mode: \"service:…\"), or name another by --admin"
            }
            State::Ready(_) | State::Unready(_) => "its log says more; give it more time by --timeout",
        };
        write!(f, "the sidecar at {admin} was not ready after {after}: {last}\n{cure}")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn answer(status: u16, body: &str) -> http::Answer {
        http::Answer { status, body: body.to_owned() }
    }

    #[rstest]
    #[case::ready(200, r#"{"ready":true,"because":"valid"}"#, State::Ready("valid".to_owned()))]
    #[case::unready(503, r#"{"ready":false,"because":"none yet"}"#, State::Unready("none yet".to_owned()))]
    fn the_page_says_whether_it_is_ready(#[case] status: u16, #[case] body: &str, #[case] state: State) {
        assert_eq!(read(&answer(status, body)), state);
    }

    /// Whatever else listens there must not let a job begin.
    #[rstest]
    #[case::another_server(200, "OK", "answered 200")]
    #[case::other_json(200, r#"{"status":"up"}"#, "answered 200")]
    #[case::contradiction(503, r#"{"ready":true,"because":"?"}"#, "answered 503")]
    #[case::no_page(
        404,
        r#"{"title":"Not Found","status":404,"detail":"there are /, /stats"}"#,
        "(there are /, /stats)"
    )]
    fn what_is_no_sidecar_is_not_ready(#[case] status: u16, #[case] body: &str, #[case] said: &str) {
        let State::Silent(why) = read(&answer(status, body)) else {
            panic!("{body} of {status} was taken for a sidecar's");
        };
        assert!(why.contains(said) && why.contains("no pillion-proxy"), "{why}");
    }

    #[rstest]
    #[case("http://127.0.0.1:15000", Ok("http://127.0.0.1:15000"))]
    #[case("http://[::1]:15000/", Ok("http://[::1]:15000"))]
    #[case("127.0.0.1:15000", Err("http://"))]
    #[case("https://localhost", Err("http://"))]
    fn an_admin_api_is_an_http_url(#[case] written: &str, #[case] expected: Result<&str, &str>) {
        match (url(written), expected) {
            (Ok(seen), Ok(expected)) => assert_eq!(seen, expected),
            (Err(seen), Err(expected)) => assert!(seen.contains(expected), "{seen}"),
            (seen, _) => panic!("{written}: {seen:?}"),
        }
    }
}
