//! Results as one page that needs nothing else: no script, no font, no other host. Plots are SVG; bars show the median, a line
//! over them the smallest and the largest round. Everything that is not a literal here passes [`escape`].

use std::fmt::Write as _;

use super::results::{Cell, Results, Section};
use super::stats::{Latency, Spread};
use super::table::{latency, number, rows};
use super::verdict::findings;

/// Of a bar plot, in SVG units.
const WIDTH: f64 = 900.0;
const LABELS: f64 = 285.0;
const ROW: f64 = 34.0;

/// Of a latency plot.
const HEIGHT: f64 = 340.0;
const LEGEND: f64 = 300.0;

/// The most lines that can be told apart. Of sections with more, those of [`CHOSEN`] are drawn.
const MOST: usize = 12;

/// Of a handshake taken apart.
const CHOSEN: [&str; 8] =
    ["plaintext", "usual", "resumed", "server-only", "rsa-2048", "tls-1.2", "x25519mlkem768", "chain-3"];

/// Lines that can be told apart without colour.
const DASHES: [&str; 6] = ["", "8 4", "2 4", "12 4 2 4", "16 6", "4 2"];

/// Colours by place; both schemes can be read by those who see few.
const COLOURS: usize = 8;

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1b1f; --faint: #5c5f66; --line: #c9ccd3; --mark: #0b57a4; --other: #75818e;
  --c0: #3a3f47; --c1: #b3470b; --c2: #1d7a4c; --c3: #7a3e9d; --c4: #9c2a4f; --c5: #5a6570; --c6: #806000; --c7: #00707a; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181d; --ink: #eceef2; --faint: #a6abb5; --line: #3c414b; --mark: #6db3ff;
  --other: #8b96a3; --c0: #d8dce3; --c1: #ffa366; --c2: #6fd6a0; --c3: #cfa0ee; --c4: #ff8fb0; --c5: #b9c2cc; --c6: #e3c25a; --c7: #5fd3dd; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem 1.5rem; max-width: 78rem; font: 1.15rem/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 2.1rem; margin: 0; } header > p { margin: .35rem 0; } li, p { overflow-wrap: anywhere; } h2 { font-size: 1.6rem; margin: 3rem 0 .3rem; border-top: 2px solid var(--line); padding-top: 1rem; }
p { max-width: 60rem; } .faint, figcaption { color: var(--faint); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: .7rem; list-style: none; margin: .7rem 0; padding: 0; }
.cards li { border: 2px solid var(--line); border-radius: .5rem; padding: .4rem .9rem .6rem; line-height: 1.35; }
.cards strong { display: block; font-size: 2.9rem; line-height: 1.1; color: var(--mark); } .cards b { display: block; font-size: 1.2rem; }
.cards .others { display: block; color: var(--faint); } .cards .others span { white-space: nowrap; }
.warning { border-left: .4rem solid var(--c1); padding: .2rem 1rem; font-weight: 600; }
figure { margin: 1rem 0; overflow-x: auto; } svg { width: 100%; min-width: 36rem; height: auto; display: block; }
svg text { fill: var(--ink); font: 15px system-ui, sans-serif; } svg .faint { fill: var(--faint); }
.bar { fill: var(--other); } .ours { fill: var(--mark); } .second { fill-opacity: .45; }
.spread, .axis { stroke: var(--ink); stroke-width: 2; } .grid { stroke: var(--line); stroke-width: 1; }
.curve { fill: none; stroke-width: 3; } 
.k0 { stroke: var(--c0); } .k1 { stroke: var(--c1); } .k2 { stroke: var(--c2); } .k3 { stroke: var(--c3); }
.k4 { stroke: var(--c4); } .k5 { stroke: var(--c5); } .k6 { stroke: var(--c6); } .k7 { stroke: var(--c7); }
.curve.heavy { stroke: var(--mark); stroke-width: 6; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 1rem; }
th, td { padding: .3rem .65rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td { vertical-align: top; } td small { display: block; color: var(--faint); font-size: .75rem; font-weight: 400; } tbody tr.ours { font-weight: 700; background: transparent; }
nav ul { columns: 24rem; column-gap: 2rem; padding-left: 1.2rem; } a { color: var(--mark); }
";

/// The whole page.
pub(crate) fn page(results: &Results) -> String {
    let mut page = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>What mTLS costs</title>\n<style>",
    );
    page.push_str(STYLE);
    page.push_str("</style>\n</head>\n<body>\n<header>\n<h1>What mTLS costs</h1>\n");
    heading(&mut page, results);
    page.push_str("</header>\n<main>\n");
    for section in &results.sections {
        show(&mut page, section);
    }
    page.push_str("</main>\n<footer>\n<h2>How it was measured</h2>\n");
    method(&mut page, results);
    page.push_str("</footer>\n</body>\n</html>\n");
    page
}

/// Text for an element or a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Neither a page nor an SVG may hold them.
            other if other.is_control() && other != '\n' && other != '\t' => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

// Writing to a String cannot fail.
fn element(page: &mut String, name: &str, class: &str, text: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(page, "<{name}{class}>{}</{name}>", escape(text));
}

fn heading(page: &mut String, results: &Results) {
    let machine = &results.machine;
    element(
        page,
        "p",
        "",
        &format!(
            "{}, {} cores, {} MiB of memory, {}, {}. pillion {}.",
            machine.processor,
            machine.cores,
            machine.memory_mib,
            machine.kernel,
            machine.architecture,
            results.program.version
        ),
    );
    for warning in &results.warnings {
        element(page, "p", "warning", warning);
    }
    cards(page, results);
    for absent in &results.absent {
        element(page, "p", "faint", &format!("Not here: {}: {}", absent.title, absent.why));
    }
    page.push_str("<nav><ul>\n");
    for section in &results.sections {
        let _ =
            writeln!(page, "<li><a href=\"#{}\">{}</a></li>", escape(&section.id), escape(&section.title));
    }
    page.push_str("</ul></nav>\n");
}

/// What stands first: few figures, large, each with what it is of.
fn cards(page: &mut String, results: &Results) {
    let findings = findings(results);
    if findings.is_empty() {
        return;
    }
    page.push_str("<ul class=\"cards\">\n");
    for finding in findings {
        let _ = write!(
            page,
            "<li><strong>{}</strong><b>{}</b>{}",
            escape(&finding.figure),
            escape(&finding.of),
            escape(&finding.text).replace(" µs", "\u{a0}µs")
        );
        if !finding.others.is_empty() {
            let told = finding
                .others
                .iter()
                .map(|(title, times)| format!("<span>{} {} ×</span>", escape(title), escape(times)));
            let told: Vec<String> = told.collect();
            let _ = write!(page, "<span class=\"others\">{}</span>", told.join(", "));
        }
        page.push_str("</li>\n");
    }
    page.push_str("</ul>\n");
}

fn show(page: &mut String, section: &Section) {
    let _ = writeln!(page, "<section id=\"{}\">", escape(&section.id));
    element(page, "h2", "", &section.title);
    element(page, "p", "faint", &section.text);
    if let Some(plot) = bars(section) {
        page.push_str(&plot);
    }
    if let Some(plot) = curves(section) {
        page.push_str(&plot);
    }
    table(page, section);
    for cell in &section.cells {
        for note in &cell.notes {
            element(page, "p", "faint", &format!("{}: {note}", cell.title));
        }
    }
    page.push_str("</section>\n");
}

fn table(page: &mut String, section: &Section) {
    page.push_str("<div class=\"scroll\"><table>\n<thead>\n");
    for (number, row) in rows(section).iter().enumerate() {
        let head = number < 2;
        if number == 2 {
            page.push_str("</thead>\n<tbody>\n");
        }
        let ours = number.checked_sub(2).and_then(|place| section.cells.get(place)).is_some_and(is_ours);
        page.push_str(if ours { "<tr class=\"ours\">" } else { "<tr>" });
        for (column, text) in row.iter().enumerate() {
            let name = match (head, column) {
                (true, _) => "th scope=\"col\"",
                (false, 0) => "th scope=\"row\"",
                (false, _) => "td",
            };
            match text.split_once(' ') {
                // The spread, below its median.
                Some((median, spread)) if name == "td" => {
                    let _ = write!(page, "<td>{}<small>{}</small></td>", escape(median), escape(spread));
                }
                _ => {
                    let end = if name == "td" { "td" } else { "th" };
                    let _ = write!(page, "<{name}>{}</{end}>", escape(text));
                }
            }
        }
        page.push_str("</tr>\n");
    }
    page.push_str("</tbody>\n</table></div>\n");
}

fn is_ours(cell: &Cell) -> bool {
    cell.contestant.starts_with("pillion")
}

/// The figure that a section is about, and what it consists of.
const MAIN: [(&str, &str, [&str; 2]); 8] = [
    ("cpuProxies", "Processor time of the proxies for one operation, µs", ["cpuInbound", "cpuOutbound"]),
    (
        "nsPerByteProxies",
        "Processor time of the proxies for one byte, ns",
        ["nsPerByteInbound", "nsPerByteOutbound"],
    ),
    (
        "cpuServer",
        "Processor time of one operation, µs: server, and client (fainter)",
        ["cpuServer", "cpuClient"],
    ),
    ("memoryInbound", "Resident memory, MiB", ["memoryInbound", "memoryOutbound"]),
    (
        "perConnectionInbound",
        "Memory of one idle connection, KiB",
        ["perConnectionInbound", "perConnectionOutbound"],
    ),
    ("throughput", "Throughput, Gbit/s", ["throughput", ""]),
    ("p50", "Median latency, µs", ["p50", ""]),
    ("cpuNanoseconds", "Processor time, ns", ["cpuNanoseconds", ""]),
];

/// Bars of the main figure, split by who spent it, with the spread of the rounds.
fn bars(section: &Section) -> Option<String> {
    let (name, caption, parts) =
        MAIN.iter().find(|(name, _, _)| section.cells.iter().any(|cell| cell.figures.contains_key(*name)))?;
    let bars: Vec<(&Cell, f64, Option<f64>, Option<&Spread>)> = section
        .cells
        .iter()
        .filter_map(|cell| {
            let [first, second] = parts.map(|part| cell.median(part));
            let whole = cell.figures.get(*name);
            // Where it is not split, the whole is one bar.
            let first = first.or_else(|| cell.median(name)).or_else(|| cell.median("cpuBoth"))?;
            Some((cell, first, second, whole.filter(|_| second.is_none() || *name != parts[0])))
        })
        .collect();
    let split = bars.iter().any(|(_, _, second, _)| second.is_some());
    let several = bars.iter().any(|(_, _, _, spread)| spread.is_some_and(|spread| spread.rounds.len() > 1));
    let most = bars.iter().map(|(_, first, second, spread)| {
        (first + second.unwrap_or_default()).max(spread.map_or(0.0, |spread| spread.max))
    });
    let scale = (WIDTH - LABELS - 110.0) / most.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let height = ROW * super::cpu::ratio(u64::try_from(bars.len()).ok()?, 1) + 10.0;
    let mut plot = format!(
        "<figure>\n<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">\n",
        escape(&format!("{}: {caption}", section.title))
    );
    let mut top = 5.0;
    for (cell, first, second, spread) in bars {
        let class = if is_ours(cell) { "bar ours" } else { "bar" };
        let (middle, width) = (top + ROW / 2.0, first * scale);
        let _ = writeln!(
            plot,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LABELS - 10.0,
            middle + 5.0,
            escape(&shortened(&cell.title))
        );
        let _ = writeln!(
            plot,
            "<rect class=\"{class}\" x=\"{LABELS}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\"/>",
            top + 4.0,
            ROW - 8.0
        );
        let mut end = LABELS + width;
        if let Some(second) = second {
            let _ = writeln!(
                plot,
                "<rect class=\"{class} second\" x=\"{end:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                top + 4.0,
                second * scale,
                ROW - 8.0
            );
            end += second * scale;
        }
        if let Some(spread) = spread.filter(|spread| spread.rounds.len() > 1) {
            let [from, to] = [spread.min, spread.max].map(|figure| LABELS + figure * scale);
            let _ = writeln!(
                plot,
                "<line class=\"spread\" x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>"
            );
            end = end.max(to);
        }
        let told = number(first + second.unwrap_or_default());
        let _ = writeln!(plot, "<text x=\"{:.1}\" y=\"{:.1}\">{told}</text>", end + 8.0, middle + 5.0);
        top += ROW;
    }
    let _ = write!(
        plot,
        "</svg>\n<figcaption>{}{}.{}</figcaption>\n</figure>\n",
        escape(caption),
        if split && *name != "cpuServer" { ": inbound, and outbound (fainter)" } else { "" },
        if several { " The line shows the smallest and the largest round." } else { "" }
    );
    Some(plot)
}

/// Latencies by percentile, denser towards the end; both axes by powers.
fn curves(section: &Section) -> Option<String> {
    let mut all: Vec<(&Cell, &Latency)> =
        section.cells.iter().filter_map(|cell| Some((cell, latency(cell)?))).collect();
    let chosen = all.len() > MOST;
    if chosen {
        all.retain(|(cell, _)| CHOSEN.contains(&cell.contestant.as_str()));
    }
    let latencies = || all.iter().flat_map(|(_, latency)| latency.curve.iter().map(|(_, time)| *time));
    let (low, high) = (latencies().fold(f64::MAX, f64::min).max(0.1), latencies().fold(0.0, f64::max));
    if all.is_empty() || high <= low {
        return None;
    }
    let right = WIDTH - LEGEND;
    let (left, bottom, top) = (80.0, HEIGHT - 40.0, 15.0);
    // Half, nine of ten, all but one of a hundred, … at equal distances.
    let across =
        |percentile: f64| left + (right - left) * ((-(1.0 - percentile / 100.0).log10()) / 4.0).min(1.0);
    let up = |time: f64| bottom - (bottom - top) * ((time / low).log10() / (high / low).log10());
    let mut plot = format!(
        "<figure>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">\n",
        escape(&format!("{}: latency by percentile", section.title))
    );
    for (percentile, name) in
        [(0.0, ""), (50.0, "50 %"), (90.0, "90 %"), (99.0, "99 %"), (99.9, "99.9 %"), (99.99, "99.99 %")]
    {
        let x = across(percentile);
        let _ =
            writeln!(plot, "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>");
        let _ = writeln!(
            plot,
            "<text class=\"faint\" x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{name}</text>",
            bottom + 22.0
        );
    }
    for time in ticks(low, high) {
        let y = up(time);
        let _ =
            writeln!(plot, "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>");
        let _ = writeln!(
            plot,
            "<text class=\"faint\" x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 8.0,
            y + 5.0,
            of_time(time)
        );
    }
    for (place, (cell, latency)) in all.iter().enumerate() {
        let points: Vec<String> = latency
            .curve
            .iter()
            .map(|(percentile, time)| format!("{:.1},{:.1}", across(*percentile), up(*time)))
            .collect();
        let ours = cell.contestant == "pillion";
        let dash = DASHES.get(if ours { 0 } else { place % DASHES.len() }).copied().unwrap_or_default();
        let colour = place % COLOURS;
        let weight = if ours { " heavy" } else { "" };
        let _ = writeln!(
            plot,
            "<polyline class=\"curve k{colour}{weight}\" stroke-dasharray=\"{dash}\" points=\"{}\"/>",
            points.join(" ")
        );
        let y = top
            + 10.0
            + (bottom - top) / super::cpu::ratio(u64::try_from(all.len()).ok()?, 1).max(12.0)
                * super::cpu::ratio(u64::try_from(place).ok()?, 1);
        let _ = writeln!(
            plot,
            "<line class=\"curve k{colour}{weight}\" stroke-dasharray=\"{dash}\" x1=\"{:.0}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
            right + 12.0,
            right + 46.0
        );
        let _ = writeln!(
            plot,
            "<text x=\"{:.0}\" y=\"{:.1}\">{}</text>",
            right + 54.0,
            y + 5.0,
            escape(&shortened(&cell.title))
        );
    }
    let _ = write!(
        plot,
        "</svg>\n<figcaption>Latency by percentile, all rounds together: the share of operations that took at most so long{}.</figcaption>\n</figure>\n",
        if chosen { "; of some rows" } else { "" }
    );
    Some(plot)
}

/// A round number of microseconds, for an axis.
fn of_time(microseconds: f64) -> String {
    if microseconds >= 1_000_000.0 {
        format!("{} s", microseconds / 1_000_000.0)
    } else if microseconds >= 1_000.0 {
        format!("{} ms", microseconds / 1_000.0)
    } else {
        format!("{microseconds} µs")
    }
}

/// Powers of ten, and two and five times them, between both ends.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = (-1..8).map(|power| 10_f64.powi(power));
    let all: Vec<f64> = powers
        .flat_map(|power| [power, 2.0 * power, 5.0 * power])
        .filter(|time| (low..=high).contains(time))
        .collect();
    if all.len() <= 8 {
        all
    } else {
        all.into_iter().filter(|time| time.log10().fract().abs() < 1e-9).collect()
    }
}

fn shortened(title: &str) -> String {
    const LONGEST: usize = 33;
    if title.chars().count() <= LONGEST {
        return title.to_owned();
    }
    title.chars().take(LONGEST - 1).chain(['…']).collect()
}

fn method(page: &mut String, results: &Results) {
    let method = &results.method;
    element(
        page,
        "p",
        "",
        &format!(
            "{} round{}; in each, all contestants took turns at each question, for {} ms after {} ms of warm-up. Figures are medians \
             of the rounds, the spread is the smallest and the largest. Processor time is the kernel's own account of each process.",
            method.rounds,
            if method.rounds == 1 { "" } else { "s" },
            method.measure_ms,
            method.warm_up_ms
        ),
    );
    if let Some(others) = &method.used_by_others {
        element(
            page,
            "p",
            "",
            &format!(
                "Other users of the machine took {:.0} % of it ({:.0} to {:.0} %). Rounds in which it was more than {:.0} % were \
                 repeated up to {} times ({} were), and the quietest counts; {} are noisy all the same.",
                others.median * 100.0,
                others.min * 100.0,
                others.max * 100.0,
                method.noise_limit * 100.0,
                method.repeats,
                method.repeated,
                method.noisy
            ),
        );
    }
    page.push_str("<h2>Who took part</h2>\n<ul>\n");
    for contestant in &results.contestants {
        let known = [&contestant.title, &contestant.version].map(String::as_str);
        let known: Vec<_> = known.into_iter().filter(|text| !text.is_empty()).collect();
        let cannot = contestant.cannot.iter().map(|cannot| format!("; {cannot}"));
        element(page, "li", "", &format!("{}{}", known.join(", "), cannot.collect::<String>()));
    }
    page.push_str("</ul>\n");
}

#[cfg(test)]
mod tests {
    use super::super::peer::Kind;
    use super::super::results::{Contestant, Machine, Method, Program, SCHEMA};
    use super::*;

    fn results(title: &str) -> Results {
        let mut cell = Cell::new("pillion", title);
        cell.figure("cpuProxies", vec![40.0, 41.0]);
        cell.figure("cpuInbound", vec![20.0, 21.0]);
        cell.figure("cpuOutbound", vec![20.0, 20.0]);
        cell.latency.insert("whole".to_owned(), Latency::of(&[(50_000, 90), (500_000, 10)]).unwrap());
        cell.note(title);
        let mut peer = Cell::new("peer", title);
        peer.figure("cpuProxies", vec![80.0]);
        let section = Section {
            id: "connection".to_owned(),
            title: title.to_owned(),
            text: title.to_owned(),
            cells: vec![cell, peer],
        };
        Results {
            schema: SCHEMA,
            program: Program { version: "1".to_owned(), optimised: true },
            machine: Machine {
                processor: title.to_owned(),
                cores: 2,
                memory_mib: 1,
                kernel: title.to_owned(),
                architecture: "x86_64".to_owned(),
            },
            method: Method {
                quick: true,
                rounds: 2,
                measure_ms: 1,
                warm_up_ms: 1,
                noise_limit: 0.1,
                repeats: 1,
                used_by_others: Spread::of(vec![0.1]),
                repeated: 0,
                noisy: 0,
                seconds: 1.0,
            },
            contestants: [("pillion", Kind::Pillion), ("peer", Kind::Peer)]
                .map(|(name, kind)| Contestant {
                    name: name.to_owned(),
                    title: title.to_owned(),
                    kind,
                    version: title.to_owned(),
                    cannot: vec![title.to_owned()],
                })
                .into(),
            absent: vec![],
            sections: vec![section],
            warnings: vec![title.to_owned()],
        }
    }

    #[test]
    fn whatever_a_peer_calls_itself_is_text() {
        let hostile = "\"><script>alert(1)</script>'&\u{0}";
        let page = page(&results(hostile));
        assert!(!page.contains("<script") && !page.contains('\u{0}'), "{page}");
        assert!(page.contains("&quot;&gt;&lt;script&gt;"));
    }

    #[test]
    fn what_was_found_stands_first_and_large() {
        let page = page(&results("A"));
        let card = "<li><strong>40.5 µs</strong><b>a connection through two sidecars</b>\
                    of both sidecars&#39; processor time<span class=\"others\"><span>A 2.0 ×</span></span></li>";
        assert!(page.contains(card), "{page}");
        assert!(page.find("<strong>") < page.find("<section"));
    }

    #[test]
    fn times_of_an_axis_have_the_unit_that_fits() {
        assert_eq!([0.5, 200.0, 5_000.0, 2_000_000.0].map(of_time), ["0.5 µs", "200 µs", "5 ms", "2 s"]);
    }

    #[test]
    fn the_page_needs_nothing_else() {
        let page = page(&results("A"));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("<svg") && page.contains("polyline") && page.contains("class=\"spread\""));
    }

    /// Each element that is opened is closed in its place.
    #[test]
    fn the_page_is_well_formed() {
        let page = page(&results("A & <B>"));
        let mut open: Vec<&str> = Vec::new();
        for tag in page.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
            let name = tag.split([' ', '\n']).next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name)),
                None if tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name) => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn ticks_lie_between_both_ends() {
        assert_eq!(ticks(30.0, 400.0), [50.0, 100.0, 200.0]);
        assert_eq!(ticks(0.9, 90_000.0), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
    }
}
