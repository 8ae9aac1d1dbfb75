//! A Unix socket to listen on: in place of a dead one, never of a live one, and open from its first moment to those only
//! whom its mode names.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Type};
use tokio::net::UnixListener;

/// Why there is no socket. The path is told by whoever says this.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    /// Another process has it.
    #[error("somebody listens there already; end it, or choose another path")]
    Taken,
    /// A file that is not ours to remove.
    #[error("it is there and is no socket; remove it, or choose another path")]
    NoSocket,
    /// The file system says no.
    #[error("{0}; its folder must be there and be writable for this process")]
    Io(#[from] io::Error),
}

/// A listening socket, whose file goes with it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode: whoever has put another file there keeps it.
    file: (u64, u64),
}

impl Socket {
    /// Listens on `path`, which is then of `mode`. Inside a runtime only.
    ///
    /// # Errors
    /// [`SocketError`]; what stood at `path` before stands there still.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Socket, SocketError> {
        make_room(path)?;
        let folder = Folder::beside(path)?;
        // The mode of a new socket is the umask's until it is changed, so nobody else must see it before.
        let draft = folder.0.join("s");
        let listener = UnixListener::bind(&draft)?;
        let bound = (|| {
            fs::set_permissions(&draft, Permissions::from_mode(mode))?;
            let metadata = fs::symlink_metadata(&draft)?;
            fs::rename(&draft, path)?;
            Ok((metadata.dev(), metadata.ino()))
        })();
        let file = bound.inspect_err(|_| drop(fs::remove_file(&draft))).map_err(SocketError::Io)?;
        Ok(Socket { listener, path: path.to_owned(), file })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Refuses what must not be replaced.
fn make_room(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(SocketError::NoSocket),
        Ok(_) => {
            let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.set_nonblocking(true)?; // a full queue would be waited for
            match socket.connect(&SockAddr::unix(path)?) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error.into()),
                _ => Err(SocketError::Taken),
            }
        }
    }
}

/// A folder for this process alone; it goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn beside(path: &Path) -> io::Result<Folder> {
        let name = format!(".{:08x}", fastrand::u32(..));
        let folder = path.parent().unwrap_or(Path::new("")).join(name);
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
