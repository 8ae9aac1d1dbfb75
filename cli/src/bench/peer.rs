//! A proxy as a file describes it: its programs' files and command lines, at the server and at the client. Those that pillion
//! brings are such files too, pillion's own among them; `--peer FILE` adds another.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use pillion_mesh::yaml;
use serde::{Deserialize, Serialize};

use super::path::QUESTIONS;
use crate::lab::{LabError, run};

/// Those that come along, in the order of the report.
const KNOWN: [(&str, &str); 13] = [
    ("relay.yaml", include_str!("peers/relay.yaml")),
    ("splice.yaml", include_str!("peers/splice.yaml")),
    ("relay-inbound.yaml", include_str!("peers/relay-inbound.yaml")),
    ("pillion.yaml", include_str!("peers/pillion.yaml")),
    ("pillion-default.yaml", include_str!("peers/pillion-default.yaml")),
    ("pillion-tunnel.yaml", include_str!("peers/pillion-tunnel.yaml")),
    ("pillion-permissive.yaml", include_str!("peers/pillion-permissive.yaml")),
    ("pillion-disable.yaml", include_str!("peers/pillion-disable.yaml")),
    ("envoy.yaml", include_str!("peers/envoy.yaml")),
    ("ztunnel.yaml", include_str!("peers/ztunnel.yaml")),
    ("haproxy.yaml", include_str!("peers/haproxy.yaml")),
    ("nginx.yaml", include_str!("peers/nginx.yaml")),
    ("stunnel.yaml", include_str!("peers/stunnel.yaml")),
];

/// What a file of a peer may be long.
const LONGEST: u64 = 256 * 1024;

/// Where Debian keeps what is not for everybody's path.
const MORE_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// A proxy, described.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Peer {
    /// Short, of letters, digits and `-`; the name of its network namespaces.
    pub(crate) name: String,
    /// For people.
    pub(crate) title: String,
    #[serde(default)]
    pub(crate) kind: Kind,
    /// What is looked for in PATH; absent, it is the pillion that runs.
    program: Option<String>,
    /// The environment variable that may name it.
    environment: Option<String>,
    /// Arguments by which it says its version.
    #[serde(default)]
    version: Vec<String>,
    install: Option<Install>,
    /// What it cannot do as the others do, in words.
    #[serde(default)]
    pub(crate) cannot: Vec<String>,
    /// The most connections that it is asked to hold at once.
    pub(crate) most: Option<usize>,
    /// What it is asked, by the ids of [`QUESTIONS`]; empty: all.
    #[serde(default)]
    pub(crate) questions: Vec<String>,
    /// The proxy at the server.
    pub(crate) inbound: Role,
    /// The proxy at the client; absent, the client has none and speaks plaintext.
    pub(crate) outbound: Option<Role>,
}

/// What a contestant is to the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// No proxy at all.
    Direct,
    /// What no proxy can go below.
    Floor,
    /// This one.
    Pillion,
    /// Another one.
    #[default]
    Peer,
}

/// One of its two proxies. In texts, `@NAME@` stands for what [`Values`] knows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Role {
    /// Files that are written for it, by their path in a folder of its own.
    #[serde(default)]
    pub(crate) files: BTreeMap<String, String>,
    /// Whether connections come to it by interception rules; without, by its own port.
    #[serde(default = "yes")]
    pub(crate) capture: bool,
    /// Program and arguments. It stays in the foreground.
    pub(crate) command: Vec<String>,
}

fn yes() -> bool {
    true
}

/// How `--install` gets it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Install {
    /// Debian packages.
    #[serde(default)]
    apt: Vec<String>,
    /// A package of PyPI with its version, put into a cache folder.
    pip: Option<String>,
    /// Where the program is in it.
    program: Option<String>,
}

/// A peer that is here.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) peer: Peer,
    pub(crate) program: PathBuf,
    /// As it says itself.
    pub(crate) version: String,
}

impl Peer {
    /// Those that come along.
    ///
    /// # Errors
    /// Never, which a test holds.
    pub(crate) fn known() -> Result<Vec<Self>, LabError> {
        KNOWN.iter().map(|(name, text)| Self::read(name, text)).collect()
    }

    /// One that a person has described.
    ///
    /// # Errors
    /// With the place in the file.
    pub(crate) fn from_file(path: &Path) -> Result<Self, LabError> {
        let place = path.display().to_string();
        let length = fs::metadata(path).map_err(LabError::io(format!("read {place}")))?.len();
        if length > LONGEST {
            return Err(LabError::Failed(format!("{place}: expected at most {LONGEST} bytes, got {length}")));
        }
        let text = fs::read_to_string(path).map_err(LabError::io(format!("read {place}")))?;
        Self::read(&place, &text)
    }

    fn read(place: &str, text: &str) -> Result<Self, LabError> {
        let peer: Self = yaml::read(place, text).map_err(|error| LabError::Failed(error.to_string()))?;
        peer.check().map_err(|fault| LabError::Failed(format!("{place}: {fault}")))?;
        Ok(peer)
    }

    fn check(&self) -> Result<(), String> {
        let legal = |name: &str| {
            (1..=20).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !legal(&self.name) || self.name == "direct" {
            return Err(format!(
                "name: expected up to 20 small letters, digits and `-`, not `direct`; got {:?}",
                self.name
            ));
        }
        if let Some(id) = self.questions.iter().find(|id| !QUESTIONS.contains(&id.as_str())) {
            return Err(format!("questions: expected some of {}; got {id:?}", QUESTIONS.join(", ")));
        }
        let values = Values(NAMES.map(|name| (name, String::new())).into());
        for role in std::iter::once(&self.inbound).chain(&self.outbound) {
            for text in role.files.values().chain(&role.command) {
                values.fill(text).map_err(|error| error.to_string())?;
            }
            if role.command.is_empty() {
                return Err("command: expected a program and its arguments, got nothing".to_owned());
            }
            if let Some(name) = role.files.keys().find(|name| !stays_inside(name)) {
                return Err(format!("files: expected paths inside the proxy's folder, got {name:?}"));
            }
        }
        Ok(())
    }

    /// Whether it takes part in a question.
    pub(crate) fn is_asked(&self, id: &str) -> bool {
        self.questions.is_empty() || self.questions.iter().any(|question| question == id)
    }

    /// Looks for the program: the variable that names it, PATH, the cache of `--install`; with `install` it is got where it is
    /// missing. `own` is the pillion that runs.
    ///
    /// # Errors
    /// Why there is none, and what helps.
    pub(crate) fn find(&self, own: &Path, install: bool) -> Result<Found, String> {
        let program = match (&self.program, self.look()) {
            (None, _) => own.to_owned(),
            (Some(_), Some(program)) => program,
            (Some(name), None) if install => {
                self.install().map_err(|error| format!("{name} cannot be installed: {error}"))?;
                self.look().ok_or_else(|| format!("{name} was installed and is not found all the same"))?
            }
            (Some(name), None) => {
                return Err(format!("{name} is not installed here{}", self.cures()));
            }
        };
        let version = self.ask_version(&program);
        Ok(Found { peer: self.clone(), program, version })
    }

    /// What makes it be here.
    fn cures(&self) -> String {
        let install = self.install.as_ref().map(|_| "--install gets it".to_owned());
        let named = self.environment.as_ref().map(|name| format!("{name} may name it"));
        let cures: Vec<String> = install.into_iter().chain(named).collect();
        if cures.is_empty() { String::new() } else { format!("; {}", cures.join(", or ")) }
    }

    fn look(&self) -> Option<PathBuf> {
        let name = self.program.as_ref()?;
        let named = self.environment.as_ref().and_then(std::env::var_os).map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(MORE_FOLDERS.map(PathBuf::from));
        named
            .into_iter()
            .chain(folders.map(|folder| folder.join(name)))
            .chain(self.cached())
            .find(|program| is_program(program))
    }

    /// Where `--install` puts what comes from PyPI.
    fn cached(&self) -> Option<PathBuf> {
        let install = self.install.as_ref()?;
        Some(cache()?.join(install.pip.as_ref()?).join(install.program.as_ref()?))
    }

    fn install(&self) -> Result<(), String> {
        let how = self.install.as_ref().ok_or("its file does not say how")?;
        let told = |error: LabError| error.to_string();
        if !how.apt.is_empty() {
            let mut update = Command::new("apt-get");
            update.args(["update", "-qq"]);
            run(update).map_err(told)?;
            let mut command = Command::new("apt-get");
            command.env("DEBIAN_FRONTEND", "noninteractive");
            command.args(["install", "--yes", "--no-install-recommends", "-qq"]).args(&how.apt);
            run(command).map_err(told)?;
        }
        if let Some(package) = &how.pip {
            let folder = cache().ok_or("neither XDG_CACHE_HOME nor HOME is set")?.join(package);
            let mut command = Command::new("python3");
            command.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--target",
            ]);
            command.arg(folder).arg(package);
            run(command).map_err(told)?;
        }
        if let Some(program) = self.cached().filter(|program| program.exists()) {
            // PyPI's archives may have lost the mark of a program.
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn ask_version(&self, program: &Path) -> String {
        if self.version.is_empty() {
            return String::new();
        }
        // Some say it on stderr.
        let output = Command::new(program).args(&self.version).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        version_in(&String::from_utf8_lossy(&text))
    }
}

/// The first line that has a number with a dot, without paths.
fn version_in(text: &str) -> String {
    let has_number = |line: &&str| {
        line.as_bytes()
            .windows(3)
            .any(|three| matches!(three, [a, b'.', b] if a.is_ascii_digit() && b.is_ascii_digit()))
    };
    let line = text.lines().find(has_number).unwrap_or_default();
    let line: Vec<&str> = line.split_whitespace().filter(|word| !word.starts_with('/')).collect();
    line.join(" ").chars().take(120).collect()
}

fn stays_inside(name: &str) -> bool {
    use std::path::Component;
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn cache() -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(folder.join("pillion"))
}

/// What a peer's texts may ask for.
const NAMES: [&str; 8] = ["dir", "certificate", "key", "bundle", "combined", "workers", "server", "program"];

/// What `@NAME@` stands for in a peer's texts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Values(pub(crate) BTreeMap<&'static str, String>);

impl Values {
    /// `text` with all names replaced. A name that is not known is an error, since it is a slip of the pen.
    ///
    /// # Errors
    /// With the name, and those that there are.
    pub(crate) fn fill(&self, text: &str) -> Result<String, LabError> {
        let mut filled = text.to_owned();
        for (name, value) in &self.0 {
            filled = filled.replace(&format!("@{name}@"), value);
        }
        match unknown(&filled) {
            None => Ok(filled),
            Some(name) => {
                let known: Vec<String> = self.0.keys().map(|name| format!("@{name}@")).collect();
                Err(LabError::Failed(format!("expected one of {}; got @{name}@", known.join(", "))))
            }
        }
    }
}

/// A small word between two `@`.
fn unknown(text: &str) -> Option<&str> {
    let parts: Vec<&str> = text.split('@').collect();
    let inner = parts.get(1..parts.len().checked_sub(1)?)?;
    inner.iter().find(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase())).copied()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn all_that_come_along_can_be_read_and_filled() {
        assert_eq!(Peer::known().unwrap().len(), KNOWN.len());
    }

    #[test]
    fn the_example_of_the_documentation_is_a_peer() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/how-to/bench.md");
        let page = fs::read_to_string(page).unwrap();
        let example = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
        let peer = Peer::read("socat.yaml", example).unwrap();
        assert_eq!((peer.name.as_str(), peer.kind, peer.most), ("socat", Kind::Floor, Some(32)));
    }

    #[rstest]
    #[case::name("name: A b\ntitle: t\ninbound: {command: [x]}", "up to 20 small letters")]
    #[case::command("name: a\ntitle: t\ninbound: {command: []}", "expected a program")]
    #[case::outside(
        "name: a\ntitle: t\ninbound: {command: [x], files: {../x: y}}",
        "inside the proxy's folder"
    )]
    #[case::absolute(
        "name: a\ntitle: t\ninbound: {command: [x], files: {/x: y}}",
        "inside the proxy's folder"
    )]
    #[case::value("name: a\ntitle: t\ninbound: {command: [x, '@certificat@']}", "expected one of @bundle@")]
    #[case::value_in_a_file(
        "name: a\ntitle: t\ninbound: {command: [x], files: {x: 'cert @certificat@'}}",
        "got @certificat@"
    )]
    #[case::question(
        "name: a\ntitle: t\nquestions: [idle, handshake]\ninbound: {command: [x]}",
        "got \"handshake\""
    )]
    #[case::key("name: a\ntitle: t\ninbond: {command: [x]}", "peer.yaml:3:1")]
    fn a_peer_that_cannot_be_is_refused_with_the_reason(#[case] text: &str, #[case] reason: &str) {
        let error = Peer::read("peer.yaml", text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn a_name_that_is_not_known_is_refused() {
        let values = Values([("dir", "/tmp/x".to_owned())].into());
        assert_eq!(values.fill("a@dir@/b user@host").unwrap(), "a/tmp/x/b user@host");
        assert!(values.fill("a@certificat@").unwrap_err().to_string().contains("expected one of @dir@"));
    }

    #[rstest]
    #[case::nothing("", "")]
    #[case::a_variable("environment: NO_SUCH", "; NO_SUCH may name it")]
    #[case::installing("install: {apt: [x]}", "; --install gets it")]
    #[case::both("environment: NO_SUCH\ninstall: {apt: [x]}", "; --install gets it, or NO_SUCH may name it")]
    fn a_peer_that_is_not_installed_says_what_helps(#[case] more: &str, #[case] cures: &str) {
        let text = format!("name: a\ntitle: t\nprogram: no-such-program\ninbound: {{command: [x]}}\n{more}");
        let error = Peer::read("peer.yaml", &text).unwrap().find(Path::new("/pillion"), false).unwrap_err();
        assert_eq!(error, format!("no-such-program is not installed here{cures}"));
    }

    #[rstest]
    #[case(
        "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/\nStatus",
        "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/"
    )]
    #[case("\n/opt/envoy  version: abc/1.40.0/Clean\n", "version: abc/1.40.0/Clean")]
    #[case("nothing", "")]
    fn the_version_is_one_line_without_paths(#[case] text: &str, #[case] version: &str) {
        assert_eq!(version_in(text), version);
    }
}
