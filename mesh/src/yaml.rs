//! The one place that calls the YAML library: text to typed value, errors with file, line, column and cure.
//!
//! A file that holds one document is read by [`read`]; a file of several is cut by [`documents`], and each
//! [`Document`] is read on its own, so that one budget holds for one document. What a value means is checked by the
//! caller, who keeps its place with [`At`] and reports with [`Document::error`].

pub mod tree;

use std::fmt;

use serde::Serialize;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_saphyr::{Error, MessageFormatter, Options, Spanned, UserMessageFormatter};

/// Values (scalars, lists, mappings) in one document; more is refused. A service of 10,000 endpoints, or a `List` of as
/// many policies, has some hundred thousand.
const MAX_NODES: usize = 1_000_000;
/// Values that the aliases of one document stand for; more is refused, since a few bytes of text could mean any number.
const MAX_ALIASED: usize = 20_000;
/// Lists and mappings within each other; more is refused.
const MAX_DEPTH: usize = 64;
/// Bytes of all scalars of one document; more is refused.
const MAX_SCALAR_BYTES: usize = 16 << 20;
/// Characters of the text that an error quotes.
const MAX_QUOTED: usize = 60;
/// Characters of an identity or a path that a message quotes.
const MAX_QUOTED_AT_LENGTH: usize = 200;

/// A fault in a YAML text, as a person needs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}:{line}:{column}: {message}")]
pub struct YamlError {
    /// File that was read.
    pub source_name: String,
    /// Line, from 1.
    pub line: u64,
    /// Column, from 1.
    pub column: u64,
    /// What was expected, what was seen, what was probably meant.
    pub message: String,
}

/// Reads one document. Unknown keys are errors where the type says `deny_unknown_fields`.
///
/// # Errors
/// With the place in `text`, and a near name where an unknown key or value has one. A second document is an error.
pub fn read<T: DeserializeOwned>(source_name: &str, text: &str) -> Result<T, YamlError> {
    let mut documents = documents(source_name, text).into_iter().filter(|document| !document.is_blank());
    let first = documents.next().unwrap_or(Document { source_name, text, lines_before: 0 });
    if let Some(second) = documents.next() {
        let line = second.lines_before + 1;
        return Err(second.error_at(line, 1, "expected one document, and a second begins here".to_owned()));
    }
    first.read()
}

/// One document of a file, not yet read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Document<'t> {
    source_name: &'t str,
    text: &'t str,
    lines_before: u64,
}

/// A value with its place, for faults that only a comparison of values shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Line within the document, from 1; [`Document::error`] makes it the line of the file.
    line: u64,
    /// Column, from 1.
    column: u64,
}

impl<T> At<T> {
    /// The place alone.
    #[must_use]
    pub fn place(&self) -> At<()> {
        self.with(())
    }

    /// Another value at the same place.
    #[must_use]
    pub(crate) fn with<U>(&self, value: U) -> At<U> {
        At { value, line: self.line, column: self.column }
    }
}

impl<'de, T: de::Deserialize<'de>> de::Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned { value, referenced, .. } = Spanned::deserialize(deserializer)?;
        Ok(Self { value, line: referenced.line(), column: referenced.column() })
    }
}

/// Cuts a file into its documents; one without content reads as `None` of an `Option`. A line that begins with `---`
/// or `...` at the left edge ends a document wherever it stands, and an indented one never does, within a block scalar
/// neither (YAML 1.2.2, 9.1.2 and rule `c-forbidden`); so lines are enough. Comments and directives before a `---`
/// belong to the document that follows.
#[must_use]
pub fn documents<'t>(source_name: &'t str, text: &'t str) -> Vec<Document<'t>> {
    let mut found = Vec::new();
    let mut rest = text;
    let mut lines_before = 0;
    while !rest.is_empty() {
        let (bytes, lines) = first_document(rest);
        let (document, after) = rest.split_at_checked(bytes).unwrap_or((rest, ""));
        found.push(Document { source_name, text: document, lines_before });
        rest = after;
        lines_before += lines;
    }
    found
}

/// The bytes and lines of the first document of a text.
fn first_document(text: &str) -> (usize, u64) {
    let (mut bytes, mut lines) = (0, 0);
    let mut begun = false;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_start_matches('\u{feff}');
        if is_marker(bare, "---") && begun {
            break;
        }
        bytes += line.len();
        lines += 1;
        if is_marker(bare, "...") {
            break;
        }
        let is_directive = bare.starts_with('%') && !begun;
        begun |= !is_directive && !bare.trim().is_empty() && !bare.trim_start().starts_with('#');
    }
    (bytes, lines)
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl<'t> Document<'t> {
    /// Reads the document.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, YamlError> {
        self.read_seed(std::marker::PhantomData)
    }

    /// Reads the elements of the list `items` at the document's top, the first with the first seed and so on; keys
    /// beside `items` are not looked at.
    ///
    /// # Errors
    /// As [`read`]; also when there are not as many elements as seeds.
    pub fn read_items<S: DeserializeSeed<'t>>(&self, seeds: Vec<S>) -> Result<Vec<S::Value>, YamlError> {
        self.read_seed(Items(seeds))
    }

    /// Reads the document with a seed.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read_seed<S: DeserializeSeed<'t>>(&self, seed: S) -> Result<S::Value, YamlError> {
        serde_saphyr::with_deserializer_from_str_with_options(self.text, options(), |deserializer| {
            seed.deserialize(deserializer)
        })
        .map_err(|error| {
            let (line, column) = error.location().map_or((1, 1), |at| (at.line(), at.column()));
            self.error_at(self.lines_before + line, column, explain(&error, self.text))
        })
    }

    /// `file:line` of a value.
    #[must_use]
    pub fn place<T>(&self, at: &At<T>) -> String {
        format!("{}:{}", self.source_name, self.lines_before + at.line)
    }

    /// A fault at a value.
    #[must_use]
    pub fn error<T>(&self, at: &At<T>, message: impl Into<String>) -> YamlError {
        self.error_at(self.lines_before + at.line, at.column, message.into())
    }

    fn error_at(&self, line: u64, column: u64, message: String) -> YamlError {
        YamlError { source_name: self.source_name.to_owned(), line, column, message }
    }

    /// Whether nothing stands in it but markers and comments.
    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim_start_matches('\u{feff}');
            let marked = ["---", "..."].into_iter().find(|marker| is_marker(line, marker));
            let content = marked.and_then(|marker| line.strip_prefix(marker)).unwrap_or(line).trim();
            content.is_empty() || content.starts_with('#')
        })
    }
}

/// A value as YAML for people and for other programs.
///
/// # Errors
/// When it is no tree of texts, numbers, lists and mappings.
pub fn print<T: Serialize>(value: &T) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|fault| fault.to_string())
}

/// `name`, quoted, cut and without control characters, for a message.
pub(crate) fn quoted(text: &str) -> String {
    quoted_up_to(MAX_QUOTED, text)
}

/// The same with more of the text: enough for an identity or a path.
pub(crate) fn quoted_at_length(text: &str) -> String {
    quoted_up_to(MAX_QUOTED_AT_LENGTH, text)
}

fn quoted_up_to(max: usize, text: &str) -> String {
    let mut quoted: String = text.chars().take(max).collect::<String>().escape_debug().to_string();
    if text.chars().nth(max).is_some() {
        quoted.push('…');
    }
    format!("`{quoted}`")
}

/// `, expected …; did you mean …?`: the end of a message about an unknown word.
pub(crate) fn expected_one_of(seen: &str, known: &[&str]) -> String {
    let words: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
    let expected = match words.as_slice() {
        [] => return String::new(),
        [only] => format!(", expected {only}"),
        several => format!(", expected one of {}", several.join(", ")),
    };
    match nearest(seen, known) {
        Some(near) => format!("{expected}; did you mean `{near}`?"),
        None => expected,
    }
}

/// The known word that was probably meant: equal but for case, `-` and `_`, or a few letters off, or one within the
/// other.
pub(crate) fn nearest<'w>(seen: &str, known: &[&'w str]) -> Option<&'w str> {
    let plain =
        |word: &str| word.chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_lowercase();
    let seen = plain(seen);
    let few = (seen.chars().count() / 3).max(1);
    let by_letters = known
        .iter()
        .map(|word| (strsim::osa_distance(&seen, &plain(word)), *word))
        .filter(|(distance, word)| *distance <= few && *distance < word.len())
        .min_by_key(|(distance, _)| *distance);
    let within = |word: &&&'w str| {
        let word = plain(word);
        word.len() >= 4 && seen.len() >= 4 && (seen.contains(&word) || word.contains(&seen))
    };
    by_letters.map(|(_, word)| word).or_else(|| known.iter().find(within).copied())
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES, // a list or mapping has an end too
            max_depth: MAX_DEPTH,
            max_total_scalar_bytes: MAX_SCALAR_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED,
        },
        emit_comments: false,
        with_snippet: false,
    }
}

/// The library's error in our words: what was expected, what was seen, what was probably meant.
fn explain(error: &Error, text: &str) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => explain(error, text),
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("unknown value {}{}", quoted(variant), expected_one_of(variant, expected))
        }
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown field {}{}", quoted(field), expected_one_of(field, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("missing field `{field}`"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{} stands twice in the same mapping; keep one", quoted(key))
        }
        Error::InvalidScalar { ty, .. } => format!("expected {}, seen {}", in_words(ty), seen(error, text)),
        Error::Unexpected { expected, .. } => {
            format!("expected {}, seen {}", in_words(expected), seen(error, text))
        }
        Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            format!("expected a single word, seen {}", seen(error, text))
        }
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("expected {expected}, seen {unexpected}")
        }
        Error::NullIntoString { .. } => "expected a text, seen nothing (null)".to_owned(),
        Error::MultipleDocuments { .. } => "expected one document, and a second begins here".to_owned(),
        Error::Eof { .. } => "the document ends where a value is expected".to_owned(),
        Error::UnknownAnchor { .. } => "an alias `*name` needs an anchor `&name` before it".to_owned(),
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. } => format!(
            "the document is too large: at most {MAX_NODES} values, {MAX_ALIASED} more by aliases, {MAX_DEPTH} levels and \
             {MAX_SCALAR_BYTES} bytes; cut it with `---`"
        ),
        Error::ExternalMessage { msg, .. } => format!("not YAML: {msg}{}", syntax_hint(msg)),
        Error::Message { msg, .. } => msg.clone(),
        other => UserMessageFormatter.format_message(other).into_owned(),
    }
}

/// What a person most likely did where the parser stopped.
fn syntax_hint(message: &str) -> &'static str {
    if message.starts_with("tabs disallowed") {
        "; indent with spaces"
    } else if message.starts_with("mapping values are not allowed") {
        "; put a value that holds `: ` in quotes, and check the indentation"
    } else if message.starts_with("unexpected character") {
        "; put the value in quotes"
    } else if message.contains("did not find expected key") {
        "; check the indentation of this line against the lines above"
    } else {
        ""
    }
}

/// The library's names of types and events in words.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" | "usize" => "a whole number",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "f32" | "f64" => "a number",
        "boolean" => "`true` or `false`",
        "string scalar" => "a single value",
        "sequence start" => "a list (`- …` or `[…]`)",
        "mapping start" => "a mapping (`key: value`)",
        other => other,
    }
}

/// What stands at the error's place.
fn seen(error: &Error, text: &str) -> String {
    let at = error.location().map(|location| location.span());
    let Some((start, length)) = at.and_then(|span| Some((span.byte_offset()?, span.byte_len()?))) else {
        return "something else".to_owned();
    };
    let here = usize::try_from(start).ok().and_then(|start| text.get(start..)).unwrap_or_default();
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    match here.chars().next() {
        Some('{') => "a mapping".to_owned(),
        Some('[') => "a list".to_owned(),
        Some('-') if length == 0 => "a list".to_owned(),
        Some(_) if length == 0 => "a mapping".to_owned(),
        Some(_) => quoted(here.get(..length).unwrap_or(here)),
        None => "nothing".to_owned(),
    }
}

/// Walks to the list `items` and reads each element with its seed.
struct Items<S>(Vec<S>);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Items<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Items<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with `items`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut seeds = Some(Elements(self.0));
        let mut values = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match seeds.take_if(|_| key == "items") {
                Some(elements) => values = map.next_value_seed(elements)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

struct Elements<S>(Vec<S>);

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Elements<S> {
    type Value = Vec<S::Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, S: DeserializeSeed<'de>> Visitor<'de> for Elements<S> {
    type Value = Vec<S::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let count = self.0.len();
        let mut values = Vec::with_capacity(count);
        for seed in self.0 {
            let value = sequence.next_element_seed(seed)?;
            values.push(
                value.ok_or_else(|| de::Error::invalid_length(values.len(), &"as many elements as seeds"))?,
            );
        }
        if sequence.next_element::<IgnoredAny>()?.is_some() {
            return Err(de::Error::invalid_length(count + 1, &"as many elements as seeds"));
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests;
