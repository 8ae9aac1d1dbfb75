//! Reads files that somebody else writes and that may hold secrets: whole, bounded, and into memory that is wiped.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tracing::warn;
use zeroize::Zeroizing;

/// Reads a file of at most `limit` bytes, on a thread that may wait.
///
/// # Errors
/// What the system says, or `FileTooLarge`. A pipe or a device would be waited for, or never end: it is refused.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    // Room for all at once: a vector that grows leaves copies behind.
    let file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A key that others of this host may read is theirs too.
pub(crate) fn warn_of_readers(key: &Path) {
    const OTHERS: u32 = 0o077;
    let mode = fs::metadata(key).map(|data| data.permissions().mode() & 0o777).unwrap_or_default();
    if mode & OTHERS != 0 {
        warn!("the key {} has mode {mode:04o}: other users may read it; chmod 600 it", key.display());
    }
}
