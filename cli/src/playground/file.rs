//! The file that describes a lab: its hosts in their order, and what stands on them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pillion_mesh::yaml;
use serde::Deserialize;

use crate::lab::Sidecar;

/// A longer file is no description of a lab.
const FILE_LIMIT: u64 = 1024 * 1024;

/// As many as a lab holds, with room for the CA.
const MOST_HOSTS: usize = 200;

/// Longest name of a host: the kernel's limit for what is named after it.
const LONGEST_NAME: usize = 32;

/// Names that the lab itself gives.
const TAKEN: [&str; 3] = ["ca", "switch", "localhost"];

/// A lab as its file describes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LabFile {
    /// In the order of their addresses.
    pub(super) hosts: Vec<Host>,
    /// The certificate authority. There is one where a sidecar or an account needs it.
    #[serde(default)]
    pub(super) ca: CaSection,
    /// Folder with the first resources of the mesh; the lab changes a copy.
    #[serde(default)]
    pub(super) mesh: Option<PathBuf>,
}

/// One host.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Host {
    /// By which the others reach it.
    pub(super) name: String,
    /// What stands beside its apps.
    #[serde(default)]
    pub(super) sidecar: Option<SidecarSection>,
    /// Commands, words with spaces between.
    #[serde(default)]
    pub(super) apps: Vec<String>,
}

/// A sidecar.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct SidecarSection {
    /// `NAME` of namespace `default`, or `NAMESPACE/NAME`; the host's name where absent.
    pub(super) account: Option<String>,
    /// Beside `app`.
    pub(super) labels: BTreeMap<String, String>,
    /// Further arguments of `pillion iptables apply`.
    pub(super) rules: Vec<String>,
    /// Further arguments of `pillion proxy`.
    pub(super) args: Vec<String>,
    /// Whether connections are captured by TPROXY.
    pub(super) tproxy: bool,
    /// Ports of Gateways, and where they are listened on.
    pub(super) gateway: BTreeMap<u16, u16>,
    /// Whether it runs from the beginning; else `start HOST` starts it.
    pub(super) start: bool,
}

impl Default for SidecarSection {
    fn default() -> Self {
        Self {
            account: None,
            labels: BTreeMap::new(),
            rules: Vec::new(),
            args: Vec::new(),
            tproxy: false,
            gateway: BTreeMap::new(),
            start: true,
        }
    }
}

/// The certificate authority.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct CaSection {
    /// Further accounts that get a token, beside those of the sidecars.
    pub(super) accounts: Vec<String>,
    /// Further lines of its settings.
    pub(super) settings: String,
}

impl LabFile {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// Where it cannot be read, with the line where that is known, or where something in it cannot work.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let name = path.display().to_string();
        let length = fs::metadata(path).map_err(|error| format!("{name}: {error}"))?.len();
        if length > FILE_LIMIT {
            return Err(format!("{name}: it is longer than {FILE_LIMIT} bytes"));
        }
        let text = fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
        let file = Self::parse(&name, &text)?;
        Ok(Self { mesh: file.mesh.map(|mesh| beside(path, &mesh)), ..file })
    }

    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let file: Self = yaml::read(name, text).map_err(|error| error.to_string())?;
        file.check().map_err(|fault| format!("{name}: {fault}"))?;
        Ok(file)
    }

    /// Names go into file names and scripts, so they are plain; and each host has one of its own.
    fn check(&self) -> Result<(), String> {
        if self.hosts.is_empty() || self.hosts.len() > MOST_HOSTS {
            return Err(format!("hosts: expected 1 to {MOST_HOSTS}, got {}", self.hosts.len()));
        }
        for (n, host) in self.hosts.iter().enumerate() {
            let at = format!("hosts[{n}].name");
            if !is_plain(&host.name) {
                return Err(format!(
                    "{at}: expected up to {LONGEST_NAME} of a-z, 0-9 and -, a letter first, got {:?}",
                    host.name
                ));
            }
            if TAKEN.contains(&host.name.as_str()) {
                return Err(format!("{at}: {} is the lab's own; choose another name", host.name));
            }
            if self.hosts.iter().take(n).any(|other| other.name == host.name) {
                return Err(format!("{at}: {} is there already; choose another name", host.name));
            }
            if host.apps.iter().any(|app| app.trim().is_empty()) {
                return Err(format!("hosts[{n}].apps: expected a command, got nothing"));
            }
        }
        for account in self.accounts() {
            let (namespace, name) = account.split_once('/').unwrap_or(("default", account));
            if !is_plain(namespace) || !is_plain(name) {
                return Err(format!("expected an account, NAME or NAMESPACE/NAME, got {account:?}"));
            }
        }
        Ok(())
    }

    /// The accounts that the CA knows, each once.
    pub(super) fn accounts(&self) -> Vec<&str> {
        let of_sidecars = self.hosts.iter().filter_map(Host::account);
        let mut accounts: Vec<&str> = Vec::new();
        for account in of_sidecars.chain(self.ca.accounts.iter().map(String::as_str)) {
            if !accounts.contains(&account) {
                accounts.push(account);
            }
        }
        accounts
    }
}

impl Host {
    /// The account of its sidecar.
    fn account(&self) -> Option<&str> {
        self.sidecar.as_ref().map(|sidecar| sidecar.account.as_deref().unwrap_or(&self.name))
    }

    /// Its sidecar as a lab takes it.
    pub(super) fn sidecar(&self) -> Option<Sidecar> {
        let section = self.sidecar.as_ref()?;
        let mut sidecar = Sidecar::new(self.account()?).args(&["--log-format", "text"]);
        for (name, value) in &section.labels {
            sidecar = sidecar.label(name, value);
        }
        for (port, at) in &section.gateway {
            sidecar = sidecar.gateway(*port, *at);
        }
        if section.tproxy {
            sidecar = sidecar.tproxy();
        }
        Some(sidecar.rules(&words(&section.rules)).args(&words(&section.args)))
    }
}

fn words(list: &[String]) -> Vec<&str> {
    list.iter().map(String::as_str).collect()
}

/// A path of the file, which counts from the file's folder.
fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

fn is_plain(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_host_without_further_words_has_no_sidecar_and_one_with_an_empty_one_starts_it() {
        let file =
            LabFile::parse("lab.yaml", "hosts:\n- {name: legacy}\n- {name: web, sidecar: {}}\n").unwrap();
        assert!(file.hosts[0].sidecar().is_none());
        assert!(file.hosts[1].sidecar.as_ref().unwrap().start);
        assert_eq!(file.accounts(), ["web"]);
    }

    #[test]
    fn accounts_are_those_of_sidecars_and_further_ones_each_once() {
        let text = "hosts:\n- {name: a, sidecar: {account: shop/a}}\n- {name: b, sidecar: {account: shop/a}}\n\
                    ca: {accounts: [mallory, shop/a]}\n";
        assert_eq!(LabFile::parse("lab.yaml", text).unwrap().accounts(), ["shop/a", "mallory"]);
    }

    #[rstest]
    #[case::no_hosts("hosts: []\n", "hosts: expected 1 to 200, got 0")]
    #[case::a_shell_word("hosts: [{name: 'a;b'}]\n", "got \"a;b\"")]
    #[case::the_labs_own("hosts: [{name: ca}]\n", "ca is the lab's own")]
    #[case::twice("hosts: [{name: a}, {name: a}]\n", "hosts[1].name: a is there already")]
    #[case::no_command("hosts: [{name: a, apps: [' ']}]\n", "expected a command")]
    #[case::account("hosts: [{name: a, sidecar: {account: a/b/c}}]\n", "got \"a/b/c\"")]
    #[case::unknown_key("hosts: [{name: a, sidecars: {}}]\n", "lab.yaml:1:19: unknown field `sidecars`")]
    fn what_cannot_work_is_named(#[case] text: &str, #[case] words: &str) {
        let fault = LabFile::parse("lab.yaml", text).unwrap_err();
        assert!(fault.contains(words), "{fault}");
    }

    #[test]
    fn the_mesh_folder_counts_from_the_files_own_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lab.yaml");
        fs::write(&path, "hosts: [{name: a}]\nmesh: policies\n").unwrap();
        assert_eq!(LabFile::read(&path).unwrap().mesh, Some(folder.path().join("policies")));
        assert!(LabFile::read(&folder.path().join("missing")).unwrap_err().contains("missing: No such file"));
    }
}
