//! How a listing is printed: as a table for people, or as JSON or YAML for programs.

use std::fmt::Display;
use std::io::Write;

use anstream::{AutoStream, ColorChoice};
use clap::{Args, ValueEnum};
use pillion_mesh::yaml;
use serde::Serialize;

/// The flag that every listing takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Format {
    /// For people, or for programs
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
    Yaml,
}

impl Format {
    /// Whether it is for people.
    pub(crate) fn is_table(self) -> bool {
        self.output == Output::Table
    }

    /// Prints `document` for programs, or `text` for people; with colour only where a terminal shows it and NO_COLOR does
    /// not forbid it. A reader that has seen enough may have closed the pipe.
    pub(crate) fn print(self, document: &impl Serialize, text: impl Display) {
        let printed = match self.output {
            Output::Table => format!("{text}\n"),
            Output::Json => serde_json::to_string_pretty(document).unwrap_or_default() + "\n",
            Output::Yaml => yaml::print(document).unwrap_or_default(),
        };
        let _ = AutoStream::new(std::io::stdout(), ColorChoice::Auto).write_all(printed.as_bytes());
    }
}
