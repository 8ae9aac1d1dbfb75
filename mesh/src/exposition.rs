//! Metrics as text, for whoever asks: OpenMetrics for a scraper that names it, Prometheus's older text format for all others.
//!
//! The metrics themselves are written as OpenMetrics by a library; here that text is only turned into the older one.

use std::borrow::Cow;

/// A form of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus text format 0.0.4.
    Plain,
}

impl Format {
    /// What to answer with, by the request's `Accept`: OpenMetrics where it is named and not declined (`q=0`).
    #[must_use]
    pub fn of_accept(accept: Option<&str>) -> Self {
        let named = accept.unwrap_or_default().split(',').any(|choice| {
            let mut parts = choice.split(';').map(str::trim);
            parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/openmetrics-text"))
                && !parts.any(|parameter| matches!(parameter, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
        });
        if named { Format::OpenMetrics } else { Format::Plain }
    }

    /// As the header says it.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Plain => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// An OpenMetrics text in this form.
    #[must_use]
    pub fn render(self, openmetrics: String) -> String {
        match self {
            Format::OpenMetrics => openmetrics,
            Format::Plain => plain(&openmetrics),
        }
    }
}

/// The older format names a counter and an info as their samples are named, and knows neither units nor an end.
fn plain(openmetrics: &str) -> String {
    let mut text = String::with_capacity(openmetrics.len());
    // HELP stands before TYPE and has to wait for it: the type decides on the name.
    let mut help = None;
    for line in openmetrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (name, kind) = match kind {
                "counter" => (Cow::from(format!("{name}_total")), "counter"),
                "info" => (Cow::from(format!("{name}_info")), "gauge"),
                "unknown" => (Cow::from(name), "untyped"),
                kind => (Cow::from(name), kind),
            };
            if let Some((_name, help)) = help.take() {
                push_line(&mut text, &["# HELP ", &name, " ", help]);
            }
            push_line(&mut text, &["# TYPE ", &name, " ", kind]);
        } else if !line.starts_with('#') {
            push_line(&mut text, &[line]);
        }
    }
    text
}

fn push_line(text: &mut String, words: &[&str]) {
    words.iter().for_each(|word| text.push_str(word));
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::prometheus(
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        Format::OpenMetrics
    )]
    #[case::in_any_case("Application/OpenMetrics-Text", Format::OpenMetrics)]
    #[case::declined("application/openmetrics-text; q=0, text/plain", Format::Plain)]
    #[case::curl("*/*", Format::Plain)]
    #[case::a_browser("text/html,application/xhtml+xml,*/*;q=0.8", Format::Plain)]
    #[case::nothing("", Format::Plain)]
    fn openmetrics_is_for_those_who_name_it(#[case] accept: &str, #[case] format: Format) {
        assert_eq!(Format::of_accept(Some(accept)), format);
    }

    #[test]
    fn the_older_text_names_families_as_their_samples() {
        let openmetrics = "\
# HELP calls Calls made.
# TYPE calls counter
calls_total{to=\"a # HELP b\"} 3
# HELP open Open now.
# TYPE open gauge
open 1
# HELP wait_seconds How long.
# TYPE wait_seconds histogram
# UNIT wait_seconds seconds
wait_seconds_sum 0.5
wait_seconds_count 1
wait_seconds_bucket{le=\"+Inf\"} 1
# HELP build What runs.
# TYPE build info
build_info{version=\"1\"} 1
# TYPE odd unknown
odd 1
# EOF
";
        let plain = "\
# HELP calls_total Calls made.
# TYPE calls_total counter
calls_total{to=\"a # HELP b\"} 3
# HELP open Open now.
# TYPE open gauge
open 1
# HELP wait_seconds How long.
# TYPE wait_seconds histogram
wait_seconds_sum 0.5
wait_seconds_count 1
wait_seconds_bucket{le=\"+Inf\"} 1
# HELP build_info What runs.
# TYPE build_info gauge
build_info{version=\"1\"} 1
# TYPE odd untyped
odd 1
";
        assert_eq!(Format::Plain.render(openmetrics.to_owned()), plain);
        assert_eq!(Format::OpenMetrics.render(openmetrics.to_owned()), openmetrics);
    }
}
