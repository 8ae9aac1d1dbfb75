//! The look of the demo: 80 columns of text, colour only where a terminal shows it and NO_COLOR does not forbid it.

use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use super::stage::Stage;
use crate::lab::Way;

const TITLE: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

/// Where the text goes. That nobody reads it is no reason to leave the mesh standing: errors of writing are ignored.
pub(super) struct Page {
    color: ColorChoice,
}

/// What a step saw, and whether that is what was expected.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) lines: Vec<String>,
    pub(super) met: bool,
}

impl Page {
    pub(super) fn new(color: bool) -> Self {
        Self { color: if color { ColorChoice::Auto } else { ColorChoice::Never } }
    }

    fn print(&self, text: impl Display) {
        let _ = writeln!(AutoStream::new(std::io::stdout(), self.color), "{text}");
    }

    fn styled(&self, style: Style, text: impl Display) {
        self.print(format_args!("{style}{text}{style:#}"));
    }

    /// A line that is not part of the story.
    pub(super) fn note(&self, text: &str) {
        self.print(text);
    }

    /// What is about to be built, and why not otherwise.
    pub(super) fn opening(&self, way: Way, why_not: &[String]) {
        self.styled(TITLE, "pillion demo");
        self.print("");
        self.print(
            "frontend calls backend. Both speak plain HTTP and know of no mesh; beside each\n\
             stands a sidecar. legacy is a client that has none.",
        );
        self.print(format_args!("Built from {way}."));
        if way == Way::Loopback {
            self.print(
                "Nothing is captured on loopback: the frontend is told to call its sidecar, and\n\
                 relays of the demo stand where the wires would be, to listen in.",
            );
        }
        for line in why_not.iter().flat_map(|why| why.lines()) {
            self.styled(FAINT, format_args!("  {line}"));
        }
    }

    /// Who stands where.
    pub(super) fn picture(&self, stage: &Stage) {
        let [frontend, backend, legacy] = stage.addresses();
        self.print("");
        self.print(format_args!("   frontend {frontend:<36}backend {backend}"));
        self.print("  ┌────────────────────┐                       ┌────────────────────┐");
        self.print("  │  app ──▶ sidecar ──┼────── the wire ───────┼─▶ sidecar ──▶ app  │");
        self.print("  └────────────────────┘           ▲           └────────────────────┘");
        self.print(format_args!("   legacy {legacy:<14} ──────────┘"));
    }

    /// Opens a step: what is going to be done and what is expected of it.
    pub(super) fn step(&self, number: usize, title: &str, how: &str, expected: &str) {
        self.print("");
        self.styled(TITLE, format_args!("{number}  {title}"));
        for line in how.lines() {
            self.styled(FAINT, format_args!("   {line}"));
        }
        self.print(format_args!("   expected  {expected}"));
    }

    /// Closes it: what was seen.
    pub(super) fn seen(&self, seen: &Seen) {
        let label = if seen.met { format!("{GOOD}√{GOOD:#}") } else { format!("{BAD}×{BAD:#}") };
        for (n, line) in seen.lines.iter().enumerate() {
            if n == 0 {
                self.print(format_args!(" {label} seen      {line}"));
            } else {
                self.print(format_args!("             {line}"));
            }
        }
        if !seen.met {
            self.styled(BAD, "             This is not what was expected.");
        }
    }

    /// The last line.
    pub(super) fn summary(&self, met: usize, steps: usize, elapsed: Duration, kept: bool) {
        let style = if met == steps { GOOD } else { BAD };
        self.print("");
        self.styled(style, format_args!("{met} of {steps} as expected, in {:.1} s", elapsed.as_secs_f64()));
        if met != steps && !kept {
            self.print("The logs are gone with the mesh; `pillion demo --keep` leaves both.");
        }
    }

    /// How to play with a mesh that was kept.
    pub(super) fn playground(&self, stage: &Stage, page: SocketAddr) {
        self.print("");
        self.styled(TITLE, "The mesh stays until Ctrl-C. To play with it, from another terminal:");
        for (what, how) in stage.ideas(page) {
            self.print("");
            self.styled(FAINT, format_args!("  # {what}"));
            for line in how.lines() {
                self.print(format_args!("  {line}"));
            }
        }
        self.print("");
    }
}
