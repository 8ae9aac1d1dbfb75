//! Three ways to have a lab: as root, as root of a user namespace of one's own, or on loopback without capture.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::process::run;
use super::{LabError, PROXY_MARK, PROXY_USER};

/// Where `ip netns` keeps its namespaces.
pub(crate) const NETNS: &str = "/run/netns";

/// The hidden flag by which the tool knows that it runs inside the user namespace that it made.
pub const USER_NAMESPACE_FLAG: &str = "--inside-user-namespace";

/// How the nodes of a lab are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Network namespaces made by root; proxies run as uid 1337, which the rules exempt.
    Root,
    /// Network namespaces made in a user namespace, which holds no uid 1337: the rules exempt the proxies' sockets by
    /// their mark.
    UserNamespace,
    /// No namespaces and no capture: all nodes are this machine, sidecars have explicit listeners.
    Loopback,
}

impl Way {
    /// The way that this process can go without further preparation, tried out with a throw-away namespace and rule.
    ///
    /// # Errors
    /// [`LabError::Impossible`] with the reason, when namespaces or rules cannot be made.
    pub fn here() -> Result<Self, LabError> {
        // Once for each process: tests that run side by side ask at the same moment.
        static HERE: OnceLock<Result<Way, String>> = OnceLock::new();
        HERE.get_or_init(Self::find_out).clone().map_err(LabError::Impossible)
    }

    fn find_out() -> Result<Self, String> {
        if !geteuid().is_root() {
            return Err("this is not root".to_owned());
        }
        let map = fs::read_to_string("/proc/self/uid_map").map_err(|error| format!("uid_map: {error}"))?;
        try_out().map_err(|error| error.to_string())?;
        Ok(if maps_user(&map, PROXY_USER) { Way::Root } else { Way::UserNamespace })
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Root => "network namespaces, as root",
            Way::UserNamespace => "network namespaces in a user namespace, without root",
            Way::Loopback => "loopback with explicit listeners",
        })
    }
}

/// Whether a `uid_map` (user_namespaces(7): inside, outside, length) holds `uid` inside.
fn maps_user(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(inside)), Some(_), Some(Ok(length))) => {
                (inside..inside.saturating_add(length)).contains(&u64::from(uid))
            }
            _ => false,
        }
    })
}

/// A namespace with one rule of the kind that `pillion-iptables` installs.
fn try_out() -> Result<(), LabError> {
    let name = format!("pillion-{}-try", std::process::id());
    make_namespace(&name)?;
    let mut rule = in_namespace(&name, "iptables");
    rule.args(["-w", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-m", "mark", "!", "--mark"]);
    rule.arg(PROXY_MARK.to_string()).args(["-j", "REDIRECT", "--to-ports", "15001"]);
    let tried = run(rule);
    remove_namespace(&name);
    tried.map(drop)
}

/// Whether [`enter_user_namespace`] would lead to [`Way::UserNamespace`]; `check` are the arguments by which
/// `executable` tries [`Way::here`] and exits accordingly.
///
/// # Errors
/// [`LabError::Impossible`] with what the attempt printed.
pub fn check_user_namespace(executable: &Path, check: &[&str]) -> Result<(), LabError> {
    match run(user_namespace(executable, check)) {
        Ok(_) => Ok(()),
        Err(LabError::Command { output, status, .. }) if output.is_empty() => {
            Err(LabError::Impossible(format!("unshare ended with {status}")))
        }
        Err(LabError::Command { output, .. }) => Err(LabError::Impossible(output)),
        Err(error) => Err(LabError::Impossible(error.to_string())),
    }
}

/// The file that this process runs.
pub(crate) fn own_executable() -> Result<PathBuf, LabError> {
    std::env::current_exe().map_err(LabError::io("find the own executable"))
}

/// Replaces this process by `executable` with `args` as root of a new user namespace. Returns only on failure.
#[must_use]
pub fn enter_user_namespace(executable: &Path, args: &[impl AsRef<OsStr>]) -> io::Error {
    user_namespace(executable, args).exec()
}

/// `/run` becomes private, for `ip netns` and the lock of iptables. The network stays the host's, so that the page of
/// the demo can be reached; only the lab's own namespaces belong to the user namespace.
fn user_namespace(executable: &Path, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    command.arg(r#"mount -t tmpfs -o mode=755 tmpfs /run && exec "$@""#).arg("sh");
    command.arg(executable).args(args);
    command
}

/// Makes a network namespace that `ip netns` knows. By `unshare`, since `ip netns add` goes back to the namespace it came
/// from, which is forbidden inside a user namespace.
pub(crate) fn make_namespace(name: &str) -> Result<(), LabError> {
    let file = netns_file(name);
    fs::create_dir_all(NETNS)
        .and_then(|()| fs::File::create_new(&file).map(drop))
        .map_err(LabError::io(format!("make {}", file.display())))?;
    let mut command = Command::new("unshare");
    command.arg(format!("--net={}", file.display())).arg("true");
    run(command).map(drop).inspect_err(|_| remove_namespace(name))
}

/// The file that stands for a namespace.
pub(crate) fn netns_file(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// `program` inside a namespace.
pub(crate) fn in_namespace(name: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", name, program]);
    command
}

/// Ends every process that still runs in a namespace, then removes it. Failures leave it to the next [`sweep`].
fn remove_namespace(name: &str) {
    let mut pids = Command::new("ip");
    pids.args(["netns", "pids", name]);
    for pid in run(pids).unwrap_or_default().lines().filter_map(|pid| pid.trim().parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let mut delete = Command::new("ip");
    delete.args(["netns", "del", name]);
    if run(delete).is_err() {
        // It was never mounted: only the file is there.
        let _ = fs::remove_file(netns_file(name));
    }
}

/// Removes all namespaces whose name begins with `prefix`.
pub(crate) fn remove_namespaces(prefix: &str) {
    for name in names_in(Path::new(NETNS)).filter(|name| name.starts_with(prefix)) {
        remove_namespace(&name);
    }
}

/// Removes what labs of dead processes left behind: processes, namespaces and folders.
pub(crate) fn sweep() {
    end_abandoned_processes();
    for name in names_in(Path::new(NETNS)).filter(|name| is_abandoned(name)) {
        remove_namespace(&name);
    }
    let temporary = std::env::temp_dir();
    for name in names_in(&temporary).filter(|name| is_abandoned(name)) {
        let folder = temporary.join(name);
        if fs::symlink_metadata(&folder).is_ok_and(|meta| meta.is_dir() && meta.uid() == geteuid().as_raw()) {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Ends the processes of dead labs, known by their executable: each lab runs a copy in its own folder. Those of another
/// PID namespace are left alone, for their lab's process cannot be seen from here.
fn end_abandoned_processes() {
    let temporary = std::env::temp_dir();
    let pid_namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
    let ours = pid_namespace(Path::new("/proc/self"));
    for name in names_in(Path::new("/proc")) {
        let Some(pid) = name.parse().ok().and_then(Pid::from_raw) else { continue };
        let process = Path::new("/proc").join(name);
        let abandoned = fs::read_link(process.join("exe"))
            .is_ok_and(|executable| lab_of(&executable, &temporary).is_some_and(is_abandoned));
        if abandoned && ours.is_some() && pid_namespace(&process) == ours {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The name of the lab whose folder holds `executable`.
fn lab_of<'a>(executable: &'a Path, temporary: &Path) -> Option<&'a str> {
    executable.strip_prefix(temporary).ok()?.components().next()?.as_os_str().to_str()
}

/// Whether a name is of a lab whose process is gone.
fn is_abandoned(name: &str) -> bool {
    owner(name).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

/// The process id in `pillion-<process>-…`.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix("pillion-")?.split_once('-')?.0.parse().ok()
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::host("         0          0 4294967295\n", true)]
    #[case::rootless_docker("0 1000 1\n1 100000 65536\n", true)]
    #[case::one_user("         0      65534          1\n", false)]
    #[case::below("0 0 1337\n", false)]
    #[case::damaged("0 x\n\n", false)]
    fn a_uid_map_tells_whether_the_proxy_user_exists(#[case] map: &str, #[case] expected: bool) {
        assert_eq!(maps_user(map, PROXY_USER), expected);
    }

    #[rstest]
    #[case("pillion-4711-0-backend", Some(4711))]
    #[case("pillion-4711-try", Some(4711))]
    #[case("pillion-ca-0", None)]
    #[case("pillion-4711", None)]
    #[case("compose-4711-0", None)]
    fn a_name_tells_whose_it_is(#[case] name: &str, #[case] process: Option<u32>) {
        assert_eq!(owner(name), process);
    }

    #[rstest]
    #[case("/tmp/pillion-4711-0-Ab1/pillion", Some("pillion-4711-0-Ab1"))]
    #[case("/tmp/pillion-4711-0-Ab1/pillion (deleted)", Some("pillion-4711-0-Ab1"))]
    #[case("/usr/bin/pillion-4711-0-x/pillion", None)]
    fn an_executable_tells_whose_it_is(#[case] executable: &str, #[case] lab: Option<&str>) {
        assert_eq!(lab_of(Path::new(executable), Path::new("/tmp")), lab);
    }

    #[test]
    fn what_a_living_process_owns_is_not_abandoned() {
        assert!(!is_abandoned(&format!("pillion-{}-0-x", std::process::id())));
        // Above the kernel's largest process id (PID_MAX_LIMIT, 2^22).
        assert!(is_abandoned("pillion-99999999-0-x"));
    }
}
