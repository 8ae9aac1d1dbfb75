//! `pillion authz check`: who may call a workload, and may somebody do something.

use std::fmt::Display;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use pillion_mesh::ask::{self, AccessTable, Answer, Question};
use serde::Serialize;

use crate::output::Format;
use crate::source::{Answering, Fault, Source, percent_encoded};

/// Neither allowed nor denied: there is no answer.
const NO_ANSWER: u8 = 2;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Who may call a workload; with --from, whether one caller may, and why not
    ///
    /// Without a caller it lists the rules that apply. With --from and --port it answers step by step, by the functions
    /// that the proxy calls: what the port accepts, how the request is read, what each policy says. With --matrix it asks
    /// for all pairs of workloads that the files know.
    ///
    /// Exit codes: 0 allowed (or listed), 1 denied, 2 wrong arguments or no answer.
    Check(Box<Check>),
}

#[derive(Debug, Args)]
struct Check {
    /// Who may call whom, of all workloads that the files know
    #[arg(long, conflicts_with_all = ["admin", "workload", "from"])]
    matrix: bool,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    question: Parts,
    #[command(flatten)]
    source: Source,
}

/// The parts of a question, as `Question::PARTS` has them.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is asked")]
struct Parts {
    /// Who calls: a principal such as cluster.local/ns/default/sa/frontend, or plaintext
    #[arg(long, value_name = "PRINCIPAL|plaintext", requires = "port")]
    from: Option<String>,
    /// The port of the workload (not of the service)
    #[arg(long, value_name = "PORT", requires = "from")]
    port: Option<String>,
    /// The method [default: GET, where the port is read as HTTP]
    #[arg(long, value_name = "METHOD", requires = "from")]
    method: Option<String>,
    /// The path, as the client writes it [default: /]
    #[arg(long, value_name = "PATH", requires = "from")]
    path: Option<String>,
    /// The Host [default: that of the service]
    #[arg(long, value_name = "HOST", requires = "from")]
    host: Option<String>,
    /// A header field; repeat it
    #[arg(long = "header", value_name = "NAME=VALUE", requires = "from")]
    headers: Vec<String>,
    /// The caller's address [default: none that a rule could name, 0.0.0.0]
    #[arg(long, value_name = "IP", requires = "from")]
    source_ip: Option<String>,
    /// The workload's address [default: 0.0.0.0]
    #[arg(long, value_name = "IP", requires = "from")]
    destination_ip: Option<String>,
    /// The server name that the caller asks for [default: that of a sidecar; none in plaintext]
    #[arg(long, value_name = "NAME", requires = "from")]
    sni: Option<String>,
}

/// Exit codes: 0 allowed or listed, 1 denied, 2 wrong arguments or no answer.
pub(crate) fn run(options: &Options) -> ExitCode {
    let Command::Check(check) = &options.command;
    let done = if check.matrix {
        matrix(check)
    } else if check.question.from.is_some() {
        answer(check)
    } else {
        table(check)
    };
    done.unwrap_or_else(|fault| {
        fault.tell("pillion authz check");
        ExitCode::from(NO_ANSWER)
    })
}

fn matrix(check: &Check) -> Result<ExitCode, Fault> {
    let (resources, known) = check.source.everybody()?;
    Ok(print(check, &ask::matrix(&resources, &known), true))
}

fn table(check: &Check) -> Result<ExitCode, Fault> {
    let table: AccessTable = match check.source.answering()? {
        Answering::Proxy(admin) => admin.get("/authz")?,
        Answering::Files(files) => ask::table(&files.snapshot, &files.workload),
    };
    Ok(print(check, &table, true))
}

fn answer(check: &Check) -> Result<ExitCode, Fault> {
    let parts = check.question.written();
    let question = Question::parse(parts.iter().copied()).map_err(Fault::usage)?;
    let answer: Answer = match check.source.answering()? {
        Answering::Files(files) => ask::ask(&files.snapshot, &files.workload, &question),
        Answering::Proxy(admin) => {
            let pair = |(name, value): &(&str, &str)| format!("{name}={}", percent_encoded(value));
            admin.get(&format!("/authz?{}", parts.iter().map(pair).collect::<Vec<_>>().join("&")))?
        }
    };
    Ok(print(check, &answer, answer.allowed))
}

fn print<T: Serialize + Display>(check: &Check, answer: &T, allowed: bool) -> ExitCode {
    check.format.print(answer, answer);
    if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Parts {
    fn written(&self) -> Vec<(&str, &str)> {
        let Self { from, port, method, path, host, headers, source_ip, destination_ip, sni } = self;
        let single = [
            ("from", from),
            ("port", port),
            ("method", method),
            ("path", path),
            ("host", host),
            ("source-ip", source_ip),
            ("destination-ip", destination_ip),
            ("sni", sni),
        ];
        let single = single.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?)));
        single.chain(headers.iter().map(|header| ("header", header.as_str()))).collect()
    }
}
