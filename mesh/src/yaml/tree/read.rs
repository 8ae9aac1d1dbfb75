//! From text to a tree: the events of the parser, with the comments and blank lines between them.

use std::collections::{HashMap, HashSet};
use std::mem;

use serde_saphyr::granit_parser::{
    Event, Marker, Parser, Placement, ScalarStyle, ScanError, Span, StructureStyle,
};

use super::{Document, Node, Notes, Scalar, Style, Value};
use crate::yaml::{MAX_ALIASED, MAX_DEPTH, MAX_NODES, YamlError, quoted, syntax_hint};

/// Characters of a key; more is refused.
const MAX_KEY: usize = 512;

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
