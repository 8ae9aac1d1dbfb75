//! Reference pages that a test holds equal to the code: a section of a page, and metrics as its table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

/// Labels whose values are few and stand in the table.
const ENUMERATED: [&str; 4] = ["direction", "kind", "result", "resumed"];

/// What a page of metrics in Prometheus's text format tells of a family.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    /// In the order in which they stand, each with the values that were seen.
    labels: Vec<(String, BTreeSet<String>)>,
}

/// Metrics in Prometheus's text format as the rows of a table: name, type, labels, help. Of each family there must be a
/// sample. Labels of `shared` are told once elsewhere, and only called by that name here.
#[must_use]
pub fn metrics_table(text: &str, (name, shared): (&str, &[&str])) -> String {
    let mut table = "| metric | type | labels | what it tells |\n|---|---|---|---|\n".to_owned();
    for (metric, family) in families(text) {
        let of_all = shared.iter().all(|shared| family.labels.iter().any(|(label, _)| label == shared));
        let of_all = of_all && !shared.is_empty();
        let own = family.labels.iter().filter(|(label, _)| !of_all || !shared.contains(&label.as_str()));
        let mut labels: Vec<String> = own.map(|(label, values)| told(&family, label, values)).collect();
        if of_all {
            labels.insert(0, name.to_owned());
        }
        let (kind, help) = (&family.kind, &family.help);
        writeln!(table, "| `{metric}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
    }
    table
}

/// `direction` with its values; where they are many or follow from elsewhere, the name alone.
fn told(family: &Family, label: &str, values: &BTreeSet<String>) -> String {
    let few = family.labels.len() <= 2 && values.len() > 1;
    if !ENUMERATED.contains(&label) || !few {
        return format!("`{label}`");
    }
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    format!("`{label}`: {}", values.join(", "))
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            current = name.to_owned();
            let help = help.trim_end_matches('.').to_owned();
            families.insert(current.clone(), Family { help, ..Family::default() });
        } else if let Some((_name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            kind.clone_into(&mut families.get_mut(&current).expect("HELP comes first").kind);
        } else {
            assert!(line.starts_with(&current), "{line} stands under {current}");
            let family = families.get_mut(&current).expect("HELP comes first");
            for (label, value) in labels(line) {
                match family.labels.iter_mut().find(|(known, _)| *known == label) {
                    Some((_, values)) => _ = values.insert(value),
                    None if label == "le" => {}
                    None => family.labels.push((label, BTreeSet::from([value]))),
                }
            }
        }
    }
    families
}

/// Of a sample whose label values hold no quotation marks.
fn labels(sample: &str) -> Vec<(String, String)> {
    let Some((_name, rest)) = sample.split_once('{') else { return Vec::new() };
    let parts: Vec<&str> = rest.rsplit_once('}').expect("labels end").0.split('"').collect();
    let pair = |pair: &[&str]| (pair[0].trim_matches([',', '=']).to_owned(), pair[1].to_owned());
    parts.chunks_exact(2).map(pair).collect()
}

/// Holds the section `name` of the page at `path`, which is what stands between its two marks, equal to `text`.
/// `UPDATE_GOLDEN=1` writes it anew.
pub fn hold_section(path: &Path, name: &str, text: &str) {
    let page = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let marks = (format!("<!-- {name}: "), format!("<!-- end of {name} -->"));
    let (before, rest) = page.split_once(&marks.0).expect("the section begins with its mark");
    let (head, rest) = rest.split_once("-->\n").expect("the mark ends");
    let (written, after) = rest.split_once(&marks.1).expect("the section ends with its mark");
    let wanted = format!("\n{text}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let page = format!("{before}{}{head}-->\n{wanted}{}{after}", marks.0, marks.1);
        std::fs::write(path, page).expect("the page can be written");
        return;
    }
    assert_eq!(written, wanted, "write the section anew by UPDATE_GOLDEN=1 and read the difference");
}
