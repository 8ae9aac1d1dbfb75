//! Method and path to page.

use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::server::Answer;
use super::{AdminState, connections, events, page, pages};
use crate::page::for_browsers;

/// One page, or one button.
pub(super) struct Route {
    method: Method,
    path: &'static str,
    about: &'static str,
    answer: fn(&AdminState, &Parts) -> Answer,
}

pub(super) const fn get(
    path: &'static str,
    about: &'static str,
    answer: fn(&AdminState, &Parts) -> Answer,
) -> Route {
    Route { method: Method::GET, path, about, answer }
}

const fn post(path: &'static str, about: &'static str, answer: fn(&AdminState, &Parts) -> Answer) -> Route {
    Route { method: Method::POST, path, about, answer }
}

/// The admin API.
pub(super) static ADMIN: [Route; 21] = [
    get("/", "these pages; in a browser the web page of this sidecar", |_, request| {
        for_browsers(request).unwrap_or_else(|| index(&ADMIN))
    }),
    get("/ready", "whether connections are served, and why not", pages::ready),
    get("/config_dump", "settings in force, mesh resources and their findings", pages::config_dump),
    get("/certs", "own certificate chain, trust bundles, renewals, files of DestinationRules", pages::certs),
    get("/listeners", "addresses listened on, and what each port accepts", pages::listeners),
    get("/endpoints", "known services, and how each is dialled", pages::endpoints),
    get(
        "/connections",
        "open connections; ?state=ended: the last that were served; ?state=refused: refusals of the last hour; ?state=all",
        connections::list,
    ),
    get(
        "/explain",
        "what became of the connection that was last refused, step by step; ?id=7 of that one; ?client=10.0.0.7:4312 or 10.0.0.7: of the newest from there",
        connections::explain,
    ),
    get("/edges", "who talks to whom, with both identities, and whether it is secured", connections::edges),
    get("/events", "what happens, at once, as server-sent events", events::stream),
    get("/page/state", "what the web page begins with", page::state),
    get("/proxies", "the sidecars that the web page shows: this one", page::proxies),
    get(
        "/migration",
        "who comes to which port and how, since the proxy began, and what policies in dry run would refuse",
        connections::migration,
    ),
    get(
        "/traffic",
        "what passes on each edge, for pillion top; ?since=2026-11-20T12:00:00Z: of the connections that have ended those since then",
        connections::traffic,
    ),
    get("/describe", "what the mesh resources mean for this workload, and why", pages::describe),
    get(
        "/authz",
        "who may call this workload; ?from=PRINCIPAL or plaintext&port=8080, with &method=GET&path=/ and so on: may they?",
        pages::authz,
    ),
    get("/stats/prometheus", "metrics as text, as OpenMetrics where the request accepts it", pages::metrics),
    post("/logging", "?level=debug, or by module ?level=warn,access=info", pages::logging),
    post(
        "/capture",
        "?for=60s: keep the first bytes of plaintext of new connections for so long, where admin.capture allows it; ?for=0: stop",
        connections::capture,
    ),
    post("/drain", "take no new connections, end when the open ones have", pages::drain),
    post("/quitquitquit", "end now", pages::quit),
];

/// The readiness port.
pub(super) static READINESS: [Route; 1] =
    [get("/healthz/ready", "200 when connections are served", pages::healthz)];

/// The metrics port.
pub(super) static METRICS: [Route; 1] = [get(
    "/stats/prometheus",
    "metrics as text, as OpenMetrics where the request accepts it",
    pages::metrics,
)];

/// Finds the page and answers. A panic in it costs this answer and is counted.
pub(super) fn answer(routes: &'static [Route], state: &AdminState, request: &Parts) -> Answer {
    let _watch = PanicWatch(state);
    let Some(route) = routes.iter().find(|route| route.path == request.uri.path()) else {
        let paths: Vec<_> = routes.iter().map(|route| route.path).collect();
        return Answer::problem(StatusCode::NOT_FOUND, format!("there are {}", paths.join(", ")));
    };
    let (fits, allow) = if route.method == Method::POST {
        (request.method == Method::POST, "POST")
    } else {
        (request.method == Method::GET || request.method == Method::HEAD, "GET, HEAD")
    };
    if fits {
        (route.answer)(state, request)
    } else {
        Answer::problem(StatusCode::METHOD_NOT_ALLOWED, format!("{} answers {allow}", route.path))
            .with_allow(allow)
    }
}

fn index(routes: &[Route]) -> Answer {
    let pages: Vec<_> = routes
        .iter()
        .map(|route| json!({ "method": route.method.as_str(), "path": route.path, "about": route.about }))
        .collect();
    Answer::json(&json!({ "pages": pages }))
}

struct PanicWatch<'a>(&'a AdminState);

impl Drop for PanicWatch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.telemetry.panicked();
        }
    }
}
