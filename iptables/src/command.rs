//! Runs the programs that change the kernel's rules, with a deadline, and says what to do where they fail.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use thiserror::Error;

/// How long a program may take; iptables itself waits for its lock for [`LOCK_WAIT`].
const DEADLINE: Duration = Duration::from_secs(30);
/// How often to look whether a program has ended.
const POLL: Duration = Duration::from_millis(2);
/// More output than this is an error: a host with a hundred thousand rules prints about a tenth of it.
const OUTPUT_LIMIT: u64 = 128 << 20;
/// How long iptables waits for another program that is changing rules.
pub(crate) const LOCK_WAIT: &str = "--wait=10";
/// A person's PATH often lacks these.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin"];
/// The bit of CAP_NET_ADMIN in a set of capabilities.
const NET_ADMIN: u64 = 1 << 12;

#[derive(Debug, Error)]
pub(crate) enum CommandError {
    #[error("`{command}` cannot be run: {error}")]
    Start { command: String, error: io::Error },
    #[error("`{command}` did not end within {} seconds and was stopped", DEADLINE.as_secs())]
    Deadline { command: String },
    #[error("`{command}` printed more than {} MiB", OUTPUT_LIMIT >> 20)]
    Output { command: String },
    #[error("{0}")]
    Failed(Failure),
}

/// What a program said when it failed.
#[derive(Debug)]
pub(crate) struct Failure {
    command: String,
    status: ExitStatus,
    stderr: String,
    /// The line of the input that it complains about.
    line: Option<(usize, String)>,
    cure: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed ({}): {}", self.command, self.status, self.stderr)?;
        if let Some((number, text)) = &self.line {
            write!(f, "\n  line {number} of what it was given: {text}")?;
        }
        if let Some(cure) = &self.cure {
            write!(f, "\n  cure: {cure}")?;
        }
        Ok(())
    }
}

/// The path of a program, as a shell would find it.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// Where it cannot be started, takes too long, prints too much or fails.
pub(crate) fn run(program: &Path, arguments: &[&str], input: &str) -> Result<String, CommandError> {
    let command = in_words(program, arguments);
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| CommandError::Start { command: command.clone(), error })?;
    let writer = write_all(child.stdin.take(), input);
    let stdout = read_all(child.stdout.take());
    let stderr = read_all(child.stderr.take());
    let Some(status) =
        wait(&mut child).map_err(|error| CommandError::Start { command: command.clone(), error })?
    else {
        return Err(CommandError::Deadline { command });
    };
    // The program is gone, and with it the other ends of the pipes.
    drop(writer.join());
    let (Some(stdout), Some(stderr)) = (collect(stdout), collect(stderr)) else {
        return Err(CommandError::Output { command });
    };
    if status.success() {
        return Ok(stdout);
    }
    let line = complained_line(&stderr, input);
    let cure = cure(&stderr, line.as_ref().map_or("", |(_, text)| text), input, &Rights::of_this_process());
    let stderr = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(CommandError::Failed(Failure { command, status, stderr, line, cure }))
}

/// How a person would type the command.
pub(crate) fn in_words(program: &Path, arguments: &[&str]) -> String {
    let mut words = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in arguments {
        words.push(' ');
        words.push_str(argument);
    }
    words
}

/// Waits for the end; after the deadline the program is killed, and there is no status.
fn wait(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

fn write_all(pipe: Option<impl Write + Send + 'static>, input: &str) -> JoinHandle<()> {
    let input = input.to_owned();
    thread::spawn(move || {
        if let Some(mut pipe) = pipe {
            // A program that fails early does not read to the end; its own message says why.
            let _ = pipe.write_all(input.as_bytes());
        }
    })
}

fn read_all(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<io::Result<Vec<u8>>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            pipe.take(OUTPUT_LIMIT).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    })
}

fn collect(reader: JoinHandle<io::Result<Vec<u8>>>) -> Option<String> {
    let bytes = reader.join().ok()?.ok()?;
    let complete = u64::try_from(bytes.len()).is_ok_and(|length| length < OUTPUT_LIMIT);
    complete.then(|| String::from_utf8_lossy(&bytes).into_owned())
}

/// iptables names a line as `line: 3`, `line 3:` or `line 3 failed`.
fn complained_line(stderr: &str, input: &str) -> Option<(usize, String)> {
    let (_, after) = stderr.split_once("line")?;
    let digits: String =
        after.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
    let number: usize = digits.parse().ok()?;
    let text = input.lines().nth(number.checked_sub(1)?)?;
    Some((number, text.to_owned()))
}

/// What this process may do, as far as it explains failures.
struct Rights {
    net_admin: bool,
    /// `uid_map` and `gid_map` of its user namespace.
    uid_map: String,
    gid_map: String,
}

impl Rights {
    fn of_this_process() -> Self {
        let read =
            |file: &str| std::fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
        let effective = read("status")
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        Self {
            net_admin: effective.is_none_or(|set| set & NET_ADMIN != 0),
            uid_map: read("uid_map"),
            gid_map: read("gid_map"),
        }
    }
}

fn cure(stderr: &str, line: &str, input: &str, rights: &Rights) -> Option<String> {
    let says = |texts: &[&str]| texts.iter().any(|text| stderr.contains(text));
    if !rights.net_admin {
        return Some(
            "it needs CAP_NET_ADMIN: run it as root; in Docker, with `--cap-add NET_ADMIN`".to_owned(),
        );
    }
    if says(&["lock"]) {
        return Some(
            "another program is changing rules: try again; where /run cannot be written, name another file in \
             XTABLES_LOCKFILE"
                .to_owned(),
        );
    }
    if let Some(owner) = unmapped_owner(input, rights) {
        return Some(format!(
            "{owner} does not exist in this user namespace, so no rule can name it: mark the proxy's sockets, and give \
             -u '' -g '' --proxy-mark MARK"
        ));
    }
    if says(&["BusyBox", "is garbage"]) {
        return Some("this `ip` is too small: install iproute2".to_owned());
    }
    if says(&["incompatible"]) {
        return Some(
            "the table was made by nft itself, which iptables cannot change: try `--backend legacy`"
                .to_owned(),
        );
    }
    if says(&[
        "Couldn't load",
        "No such file",
        "by that name",
        "does not exist",
        "missing kernel module",
        "not supported",
    ]) {
        let module = module(line).map_or("a module".to_owned(), |module| format!("the module {module}"));
        return Some(format!(
            "the kernel lacks {module}: load it on the host with modprobe, or try the other back end with --backend"
        ));
    }
    None
}

/// The first uid or gid that a rule names and that this user namespace does not know.
fn unmapped_owner(input: &str, rights: &Rights) -> Option<String> {
    let named = |option: &str| -> Vec<u64> {
        input.split(option).skip(1).filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
    };
    let unmapped = |ids: Vec<u64>, map: &str| ids.into_iter().find(|id| !is_mapped(*id, map));
    unmapped(named("--uid-owner "), &rights.uid_map)
        .map(|uid| format!("uid {uid}"))
        .or_else(|| unmapped(named("--gid-owner "), &rights.gid_map).map(|gid| format!("gid {gid}")))
}

/// A line of the map is: first id inside, first id outside, count.
fn is_mapped(id: u64, map: &str) -> bool {
    map.is_empty()
        || map.lines().any(|line| {
            let mut numbers = line.split_whitespace().map(|number| number.parse::<u64>().unwrap_or(0));
            let (first, count) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
            (first..first.saturating_add(count)).contains(&id)
        })
}

fn module(line: &str) -> Option<&'static str> {
    const MODULES: [(&str, &str); 8] = [
        ("--uid-owner", "xt_owner"),
        ("--gid-owner", "xt_owner"),
        ("--ctstate", "xt_conntrack"),
        ("connmark", "xt_connmark"),
        ("CONNMARK", "xt_connmark"),
        ("REDIRECT", "xt_REDIRECT"),
        ("TPROXY", "xt_TPROXY"),
        ("mark", "xt_mark"),
    ];
    MODULES.iter().find(|(sign, _)| line.contains(sign)).map(|(_, module)| *module)
}

#[cfg(test)]
mod tests;
