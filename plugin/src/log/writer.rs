//! Writes whole lines to a descriptor that may be full, closed, blocking or not.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, ReadWriteFlags, Result, pwritev2, write};
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::time::Duration;

/// The pause if the descriptor is said to be writable and refuses the write all the same.
const PAUSE: Duration = Duration::from_millis(10);

/// Writes a line, or its beginning, to standard error if that cannot block. Returns how many bytes were written: 0 also if the write
/// fails, or if the kernel cannot promise it for this kind of file (terminals, most disks) or at all.
pub(super) fn write_now(line: &[u8]) -> usize {
    write_without_waiting(std::io::stderr(), line)
}

fn write_without_waiting(fd: impl AsFd, line: &[u8]) -> usize {
    // The position of the descriptor, as write(2) uses it.
    let current = u64::MAX;
    pwritev2(fd, &[IoSlice::new(line)], current, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

/// Writes lines to a descriptor.
#[derive(Debug)]
pub(super) struct LineWriter<F> {
    fd: F,
    /// Whether the latest write ended within its line.
    is_cut: bool,
}

impl<F: AsFd> LineWriter<F> {
    /// Returns a writer of this descriptor.
    pub(super) fn new(fd: F) -> Self {
        Self { fd, is_cut: false }
    }

    /// Writes a line. Blocks for as long as the descriptor does: a descriptor with O_NONBLOCK (EAGAIN) is waited for like any other.
    ///
    /// # Errors
    /// The line, or its end, is not written: ENOSPC on a full disk, EPIPE without a reader, EBADF on a closed descriptor. If a part
    /// was written, the next line begins on a line of its own.
    pub(super) fn write(&mut self, line: &[u8]) -> Result<()> {
        if self.is_cut {
            self.write_all(b"\n")?;
            self.is_cut = false;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut rest: &[u8]) -> Result<()> {
        let length = rest.len();
        let mut is_ready = false;
        while !rest.is_empty() {
            match write(&self.fd, rest) {
                // No descriptor of a log does that.
                Ok(0) => return Err(Errno::IO),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    is_ready = false;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if is_ready {
                        std::thread::sleep(PAUSE);
                    }
                    is_ready = true;
                    match poll(&mut [PollFd::new(&self.fd, PollFlags::OUT)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => {
                    self.is_cut |= rest.len() < length;
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, fcntl_setfl};
    use std::fs::File;
    use std::io::{Read, Seek, pipe};

    #[test]
    fn full_disk_and_a_pipe_without_reader_are_errors() {
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(LineWriter::new(full).write(b"line\n"), Err(Errno::NOSPC));
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        assert_eq!(LineWriter::new(writer).write(b"line\n"), Err(Errno::PIPE));
        assert_eq!(LineWriter::new(File::open("/dev/null").unwrap()).write(b"line\n"), Err(Errno::BADF));
    }

    #[test]
    fn pipe_that_is_full_or_has_no_reader_is_left_to_the_thread() {
        let (mut reader, writer) = pipe().unwrap();
        let mut written = 0;
        // An older kernel writes nothing, and one that waited would never return.
        while let length @ 1.. = write_without_waiting(&writer, &[b'x'; 4096]) {
            written += length;
        }
        let mut read = Vec::new();
        drop(writer);
        reader.read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), written);
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        assert_eq!(write_without_waiting(&writer, b"line\n"), 0);
        assert_eq!(
            write_without_waiting(File::options().write(true).open("/dev/full").unwrap(), b"line\n"),
            0
        );
    }

    #[test]
    fn non_blocking_pipe_is_waited_for() {
        let (reader, writer) = pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let text = vec![b'x'; 1 << 20];
        let length = text.len();
        let thread = std::thread::spawn(move || LineWriter::new(writer).write(&text));
        let mut read = Vec::new();
        { reader }.read_to_end(&mut read).unwrap();
        assert_eq!((thread.join().unwrap(), read.len()), (Ok(()), length));
    }

    #[test]
    fn line_after_a_cut_line_begins_on_its_own() {
        let (reader, writer) = pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let thread = std::thread::spawn(move || {
            let mut writer = LineWriter::new(writer);
            (writer.write(&vec![b'x'; 1 << 20]), writer.is_cut)
        });
        // The reader goes away in the middle of the line.
        { reader }.read_exact(&mut [0; 1]).unwrap();
        let (outcome, is_cut) = thread.join().unwrap();
        assert_eq!((outcome, is_cut), (Err(Errno::PIPE), true));
        let mut file = tempfile::tempfile().unwrap();
        LineWriter { fd: &file, is_cut }.write(b"next\n").unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "\nnext\n");
    }
}
