//! The occupancy of a group, as a frozen Python value and as an exception.

use crate::python::errors::{DeniedError, HeldError, MissingError, ProbeError, ProbeTimeoutError};
use crate::python::values::push;
use crate::python::words::Word;
use pyo3::prelude::*;
use rustix::io::Errno;
use vfio_probe::{GroupId, UnknownReason};

/// The occupancy of a group, such as the result of a probe.
#[pyclass(frozen, eq, hash, module = "vfio_probe")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Occupancy {
    group: GroupId,
    occupancy: vfio_probe::Occupancy,
}

impl Occupancy {
    pub(crate) fn new(group: GroupId, occupancy: vfio_probe::Occupancy) -> Self {
        Self { group, occupancy }
    }

    /// Returns the word for the state.
    pub(crate) fn word(&self) -> &'static str {
        self.occupancy.as_str()
    }

    fn reason(&self) -> Option<UnknownReason> {
        match self.occupancy {
            vfio_probe::Occupancy::Unknown(reason) => Some(reason),
            _ => None,
        }
    }
}

#[pymethods]
impl Occupancy {
    /// The number of the group.
    #[getter]
    fn group(&self) -> u32 {
        self.group.0
    }

    /// The state of the group.
    #[getter]
    fn state(&self) -> Word {
        Word::state(self.occupancy)
    }

    /// The reason for the state unknown, else None.
    #[getter]
    fn unknown_reason(&self) -> Option<Word> {
        self.reason().map(Word::unknown_reason)
    }

    /// The errno if unknown_reason is errno, else 0.
    #[getter]
    fn errno(&self) -> i32 {
        match self.reason() {
            Some(UnknownReason::Errno(errno)) => errno,
            _ => 0,
        }
    }

    /// Returns None if the group is free. Raises HeldError if it is held, MissingError if it is absent, and
    /// DeniedError, ProbeTimeoutError or another ProbeError if its state is unknown.
    fn raise_unless_free(&self) -> PyResult<()> {
        let group = self.group;
        let reason = match self.occupancy {
            vfio_probe::Occupancy::Free => return Ok(()),
            vfio_probe::Occupancy::Held => {
                return Err(HeldError::new_err((
                    Errno::BUSY.raw_os_error(),
                    format!("group {group}: held"),
                    None::<String>,
                    group.0,
                )));
            }
            vfio_probe::Occupancy::Absent => {
                return Err(MissingError::new_err((
                    Errno::NODEV.raw_os_error(),
                    format!("group {group}: absent: no device node, or no device behind it"),
                    None::<String>,
                    group.0,
                )));
            }
            vfio_probe::Occupancy::Unknown(reason) => reason,
        };
        let arguments = |errno: Errno, text: &str| {
            (errno.raw_os_error(), format!("group {group}: unknown: {text}"), None::<String>, group.0)
        };
        Err(match reason {
            UnknownReason::Denied => DeniedError::new_err(arguments(Errno::ACCESS, "the open was denied")),
            UnknownReason::TimedOut => {
                ProbeTimeoutError::new_err(arguments(Errno::TIMEDOUT, "the probe timed out"))
            }
            UnknownReason::Errno(errno) => {
                let errno = Errno::from_raw_os_error(errno);
                ProbeError::new_err(arguments(errno, &std::io::Error::from(errno).to_string()))
            }
            UnknownReason::NotProbed => {
                ProbeError::new_err(arguments(Errno::AGAIN, "the watch has not probed it yet"))
            }
        })
    }

    fn __repr__(&self) -> String {
        let mut text = format!("<Occupancy group {} {}", self.group, self.occupancy.as_str());
        push(&mut text, "reason", self.reason().map(UnknownReason::as_str));
        if let Some(UnknownReason::Errno(errno)) = self.reason() {
            push(&mut text, "errno", Some(errno));
        }
        text + ">"
    }
}
