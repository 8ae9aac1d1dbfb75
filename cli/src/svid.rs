//! `pillion svid check`: a certificate and its chain against every MUST of X509-SVID and SPIFFE-ID, clause by clause.

use std::fmt::{self, Display, Formatter};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anstyle::{AnsiColor, Style};
use clap::{Args, Subcommand};
use pillion_mesh::spiffe::{SpiffeId, TrustDomain};
use pillion_mesh::svid::{self, Names, Outcome, Verdict};
use pillion_mesh::wire::rfc3339;
use pillion_proxy::chain;
use serde::Serialize;

use crate::output::Format;
use crate::source::Fault;

/// A longer file is neither a chain nor a bundle.
const FILE_LIMIT: u64 = 1024 * 1024;

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Holds a certificate against every MUST of X509-SVID and SPIFFE-ID, clause by clause
    ///
    /// The first certificate of the file is the leaf, or a root by itself; what follows are its signers. With --bundle the
    /// whole chain is judged as well, as a sidecar with that bundle would: the path, each signature, the dates.
    ///
    /// Exit codes: 0 every clause is kept, 1 one is broken, 2 wrong arguments or a file that cannot be read.
    Check(Check),
}

#[derive(Debug, Args)]
struct Check {
    /// The certificate, PEM or DER; PEM may hold its chain, leaf first
    file: PathBuf,
    /// Bundle of its trust domain: a SPIFFE bundle in JSON, or PEM
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Whose bundle that is, which the file does not say [default: the certificate's own trust domain]
    #[arg(long, value_name = "NAME", requires = "bundle")]
    trust_domain: Option<TrustDomain>,
    #[command(flatten)]
    format: Format,
}

/// Exit codes: 0 kept, 1 broken, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    let Command::Check(check) = &options.command;
    match report(check, SystemTime::now()) {
        Ok(report) => {
            check.format.print(&report, &report);
            if report.kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => fault.tell("pillion svid check"),
    }
}

/// What is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    /// Whether no clause is broken.
    kept: bool,
    /// The certificates of the file, in its order.
    certificates: Vec<Certificate>,
    /// The chain by the bundle, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Line>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate {
    role: Role,
    #[serde(flatten)]
    names: Option<Names>,
    not_before: Option<String>,
    not_after: Option<String>,
    clauses: Vec<Line>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Leaf,
    Signer,
}

/// A [`Verdict`], or one that needs a clock or a bundle.
#[derive(Debug, Serialize)]
struct Line {
    clause: &'static str,
    asks: &'static str,
    outcome: Outcome,
    seen: String,
}

fn report(check: &Check, now: SystemTime) -> Result<Report, Fault> {
    let chain = certificates(&check.file)?;
    let certificates: Vec<_> =
        chain.iter().enumerate().map(|(at, der)| certificate(der, at == 0, now)).collect();
    let path = match &check.bundle {
        None => None,
        Some(file) => {
            let bundle = read(file)?;
            Some(path(&chain, check.trust_domain.as_ref(), &bundle, now))
        }
    };
    let lines = certificates.iter().flat_map(|certificate| &certificate.clauses).chain(&path);
    let kept = lines.into_iter().all(|line| line.outcome != Outcome::Broken);
    Ok(Report { kept, certificates, path })
}

/// The first certificate of a file is a leaf, unless it says itself that it signs.
fn certificate(der: &[u8], first: bool, now: SystemTime) -> Certificate {
    let names = svid::names(der).ok();
    let validity = svid::validity(der).ok();
    let role = match &names {
        Some(names) if names.signs && !is_workload(names) => Role::Signer,
        _ if first => Role::Leaf,
        _ => Role::Signer,
    };
    let verdicts = match role {
        Role::Leaf => svid::examine_leaf(der),
        Role::Signer => svid::examine_signer(der),
    };
    let mut clauses: Vec<_> = verdicts.into_iter().map(Line::from).collect();
    clauses.extend(validity.map(|validity| dates(validity, now)));
    Certificate {
        role,
        names,
        not_before: validity.map(|(from, _)| rfc3339::print(from)),
        not_after: validity.map(|(_, until)| rfc3339::print(until)),
        clauses,
    }
}

/// A certificate that names a workload is meant as a leaf, whatever else it says.
fn is_workload(names: &Names) -> bool {
    names.uris.iter().any(|uri| uri.parse::<SpiffeId>().is_ok())
}

fn dates((from, until): (SystemTime, SystemTime), now: SystemTime) -> Line {
    let outcome = if from <= now && now <= until { Outcome::Kept } else { Outcome::Broken };
    let [from, until, now] = [from, until, now].map(rfc3339::print);
    Line {
        clause: "RFC 5280 6.1.3 (a)",
        asks: "the present lies in its validity",
        outcome,
        seen: format!("{from} to {until}; this clock says {now}"),
    }
}

fn path(chain: &[Vec<u8>], trust_domain: Option<&TrustDomain>, bundle: &[u8], now: SystemTime) -> Line {
    const CLAUSE: (&str, &str) =
        ("X509-SVID 5", "a valid path to a root of the bundle, for clients and servers");
    let judged = chain
        .first()
        .ok_or_else(|| "no certificate".to_owned())
        .and_then(|leaf| svid::check_leaf(leaf).map_err(|error| error.to_string()))
        .and_then(|leaf| {
            let trust_domain = trust_domain.cloned().unwrap_or_else(|| leaf.id.trust_domain());
            chain::judge(chain, &trust_domain, bundle, now)
        });
    let (outcome, seen) = match judged {
        Ok(verified) => (Outcome::Kept, verified.roots),
        Err(fault) => (Outcome::Broken, fault),
    };
    Line { clause: CLAUSE.0, asks: CLAUSE.1, outcome, seen }
}

impl From<Verdict> for Line {
    fn from(Verdict { clause, asks, outcome, seen }: Verdict) -> Self {
        Self { clause, asks, outcome, seen }
    }
}

// Files

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let fault = |error: &dyn Display| Fault::usage(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| fault(&error))?;
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(|error| fault(&error))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(fault(&format_args!("it is longer than {FILE_LIMIT} bytes")));
    }
    Ok(bytes)
}

/// The certificates of a file in DER; what is no PEM is taken for DER, and judged as such.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, Fault> {
    let bytes = read(path)?;
    if !bytes.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Ok(vec![bytes]);
    }
    let certificates = chain::certificates(&bytes)
        .map_err(|error| Fault::usage(format!("{}: expected PEM certificates: {error}", path.display())))?;
    if certificates.is_empty() {
        let message = format!("{}: expected PEM certificates, found none", path.display());
        return Err(Fault::usage(message));
    }
    Ok(certificates)
}

const BEGIN: &[u8] = b"-----BEGIN ";

// For people

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lines =
            || self.certificates.iter().flat_map(|certificate| &certificate.clauses).chain(&self.path);
        let width = lines().map(|line| line.clause.len()).max().unwrap_or(0);
        for certificate in &self.certificates {
            writeln!(f, "{certificate}")?;
            for line in &certificate.clauses {
                writeln!(f, "{}", InWords(line, width))?;
            }
            writeln!(f)?;
        }
        if let Some(path) = &self.path {
            writeln!(f, "The chain by the bundle\n{}\n", InWords(path, width))?;
        }
        let broken = lines().filter(|line| line.outcome == Outcome::Broken).count();
        match broken {
            0 => write!(f, "Every clause is kept."),
            1 => write!(f, "1 clause is broken."),
            broken => write!(f, "{broken} clauses are broken."),
        }
    }
}

/// `spiffe://… (leaf, serial 1f, signed by CN=root)`.
impl Display for Certificate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Leaf => "leaf",
            Role::Signer => "signing certificate",
        };
        let Some(Names { subject, issuer, serial, uris, .. }) = &self.names else {
            return write!(f, "Unreadable ({role})");
        };
        let name = match (uris.first(), subject.as_str()) {
            (Some(uri), _) => uri.as_str(),
            (None, "") => "Without a name",
            (None, subject) => subject,
        };
        write!(f, "{name} ({role}, serial {serial}, signed by {issuer})")
    }
}

struct InWords<'l>(&'l Line, usize);

impl Display for InWords<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(Line { clause, asks, outcome, seen }, width) = self;
        let (mark, style) = match outcome {
            Outcome::Kept => ('√', AnsiColor::Green.on_default()),
            Outcome::Broken => ('×', AnsiColor::Red.on_default().bold()),
            Outcome::Absent => ('-', Style::new()),
        };
        write!(f, "  {style}{mark} {clause:width$}{style:#}  {asks}")?;
        match (outcome, seen.as_str()) {
            (Outcome::Absent, _) => write!(f, ": not there"),
            (_, "") => Ok(()),
            (_, seen) => write!(f, ": {seen}"),
        }
    }
}
