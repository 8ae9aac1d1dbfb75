//! A process of the lab: its output goes to a file, its end is noticed, and it does not outlive its handle.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::LabError;
use super::wait::wait_until;

/// How many lines of a log an error shows.
const TAIL: usize = 30;

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    id: u32,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own, so that a Ctrl-C in the terminal reaches the lab alone, which
    /// then takes things down in order. stdout and stderr are appended to `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: PathBuf) -> Result<Self, LabError> {
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let output: File = open().map_err(LabError::io(format!("open {}", log.display())))?;
        let errors = output.try_clone().map_err(LabError::io(format!("open {}", log.display())))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(LabError::io(format!("start {}", show(&command))))?;
        Ok(Self { name: name.to_owned(), id: child.id(), child: Mutex::new(child), log })
    }

    /// What the lab calls it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id; it stays the same when `ip netns exec` and others make way for the program itself.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The file that holds stdout and stderr, of earlier runs by the same name too.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// All output so far.
    #[must_use]
    pub fn output(&self) -> String {
        read(&self.log)
    }

    /// Waits for a line that contains `text` and returns it.
    ///
    /// # Errors
    /// When it does not come in time or the process ends before.
    pub fn wait_for_line(&self, timeout: Duration, text: &str) -> Result<String, LabError> {
        let what = format!("{text:?} in the output of {}", self.name);
        self.wait_for(timeout, &what, |process| {
            process.output().lines().find(|line| line.contains(text)).map(ToOwned::to_owned)
        })
    }

    /// Waits until `condition` answers.
    ///
    /// # Errors
    /// When it does not in time, or the process ends before; the error shows the end of the log.
    pub fn wait_for<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut condition: impl FnMut(&Process) -> Option<T>,
    ) -> Result<T, LabError> {
        let waited = wait_until(timeout, what, || match condition(self) {
            Some(value) => Ok(Some(value)),
            None => self.check_running().map(|()| None),
        });
        waited.map_err(|error| error.having_seen(|| self.tail()))
    }

    /// Fails when the process has ended.
    ///
    /// # Errors
    /// [`LabError::Ended`] with the end of its log.
    pub fn check_running(&self) -> Result<(), LabError> {
        match self.child().try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(LabError::Ended { name: self.name.clone(), status, output: self.tail() }),
            Err(source) => Err(LabError::Io { what: format!("wait for {}", self.name), source }),
        }
    }

    /// Sends SIGTERM, as a supervisor does.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn terminate(&self) -> Result<(), LabError> {
        self.signal(Signal::TERM)
    }

    /// Sends any signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        Pid::from_raw(self.id.cast_signed())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| kill_process(pid, signal))
            .map_err(|errno| LabError::Io { what: format!("signal {}", self.name), source: errno.into() })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus, LabError> {
        let what = format!("the end of {}", self.name);
        let waited = wait_until(timeout, &what, || {
            self.child().try_wait().map_err(LabError::io(format!("wait for {}", self.name)))
        });
        waited.map_err(|error| error.having_seen(|| self.tail()))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(&self) {
        let mut child = self.child();
        // Both fail only when it is gone already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// SIGTERM, and SIGKILL where that does not end it within `grace`.
    pub fn stop(&self, grace: Duration) {
        if self.terminate().is_err() || self.wait(grace).is_err() {
            self.kill();
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tail(&self) -> String {
        tail(&self.output())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a command to its end and returns what it printed on stdout. A Ctrl-C in the terminal does not reach it.
///
/// # Errors
/// When it cannot be started or ends with another status than 0.
pub fn run(mut command: Command) -> Result<String, LabError> {
    let output =
        command.stdin(Stdio::null()).output().map_err(LabError::io(format!("start {}", show(&command))))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(LabError::Command {
        command: show(&command),
        status: output.status,
        output: tail(&format!("{}{}", text(&output.stdout), text(&output.stderr))),
    })
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy()));
    words.join(" ")
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
}
