//! From a tree to text, in our layout: two spaces, lists as deep as their key, quotes only where a value needs them.

use std::fmt::Write as _;

use super::{Document, Node, Notes, Scalar, Style, Value};

/// Characters of a list or mapping that stays on one line where it was so.
const MAX_LINE: usize = 150;

/// The documents as a file.
#[must_use]
pub fn print(documents: &[Document]) -> String {
    let texts: Vec<String> = documents.iter().map(Document::text).collect();
    texts.join("---\n")
}

impl Document {
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
