//! Whether a group is held, as a frozen Python value, and as the exception that says so.

use crate::python::errors::{DeniedError, HeldError, LateError, MissingError, ProbeError};
use crate::python::values::push;
use crate::python::words::Word;
use pyo3::prelude::*;
use rustix::io::Errno;
use vfio_probe::{GroupId, UnknownReason};

/// Whether a group is held.
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

    /// Its state.
    pub(crate) fn word(&self) -> &'static str {
        self.occupancy.as_str()
    }

    fn because(&self) -> Option<UnknownReason> {
        match self.occupancy {
            vfio_probe::Occupancy::Unknown(why) => Some(why),
            _ => None,
        }
    }
}

#[pymethods]
impl Occupancy {
    /// The group that was asked.
    #[getter]
    fn group(&self) -> u32 {
        self.group.0
    }

    /// Whether it is held.
    #[getter]
    fn state(&self) -> Word {
        Word::state(self.occupancy)
    }

    /// Why the state is unknown; None if it is not.
    #[getter]
    fn why(&self) -> Option<Word> {
        self.because().map(Word::why)
    }

    /// The errno where `why` says errno, else 0.
    #[getter]
    fn errno(&self) -> i32 {
        match self.because() {
            Some(UnknownReason::Errno(errno)) => errno,
            _ => 0,
        }
    }

    /// Raises HeldError, MissingError (absent), DeniedError, LateError or another ProbeError; returns if the group is free.
    fn raise_unless_free(&self) -> PyResult<()> {
        let group = self.group;
        let why = match self.occupancy {
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
                    format!("group {group}: absent: it has no node, or no device behind it"),
                    None::<String>,
                    group.0,
                )));
            }
            vfio_probe::Occupancy::Unknown(why) => why,
        };
        let said = |errno: Errno, text: &str| {
            (errno.raw_os_error(), format!("group {group}: unknown: {text}"), None::<String>, group.0)
        };
        Err(match why {
            UnknownReason::Denied => DeniedError::new_err(said(Errno::ACCESS, "the open was denied")),
            UnknownReason::TimedOut => LateError::new_err(said(Errno::TIMEDOUT, "no answer in time")),
            UnknownReason::Errno(errno) => {
                let errno = Errno::from_raw_os_error(errno);
                ProbeError::new_err(said(errno, &std::io::Error::from(errno).to_string()))
            }
            UnknownReason::NotProbed => ProbeError::new_err(said(Errno::AGAIN, "nobody asked yet")),
        })
    }

    fn __repr__(&self) -> String {
        let mut text = format!("<Occupancy group {} {}", self.group, self.occupancy.as_str());
        push(&mut text, "because", self.because().map(UnknownReason::as_str));
        if let Some(UnknownReason::Errno(errno)) = self.because() {
            push(&mut text, "of", Some(errno));
        }
        text + ">"
    }
}
