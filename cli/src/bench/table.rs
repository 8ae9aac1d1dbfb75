//! Results as text: one table for each question.

use std::fmt::Write as _;

use super::results::{Cell, Figure, Results, Section};
use super::stats::{Latency, Spread};
use super::verdict::{Finding, findings};

/// A column of a latency: its head and its figure.
type Percentile = (&'static str, fn(&Latency) -> f64);

/// Columns of a latency, beside its median.
const PERCENTILES: [Percentile; 3] =
    [("p90", |latency| latency.p90), ("p99", |latency| latency.p99), ("p99.9", |latency| latency.p999)];

/// All of it.
pub(crate) fn whole(results: &Results) -> String {
    let mut text = heading(results);
    text.push_str(&short(&findings(results)));
    for section in &results.sections {
        let _ = write!(text, "\n{}\n\n{}", section.title, table(section));
    }
    text
}

/// The findings, the figure of each before what it is of.
fn short(findings: &[Finding]) -> String {
    const WIDTH: usize = 100;
    let width = findings.iter().map(|finding| finding.figure.chars().count()).max().unwrap_or_default();
    let mut text = String::new();
    if !findings.is_empty() {
        text.push_str("\nIn short\n\n");
    }
    for finding in findings {
        let gap = width.saturating_sub(finding.figure.chars().count());
        let _ = writeln!(text, "{:gap$}{}  {}", "", finding.figure, finding.of);
        let mut told = finding.text.clone();
        for (place, (title, times)) in finding.others.iter().enumerate() {
            let _ = write!(told, "{}{title} {times} ×", if place == 0 { "; " } else { ", " });
        }
        let mut line = String::new();
        for word in told.split(' ') {
            if line.chars().count() + word.chars().count() >= WIDTH {
                let _ = writeln!(text, "{:width$}  {line}", "");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        let _ = writeln!(text, "{:width$}  {line}", "");
    }
    text
}

/// What the figures are of, and what to know before believing them.
pub(crate) fn heading(results: &Results) -> String {
    let (machine, method) = (&results.machine, &results.method);
    let mut text = format!(
        "{}, {} cores, {} MiB, {}\npillion {}; {} rounds of {} ms{}\n",
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        results.program.version,
        method.rounds,
        method.measure_ms,
        if method.quick { ", quick" } else { "" },
    );
    if let Some(others) = &method.used_by_others {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "others used {:.0} % of the machine ({:.0} to {:.0} %); {} rounds were repeated, {} are noisy all the same",
            others.median * 100.0,
            others.min * 100.0,
            others.max * 100.0,
            method.repeated,
            method.noisy
        );
    }
    for absent in &results.absent {
        let _ = writeln!(text, "not here: {}: {}", absent.title, absent.why);
    }
    for warning in &results.warnings {
        let _ = writeln!(text, "! {warning}");
    }
    text
}

/// One question.
pub(crate) fn table(section: &Section) -> String {
    let rows: Vec<Vec<String>> = rows(section);
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|text| text.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let gap = width.saturating_sub(cell.chars().count());
            let (before, after) = if column == 0 { (0, gap) } else { (gap + 2, 0) };
            line.extend(std::iter::repeat_n(' ', before));
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', after));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for cell in &section.cells {
        for note in &cell.notes {
            let _ = writeln!(text, "  {}: {note}", cell.title);
        }
    }
    text
}

/// The head, the units, and a row for each contestant; the first column is its name.
pub(crate) fn rows(section: &Section) -> Vec<Vec<String>> {
    let figures: Vec<Figure> = section.figures().collect();
    let latencies = section.cells.iter().any(|cell| latency(cell).is_some());
    let mut rows = vec![vec![String::new()], vec![String::new()]];
    if let [heads, units] = rows.as_mut_slice() {
        for figure in &figures {
            heads.push(figure.head.to_owned());
            units.push(figure.unit.to_owned());
        }
        for (name, _) in PERCENTILES.iter().filter(|_| latencies) {
            heads.push((*name).to_owned());
            units.push("µs".to_owned());
        }
    }
    for cell in &section.cells {
        let mut row = vec![cell.title.clone()];
        row.extend(figures.iter().map(|figure| cell.figures.get(figure.name).map_or(missing(), spread)));
        if latencies {
            row.extend(
                PERCENTILES.map(|(_, of)| latency(cell).map_or(missing(), |latency| number(of(latency)))),
            );
        }
        rows.push(row);
    }
    rows
}

/// The latency that a cell is about: of the handshake where it is a client's own, else of the whole.
pub(crate) fn latency(cell: &Cell) -> Option<&Latency> {
    cell.latency.get("handshake").or_else(|| cell.latency.get("whole"))
}

fn missing() -> String {
    "-".to_owned()
}

/// The median with the spread of its rounds, where they differ.
fn spread(spread: &Spread) -> String {
    let [median, min, max] = [spread.median, spread.min, spread.max].map(number);
    if min == max { median } else { format!("{median} ({min}..{max})") }
}

/// Three digits, as many as a figure like these is good for.
pub(crate) fn number(figure: f64) -> String {
    let size = figure.abs();
    if size >= 10_000.0 {
        format!("{:.1}k", figure / 1_000.0)
    } else if size >= 100.0 {
        format!("{figure:.0}")
    } else if size >= 10.0 {
        format!("{figure:.1}")
    } else {
        format!("{figure:.2}")
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(0.0912, "0.09")]
    #[case(4.25, "4.25")]
    #[case(43.21, "43.2")]
    #[case(437.4, "437")]
    #[case(9_999.0, "9999")]
    #[case(123_456.0, "123.5k")]
    fn figures_have_three_digits(#[case] figure: f64, #[case] text: &str) {
        assert_eq!(number(figure), text);
    }

    #[test]
    fn a_table_has_a_column_for_each_figure_and_says_what_is_missing() {
        let mut one = Cell::new("one", "first");
        one.figure("cpuProxies", vec![40.0, 42.0, 41.0]);
        one.figure("rate", vec![20_000.0, 20_000.0]);
        one.latency.insert("whole".to_owned(), Latency::of(&[(50_000, 10)]).unwrap());
        let mut other = Cell::new("other", "another one");
        other.figure("rate", vec![100.0]);
        other.note("no proxy");
        let section = Section {
            id: "x".to_owned(),
            title: "X".to_owned(),
            text: String::new(),
            cells: vec![one, other],
        };
        let expected = "                CPU proxies   rate   p90   p99  p99.9
                         µs     /s    µs    µs     µs
first        41.0 (40.0..42.0)  20.0k  50.0  50.0   50.0
another one                  -    100     -     -      -
  another one: no proxy
";
        let seen = table(&section);
        assert_eq!(
            seen.split_whitespace().collect::<Vec<_>>(),
            expected.split_whitespace().collect::<Vec<_>>(),
            "{seen}"
        );
        assert!(
            seen.lines()
                .take(4)
                .all(|line| line.chars().count() <= seen.lines().nth(2).unwrap().chars().count())
        );
    }
}
