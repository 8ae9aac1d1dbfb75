//! A state folder on a disk that is full or cannot be written. As root only: such a disk has to be mounted.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Client, Home, files_below, stored_root};

/// A disk of its own under the state folder; unmounted when it goes out of scope.
struct Disk(PathBuf);

impl Disk {
    /// None where only root could.
    fn mount(home: &Home, options: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can mount a disk");
            return None;
        }
        let path = home.path("state");
        std::fs::create_dir(&path).unwrap();
        mount(&path, &format!("mode=0700,{options}"));
        Some(Disk(path))
    }

    fn remount(&self, options: &str) {
        mount(&self.0, &format!("remount,{options}"));
    }
}

fn mount(path: &Path, options: &str) {
    let status =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status().unwrap();
    assert!(status.success(), "mount -o {options}");
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Starts a CA that has to end at once or to listen; what it said, where it ended.
fn start_and_stop(home: &Home) -> Result<(), String> {
    let output = home.command(&["serve", "--check"]).output().unwrap();
    assert!(output.status.success());
    let mut child = home.command(&["serve", "--log-format", "json"]);
    let mut child = child.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    let listens = lines.by_ref().map_while(Result::ok).any(|line| {
        said.push_str(&line);
        line.contains("\"listening\"")
    });
    if listens {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    if listens {
        return Ok(());
    }
    assert_eq!(status.code(), Some(1), "{said}");
    Err(said)
}

/// Whatever fits on the disk, a start ends with a clear refusal or serves, and with room it serves with the same root.
#[test]
fn req_35_a_first_start_on_a_full_disk_is_refused_or_right() {
    let sizes = (1..=10).map(|pages| format!("size={}", pages * 4096));
    let counts = (2..=14).map(|inodes| format!("size=1m,nr_inodes={inodes}"));
    let (mut refused, mut served) = (0, 0);
    for options in sizes.chain(counts) {
        let home = Home::new();
        let Some(disk) = Disk::mount(&home, &options) else { return };
        match start_and_stop(&home) {
            Ok(()) => served += 1,
            Err(said) => {
                refused += 1;
                assert!(said.contains("No space left"), "{options}: {said}");
            }
        }
        let before = stored_root(&home);
        disk.remount("size=1m,nr_inodes=100");
        start_and_stop(&home).unwrap_or_else(|said| panic!("{options}: {said}"));
        let after = stored_root(&home).unwrap();
        assert!(before.is_none_or(|before| before == after), "{options}: another root");
    }
    assert!(refused > 5 && served > 2, "{refused} refused, {served} served");
}

#[tokio::test]
async fn a_disk_that_fills_up_stops_neither_a_restart_nor_the_signing_and_refuses_a_change() {
    let home = Home::new();
    let Some(disk) = Disk::mount(&home, "size=1m") else { return };
    drop(home.start());
    let before = files_below(&home.path("state"));
    let full = Command::new("df").args(["--output=iused"]).arg(&disk.0).output().unwrap();
    let used = String::from_utf8(full.stdout).unwrap().lines().last().unwrap().trim().to_owned();
    disk.remount(&format!("size=1m,nr_inodes={used}"));
    let ca = home.start();
    Client::new(&ca, &home).enroll(&home.token(), "").await;
    let output = home.command(&["root", "prepare"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("No space left"), "{error}");
    assert_eq!(files_below(&home.path("state")), before);
    disk.remount("size=1m,nr_inodes=100");
    assert!(home.command(&["root", "prepare"]).status().unwrap().success());
}

#[test]
fn req_35_a_read_only_state_folder_is_refused_clearly_and_is_the_same_afterwards() {
    let home = Home::new();
    let Some(disk) = Disk::mount(&home, "size=1m") else { return };
    drop(home.start());
    let root = stored_root(&home);
    disk.remount("ro");
    let said = start_and_stop(&home).unwrap_err();
    assert!(said.contains("Read-only file system") && said.contains("state/"), "{said}");
    let status = home.command(&["root", "status"]).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    disk.remount("rw");
    start_and_stop(&home).unwrap();
    assert_eq!(stored_root(&home), root);
}
