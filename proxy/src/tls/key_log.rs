//! The secrets of TLS sessions, written to a file by which Wireshark reads a capture (the format of `SSLKEYLOGFILE`): for
//! lessons, and for an hour of debugging where that is allowed. Off, unless `tls.keyLogFile` names a file.
//!
//! Sessions of the mesh and to servers outside of it are written. The connection to the CA is not: it carries the token.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustls::{KeyLog, NoKeyLog};
use tracing::warn;
use zeroize::Zeroizing;

/// Some hundred thousand sessions; then nothing more is written.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Nobody but the owner.
const MODE: u32 = 0o600;
const OTHERS: u32 = 0o077;

/// The file, which everything that speaks TLS in this process writes to.
pub(crate) struct KeyLogFile {
    path: PathBuf,
    limit: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<File>,
    written: u64,
    /// Whether it was said that no more is written.
    told: bool,
}

impl KeyLogFile {
    /// For the life of the process, which is the life of the setting. Nothing is opened yet.
    pub(crate) fn at(path: PathBuf) -> &'static Self {
        Self::of_size(path, MOST_BYTES)
    }

    fn of_size(path: PathBuf, limit: u64) -> &'static Self {
        Box::leak(Box::new(Self { path, limit, state: Mutex::default() }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the file, or makes it for the owner alone, and says loudly what that means. What is there already stays.
    ///
    /// # Errors
    /// What the system says; also where others may read the file, or it is none.
    pub(crate) fn open(&self) -> io::Result<()> {
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(MODE)
            .custom_flags(no_follow)
            .open(&self.path)?;
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mode = meta.permissions().mode() & 0o777;
        if mode & OTHERS != 0 {
            let message =
                format!("it has mode {mode:04o}: other users may read it; delete it, or chmod 600 it");
            return Err(io::Error::other(message));
        }
        *self.state() = State { file: Some(file), written: meta.len(), told: false };
        warn!(
            "EVERYBODY WHO READS {} CAN DECRYPT the TLS of this proxy (tls.keyLogFile): the secrets of all its sessions are \
             written there from now on; this is for lessons and an hour of debugging, never for a mesh in use",
            self.path.display()
        );
        Ok(())
    }

    /// One line of the key log: which secret, whose session, the secret.
    fn write(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let mut line =
            Zeroizing::new(String::with_capacity(label.len() + 3 + 2 * (client_random.len() + secret.len())));
        // Writing to a String cannot fail.
        let _ = write!(line, "{label} {} {}", Hexadecimal(client_random), Hexadecimal(secret));
        line.push('\n');
        let mut state = self.state();
        let State { file: Some(file), written, told } = &mut *state else { return };
        let length = line.len() as u64;
        let result = if *written + length > self.limit {
            Err(io::Error::other(format!("it would be longer than {} bytes", self.limit)))
        } else {
            file.write_all(line.as_bytes())
        };
        match result {
            Ok(()) => *written += length,
            Err(_) if *told => {}
            Err(fault) => {
                *told = true;
                warn!("{}: {fault}; sessions cannot be decrypted by it any more", self.path.display());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shows where it is, and nothing that is written there.
impl fmt::Debug for KeyLogFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyLogFile").field(&self.path).finish()
    }
}

impl PartialEq for KeyLogFile {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for KeyLogFile {}

/// As rustls takes it.
#[derive(Debug)]
struct ToFile(&'static KeyLogFile);

impl KeyLog for ToFile {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        self.0.write(label, client_random, secret);
    }
}

/// For a configuration of rustls; nothing is written where there is no file.
pub(super) fn to(file: Option<&'static KeyLogFile>) -> Arc<dyn KeyLog> {
    file.map_or_else(|| Arc::new(NoKeyLog {}) as Arc<dyn KeyLog>, |file| Arc::new(ToFile(file)))
}

struct Hexadecimal<'b>(&'b [u8]);

impl fmt::Display for Hexadecimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_line_is_as_wireshark_reads_it_and_the_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyLogFile::at(folder.path().join("keys.log"));
        file.write("BEFORE", &[1], &[2]);
        file.open().unwrap();
        to(Some(file)).log("CLIENT_TRAFFIC_SECRET_0", &[0xab, 1], &[0, 0xff]);
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "CLIENT_TRAFFIC_SECRET_0 ab01 00ff\n");
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_others_could_read_or_have_put_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (readable, link) = (folder.path().join("readable"), folder.path().join("link"));
        fs::write(&readable, "").unwrap();
        fs::set_permissions(&readable, fs::Permissions::from_mode(0o644)).unwrap();
        symlink(folder.path().join("elsewhere"), &link).unwrap();
        let refused = |path: &Path| KeyLogFile::at(path.to_owned()).open().unwrap_err().to_string();
        assert!(refused(&readable).contains("mode 0644"), "{}", refused(&readable));
        assert!(refused(&link).contains("symbolic link"), "{}", refused(&link));
        assert!(refused(folder.path()).contains("directory"), "{}", refused(folder.path()));
        assert!(!folder.path().join("elsewhere").exists());
    }

    #[test]
    fn a_file_that_is_long_enough_grows_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let file = KeyLogFile::of_size(folder.path().join("keys.log"), 20);
        file.open().unwrap();
        for _ in 0..9 {
            file.write("L", &[1], &[2]);
        }
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "L 01 02\n".repeat(2));
    }
}
