//! Log lines on stderr: text for people, or one JSON object a line. How much is logged can be changed while the proxy
//! runs.
//!
//! Whatever a line holds, no control character in it reaches the terminal: a peer cannot forge lines or colours.

use std::fmt::{self, Debug};
use std::io::{self, IsTerminal};

use pillion_mesh::words::{Escaped, acts_on_a_terminal};
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{EnvFilter, LevelFilter, ParseError};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::settings::LogFormat;

/// A field that holds JSON: part of a line in the JSON form, left out of the text.
const RECORD: &str = "record";

/// Longest directives that are read.
const MAX_DIRECTIVES: usize = 1024;

/// Target of the lines that tell each step of a connection, of level debug: `RUST_LOG=info,step=debug` shows a learner what
/// docs/explanation/tour.md goes through.
pub(crate) const STEP: &str = "step";

/// How much is logged; can be changed at any time.
#[derive(Debug, Clone)]
pub(crate) struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Why the log level is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogLevelError {
    #[error("`{directives}` is no log level: {fault}; write debug, or by module: warn,access=info")]
    Malformed { directives: String, fault: ParseError },
    #[error("a log level of {0} bytes is too long; {MAX_DIRECTIVES} are read")]
    TooLong(usize),
    #[error("the log is gone: {0}")]
    Gone(#[from] reload::Error),
}

impl LogLevel {
    /// A filter, and the handle that changes it.
    ///
    /// # Errors
    /// When `directives` are none.
    pub(crate) fn new(directives: &str) -> Result<(reload::Layer<EnvFilter, Registry>, Self), LogLevelError> {
        let (filter, handle) = reload::Layer::new(parse(directives)?);
        Ok((filter, Self(handle)))
    }

    /// One that changes nothing, for tests without a log.
    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    pub(crate) fn fixed() -> Self {
        Self::new("").unwrap().1
    }

    /// Logs what `directives` say from now on: `debug`, or by module `warn,access=info`.
    ///
    /// # Errors
    /// [`LogLevelError`]; the level stays as it was.
    pub(crate) fn set(&self, directives: &str) -> Result<(), LogLevelError> {
        Ok(self.0.reload(parse(directives)?)?)
    }

    /// The directives in force.
    ///
    /// # Errors
    /// [`LogLevelError::Gone`].
    pub(crate) fn current(&self) -> Result<String, LogLevelError> {
        Ok(self.0.with_current(ToString::to_string)?)
    }
}

fn parse(directives: &str) -> Result<EnvFilter, LogLevelError> {
    if directives.len() > MAX_DIRECTIVES {
        return Err(LogLevelError::TooLong(directives.len()));
    }
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_regex(false);
    builder
        .parse(directives)
        .map_err(|fault| LogLevelError::Malformed { directives: directives.to_owned(), fault })
}

/// Begins to log to stderr. A second call in one process changes nothing and hands back a level that is gone.
///
/// # Errors
/// When `directives` (`RUST_LOG`; empty means `info`) are no log level.
pub(crate) fn init(format: LogFormat, directives: &str) -> Result<LogLevel, LogLevelError> {
    let (filter, level) = LogLevel::new(directives)?;
    let ansi = io::stderr().is_terminal();
    let initialised =
        tracing_subscriber::registry().with(filter).with(lines(format, ansi, io::stderr)).try_init();
    if initialised.is_ok() {
        std::panic::set_hook(Box::new(|panic| tracing::error!("panic: {panic}")));
    }
    Ok(level)
}

/// Writes each event as a line to `writer`, with colours if `ansi`.
pub(crate) fn lines<S, W>(format: LogFormat, ansi: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(ansi);
    match format {
        LogFormat::Text => lines.with_target(false).fmt_fields(TextFields).boxed(),
        LogFormat::Json => lines.event_format(JsonLine).boxed(),
    }
}

/// The fields of a text line: the message, then `name=value`.
#[derive(Debug, Clone, Copy)]
struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut visitor = TextVisitor { writer, written: Ok(()), first: true };
        fields.record(&mut visitor);
        visitor.written
    }
}

struct TextVisitor<'writer> {
    writer: Writer<'writer>,
    written: fmt::Result,
    first: bool,
}

impl Visit for TextVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.written.is_err() || field.name() == RECORD {
            return;
        }
        let value = format!("{value:?}");
        let space = if self.first { "" } else { " " };
        self.first = false;
        self.written = match field.name() {
            "message" => write!(self.writer, "{space}{}", Escaped(&value)),
            name => write!(self.writer, "{space}{name}={}", Escaped(&value)),
        };
    }
}

/// One JSON object a line: `timestamp`, `level`, `target`, the message and the fields.
#[derive(Debug, Clone, Copy)]
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Map::new();
        event.record(&mut JsonVisitor(&mut fields));
        let line = JsonEvent {
            timestamp: pillion_mesh::wire::rfc3339::print(std::time::SystemTime::now()),
            level: metadata.level().as_str(),
            target: metadata.target(),
            fields,
        };
        let line = serde_json::to_string(&line).map_err(|_unserializable| fmt::Error)?;
        for c in line.chars() {
            // Such a character stands within a string, where JSON has an escape for it (RFC 8259 7).
            if acts_on_a_terminal(c) {
                write!(writer, "\\u{:04x}", u32::from(c))?;
            } else {
                writer.write_char(c)?;
            }
        }
        writeln!(writer)
    }
}

#[derive(Serialize)]
struct JsonEvent {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

struct JsonVisitor<'a>(&'a mut Map<String, Value>);

impl JsonVisitor<'_> {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for JsonVisitor<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let text = format!("{value:?}");
        if field.name() == RECORD {
            let record = serde_json::from_str(&text).unwrap_or(Value::String(text));
            return self.insert(field, record);
        }
        self.insert(field, text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }
}
