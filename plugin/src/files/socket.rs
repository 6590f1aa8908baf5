//! Binds a Unix socket that only the plugin's user and root may connect to.

use rustix::fs::{Mode, fchmod};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::io::Result;
use std::path::Path;
use tokio::net::UnixListener;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Binds a socket with mode 0600 and listens on it.
///
/// The mode is set before the bind, which gives it to the file (`unix_bind`): the file never has another one, and no path is
/// followed to change it.
///
/// # Errors
/// Something has the socket's name (`AddrInUse`), or the directory is missing or cannot be written.
pub(crate) fn bind_private(path: &Path) -> Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};

    #[tokio::test]
    async fn socket_has_its_mode_and_replaces_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let _listener = bind_private(&path("socket")).unwrap();
        let metadata = std::fs::symlink_metadata(path("socket")).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.mode() & 0o7777, 0o600);
        std::fs::write(path("file"), "precious").unwrap();
        symlink("missing", path("dangling")).unwrap();
        for name in ["socket", "file", "dangling"] {
            assert_eq!(bind_private(&path(name)).unwrap_err().kind(), ErrorKind::AddrInUse, "{name}");
        }
        assert!(!path("missing").exists());
    }
}
