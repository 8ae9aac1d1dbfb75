//! How text from outside, byte counts, times and tables are written for people: in the access log, and in every answer of the
//! command-line tool.

use std::fmt::{self, Display, Formatter, Write};
use std::time::Duration;

/// Text from outside on its way to a terminal: what would act there is shown as `\n`, `\u{1b}`, never sent.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if acts_on_a_terminal(c) {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Control characters, line and paragraph separators, and what turns the direction of writing.
#[must_use]
pub fn acts_on_a_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `120 B`, `4.1 kB`: thousands, as networks count.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        match UNITS.iter().find(|(size, _)| self.0 >= *size) {
            Some((size, name)) => write!(f, "{}.{} {name}", self.0 / size, self.0 % size * 10 / size),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// `0.8 ms`, `12 ms`, `3.4 s`, `2 m 5 s`.
#[derive(Debug, Clone, Copy)]
pub struct Elapsed(pub Duration);

impl Display for Elapsed {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.as_secs(), self.0.as_micros());
        match (seconds, micros) {
            (0, ..10_000) => write!(f, "{}.{} ms", micros / 1000, micros % 1000 / 100),
            (0, _) => write!(f, "{} ms", micros / 1000),
            (..60, _) => write!(f, "{seconds}.{} s", micros % 1_000_000 / 100_000),
            (..3600, _) => write!(f, "{} m {} s", seconds / 60, seconds % 60),
            _ => write!(f, "{} h {} m", seconds / 3600, seconds % 3600 / 60),
        }
    }
}

/// The first `lines` lines of sixteen bytes each: in hexadecimal, then what of it is printable ASCII.
#[must_use]
pub fn hex_lines(bytes: &[u8], lines: usize) -> Vec<String> {
    bytes
        .chunks(16)
        .take(lines)
        .map(|chunk| {
            let hex: Vec<String> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = chunk
                .iter()
                .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' });
            format!("{:<47}  {}", hex.join(" "), text.collect::<String>())
        })
        .collect()
}

/// Rows in columns, two spaces between; the last column may be as wide as it likes.
pub(crate) struct Columns<'r, R>(pub(crate) &'r [R]);

impl<R: AsRef<[String]>> Display for Columns<'_, R> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = self.0.iter().map(|row| row.as_ref().len()).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.as_ref().get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..count).map(width).collect();
        for row in self.0 {
            let cells = row.as_ref().iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
