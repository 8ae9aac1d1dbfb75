//! A view as text: for a screen, cut to its size, or whole.

use std::cmp::Reverse;
use std::fmt::{self, Display, Formatter};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{Flow, Newest, Rates, Traffic};
use crate::duration;
use crate::edges::Secured;
use crate::proxy_config::{Owner, Shown};
use crate::reason::Reason;
use crate::wire::rfc3339;
use crate::words::{Bytes, Columns, Elapsed, Escaped};

/// Proxies that do not answer, of which a screen tells; the others are counted.
const SILENT: usize = 3;
/// Newest connections where nothing says how many fit.
const NEWEST: usize = 10;

/// What passes through some proxies.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Those that answer.
    pub proxies: Vec<Owner>,
    /// When the last of them was read, RFC 3339; none where none answers.
    pub now: Option<String>,
    /// The edges and their rates.
    #[serde(flatten)]
    pub rates: Rates,
    /// The newest connections, the newest first.
    pub newest: Vec<NewestOf>,
    /// Proxies that do not answer.
    pub silent: Vec<Silent>,
}

/// One of the newest connections, and who tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewestOf {
    /// Whose proxy tells of it.
    pub proxy: Owner,
    /// The connection.
    #[serde(flatten)]
    pub connection: Newest,
}

/// A proxy that does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silent {
    /// The address of its admin API.
    pub proxy: String,
    /// Why.
    pub why: String,
}

/// What the edges are ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    /// Most new connections first.
    #[default]
    New,
    /// Most bytes first, both ways together.
    Bytes,
    /// Most open connections first.
    Open,
    /// Those that are refused first, most refusals first.
    Refused,
    /// By who calls whom.
    Who,
}

/// How a screen looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Characters in a line.
    pub width: usize,
    /// Lines.
    pub height: usize,
    /// The order of the edges.
    pub sort: Sort,
    /// Whether it stands still.
    pub paused: bool,
    /// Between two readings.
    pub interval: Duration,
}

/// A line of a screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// What it says, harmless for a terminal.
    pub text: String,
    /// How loud.
    pub emphasis: Emphasis,
}

/// How loud a line is. It says nothing that the text does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emphasis {
    /// As it is.
    Plain,
    /// A heading.
    Heading,
    /// Plaintext, a refusal, a proxy that does not answer.
    Alarm,
}

impl Sort {
    /// Each, in the order of the help.
    pub const ALL: [Sort; 5] = [Sort::New, Sort::Bytes, Sort::Open, Sort::Refused, Sort::Who];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Sort::New => "new",
            Sort::Bytes => "bytes",
            Sort::Open => "open",
            Sort::Refused => "refused",
            Sort::Who => "who",
        }
    }

    /// The one that a key asks for: the first letter of its word.
    #[must_use]
    pub fn of_key(key: char) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.as_str().starts_with(key))
    }

    fn order(self, flows: &[Flow]) -> Vec<&Flow> {
        let mut ordered: Vec<&Flow> = flows.iter().collect();
        // Of equals, the order of `pillion edges`.
        let by_new = |one: &&Flow, other: &&Flow| other.new_per_second.total_cmp(&one.new_per_second);
        let bytes = |flow: &&Flow| flow.to_server_per_second.saturating_add(flow.to_client_per_second);
        match self {
            Sort::New => ordered.sort_by(by_new),
            Sort::Bytes => ordered.sort_by_key(|flow| Reverse(bytes(flow))),
            Sort::Open => ordered.sort_by_key(|flow| Reverse(flow.edge.open)),
            Sort::Refused => {
                ordered.sort_by(|one, other| other.refusals().total_cmp(&one.refusals()));
                ordered.sort_by_key(|flow| flow.edge.secured != Secured::Refused && flow.refusals() == 0.0);
            }
            Sort::Who => {}
        }
        ordered
    }
}

impl Flow {
    /// Refusals a second, of connections and of requests on them.
    fn refusals(&self) -> f64 {
        let connections = if self.edge.secured == Secured::Refused { self.new_per_second } else { 0.0 };
        connections + self.refused_requests_per_second
    }
}

impl FromStr for Sort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|sort| sort.as_str() == text).ok_or_else(|| {
            let words = Self::ALL.map(Sort::as_str).join(", ");
            format!("expected one of {words}")
        })
    }
}

impl Display for Sort {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl View {
    /// What came between the two readings of each proxy.
    #[must_use]
    pub fn between<'t>(
        readings: impl IntoIterator<Item = (&'t Traffic, &'t Traffic)>,
        silent: Vec<Silent>,
    ) -> Self {
        let readings: Vec<_> = readings.into_iter().collect();
        let newest_of = |traffic: &Traffic| {
            let proxy = traffic.workload.clone();
            traffic
                .newest
                .clone()
                .into_iter()
                .map(move |connection| NewestOf { proxy: proxy.clone(), connection })
        };
        let mut newest: Vec<NewestOf> = readings.iter().flat_map(|(_, after)| newest_of(after)).collect();
        newest.sort_by_key(|newest| Reverse((newest.connection.accepted, newest.connection.id)));
        Self {
            proxies: readings.iter().map(|(_, after)| after.workload.clone()).collect(),
            now: readings.iter().map(|(_, after)| after.now).max().map(rfc3339::print),
            rates: Rates::of_all(readings.iter().map(|(before, after)| Rates::between(before, after))),
            newest,
            silent,
        }
    }

    /// At most `look.height` lines of at most `look.width` characters.
    #[must_use]
    pub fn screen(&self, look: &Look) -> Vec<Line> {
        let mut lines = vec![heading(self.title(look)), plain(self.totals())];
        let silent = self.silent.iter().take(SILENT).map(|silent| alarm(silent.to_string()));
        lines.extend(silent);
        if let more @ 1.. = self.silent.len().saturating_sub(SILENT) {
            lines.push(alarm(format!("× {more} proxies more do not answer")));
        }
        // A blank line and a heading for each of the two tables, and the keys.
        let room = look.height.saturating_sub(lines.len() + 5);
        let for_newest = self.newest.len().min(room / 3);
        let (edges, newest) = (self.edges(look.sort, room - for_newest), for_newest);
        let newest = newest.max((room + 1).saturating_sub(edges.len()));
        lines.push(plain(String::new()));
        lines.extend(edges);
        lines.push(plain(String::new()));
        lines.extend(self.newest(newest));
        lines.truncate(look.height.saturating_sub(1));
        let filled = look.height.saturating_sub(1);
        lines.resize(filled, plain(String::new()));
        lines.push(plain(KEYS.to_owned()));
        lines.truncate(look.height);
        for line in &mut lines {
            cut(&mut line.text, look.width);
        }
        lines
    }

    fn title(&self, look: &Look) -> String {
        let interval = duration::print(look.interval);
        let paused = if look.paused { ", paused" } else { "" };
        let now = self.now.as_deref().unwrap_or("no proxy answers");
        format!(
            "pillion top   {}   every {interval}, by {}{paused}   {now}",
            counted(self.proxies.len()),
            look.sort
        )
    }

    fn totals(&self) -> String {
        let flows = &self.rates.edges;
        let sum = |of: fn(&Flow) -> u64| Bytes(flows.iter().map(of).fold(0, u64::saturating_add));
        let served = flows.iter().filter(|flow| flow.edge.secured != Secured::Refused);
        let missed = match self.rates.missed {
            0 => String::new(),
            missed => format!("   {missed} more came and went between: a shorter --interval sees more"),
        };
        format!(
            "open {}   new {}/s   refused {}/s   to servers {}/s   to clients {}/s{missed}",
            flows.iter().map(|flow| flow.edge.open).sum::<u64>(),
            Rate(served.map(|flow| flow.new_per_second).sum()),
            Rate(flows.iter().map(Flow::refusals).sum()),
            sum(|flow| flow.to_server_per_second),
            sum(|flow| flow.to_client_per_second),
        )
    }

    /// The heading, and at most `room` rows.
    fn edges(&self, sort: Sort, room: usize) -> Vec<Line> {
        if self.rates.edges.is_empty() {
            return vec![plain("Nobody has talked to anybody, as far as is known.".to_owned())];
        }
        let ordered = sort.order(&self.rates.edges);
        let (shown, more) = match ordered.len().checked_sub(room) {
            None | Some(0) => (ordered.len(), 0),
            // One row says how many are left out.
            Some(over) => (room.saturating_sub(1), over + room.min(1)),
        };
        let mark = |of: Sort, head: &str| if of == sort { format!("{head}↓") } else { head.to_owned() };
        let head = [
            mark(Sort::Who, "SRC"),
            "DST".to_owned(),
            "SECURED".to_owned(),
            mark(Sort::Open, "OPEN"),
            mark(Sort::New, "NEW/S"),
            mark(Sort::Refused, "REFUSED/S"),
            mark(Sort::Bytes, "TO SERVER/S"),
            "TO CLIENT/S".to_owned(),
            "REASON".to_owned(),
        ];
        let shown: Vec<&Flow> = ordered.into_iter().take(shown).collect();
        let rows: Vec<_> = [head].into_iter().chain(shown.iter().copied().map(edge_row)).collect();
        let loud = |flow: &&Flow| {
            matches!(flow.edge.secured, Secured::No | Secured::Refused) || flow.refusals() > 0.0
        };
        let mut lines = lines(&rows, &shown.iter().map(loud).collect::<Vec<_>>());
        if more > 0 {
            lines.push(plain(format!("… and {more} more")));
        }
        lines
    }

    /// The heading, and at most `room` rows.
    fn newest(&self, room: usize) -> Vec<Line> {
        if self.newest.is_empty() {
            return Vec::new();
        }
        let several = self.proxies.len() > 1;
        let shown: Vec<&NewestOf> = self.newest.iter().take(room).collect();
        let head = [
            "ID",
            "PROXY",
            "AT",
            "SRC",
            "DST",
            "PROTOCOL",
            "STATE",
            "TO SERVER",
            "TO CLIENT",
            "AGE",
            "DIRECTION",
        ];
        let rows = [head.map(str::to_owned)].into_iter().chain(shown.iter().copied().map(newest_row));
        let without_proxy = |mut row: Vec<String>| {
            if !several {
                row.remove(1);
            }
            row
        };
        let rows: Vec<Vec<String>> = rows.map(Vec::from).map(without_proxy).collect();
        let loud =
            |newest: &&NewestOf| matches!(newest.connection.secured, Some(Secured::No | Secured::Refused));
        lines(&rows, &shown.iter().map(loud).collect::<Vec<_>>())
    }
}

/// What the keys do.
const KEYS: &str =
    "q quit   p pause   by: n new, b bytes, o open, r refused, w who   more of one: pillion explain ID";

/// The first row is the heading.
fn lines<R: AsRef<[String]>>(rows: &[R], loud: &[bool]) -> Vec<Line> {
    let text = Columns(rows).to_string();
    let emphasis = [Emphasis::Heading]
        .into_iter()
        .chain(loud.iter().map(|loud| if *loud { Emphasis::Alarm } else { Emphasis::Plain }));
    text.lines().zip(emphasis).map(|(text, emphasis)| Line { text: text.to_owned(), emphasis }).collect()
}

fn edge_row(flow: &Flow) -> [String; 9] {
    let Flow { edge, new_per_second, to_server_per_second, to_client_per_second, .. } = flow;
    let who = |name: &str, namespace: &Option<String>| {
        let namespace = namespace.as_ref().map(|namespace| format!(".{namespace}")).unwrap_or_default();
        Escaped(&format!("{name}{namespace}")).to_string()
    };
    [
        who(&edge.src, &edge.src_namespace),
        who(&edge.dst, &edge.dst_namespace),
        edge.secured.as_str().to_owned(),
        edge.open.to_string(),
        // What is refused stands in the next column.
        Rate(if edge.secured == Secured::Refused { 0.0 } else { *new_per_second }).to_string(),
        Rate(flow.refusals()).to_string(),
        Bytes(*to_server_per_second).to_string(),
        Bytes(*to_client_per_second).to_string(),
        Escaped(&edge.reason).to_string(),
    ]
}

fn newest_row(NewestOf { proxy, connection }: &NewestOf) -> [String; 11] {
    let who = |name: &Option<String>| name.as_ref().map_or("-".to_owned(), |name| Escaped(name).to_string());
    let src = connection.src.clone().unwrap_or_else(|| connection.client.ip().to_string());
    [
        connection.id.to_string(),
        Escaped(&proxy.to_string()).to_string(),
        time_of_day(connection.accepted),
        Escaped(&src).to_string(),
        who(&connection.dst),
        Shown(connection.secured).to_string(),
        connection.reason.map_or("open", Reason::id).to_owned(),
        Bytes(connection.to_server).to_string(),
        Bytes(connection.to_client).to_string(),
        Elapsed(Duration::from_micros(connection.duration_micros)).to_string(),
        connection.direction.as_str().to_owned(),
    ]
}

/// `12:00:01` in UTC.
fn time_of_day(at: SystemTime) -> String {
    rfc3339::print(at).get(11..19).unwrap_or_default().to_owned()
}

fn counted(proxies: usize) -> String {
    format!("{proxies} {}", if proxies == 1 { "proxy" } else { "proxies" })
}

fn plain(text: String) -> Line {
    Line { text, emphasis: Emphasis::Plain }
}

fn heading(text: String) -> Line {
    Line { text, emphasis: Emphasis::Heading }
}

fn alarm(text: String) -> Line {
    Line { text, emphasis: Emphasis::Alarm }
}

/// At most `width` characters; what is missing shows as `…`.
fn cut(text: &mut String, width: usize) {
    if text.chars().count() > width {
        *text = text.chars().take(width.saturating_sub(1)).chain(Some('…').filter(|_| width > 0)).collect();
    }
}

/// `0`, `0.5`, `12.0`.
struct Rate(f64);

impl Display for Rate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0 == 0.0 { f.write_str("0") } else { write!(f, "{:.1}", self.0) }
    }
}

impl Display for Silent {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "× {} does not answer: {}", Escaped(&self.proxy), Escaped(&self.why))
    }
}

/// Everything, with the newest ten connections.
impl Display for View {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.totals())?;
        for line in self.edges(Sort::default(), usize::MAX) {
            write!(f, "\n{}", line.text)?;
        }
        for (number, line) in self.newest(NEWEST).iter().enumerate() {
            write!(f, "{}{}", if number == 0 { "\n\n" } else { "\n" }, line.text)?;
        }
        Ok(())
    }
}
