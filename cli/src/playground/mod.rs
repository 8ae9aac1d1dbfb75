//! `pillion lab`: a mesh of real processes that a file describes, for as long as a command runs in it.
//!
//! The command finds `on`, `start` and `stop` in its PATH; they are small shell scripts, for a learner to read. How hosts
//! and sidecars are made is [`crate::lab`]'s.

mod file;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{
    self, Ca, Lab, LabError, Node, Process, RunningSidecar, USER_NAMESPACE_FLAG, Way, run as run_to_its_end,
    wait_until,
};
use file::LabFile;

/// Of a program that runs another one: it failed itself.
const NOT_BEGUN: u8 = 125;
/// The command cannot be started, as in a shell.
const NOT_EXECUTABLE: u8 = 126;
/// The command is not found, as in a shell.
const NOT_FOUND: u8 = 127;
/// As a shell reports a process that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// Added to the number of the signal that ended the command, as in a shell.
const SIGNALLED: i32 = 128;

/// How long an app may take to listen.
const APP_START: Duration = Duration::from_secs(10);
/// How long the command may take to end after the SIGTERM that an interruption is to it.
const GRACE: Duration = Duration::from_secs(2);
/// Longer than any command runs.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// What the apps of ours say once they accept.
const LISTENING: &str = "listening on";

/// The command's arguments.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// What the lab consists of
    #[arg(value_name = "LAB.yaml")]
    file: PathBuf,
    /// Read the file, say what is wrong with it, and build nothing
    #[arg(long)]
    check: bool,
    /// What runs in it, with on, start and stop in its PATH [default: a shell]
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// This process is root of its own user namespace
    #[arg(long, hide = true)]
    inside_user_namespace: bool,
}

/// Exit codes: the command's; 125 where there is no mesh to run it in, 2 where the file is no good.
pub(crate) fn run(options: &Options) -> ExitCode {
    let file = match LabFile::read(&options.file) {
        Ok(file) => file,
        Err(fault) => {
            eprintln!("pillion lab: {fault}");
            return ExitCode::from(2);
        }
    };
    if options.check {
        return ExitCode::SUCCESS;
    }
    let ended = lab::own_executable().and_then(|executable| {
        lab::watch_signals()?;
        let way = choose_way(options, &executable)?;
        let playground = Playground::build(&file, way, &executable)?;
        playground.run(&options.command)
    });
    match ended {
        Ok(code) => code,
        Err(LabError::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("pillion lab: {error}");
            ExitCode::from(NOT_BEGUN)
        }
    }
}

/// As root, or as root of a user namespace. Does not return when that is yet to be made.
fn choose_way(options: &Options, executable: &Path) -> Result<Way, LabError> {
    let here = Way::here();
    if here.is_ok() || options.inside_user_namespace {
        return here;
    }
    lab::check_user_namespace(executable, &["check-lab"])?;
    let [command, rest @ ..] = &std::env::args_os().skip(1).collect::<Vec<_>>()[..] else { return here };
    // Before what the flag stands before is the command of the lab.
    let args: Vec<OsString> =
        [command.clone(), USER_NAMESPACE_FLAG.into()].into_iter().chain(rest.iter().cloned()).collect();
    Err(LabError::io("enter a user namespace")(lab::enter_user_namespace(executable, &args)))
}

/// Everything that runs. The order of the fields is the order in which they are taken down.
struct Playground {
    _apps: Vec<Process>,
    _ca: Option<Ca>,
    lab: Lab,
}

impl Playground {
    fn build(file: &LabFile, way: Way, executable: &Path) -> Result<Self, LabError> {
        let lab = Lab::new(way, executable)?;
        let scripts = Scripts::new(&lab)?;
        copy_mesh(file.mesh.as_deref(), &lab)?;
        let nodes = file.hosts.iter().map(|host| lab.node(&host.name)).collect::<Result<Vec<_>, _>>()?;
        let accounts = file.accounts();
        let settings = with_line_end(&file.ca.settings);
        let ca = if accounts.is_empty() { None } else { Some(lab.ca(&accounts, &settings)?) };
        if let Some(ca) = &ca {
            scripts.of_ca(ca)?;
        }
        let mut apps = Vec::new();
        for (host, node) in file.hosts.iter().zip(&nodes) {
            for (n, app) in host.apps.iter().enumerate() {
                apps.push(start_app(node, n, app)?);
            }
        }
        let mut first = Vec::new();
        for (host, node) in file.hosts.iter().zip(&nodes) {
            let (Some(sidecar), Some(ca)) = (host.sidecar(), &ca) else { continue };
            scripts.of_sidecar(&sidecar.prepare(node, ca)?)?;
            if host.sidecar.as_ref().is_some_and(|section| section.start) {
                first.push(host.name.as_str());
            }
        }
        scripts.start(&first)?;
        announce(file, &nodes, ca.as_ref(), &first);
        Ok(Self { _apps: apps, _ca: ca, lab })
    }

    /// Runs the command to its end, or a shell.
    fn run(&self, command: &[OsString]) -> Result<ExitCode, LabError> {
        let shell = [std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into())];
        if command.is_empty() {
            eprintln!(
                "lab: a shell in it; `on HOST COMMAND` runs a command on a host, `exit` takes everything down"
            );
        }
        let words = if command.is_empty() { &shell[..] } else { command };
        let [program, args @ ..] = words else { return Ok(ExitCode::SUCCESS) };
        let child = Command::new(program)
            .args(args)
            .env("LAB", self.lab.folder())
            .env("MESH", self.lab.mesh().folder())
            .env("LOGS", self.lab.folder().join("logs"))
            .env("PATH", with_path(self.lab.folder()))
            .spawn();
        match child {
            Ok(child) => wait_for(child, GRACE),
            Err(error) => {
                eprintln!("pillion lab: {}: {error}", program.display());
                let missing = error.kind() == ErrorKind::NotFound;
                Ok(ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE }))
            }
        }
    }
}

/// The PATH of this process, with a folder before everything that is there.
pub(crate) fn with_path(folder: &Path) -> OsString {
    let mut path = folder.as_os_str().to_owned();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}

/// Its status; an interruption of ours is SIGTERM to it, and SIGKILL after `grace`.
pub(crate) fn wait_for(mut child: Child, grace: Duration) -> Result<ExitCode, LabError> {
    let ended = {
        let mut ask = || child.try_wait().map_err(LabError::io("wait for the command"));
        wait_until(FOR_EVER, "the end of the command", &mut ask)
    };
    match ended {
        Ok(status) => Ok(code_of(status)),
        Err(error) => {
            end(&mut child, grace);
            Err(error)
        }
    }
}

/// SIGTERM, and SIGKILL where that is not enough.
fn end(child: &mut Child, grace: Duration) {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        // Fails where it has just ended.
        let _ = kill_process(pid, Signal::TERM);
    }
    let told = Instant::now();
    while told.elapsed() < grace {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn code_of(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| SIGNALLED + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_BEGUN))
}

/// The first resources of the mesh.
fn copy_mesh(folder: Option<&Path>, lab: &Lab) -> Result<(), LabError> {
    let Some(folder) = folder else { return Ok(()) };
    let read = LabError::io(format!("read {}", folder.display()));
    let names = fs::read_dir(folder).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<BTreeSet<_>, _>>()
    });
    for name in names.map_err(read)? {
        let path = folder.join(&name);
        let text = fs::read_to_string(&path).map_err(LabError::io(format!("read {}", path.display())))?;
        lab.mesh().write(&name.to_string_lossy(), &text)?;
    }
    Ok(())
}

fn with_line_end(settings: &str) -> String {
    if settings.is_empty() || settings.ends_with('\n') {
        settings.to_owned()
    } else {
        format!("{settings}\n")
    }
}

/// An app of ours is waited for; when others listen, nobody knows.
fn start_app(node: &Node, number: usize, command: &str) -> Result<Process, LabError> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let [program, args @ ..] = &words[..] else {
        return Err(LabError::Impossible(format!("an app of {} has no command", node.name())));
    };
    let name = if number == 0 { "app".to_owned() } else { format!("app{}", number + 1) };
    if *program != "pillion" {
        return node.start(&name, program, args);
    }
    let app = node.start_pillion(&name, args)?;
    if args.first() == Some(&"example") {
        app.wait_for_line(APP_START, LISTENING)?;
    }
    Ok(app)
}

/// Who is where, on stderr, so that the command's own output stays alone.
fn announce(file: &LabFile, nodes: &[Node], ca: Option<&Ca>, first: &[&str]) {
    let host = |(host, node): (&file::Host, &Node)| {
        let sidecar = match (&host.sidecar, first.contains(&host.name.as_str())) {
            (None, _) => "",
            (Some(_), true) => " with a sidecar",
            (Some(_), false) => " whose sidecar is not started",
        };
        format!("{} {}{sidecar}", host.name, node.v4())
    };
    let mut hosts: Vec<String> = file.hosts.iter().zip(nodes).map(host).collect();
    hosts.extend(ca.map(|ca| format!("ca {}", ca.node().v4())));
    eprintln!("lab: {}", hosts.join(", "));
}

/// The commands `start` and `stop`, and for each thing that they start a script of its own.
struct Scripts {
    folder: PathBuf,
}

impl Scripts {
    fn new(lab: &Lab) -> Result<Self, LabError> {
        let folder = lab.folder().to_owned();
        for name in ["start.d", "pids", "work"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(LabError::io(format!("make {}", path.display())))?;
        }
        lab::write_script(&folder.join("start"), START)?;
        lab::write_script(&folder.join("stop"), STOP)?;
        Ok(Self { folder })
    }

    /// How the CA is started again, and what it is now.
    fn of_ca(&self, ca: &Ca) -> Result<(), LabError> {
        let config = ca.config().display().to_string();
        let command = line(&[ca.as_proxy(), own(&["pillion", "ca", "serve", "--config", &config])].concat());
        let script = format!(
            "on ca {command} >>\"$LOGS/ca-ca.log\" 2>&1 </dev/null &\n\
             echo $! >\"$LAB/pids/ca\"\n\
             for try in $(seq 100); do\n  \
               if on ca pillion probe {url} >/dev/null 2>&1; then exit 0; fi\n  sleep 0.1\n\
             done\n\
             echo 'the CA is not ready:' >&2; tail -n 20 \"$LOGS/ca-ca.log\" >&2; exit 1\n",
            url = ca.ready_url()
        );
        self.write("ca", &script)?;
        let pid = ca.process().map(|process| process.id().to_string()).unwrap_or_default();
        let path = self.folder.join("pids/ca");
        fs::write(&path, pid).map_err(LabError::io(format!("write {}", path.display())))
    }

    fn of_sidecar(&self, sidecar: &RunningSidecar) -> Result<(), LabError> {
        let host = sidecar.node().name();
        let mut script = String::new();
        if let Some(rules) = sidecar.rule_args() {
            script += &format!(
                "on {host} {} >>\"$LOGS/{host}-rules.log\" 2>&1 || {{ tail -n 20 \"$LOGS/{host}-rules.log\" >&2; exit 1; }}\n",
                line(&[own(&["pillion"]), rules].concat())
            );
        }
        let command = line(&[sidecar.as_proxy(), own(&["pillion"]), sidecar.proxy_args()].concat());
        let admin = sidecar.admin_address();
        script += &format!(
            "on {host} {command} >>\"$LOGS/{host}-proxy.log\" 2>&1 </dev/null &\n\
             echo $! >\"$LAB/pids/{host}\"\n\
             if [ -n \"${{UNREADY:-}}\" ]; then exit 0; fi\n\
             on {host} pillion wait --timeout 20s --admin http://{admin} >/dev/null 2>\"$LAB/work/.{host}-wait\" || {{\n  \
               cat \"$LAB/work/.{host}-wait\" >&2; tail -n 20 \"$LOGS/{host}-proxy.log\" >&2; exit 1\n\
             }}\n"
        );
        self.write(host, &script)
    }

    fn write(&self, name: &str, script: &str) -> Result<(), LabError> {
        let text = format!("#!/bin/sh\n# What `start {name}` does.\nset -eu\n{script}");
        lab::write_script(&self.folder.join("start.d").join(name), &text)
    }

    /// Starts the sidecars of these hosts, side by side.
    fn start(&self, hosts: &[&str]) -> Result<(), LabError> {
        if hosts.is_empty() {
            return Ok(());
        }
        lab::check_interrupt()?;
        let mut command = Command::new(self.folder.join("start"));
        command.args(hosts).env("PATH", with_path(&self.folder)).stdin(Stdio::null());
        run_to_its_end(command).map(drop)
    }
}

fn own(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Words as a shell reads them back.
fn line(words: &[String]) -> String {
    let quoted = |word: &String| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,+@".contains(&byte);
        if !word.is_empty() && word.bytes().all(plain) {
            return word.clone();
        }
        format!("'{}'", word.replace('\'', r"'\''"))
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

/// `start NAME…`.
const START: &str = r#"#!/bin/sh
# Starts the sidecars of hosts, or the CA, and waits until they are ready: start HOST|ca…
# UNREADY=1 start HOST does not wait. What is done for each stands in start.d.
[ $# -ge 1 ] || { echo 'expected HOST… or ca, got nothing' >&2; exit 2; }
LAB=$(cd "$(dirname "$0")" && pwd)
LOGS=$LAB/logs
export LAB LOGS
for name; do
  [ -f "$LAB/start.d/$name" ] || { echo "$name has no sidecar in this lab; there are: $(ls "$LAB/start.d" | tr '\n' ' ')" >&2; exit 2; }
done
waiting=
for name; do "$LAB/start.d/$name" & waiting="$waiting $!"; done
code=0
for pid in $waiting; do wait "$pid" || code=1; done
exit $code
"#;

/// `stop [-SIGNAL] NAME…`.
const STOP: &str = r#"#!/bin/sh
# Ends the sidecars of hosts, or the CA, and waits until they are gone: stop [-KILL] HOST|ca…
# The interception rules of a host stay: what they capture is then refused by the kernel.
signal=-TERM
case ${1:-} in -*) signal=$1; shift;; esac
[ $# -ge 1 ] || { echo 'expected HOST… or ca, got nothing' >&2; exit 2; }
LAB=$(cd "$(dirname "$0")" && pwd)
for name; do
  pid=$(cat "$LAB/pids/$name" 2>/dev/null) || { echo "nothing is started for $name" >&2; exit 2; }
  kill "$signal" "$pid" 2>/dev/null
  tries=0
  # A process that has ended and whose parent has not looked yet is gone too.
  while grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$pid/status" 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -lt 150 ] || { echo "$name does not end" >&2; exit 1; }
    sleep 0.1
  done
  rm -f "$LAB/pids/$name"
done
"#;

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(&["pillion", "proxy", "--config", "/tmp/a-1/b.yaml"], "pillion proxy --config /tmp/a-1/b.yaml")]
    #[case(&["-u", ""], "-u ''")]
    #[case(&["it's $HOME"], r"'it'\''s $HOME'")]
    fn a_shell_reads_back_the_same_words(#[case] words: &[&str], #[case] expected: &str) {
        let line = line(&own(words));
        assert_eq!(line, expected);
        let script = format!("for word in {line}; do printf '%s\\n' \"$word\"; done");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let read: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
        assert_eq!(read, words);
    }
}
