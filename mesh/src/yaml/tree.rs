//! YAML as a tree that can be changed and written again: order of keys, quoting, comments and blank lines stay.
//!
//! For files of others that are changed in a few places, such as compose files and Kubernetes manifests. What a value
//! means is not asked: a plain `0644` or `yes` is written as it was read. Aliases and merge keys (`<<`) are written out;
//! their anchors would not survive a change. Layout is ours: two spaces, lists as deep as their key.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::mem;

use serde_saphyr::granit_parser::{
    Event, Marker, Parser, Placement, ScalarStyle, ScanError, Span, StructureStyle,
};

use super::{MAX_ALIASED, MAX_DEPTH, MAX_NODES, YamlError, quoted, syntax_hint};

/// Characters of a key; more is refused.
const MAX_KEY: usize = 512;
/// Characters of a list or mapping that stays on one line where it was so.
const MAX_LINE: usize = 150;

/// One document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it holds.
    pub root: Node,
    /// Comments behind everything.
    foot: Vec<String>,
}

/// A value, and the comments that belong to it.
#[derive(Debug, Clone, Default)]
pub struct Node {
    value: Value,
    notes: Notes,
}

#[derive(Debug, Clone, Default)]
enum Value {
    #[default]
    Null,
    Scalar(Scalar),
    List {
        items: Vec<Node>,
        in_line: bool,
    },
    Map {
        entries: Vec<(Scalar, Node)>,
        in_line: bool,
    },
}

#[derive(Debug, Clone)]
struct Scalar {
    text: String,
    style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// As it stands, whatever it means: `true`, `8080`, `web`.
    Plain,
    /// A text: quoted where it would otherwise be something else.
    Text,
    Single,
    Double,
}

/// Comments and the blank line before an entry or item.
#[derive(Debug, Clone, Default)]
struct Notes {
    gap: bool,
    above: Vec<String>,
    beside: Option<String>,
}

/// Reads a file of any number of documents; those without content are left out.
///
/// # Errors
/// With the place, where it is no YAML or too much of it, where a key stands twice, is no single word, or a value has a tag
/// of its own (`!reset`).
pub fn read(source_name: &str, text: &str) -> Result<Vec<Document>, YamlError> {
    let error = |(line, column, message): Fault| YamlError {
        source_name: source_name.to_owned(),
        line: line as u64,
        column: column as u64 + 1,
        message,
    };
    let mut reader = Reader { lines: text.lines().collect(), ..Reader::default() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|fault| error(not_yaml(&fault)))?;
        reader.take(event, &span).map_err(error)?;
    }
    Ok(reader.documents)
}

/// The documents as a file.
#[must_use]
pub fn print(documents: &[Document]) -> String {
    let texts: Vec<String> = documents.iter().map(Document::text).collect();
    texts.join("---\n")
}

impl Document {
    /// A document of one value.
    #[must_use]
    pub fn of(root: Node) -> Self {
        Self { root, foot: Vec::new() }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        match &self.root.value {
            Value::List { items, .. } if !items.is_empty() => print_list(items, 0, &mut out),
            Value::Map { entries, .. } if !entries.is_empty() => print_map(entries, 0, &mut out),
            _ => {
                print_above(&self.root.notes, 0, &mut out);
                out += print_behind(&self.root, "", 0).trim_start();
            }
        }
        for line in &self.foot {
            let _ = writeln!(out, "{line}"); // writing to a String cannot fail
        }
        out
    }
}

/// What a value is.
impl Node {
    /// A text, quoted where it has to be.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self::scalar(text.into(), Style::Text)
    }

    /// A number or a word that is no text: `8080`, `true`.
    #[must_use]
    pub fn word(word: impl std::fmt::Display) -> Self {
        Self::scalar(format!("{word}"), Style::Plain)
    }

    /// A list, each item on lines of its own.
    #[must_use]
    pub fn list(items: impl IntoIterator<Item = Self>) -> Self {
        Value::List { items: items.into_iter().collect(), in_line: false }.into()
    }

    /// A list of texts on one line.
    #[must_use]
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Value::List { items: texts.into_iter().map(Self::text).collect(), in_line: true }.into()
    }

    /// A mapping, each entry on lines of its own.
    #[must_use]
    pub fn map<'k>(entries: impl IntoIterator<Item = (&'k str, Self)>) -> Self {
        Value::Map {
            entries: entries.into_iter().map(|(key, node)| (Scalar::key(key), node)).collect(),
            in_line: false,
        }
        .into()
    }

    /// The same list or mapping on one line, where it is short.
    #[must_use]
    pub fn on_one_line(mut self) -> Self {
        if let Value::List { in_line, .. } | Value::Map { in_line, .. } = &mut self.value {
            *in_line = true;
        }
        self
    }

    fn scalar(text: String, style: Style) -> Self {
        Value::Scalar(Scalar { text, style }).into()
    }

    /// Whether nothing stands there, or `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Scalar(Scalar { text, style: Style::Plain }) => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// Whether it is a mapping.
    #[must_use]
    pub fn is_map(&self) -> bool {
        matches!(self.value, Value::Map { .. })
    }

    /// Whether it is a list or mapping without anything in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match &self.value {
            Value::List { items, .. } => items.is_empty(),
            Value::Map { entries, .. } => entries.is_empty(),
            _ => false,
        }
    }

    /// The text of a single value that is not null.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(scalar) if !self.is_null() => Some(&scalar.text),
            _ => None,
        }
    }

    /// The items of a list; none of anything else.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List { items, .. } => items,
            _ => &[],
        }
    }

    /// The items of a list, to be changed.
    pub fn items_mut(&mut self) -> Option<&mut Vec<Self>> {
        match &mut self.value {
            Value::List { items, .. } => Some(items),
            _ => None,
        }
    }

    /// The entries of a mapping; none of anything else.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Self)> {
        let entries = match &self.value {
            Value::Map { entries, .. } => entries.as_slice(),
            _ => &[],
        };
        entries.iter().map(|(key, node)| (key.text.as_str(), node))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        self.entries().find(|(name, _)| *name == key).map(|(_, node)| node)
    }

    /// The value at the end of a way of keys.
    #[must_use]
    pub fn at(&self, way: &[&str]) -> Option<&Self> {
        way.iter().try_fold(self, |node, key| node.get(key))
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Map { entries, .. } => {
                entries.iter_mut().find(|(name, _)| name.text == key).map(|(_, node)| node)
            }
            _ => None,
        }
    }

    /// The value of a key, to be changed; `empty` is put there where nothing is.
    pub fn entry(&mut self, key: &str, empty: Self) -> Option<&mut Self> {
        if self.get(key).is_none_or(Self::is_null) {
            self.set(key, empty);
        }
        self.get_mut(key)
    }

    /// Puts a value at a key: in the place of the one that is there, else at the end. Comments stay.
    pub fn set(&mut self, key: &str, node: Self) {
        match self.get_mut(key) {
            Some(there) => {
                let notes = mem::take(&mut there.notes);
                *there = node;
                there.notes = notes;
            }
            None => self.change(|entries| entries.push((Scalar::key(key), node))),
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> Option<Self> {
        let Value::Map { entries, .. } = &mut self.value else { return None };
        let at = entries.iter().position(|(name, _)| name.text == key)?;
        Some(entries.remove(at).1)
    }

    /// Changes the list or mapping of a key, and takes it out where nothing is left in it.
    pub fn prune(&mut self, key: &str, change: impl FnOnce(&mut Self)) {
        let Some(within) = self.get_mut(key) else { return };
        change(within);
        if within.is_empty() {
            self.remove(key);
        }
    }

    /// Takes out the entries whose key and value are not to stay.
    pub fn retain(&mut self, mut stays: impl FnMut(&str, &Self) -> bool) {
        if let Value::Map { entries, .. } = &mut self.value {
            entries.retain(|(key, node)| stays(&key.text, node));
        }
    }

    /// Puts entries behind the one of a key, or at the end.
    pub fn insert_behind(&mut self, key: &str, new: impl IntoIterator<Item = (String, Self)>) {
        self.change(|entries| {
            let behind = entries.iter().position(|(name, _)| name.text == key).map(|at| at + 1);
            let at = behind.unwrap_or(entries.len());
            entries.splice(at..at, new.into_iter().map(|(key, node)| (Scalar::key(&key), node)));
        });
    }

    /// Gives it a comment of one or several lines, with a blank line above.
    #[must_use]
    pub fn under_comment(mut self, comment: &str) -> Self {
        self.notes.gap = true;
        self.notes.above = comment.lines().map(|line| format!("# {line}")).collect();
        self
    }

    /// Changes the entries of a mapping, which it becomes where it is none.
    fn change(&mut self, change: impl FnOnce(&mut Vec<(Scalar, Self)>)) {
        if let Value::Map { entries, .. } = &mut self.value {
            return change(entries);
        }
        let mut entries = Vec::new();
        change(&mut entries);
        self.value = Value::Map { entries, in_line: false };
    }

    /// Without comments of its own and of what is in it, as an alias stands for it.
    fn bare(&self) -> Self {
        match &self.value {
            Value::List { items, in_line } => {
                Value::List { items: items.iter().map(Self::bare).collect(), in_line: *in_line }.into()
            }
            Value::Map { entries, in_line } => Value::Map {
                entries: entries.iter().map(|(key, node)| (key.clone(), node.bare())).collect(),
                in_line: *in_line,
            }
            .into(),
            other => other.clone().into(),
        }
    }

    /// How many values are in it, itself among them.
    fn size(&self) -> usize {
        1 + self.items().iter().map(Self::size).sum::<usize>()
            + self.entries().map(|(_, node)| node.size()).sum::<usize>()
    }
}

impl From<Value> for Node {
    fn from(value: Value) -> Self {
        Self { value, notes: Notes::default() }
    }
}

impl Scalar {
    fn key(text: &str) -> Self {
        Self { text: text.to_owned(), style: Style::Text }
    }
}

// ---- read ----

/// Line from 1, column from 0, what is wrong.
type Fault = (usize, usize, String);

/// Makes trees of the parser's events.
#[derive(Default)]
struct Reader<'t> {
    lines: Vec<&'t str>,
    documents: Vec<Document>,
    /// The lists and mappings that are not at their end, outermost first.
    open: Vec<Open>,
    root: Option<Node>,
    anchored: HashMap<usize, Node>,
    /// Comments that belong to what comes next, with their lines.
    pending: Vec<(usize, String)>,
    /// Where the last value or key ended: a comment on that line belongs to it.
    last_line: usize,
    nodes: usize,
    aliased: usize,
}

/// A list or mapping that is being read.
struct Open {
    node: Node,
    anchor: usize,
    /// Of a mapping: the key whose value comes next.
    key: Option<(Scalar, Notes)>,
    seen: HashSet<String>,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fault> {
        let start = span.start;
        match event {
            Event::Comment(text, placement) => self.comment(&text, placement, start.line()),
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), start)?;
                let is_nothing = span.start.index() == span.end.index();
                let text = if is_nothing { String::new() } else { text.into_owned() };
                let scalar = Scalar { text, style: Style::read(style) };
                self.scalar(scalar, anchor, start)?;
                self.last_line = span.end.line();
            }
            Event::SequenceStart(style, anchor, tag) => {
                refuse_tag(tag.is_some(), start)?;
                let in_line = style == StructureStyle::Flow;
                self.begin(Value::List { items: Vec::new(), in_line }, anchor, start)?;
            }
            Event::MappingStart(style, anchor, tag) => {
                refuse_tag(tag.is_some(), start)?;
                let in_line = style == StructureStyle::Flow;
                self.begin(Value::Map { entries: Vec::new(), in_line }, anchor, start)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span)?,
            Event::Alias(anchor) => self.alias(anchor, start)?,
            Event::DocumentEnd => self.document(),
            _ => {}
        }
        Ok(())
    }

    fn comment(&mut self, text: &str, placement: Placement, line: usize) {
        if placement == Placement::Right
            && line == self.last_line
            && let Some(notes) = self.last_notes()
        {
            let beside = notes.beside.take().map_or(text.to_owned(), |before| format!("{before} #{text}"));
            notes.beside = Some(beside);
            return;
        }
        self.pending.push((line, format!("#{text}")));
    }

    /// The notes of the entry or item that was begun last.
    fn last_notes(&mut self) -> Option<&mut Notes> {
        let Some(open) = self.open.last_mut() else {
            return self.root.as_mut().map(|root| &mut root.notes);
        };
        if let Some((_, notes)) = &mut open.key {
            return Some(notes);
        }
        let last = match &mut open.node.value {
            Value::List { items, .. } => items.last_mut(),
            Value::Map { entries, .. } => entries.last_mut().map(|(_, node)| node),
            _ => None,
        };
        Some(match last {
            Some(node) => &mut node.notes,
            None => &mut open.node.notes,
        })
    }

    /// The comments above what begins at a line, and whether a line before them is blank.
    fn notes(&mut self, line: usize) -> Notes {
        let first = self.pending.first().map_or(line, |(line, _)| *line);
        Notes { gap: self.is_blank(first.saturating_sub(1)), above: self.comments(), beside: None }
    }

    /// The pending comments with one blank line where there was one below.
    fn comments(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (line, text) in mem::take(&mut self.pending) {
            lines.push(text);
            if self.is_blank(line + 1) {
                lines.push(String::new());
            }
        }
        lines
    }

    fn is_blank(&self, line: usize) -> bool {
        let text = line.checked_sub(1).and_then(|index| self.lines.get(index));
        text.is_some_and(|text| text.trim().is_empty())
    }

    /// Those of a value that begins here: an item of a list has its own, the value of a key has those of the key.
    fn notes_of_value(&mut self, line: usize) -> Notes {
        match self.open.last_mut() {
            Some(Open { key: Some((_, notes)), .. }) => mem::take(notes),
            Some(_) => self.notes(line),
            None => Notes::default(),
        }
    }

    fn scalar(&mut self, scalar: Scalar, anchor: usize, at: Marker) -> Result<(), Fault> {
        let wants_key = self.open.last().is_some_and(|open| open.node.is_map() && open.key.is_none());
        if !wants_key {
            let notes = self.notes_of_value(at.line());
            return self.put(Node { value: Value::Scalar(scalar), notes }, anchor, at);
        }
        if scalar.text.chars().count() > MAX_KEY {
            return Err(fault(at, format!("a key of more than {MAX_KEY} characters")));
        }
        let notes = self.notes(at.line());
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        let is_merge = scalar.is_merge();
        if !is_merge && !open.seen.insert(scalar.text.clone()) {
            let key = quoted(&scalar.text);
            return Err(fault(at, format!("{key} stands twice in the same mapping; keep one")));
        }
        if anchor != 0 {
            self.anchored.insert(anchor, Value::Scalar(scalar.clone()).into());
        }
        open.key = Some((scalar, notes));
        Ok(())
    }

    fn begin(&mut self, value: Value, anchor: usize, at: Marker) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(fault(at, format!("more than {MAX_DEPTH} lists and mappings within each other")));
        }
        self.refuse_as_key(at)?;
        let notes = self.notes_of_value(at.line());
        let node = Node { value, notes };
        self.open.push(Open { node, anchor, key: None, seen: HashSet::new() });
        Ok(())
    }

    fn end(&mut self, span: &Span) -> Result<(), Fault> {
        let Some(Open { mut node, anchor, .. }) = self.open.pop() else { return Ok(()) };
        match &mut node.value {
            Value::Map { entries, .. } => merge(entries, span.start)?,
            Value::List { .. } => {}
            _ => return Ok(()),
        }
        if let Value::List { in_line: true, .. } | Value::Map { in_line: true, .. } = node.value {
            self.last_line = span.end.line();
        }
        self.put(node, anchor, span.start)
    }

    fn alias(&mut self, anchor: usize, at: Marker) -> Result<(), Fault> {
        self.refuse_as_key(at)?;
        let Some(node) = self.anchored.get(&anchor) else {
            return Err(fault(at, "an alias cannot stand within what it stands for"));
        };
        let mut node = node.bare();
        self.aliased += node.size();
        if self.aliased > MAX_ALIASED {
            return Err(fault(at, format!("aliases stand for more than {MAX_ALIASED} values")));
        }
        node.notes = self.notes_of_value(at.line());
        self.last_line = at.line();
        self.put(node, 0, at)
    }

    fn refuse_as_key(&self, at: Marker) -> Result<(), Fault> {
        match self.open.last() {
            Some(open) if open.node.is_map() && open.key.is_none() => {
                Err(fault(at, "expected a single word as key of a mapping"))
            }
            _ => Ok(()),
        }
    }

    /// Puts a whole value where it belongs.
    fn put(&mut self, node: Node, anchor: usize, at: Marker) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(fault(at, format!("more than {MAX_NODES} values")));
        }
        if anchor != 0 {
            self.anchored.insert(anchor, node.bare());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match (&mut open.node.value, open.key.take()) {
            (Value::List { items, .. }, _) => items.push(node),
            (Value::Map { entries, .. }, Some((key, notes))) => {
                // A comment may stand between the key and its value.
                let beside = node.notes.beside.or(notes.beside);
                entries.push((key, Node { value: node.value, notes: Notes { beside, ..node.notes } }));
            }
            _ => {}
        }
        Ok(())
    }

    fn document(&mut self) {
        let foot = self.comments();
        self.anchored.clear();
        let root = self.root.take().unwrap_or_default();
        if !root.is_null() {
            self.documents.push(Document { root, foot });
        }
    }
}

impl Scalar {
    fn is_merge(&self) -> bool {
        self.style == Style::Plain && self.text == "<<"
    }
}

impl Style {
    fn read(style: ScalarStyle) -> Self {
        match style {
            ScalarStyle::Plain => Self::Plain,
            ScalarStyle::SingleQuoted => Self::Single,
            ScalarStyle::DoubleQuoted => Self::Double,
            _ => Self::Text,
        }
    }
}

/// Writes out the merge keys of a mapping: keys that stand beside them win, then those of the first.
fn merge(entries: &mut Vec<(Scalar, Node)>, at: Marker) -> Result<(), Fault> {
    while let Some(here) = entries.iter().position(|(key, _)| key.is_merge()) {
        let (_, merged) = entries.remove(here);
        let maps = if merged.is_map() { std::slice::from_ref(&merged) } else { merged.items() };
        if maps.is_empty() || !maps.iter().all(Node::is_map) {
            return Err(fault(at, "expected a mapping, or a list of mappings, behind `<<`"));
        }
        let mut new: Vec<(Scalar, Node)> = Vec::new();
        for map in maps {
            let Value::Map { entries: of_map, .. } = &map.value else { continue };
            for (key, node) in of_map {
                if !entries.iter().chain(&new).any(|(there, _)| there.text == key.text) {
                    new.push((key.clone(), node.clone()));
                }
            }
        }
        entries.splice(here..here, new);
    }
    Ok(())
}

fn refuse_tag(is_tagged: bool, at: Marker) -> Result<(), Fault> {
    if is_tagged {
        Err(fault(at, "a tag such as `!reset` is not understood here; write the value itself"))
    } else {
        Ok(())
    }
}

fn fault(at: Marker, message: impl Into<String>) -> Fault {
    (at.line(), at.col(), message.into())
}

fn not_yaml(error: &ScanError) -> Fault {
    let message = error.info();
    fault(*error.marker(), format!("not YAML: {message}{}", syntax_hint(&message)))
}

// ---- print ----

fn print_map(entries: &[(Scalar, Node)], indent: usize, out: &mut String) {
    for (at, (key, node)) in entries.iter().enumerate() {
        print_gap(&node.notes, at > 0, out);
        print_above(&node.notes, indent, out);
        pad(indent, out);
        *out += &key.print(false);
        out.push(':');
        *out += &print_behind(node, "", indent);
    }
}

/// Items stand as deep as the key of their list.
fn print_list(items: &[Node], indent: usize, out: &mut String) {
    for (at, node) in items.iter().enumerate() {
        print_gap(&node.notes, at > 0, out);
        print_above(&node.notes, indent, out);
        pad(indent, out);
        out.push('-');
        // The first entry or item stands behind the dash, unless comments do.
        if !node.is_block() || !node.starts_behind_dash() {
            *out += &print_behind(node, "-", indent);
            continue;
        }
        let mut block = String::new();
        match &node.value {
            Value::Map { entries, .. } => print_map(entries, indent + 2, &mut block),
            _ => print_list(node.items(), indent + 2, &mut block),
        }
        out.push(' ');
        *out += block.trim_start();
    }
}

/// What stands behind `key:` or `-`, to the end of its last line.
fn print_behind(node: &Node, dash: &str, indent: usize) -> String {
    let beside = node.notes.beside.as_ref().map(|text| format!(" #{text}")).unwrap_or_default();
    let mut out = String::new();
    match &node.value {
        Value::Map { entries, .. } if node.is_block() => {
            out = format!("{beside}\n");
            print_map(entries, indent + 2, &mut out);
        }
        Value::List { items, .. } if node.is_block() => {
            out = format!("{beside}\n");
            print_list(items, if dash.is_empty() { indent } else { indent + 2 }, &mut out);
        }
        Value::Scalar(scalar) if scalar.is_block() => {
            let chomp = if scalar.text.ends_with('\n') { "" } else { "-" };
            let _ = writeln!(out, " |{chomp}{beside}");
            for line in scalar.text.lines() {
                if !line.is_empty() {
                    pad(indent + 2, &mut out);
                }
                let _ = writeln!(out, "{line}");
            }
        }
        _ => {
            let value = node.print_in_line();
            let space = if value.is_empty() { "" } else { " " };
            let _ = writeln!(out, "{space}{value}{beside}");
        }
    }
    out
}

fn print_gap(notes: &Notes, between: bool, out: &mut String) {
    if notes.gap && between {
        out.push('\n');
    }
}

fn print_above(notes: &Notes, indent: usize, out: &mut String) {
    for line in &notes.above {
        if !line.is_empty() {
            pad(indent, out);
        }
        let _ = writeln!(out, "{line}");
    }
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

impl Node {
    /// Whether it takes lines of its own.
    fn is_block(&self) -> bool {
        match &self.value {
            Value::List { in_line, .. } | Value::Map { in_line, .. } => {
                !self.is_empty()
                    && (!in_line
                        || self.has_notes_within()
                        || self.print_in_line().chars().count() > MAX_LINE)
            }
            _ => false,
        }
    }

    fn has_notes_within(&self) -> bool {
        let within = self.items().iter().chain(self.entries().map(|(_, node)| node));
        within.into_iter().any(|node| {
            !node.notes.above.is_empty() || node.notes.beside.is_some() || node.has_notes_within()
        })
    }

    fn starts_behind_dash(&self) -> bool {
        let first = self.entries().map(|(_, node)| node).chain(self.items()).next();
        self.notes.beside.is_none() && first.is_some_and(|node| node.notes.above.is_empty())
    }

    fn print_in_line(&self) -> String {
        match &self.value {
            Value::Null => String::new(),
            Value::Scalar(scalar) => scalar.print(false),
            Value::List { items, .. } => {
                let items: Vec<String> = items.iter().map(Self::print_within_line).collect();
                format!("[{}]", items.join(", "))
            }
            Value::Map { entries, .. } => {
                let print = |(key, node): &(Scalar, Self)| {
                    format!("{}: {}", key.print(true), node.print_within_line())
                };
                format!("{{{}}}", entries.iter().map(print).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// In a list or mapping of one line, where nothing has to be written as `null`.
    fn print_within_line(&self) -> String {
        match &self.value {
            Value::Scalar(scalar) => scalar.print(true),
            _ => Some(self.print_in_line())
                .filter(|text| !text.is_empty())
                .unwrap_or_else(|| "null".to_owned()),
        }
    }
}

impl Scalar {
    fn print(&self, within_line: bool) -> String {
        let text = self.text.as_str();
        let breaks_line = |c: char| within_line && ",[]{}:".contains(c);
        match self.style {
            Style::Plain if text.is_empty() => {
                if within_line {
                    "null".to_owned()
                } else {
                    String::new()
                }
            }
            Style::Plain if !text.contains(|c| c == '\n' || breaks_line(c)) && !is_marker(text) => {
                text.to_owned()
            }
            Style::Text if is_plainly_text(text) && !text.contains(breaks_line) => text.to_owned(),
            Style::Double => in_double_quotes(text),
            _ if text.chars().all(is_printable) => format!("'{}'", text.replace('\'', "''")),
            _ => in_double_quotes(text),
        }
    }

    /// Whether it is shown as lines behind `|`.
    fn is_block(&self) -> bool {
        let lines = self.text.strip_suffix('\n').unwrap_or(&self.text);
        self.style == Style::Text
            && lines.contains('\n')
            && !lines.ends_with('\n')
            && !lines.starts_with([' ', '\n', '\t'])
            && lines.chars().all(|c| c == '\n' || c == '\t' || is_printable(c))
    }
}

/// Whether it would begin or end a document, at the left edge.
fn is_marker(text: &str) -> bool {
    text.starts_with("---") || text.starts_with("...")
}

/// Whether every reader of YAML, of version 1.1 too, takes the plain word for a text.
fn is_plainly_text(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let begins =
        ["--", "-", "./", "/", ""].iter().find_map(|flag| text.strip_prefix(flag)).unwrap_or_default();
    begins.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:@%+=".contains(c))
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn in_double_quotes(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            '\t' => out += "\\t",
            '\r' => out += "\\r",
            c if is_printable(c) => out.push(c),
            c => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn again(text: &str) -> String {
        print(&read("a.yaml", text).unwrap_or_else(|error| panic!("{error}\n{text}")))
    }

    #[rstest]
    #[case::comments("# top\n\na: 1 # one\n\n# of b\nb:\n# first\n- x # right\n- y\n# end\n")]
    #[case::in_one_line("a: [b, 'c d', {e: f}]\ng: {}\nh: []\ni:\n")]
    #[case::words("a: 010\nb: yes\nc: '010'\nd: \"yes\"\ne: ~\nf: 0o17\n")]
    #[case::blocks("a: |\n  one\n\n    two\nb: |-\n  no\n  end\nc: \"\\n\"\n")]
    #[case::lists_of_maps("- a: 1\n  b:\n  - c: 2\n# note\n- d: 3\n- - e\n  - f\n")]
    #[case::documents("a: 1\n---\nb: 2\n")]
    fn what_is_written_our_way_stays_to_the_letter(#[case] text: &str) {
        assert_eq!(again(text), text);
    }

    #[rstest]
    #[case("a: &x {b: 1}\nc: *x\n", "a: {b: 1}\nc: {b: 1}\n")]
    #[case("a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3\n", "a: {b: 1, c: 2}\nd:\n  b: 1\n  c: 3\n")]
    #[case(
        "a: &x {b: 1}\ne: &y {b: 2, c: 3}\nd: {<<: [*x, *y]}\n",
        "a: {b: 1}\ne: {b: 2, c: 3}\nd: {b: 1, c: 3}\n"
    )]
    #[case("a:\n    - b\n    -   c: 1\n        d: 2\n", "a:\n- b\n- c: 1\n  d: 2\n")]
    #[case("a: b\n  c\n", "a: b c\n")]
    #[case("a: >\n  b\n  c\n", "a: 'b c\n'\n")]
    fn aliases_and_layout_are_written_out(#[case] text: &str, #[case] expected: &str) {
        let expected = expected.replace("'b c\n'", "\"b c\\n\"");
        assert_eq!(again(text), expected);
    }

    #[rstest]
    #[case("a: &x [*x]\n", "a.yaml:1:")]
    #[case("a: *x\n", "a.yaml:1:")]
    #[case("? [a]\n: b\n", "expected a single word as key")]
    #[case("a: 1\n<<: 2\n", "expected a mapping, or a list of mappings, behind `<<`")]
    #[case("a:\n  b: 1\n  b: 2\n", "a.yaml:3:3: `b` stands twice in the same mapping; keep one")]
    fn what_would_be_lost_is_refused(#[case] text: &str, #[case] expected: &str) {
        let error = read("a.yaml", text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn aliases_of_aliases_are_bounded() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for at in 1..9 {
            let before = at - 1;
            let many = vec![format!("*a{before}"); 9].join(", ");
            text += &format!("a{at}: &a{at} [{many}]\n");
        }
        let error = read("a.yaml", &text).unwrap_err().to_string();
        assert!(error.contains("aliases stand for more than"), "{error}");
        let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
        assert!(read("a.yaml", &deep).is_err());
    }

    #[rstest]
    #[case("plain", "plain")]
    #[case("ro,x", "'ro,x'")]
    #[case("22:22", "'22:22'")]
    #[case("yes", "'yes'")]
    #[case("1.0", "'1.0'")]
    #[case("1e3", "'1e3'")]
    #[case(".inf", "'.inf'")]
    #[case("", "''")]
    #[case("./a:/b:ro", "./a:/b:ro")]
    #[case("it's", "'it''s'")]
    #[case("\u{7}", "\"\\u0007\"")]
    fn a_text_is_quoted_where_it_would_be_something_else(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(print(&[Document::of(Node::map([("a", Node::text(text))]))]), format!("a: {expected}\n"));
    }

    proptest! {
        /// A tree of any texts reads as itself, for us and for the library.
        #[test]
        fn what_is_printed_reads_as_what_it_was(texts in proptest::collection::vec(any::<String>(), 1..6), in_line: bool) {
            let list = Node::list(texts.iter().map(|text| Node::map([("k", Node::text(text))])));
            let list = if in_line { list.on_one_line() } else { list };
            let printed = print(&[Document::of(Node::map([("a", list)]))]);
            let again = read("a.yaml", &printed).unwrap();
            let seen: Vec<_> = again[0].root.get("a").unwrap().items().iter().map(|item| item.get("k").unwrap().as_text().unwrap().to_owned()).collect();
            prop_assert_eq!(&seen, &texts);
            let seen: std::collections::BTreeMap<String, Vec<std::collections::BTreeMap<String, String>>> = crate::yaml::read("a.yaml", &printed).unwrap();
            let seen: Vec<_> = seen["a"].iter().map(|item| item["k"].clone()).collect();
            prop_assert_eq!(&seen, &texts);
        }

        /// Whatever can be read is printed so that it reads the same; a comment may wander.
        #[test]
        fn any_text_is_kept_or_refused(text in "(a|b: |c: |x|- |---\n|\\.\\.\\.|%|#|&a |\\*a|!|\\[|\\{|\\}|\\]|\\||>|'|\"|,| |\n|\n  |\n    |\t|\r|é|<<: )*") {
            if let Ok(documents) = read("a.yaml", &text) {
                let once = print(&documents);
                let again = read("a.yaml", &once).map_err(|error| TestCaseError::fail(format!("{error}\n{text:?}\n{once:?}")))?;
                prop_assert_eq!(again.len(), documents.len());
                let values: Result<serde_json::Value, _> = crate::yaml::read("a.yaml", &text);
                if let (Ok(value), [_]) = (values, documents.as_slice()) {
                    prop_assert_eq!(crate::yaml::read::<serde_json::Value>("a.yaml", &once).unwrap(), value);
                }
            }
        }
    }
}
