//! YAML as a tree that can be changed and written again: order of keys, quoting, comments and blank lines stay.
//!
//! For files of others that are changed in a few places, such as compose files and Kubernetes manifests. What a value
//! means is not asked: a plain `0644` or `yes` is written as it was read. Aliases and merge keys (`<<`) are written out;
//! their anchors would not survive a change. Layout is ours: two spaces, lists as deep as their key.

mod print;
mod read;
#[cfg(test)]
mod tests;

use std::mem;

pub use print::print;
pub use read::read;

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

impl Document {
    /// A document of one value.
    #[must_use]
    pub fn of(root: Node) -> Self {
        Self { root, foot: Vec::new() }
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
