//! Whom a question is about, and who answers it: the files, or a proxy that runs.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use pillion_mesh::known::{Known, Sidecar, known_workloads};
use pillion_mesh::policy::Snapshot;
use pillion_mesh::resource::Resources;
use pillion_mesh::spiffe::TrustDomain;
use pillion_mesh::wire::{Problem, UNKNOWN};
use pillion_mesh::workload::{Labels, MeshConfig, Workload};
use pillion_proxy::folder::Folder;
use pillion_proxy::sidecar_file::SidecarFile;
use serde::de::DeserializeOwned;

use crate::http::{self, Answer};

/// Where a proxy's admin API is unless its settings say otherwise.
pub(crate) const ADMIN: &str = "http://127.0.0.1:15000";
/// Time for an answer of a proxy.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For questions that the files can answer as well.
const FILES_INSTEAD: &str = "Without a proxy ask the files: --folder FOLDER --config PROXY.yaml";

/// The flags that say whom a question is about.
#[derive(Debug, Args)]
#[command(next_help_heading = "Who is asked")]
pub(crate) struct Source {
    /// Ask the proxy that runs here by its admin API [default: http://127.0.0.1:15000]
    #[arg(long, value_name = "URL", alias = "proxy", conflicts_with_all = ["folder", "config", "workload"])]
    admin: Option<String>,
    /// Ask the files instead: a file or folder of Istio resources [default: the mesh folder of --config]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Settings file of the sidecar that is meant
    #[arg(long, value_name = "PROXY.yaml", conflicts_with = "workload")]
    config: Vec<PathBuf>,
    /// The workload that is meant, where its settings file is not at hand
    #[arg(long, value_name = "NAMESPACE/SERVICEACCOUNT", requires = "folder")]
    workload: Option<String>,
    /// A label of that workload; repeat it [default: those of its endpoints in the folder]
    #[arg(long = "label", value_name = "NAME=VALUE", requires = "workload")]
    labels: Vec<String>,
    /// Trust domain of that workload [default: cluster.local]
    #[arg(long, value_name = "NAME", requires = "workload")]
    trust_domain: Option<TrustDomain>,
    /// Namespace whose policies apply to the whole mesh [default: that of --config, else istio-system]
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "admin")]
    root_namespace: Option<String>,
}

/// Who answers.
pub(crate) enum Answering {
    /// The proxy with this admin API.
    Proxy(Admin),
    /// The files, for one workload.
    Files(Box<Files>),
}

/// What the files say of one workload.
pub(crate) struct Files {
    pub(crate) workload: Workload,
    pub(crate) snapshot: Snapshot,
    /// Ports that its settings name.
    pub(crate) ports: BTreeSet<u16>,
}

/// The admin API of a proxy.
pub(crate) struct Admin {
    url: String,
    /// What can be done where it does not answer.
    otherwise: &'static str,
    /// Time for an answer.
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The arguments, or the files that they name, are wrong.
    Usage(String),
    /// The proxy does not answer.
    Proxy(String),
    /// A file cannot be written.
    Unwritten(String),
}

impl Source {
    /// Who answers a question about one workload.
    ///
    /// # Errors
    /// When nobody, or not exactly one workload, is meant; when a file is no good.
    pub(crate) fn answering(&self) -> Result<Answering, Fault> {
        if self.folder.is_none() && self.config.is_empty() {
            let admin = Admin::at(self.admin.as_deref().unwrap_or(ADMIN), FILES_INSTEAD);
            return Ok(Answering::Proxy(admin));
        }
        let (resources, mut files) = self.files()?;
        let (sidecar, ports) = match (&self.workload, files.pop(), files.is_empty()) {
            (Some(written), ..) => (self.named(written, &resources)?, BTreeSet::new()),
            (None, Some(only), true) => (only.sidecar, only.ports),
            (None, Some(_), false) => {
                let message = "--config is given more than once, and one workload is meant at a time";
                return Err(Fault::Usage(message.to_owned()));
            }
            (None, None, _) => return Err(Fault::Usage(whom(&self.known(&resources)))),
        };
        let Sidecar { workload, config, .. } = sidecar;
        let snapshot = Snapshot::build(&resources, &workload, &config);
        Ok(Answering::Files(Box::new(Files { workload, snapshot, ports })))
    }

    /// The resources, and the workloads that are known from them and from the settings files.
    ///
    /// # Errors
    /// When a file is no good.
    pub(crate) fn everybody(&self) -> Result<(Resources, Vec<Known>), Fault> {
        let (resources, files) = self.files()?;
        let sidecars: Vec<Sidecar> = files.into_iter().map(|file| file.sidecar).collect();
        let config = mesh_config(&sidecars, self.root_namespace.as_deref());
        let known = known_workloads(&resources, &sidecars, &config);
        Ok((resources, known))
    }

    fn files(&self) -> Result<(Resources, Vec<SidecarFile>), Fault> {
        let files = sidecar_files(&self.config, self.root_namespace.as_deref())?;
        let of_first = files.first().and_then(|first| first.mesh.clone());
        let folder = self.folder.clone().or(of_first).ok_or_else(|| {
            Fault::Usage(
                "name the mesh folder by --folder, or by `mesh` in a settings file that --config names"
                    .to_owned(),
            )
        })?;
        let Folder { resources, .. } = Folder::read(&folder).map_err(Fault::usage)?;
        if resources.unread.is_empty() {
            return Ok((resources, files));
        }
        let unread = resources.unread.iter().map(|file| format!("{}: {}", file.place, file.message));
        let unread: Vec<String> = unread.collect();
        Err(Fault::Usage(format!("{}\nno proxy takes the folder before that is mended", unread.join("\n"))))
    }

    fn known(&self, resources: &Resources) -> Vec<Known> {
        known_workloads(resources, &[], &mesh_config(&[], self.root_namespace.as_deref()))
    }

    /// The workload that `--workload` names.
    fn named(&self, written: &str, resources: &Resources) -> Result<Sidecar, Fault> {
        let (namespace, account) = written
            .split_once('/')
            .filter(|(namespace, account)| !namespace.is_empty() && !account.is_empty())
            .ok_or_else(|| {
                Fault::Usage(format!(
                    "--workload: expected NAMESPACE/SERVICEACCOUNT, such as default/backend, seen {written}"
                ))
            })?;
        let alike: Vec<Known> =
            self.known(resources).into_iter().filter(|known| known.name() == written).collect();
        let labels = match (self.labels.is_empty(), alike.as_slice()) {
            (false, _) => self.labels.iter().map(|label| pair(label)).collect::<Result<Labels, _>>()?,
            (true, [only]) => only.workload.labels.clone(),
            (true, []) => Labels::new(),
            (true, several) => {
                let labels: Vec<String> =
                    several.iter().map(|known| format!("{:?}", known.workload.labels)).collect();
                return Err(Fault::Usage(format!(
                    "{written} has endpoints with different labels: {}; choose by --label",
                    labels.join(" and ")
                )));
            }
        };
        let trust_domain = match &self.trust_domain {
            Some(trust_domain) => trust_domain.clone(),
            None => "cluster.local".parse().map_err(Fault::usage)?,
        };
        let name = labels.get("app").map_or(account, String::as_str).to_owned();
        let workload = Workload {
            name,
            trust_domain,
            namespace: namespace.to_owned(),
            service_account: account.to_owned(),
            labels,
        };
        workload.id().map_err(Fault::usage)?;
        let config = mesh_config(&[], self.root_namespace.as_deref());
        Ok(Sidecar { workload, config, place: String::new(), accepts: true })
    }
}

/// Whom one could mean.
fn whom(known: &[Known]) -> String {
    const SHOWN: usize = 8;
    let names: BTreeSet<String> = known.iter().map(Known::name).collect();
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let known = match (shown.is_empty(), names.len() > SHOWN) {
        (true, _) => "none is known in the folder".to_owned(),
        (false, false) => format!("known in the folder: {}", shown.join(", ")),
        (false, true) => format!("known in the folder: {} and more", shown.join(", ")),
    };
    format!("say whom you mean: --workload NAMESPACE/SERVICEACCOUNT ({known}), or --config PROXY.yaml")
}

fn pair(label: &str) -> Result<(String, String), Fault> {
    let (name, value) = label.split_once('=').ok_or_else(|| {
        Fault::Usage(format!("--label: expected NAME=VALUE, such as app=backend, seen {label}"))
    })?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What settings files say; `root_namespace` goes over it.
///
/// # Errors
/// When a file is no good.
pub(crate) fn sidecar_files(
    files: &[PathBuf],
    root_namespace: Option<&str>,
) -> Result<Vec<SidecarFile>, Fault> {
    let read = |path: &PathBuf| {
        let mut file = SidecarFile::read(path).map_err(Fault::usage)?;
        if let Some(root_namespace) = root_namespace {
            root_namespace.clone_into(&mut file.sidecar.config.root_namespace);
        }
        Ok(file)
    };
    files.iter().map(read).collect()
}

/// What holds for those of whom no settings file tells.
pub(crate) fn mesh_config(sidecars: &[Sidecar], root_namespace: Option<&str>) -> MeshConfig {
    let mut config = sidecars.first().map(|first| first.config.clone()).unwrap_or_default();
    if let Some(root_namespace) = root_namespace {
        root_namespace.clone_into(&mut config.root_namespace);
    }
    config
}

/// How a page is asked for: [`http::get`] or [`http::post`].
type Asking = fn(&str, Duration) -> io::Result<Answer>;

impl Admin {
    /// The admin API at `url`, or at `http://HOST:PORT` where the scheme is left out. `otherwise` is what can be done where it
    /// does not answer.
    pub(crate) fn at(url: &str, otherwise: &'static str) -> Self {
        let scheme = if url.contains("://") { "" } else { "http://" };
        Self { url: format!("{scheme}{}", url.trim_end_matches('/')), otherwise, timeout: TIMEOUT }
    }

    /// The same, with less patience or more.
    pub(crate) fn answering_within(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Its address, with the scheme.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Asks a page that has the same shape whatever its status is.
    ///
    /// # Errors
    /// When the proxy does not answer, or not as one of this version.
    pub(crate) fn get_whatever_status<T: DeserializeOwned>(&self, page: &str) -> Result<T, Fault> {
        self.read(&self.ask(http::get, page)?.body)
    }

    /// Asks a page of the admin API.
    ///
    /// # Errors
    /// When the proxy does not answer, or not as one of this version; when it does not know what is asked for.
    pub(crate) fn get<T: DeserializeOwned>(&self, page: &str) -> Result<T, Fault> {
        self.answer_of(http::get, page)
    }

    /// Presses a button of the admin API.
    ///
    /// # Errors
    /// As [`Self::get`]; when the proxy does not do it, with what it says.
    pub(crate) fn press<T: DeserializeOwned>(&self, button: &str) -> Result<T, Fault> {
        self.answer_of(http::post, button)
    }

    fn answer_of<T: DeserializeOwned>(&self, by: Asking, page: &str) -> Result<T, Fault> {
        let fault = |what: String| self.fault(&what);
        let answer = self.ask(by, page)?;
        let problem: Option<Problem> = serde_json::from_str(&answer.body).ok();
        if let Some(Problem { title, detail: Some(detail), .. }) = &problem
            && title == UNKNOWN
        {
            return Err(fault(detail.clone()));
        }
        if answer.status == 404 {
            return Err(fault(format!(
                "has no page {page}; it is no pillion-proxy, or one of an older version"
            )));
        }
        if !answer.is_success() {
            let detail = problem.and_then(|problem| problem.detail).unwrap_or(answer.body);
            return Err(fault(format!("answered {}: {detail}", answer.status)));
        }
        self.read(&answer.body)
    }

    fn ask(&self, by: Asking, page: &str) -> Result<Answer, Fault> {
        let Self { url, otherwise, timeout } = self;
        by(&format!("{url}{page}"), *timeout).map_err(|error| {
            self.fault(&format!(
                "{error}\nis the proxy running, and is this its admin API (admin.address)? It listens on loopback only: ask in its \
                 container or network namespace.\n{otherwise}"
            ))
        })
    }

    fn read<T: DeserializeOwned>(&self, body: &str) -> Result<T, Fault> {
        serde_json::from_str(body).map_err(|error| {
            self.fault(&format!("its answer is not understood, its version may be another: {error}"))
        })
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::Proxy(format!("{}: {what}", self.url))
    }
}

/// Text as part of a query.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl Fault {
    pub(crate) fn usage(fault: impl Display) -> Self {
        Self::Usage(fault.to_string())
    }

    /// Prints it for `command`. Exit codes: 2 for wrong arguments, 1 for a proxy that does not answer and what cannot be written.
    pub(crate) fn tell(&self, command: &str) -> ExitCode {
        for line in self.to_string().lines() {
            eprintln!("{command}: {line}");
        }
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Proxy(_) | Self::Unwritten(_) => ExitCode::FAILURE,
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (Self::Usage(what) | Self::Proxy(what) | Self::Unwritten(what)) = self;
        f.write_str(what)
    }
}
