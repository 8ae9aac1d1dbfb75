//! The web page for several sidecars: `pillion dashboard`. It asks their admin APIs, follows what they tell, and serves it on
//! loopback to browsers of this host.
//!
//! It passes on pages that tell and none that do something: a proxy cannot be stopped from here.

mod legs;
mod proxy;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::broadcast;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::admin::guard;
use crate::admin::server::{self, Answer, Sender};
use crate::connections::MAX_ONLOOKERS;
use crate::page;
use crate::page::frames::{EVENT_STREAM, Reader, frame, nothing};
pub use proxy::{NoUrl, Proxy};

/// Events that wait for the slowest page at most.
const WAITING: usize = 256;
/// How long a proxy that does not answer is left alone.
const AGAIN: Duration = Duration::from_secs(2);
/// A proxy that tells nothing for so long is gone: it tells something each second.
const SILENCE: Duration = Duration::from_secs(10);
/// How often a page is told that the dashboard is still there.
const BEAT: Duration = Duration::from_secs(5);
/// The pages of a proxy that the web page looks at.
const PAGES: [&str; 8] = [
    "/page/state",
    "/certs",
    "/config_dump",
    "/connections",
    "/describe",
    "/endpoints",
    "/explain",
    "/listeners",
];

/// The sidecars, and what they tell.
struct Dashboard {
    proxies: Vec<Followed>,
    events: broadcast::Sender<Bytes>,
}

struct Followed {
    proxy: Proxy,
    /// Why it does not answer.
    down: Mutex<Option<String>>,
}

/// Serves the web page of `proxies` at `listen` until SIGINT or SIGTERM. `begun` is told where; `tell` what there is to know
/// meanwhile, as that a proxy does not answer.
///
/// # Errors
/// When `listen` is not an address of loopback: the page tells of every connection to whoever reaches it; when it cannot be
/// listened at.
pub fn run(
    listen: SocketAddr,
    proxies: Vec<Proxy>,
    begun: impl FnOnce(SocketAddr),
    tell: fn(&str),
) -> io::Result<()> {
    if !listen.ip().to_canonical().is_loopback() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "{listen} is not on loopback, and the page tells of every connection to whoever reaches it; listen at \
                 127.0.0.1, and from another host come through ssh -L"
            ),
        ));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let listener = TcpListener::bind(listen).await?;
        begun(listener.local_addr()?);
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            served = serve(listener, proxies, tell, stop.clone()) => served,
            _ = interrupt.recv() => Ok(stop.cancel()),
            _ = terminate.recv() => Ok(stop.cancel()),
        }
    })
}

/// Serves until `stop`.
async fn serve(
    listener: TcpListener,
    proxies: Vec<Proxy>,
    tell: fn(&str),
    stop: CancellationToken,
) -> io::Result<()> {
    let bound = listener.local_addr()?;
    let followed = |proxy| Followed { proxy, down: Mutex::new(Some("not asked yet".to_owned())) };
    let dashboard = Arc::new(Dashboard {
        proxies: proxies.into_iter().map(followed).collect(),
        events: broadcast::Sender::new(WAITING),
    });
    for number in 0..dashboard.proxies.len() {
        let (dashboard, stop) = (dashboard.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = dashboard.follow(number, tell) => {}
                () = stop.cancelled() => {}
            }
        });
    }
    let stopping = stop.clone();
    let answer = move |request: Parts| {
        let (dashboard, stop) = (dashboard.clone(), stopping.clone());
        async move {
            match guard::check(bound, &request) {
                Some(refused) => refused,
                None => dashboard.answer(&request, stop).await,
            }
        }
    };
    server::run(listener, stop, answer).await;
    Ok(())
}

impl Dashboard {
    async fn answer(self: &Arc<Self>, request: &Parts, stop: CancellationToken) -> Answer {
        if request.method != Method::GET && request.method != Method::HEAD {
            return Answer::problem(StatusCode::METHOD_NOT_ALLOWED, "the dashboard only tells: GET, HEAD")
                .with_allow("GET, HEAD");
        }
        let path = request.uri.path();
        let query = request.uri.query().unwrap_or_default();
        match path {
            "/" => page::index(),
            "/proxies" => self.list(),
            "/events" => self.stream(stop),
            "/leg" => self.leg(query).await,
            _ => match page::file(request) {
                Some(file) => file,
                None => self.of_proxy(path, query).await,
            },
        }
    }

    /// `/proxies`.
    fn list(&self) -> Answer {
        let proxy = |(number, followed): (usize, &Followed)| {
            json!({
                "proxy": number,
                "url": followed.proxy.to_string(),
                "at": format!("proxies/{number}/"),
                "down": *lock(&followed.down),
            })
        };
        let proxies: Vec<Value> = self.proxies.iter().enumerate().map(proxy).collect();
        Answer::json(&json!({ "proxies": proxies }))
    }

    /// `/proxies/0/certs`: a page of that proxy.
    async fn of_proxy(&self, path: &str, query: &str) -> Answer {
        let asked = path.strip_prefix("/proxies/").and_then(|rest| {
            let (number, page) = rest.split_at_checked(rest.find('/')?)?;
            Some((self.proxies.get(number.parse::<usize>().ok()?)?, page))
        });
        match asked {
            Some((followed, page)) if PAGES.contains(&page) => {
                let question = if query.is_empty() { page.to_owned() } else { format!("{page}?{query}") };
                match followed.proxy.get(&question).await {
                    Ok((status, body)) => Answer::page("application/json", body).with_status(status),
                    Err(why) => Answer::problem(StatusCode::BAD_GATEWAY, why),
                }
            }
            _ => Answer::problem(
                StatusCode::NOT_FOUND,
                format!(
                    "there are /, /proxies, /events, /leg, and of each proxy /proxies/0{}",
                    PAGES.join(", …")
                ),
            ),
        }
    }

    /// `/leg?proxy=0&id=7`: which connection of another proxy is the same one.
    async fn leg(&self, query: &str) -> Answer {
        let value = |name| query.split('&').find_map(|pair| pair.strip_prefix(name)?.parse::<u64>().ok());
        match (value("proxy="), value("id=")) {
            (Some(proxy), Some(id)) => {
                let proxies: Vec<&Proxy> = self.proxies.iter().map(|followed| &followed.proxy).collect();
                Answer::json(&legs::find(&proxies, usize::try_from(proxy).unwrap_or(usize::MAX), id).await)
            }
            _ => Answer::problem(StatusCode::BAD_REQUEST, "expected ?proxy=NUMBER&id=NUMBER"),
        }
    }

    /// `/events`.
    fn stream(&self, stop: CancellationToken) -> Answer {
        if self.events.receiver_count() >= MAX_ONLOOKERS {
            let detail = format!("{MAX_ONLOOKERS} pages are open already; close one");
            return Answer::problem(StatusCode::SERVICE_UNAVAILABLE, detail);
        }
        let (answer, sender) = Answer::in_parts(EVENT_STREAM);
        tokio::spawn(pass_on(self.events.subscribe(), sender, stop));
        answer
    }

    /// Follows what a proxy tells, for ever.
    async fn follow(&self, number: usize, tell: fn(&str)) {
        let Some(Followed { proxy, down }) = self.proxies.get(number) else { return };
        loop {
            let why = match proxy.events().await {
                Ok(stream) => {
                    *lock(down) = None;
                    tell(&format!("{proxy} answers"));
                    self.listen(number, stream).await
                }
                Err(why) => why,
            };
            let known = lock(down).replace(why.clone());
            if known.as_ref() != Some(&why) {
                tell(&format!("{proxy}: {why}"));
                self.publish("down", number, json!({ "why": why }));
            }
            sleep(AGAIN).await;
        }
    }

    /// Passes on what a proxy tells until that ends; why it did.
    async fn listen(&self, number: usize, mut stream: proxy::Events) -> String {
        let mut reader = Reader::default();
        loop {
            let piece = match tokio::time::timeout(SILENCE, stream.next()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return "it has ended".to_owned(),
                Ok(Err(error)) => return error,
                Err(_late) => return format!("it has told nothing for {SILENCE:?}"),
            };
            let Some(events) = reader.read(&piece) else {
                return "what it tells is not understood, its version may be another".to_owned();
            };
            for (name, data) in events {
                self.publish(&name, number, data);
            }
        }
    }

    /// Tells the pages what a proxy has told.
    fn publish(&self, name: &str, number: usize, mut data: Value) {
        if let Some(fields) = data.as_object_mut() {
            fields.insert("proxy".to_owned(), number.into());
        }
        // Where no page is open nobody misses it.
        let _ = self.events.send(frame(name, &data));
    }
}

/// Tells one page what happens, until it is gone.
async fn pass_on(mut events: broadcast::Receiver<Bytes>, sender: Sender, stop: CancellationToken) {
    let mut next = frame("hello", &json!({ "proxy": null, "version": env!("CARGO_PKG_VERSION") }));
    while sender.send(next).await {
        next = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(lost)) => {
                    frame("lost", &json!({ "proxy": null, "events": lost }))
                }
                Err(broadcast::error::RecvError::Closed) => return,
            },
            () = sleep(BEAT) => nothing(),
            () = sender.gone() => return,
            () = stop.cancelled() => return,
        };
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
