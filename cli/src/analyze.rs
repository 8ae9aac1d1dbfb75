//! `pillion analyze`: what is legal in a mesh folder and probably not meant, and what is not legal at all.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::Args;
use pillion_mesh::analyze::analyze;
use pillion_mesh::finding::{Code, Finding, Severity};
use pillion_mesh::known::{Sidecar, known_workloads};
use pillion_proxy::folder::Folder;
use pillion_proxy::sidecar_file::SidecarFile;

use crate::output::Format;
use crate::source::{Fault, mesh_config, sidecar_files};

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// File or folder of Istio resources; the same files are read as by the proxy
    folder: PathBuf,
    /// Settings file of a sidecar: its workload is known then, with all its labels; repeat it
    #[arg(long, value_name = "PROXY.yaml")]
    config: Vec<PathBuf>,
    /// Namespace whose policies apply to the whole mesh [default: that of the first settings file, else istio-system]
    #[arg(long, value_name = "NAMESPACE")]
    root_namespace: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// Exit codes: 0 nothing or no error found, 1 an error, 2 wrong arguments.
pub(crate) fn run(options: &Options) -> ExitCode {
    match report(options) {
        Ok(report) => {
            options.format.print(&report.findings, &report);
            if report.count(Severity::Error) == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(fault) => fault.tell("pillion analyze"),
    }
}

/// What was found, and in how much.
struct Report {
    findings: Vec<Finding>,
    files: usize,
    workloads: usize,
}

fn report(options: &Options) -> Result<Report, Fault> {
    let files = sidecar_files(&options.config, options.root_namespace.as_deref())?;
    let secrets = files.iter().filter_map(secrets_written).collect::<Vec<_>>();
    let sidecars: Vec<Sidecar> = files.into_iter().map(|file| file.sidecar).collect();
    let config = mesh_config(&sidecars, options.root_namespace.as_deref());
    let Folder { resources, files } = Folder::read(&options.folder).map_err(Fault::usage)?;
    let mut findings = analyze(&resources, &sidecars, &config);
    // Behind those of the folder that are as bad.
    findings.extend(secrets);
    findings.sort_by_key(|finding| finding.severity);
    Ok(Report { findings, files, workloads: known_workloads(&resources, &sidecars, &config).len() })
}

/// What is wrong with the settings themselves, where a proxy would start with them.
fn secrets_written(file: &SidecarFile) -> Option<Finding> {
    let path = file.key_log_file.as_ref()?;
    let name = format!("{}/{}", file.sidecar.workload.namespace, file.sidecar.workload.service_account);
    let message = format!(
        "the sidecar of {name} writes the secrets of its TLS sessions to {}; whoever reads it can decrypt its traffic",
        path.display()
    );
    Some(Finding::new(Code::SecretsWritten, &file.sidecar.place, message))
}

impl Report {
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// `in 3 files, for 4 known workloads`.
    fn extent(&self) -> String {
        let looked_at =
            format!("in {}, for {}", counted(self.files, "file"), counted(self.workloads, "known workload"));
        if self.workloads > 0 {
            return looked_at;
        }
        format!(
            "{looked_at}; more can be found once some are known, by ServiceEntry, WorkloadEntry or --config"
        )
    }
}

/// The findings by severity, then how many there are.
impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.findings.is_empty() {
            return write!(f, "Nothing found {}.", self.extent());
        }
        let mut counts = Vec::new();
        for severity in Severity::ALL {
            let count = self.count(severity);
            if count == 0 {
                continue;
            }
            let style = style(severity);
            counts.push(counted(count, severity.as_str()));
            writeln!(f, "{style}{}{style:#}: {}", severity.as_str().to_uppercase(), severity.sentence())?;
            for finding in self.findings.iter().filter(|finding| finding.severity == severity) {
                writeln!(f, "{}", InWords(finding))?;
            }
            writeln!(f)?;
        }
        write!(f, "{} {}", counts.join(", "), self.extent())
    }
}

struct InWords<'f>(&'f Finding);

impl Display for InWords<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Finding { code, place, message, cure, workloads, severity } = self.0;
        let style = style(*severity);
        let whose =
            if workloads.is_empty() { String::new() } else { format!(" for {}", workloads.join(", ")) };
        write!(f, "  {style}{code}{style:#} {place}{whose}\n    {message}\n    cure: {cure}")
    }
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Error => AnsiColor::Red.on_default().bold(),
        Severity::Warning => AnsiColor::Yellow.on_default().bold(),
        Severity::Info => Style::new().bold(),
    }
}

/// `1 file`, `2 files`.
fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 || what == "info" { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_sidecar_that_writes_down_its_secrets_is_found_by_its_settings() {
        let folder = tempfile::tempdir().unwrap();
        let (settings, mesh) = (folder.path().join("proxy.yaml"), folder.path().join("mesh"));
        std::fs::create_dir(&mesh).unwrap();
        let text = "workload: {serviceAccount: web}\nidentity: {files: {certificate: c, key: k, bundle: b}}\n\
                    inbound: {capture: '0.0.0.0:15006'}\ntls: {keyLogFile: /tmp/keys.log}\n";
        std::fs::write(&settings, text).unwrap();
        let line = Line::parse_from([Path::new("analyze"), &mesh, Path::new("--config"), &settings]);
        let report = report(&line.options).unwrap();
        let found = report.findings.iter().find(|finding| finding.code == Code::SecretsWritten).unwrap();
        assert!(
            found.message.contains("default/web") && found.message.contains("/tmp/keys.log"),
            "{found:?}"
        );
    }
}
