//! The web page: its files, which are part of the program. The admin API serves it for its own sidecar, `pillion dashboard` for
//! several.
//!
//! The page takes nothing from another server, has no inline script or style, and shows what comes from strangers as text only;
//! the answers of [`crate::admin`] forbid browsers anything else.

pub(crate) mod frames;
#[cfg(test)]
mod tests;

use hyper::Method;
use hyper::header::ACCEPT;
use hyper::http::request::Parts;

use crate::admin::server::Answer;

/// A file of the page.
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const DRAWING: &str = "image/svg+xml";

macro_rules! files {
    ($($content_type:ident $name:literal),* $(,)?) => {
        &[$(File {
            path: concat!("/page/", $name),
            content_type: $content_type,
            text: include_str!(concat!("assets/", $name)),
        }),*]
    };
}

static FILES: &[File] = files![
    HTML "index.html",
    STYLE "style.css",
    DRAWING "icon.svg",
    SCRIPT "app.js",
    SCRIPT "certificates.js",
    SCRIPT "connection.js",
    SCRIPT "connections.js",
    SCRIPT "graph.js",
    SCRIPT "html.js",
    SCRIPT "mesh.js",
    SCRIPT "policies.js",
    SCRIPT "state.js",
    SCRIPT "words.js",
];

/// The page itself.
pub(crate) fn index() -> Answer {
    named("/page/index.html").unwrap_or_else(|| Answer::text("no page"))
}

/// The page for who wants to look at it; none for programs, which ask for anything or for JSON.
pub(crate) fn for_browsers(request: &Parts) -> Option<Answer> {
    let mut accepted = request.headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("text/html")).then(index)
}

/// The file of the page that is asked for.
pub(crate) fn file(request: &Parts) -> Option<Answer> {
    let reads = request.method == Method::GET || request.method == Method::HEAD;
    reads.then(|| named(request.uri.path())).flatten()
}

fn named(path: &str) -> Option<Answer> {
    let file = FILES.iter().find(|file| file.path == path)?;
    Some(Answer::page(file.content_type, file.text))
}
