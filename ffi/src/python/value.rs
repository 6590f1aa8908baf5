//! Constructs the values, which are frozen dataclasses of vfio_probe._values and vfio_probe._events.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyAny, PyString, PyTuple};

/// A Python value.
pub(crate) type Value<'py> = Bound<'py, PyAny>;

/// A dataclass. Its __init__ is not called: for 15 fields it takes ten times as long.
pub(crate) struct Class {
    module: &'static str,
    name: &'static str,
    /// The class, and its method __new__.
    loaded: PyOnceLock<(Py<PyAny>, Py<PyAny>)>,
}

impl Class {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, loaded: PyOnceLock::new() }
    }

    /// Returns a value whose fields are not set.
    pub(crate) fn allocate<'py>(&self, py: Python<'py>) -> PyResult<Value<'py>> {
        let (class, new) = self.loaded.get_or_try_init(py, || {
            let class = py.import(self.module)?.getattr(self.name)?;
            let new = class.getattr(intern!(py, "__new__"))?;
            PyResult::Ok((class.unbind(), new.unbind()))
        })?;
        new.bind(py).call1((class,))
    }
}

/// Sets a field of a new value. The value is frozen, so the class's own __setattr__ refuses.
#[expect(unsafe_code, reason = "object.__setattr__ of the C API; through Python it takes twice as long")]
pub(crate) fn set(value: &Value<'_>, field: &Bound<'_, PyString>, content: &Value<'_>) -> PyResult<()> {
    // SAFETY: the three objects are alive for the duration of the call.
    let failed =
        unsafe { pyo3::ffi::PyObject_GenericSetAttr(value.as_ptr(), field.as_ptr(), content.as_ptr()) };
    if failed == 0 { Ok(()) } else { Err(PyErr::fetch(value.py())) }
}

/// Constructs a value of a class with all its fields: `value!(py, _values.Member { name: text, ... })`.
macro_rules! value {
    ($py:expr, $module:ident . $class:ident { $($field:ident: $content:expr),+ $(,)? }) => {{
        static CLASS: $crate::python::value::Class =
            $crate::python::value::Class::new(concat!("vfio_probe.", stringify!($module)), stringify!($class));
        let py: pyo3::Python<'_> = $py;
        let value = CLASS.allocate(py)?;
        $(
            let content = pyo3::IntoPyObjectExt::into_bound_py_any($content, py)?;
            $crate::python::value::set(&value, pyo3::intern!(py, stringify!($field)), &content)?;
        )+
        pyo3::PyResult::Ok(value)
    }};
}
pub(crate) use value;

/// Returns a tuple of the values of some items.
pub(crate) fn tuple<'py, T>(
    py: Python<'py>,
    items: impl IntoIterator<Item = T>,
    value: impl Fn(Python<'py>, T) -> PyResult<Value<'py>>,
) -> PyResult<Bound<'py, PyTuple>> {
    let values: Vec<Value<'py>> = items.into_iter().map(|item| value(py, item)).collect::<PyResult<_>>()?;
    PyTuple::new(py, values)
}
