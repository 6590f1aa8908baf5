//! Prints results on standard output. A reader that closes its pipe is an ordinary end; any other failed write is an error.
//!
//! `println!` panics in both cases. The functions here write to the descriptor itself: `std::io::Stdout` reports success for a
//! descriptor that is not open for writing (`handle_ebadf`).

use anyhow::anyhow;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, write};
use std::os::fd::{AsFd, BorrowedFd};

/// Whether the reader of the output is still there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reader {
    /// The last write succeeded.
    There,
    /// The reader of the pipe or socket has closed it.
    Gone,
}

/// Prints a command's whole result. Blocks while a pipe is full. A closed pipe is no error: the reader has what it wanted, and the
/// command ends with its own exit code.
///
/// # Errors
/// Standard output cannot be written: the disk is full, or the descriptor is not open for writing.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_part(text).map(|_| ())
}

/// Prints a part of a result that has no end. Returns whether the reader is still there. Blocks while a pipe is full.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_part(text: &str) -> anyhow::Result<Reader> {
    match write_all(std::io::stdout().as_fd(), text.as_bytes()) {
        Ok(()) => Ok(Reader::There),
        Err(Errno::PIPE | Errno::CONNRESET) => Ok(Reader::Gone),
        Err(errno) => Err(anyhow!("cannot write to standard output: {errno}")),
    }
}

/// Writes all bytes. A descriptor with O_NONBLOCK, which another process may have set on the shared file description, is waited
/// for as a blocking one is.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(0) => return Err(Errno::IO),
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            },
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn nonblocking_descriptor_gets_every_byte() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        fcntl_setfl(&writer, fcntl_getfl(&writer).unwrap() | OFlags::NONBLOCK).unwrap();
        // More than a socket buffer.
        let text = vec![b'x'; 4 << 20];
        let received = std::thread::spawn(move || {
            let mut received = Vec::new();
            reader.read_to_end(&mut received).unwrap();
            received.len()
        });
        write_all(writer.as_fd(), &text).unwrap();
        drop(writer);
        assert_eq!(received.join().unwrap(), text.len());
    }

    #[test]
    fn failed_write_is_an_error_with_its_errno() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(full.as_fd(), b"x"), Err(Errno::NOSPC));
        let read_only = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(write_all(read_only.as_fd(), b"x"), Err(Errno::BADF));
        let (writer, reader) = UnixStream::pair().unwrap();
        drop(reader);
        assert_eq!(write_all(writer.as_fd(), b"x"), Err(Errno::PIPE));
    }
}
