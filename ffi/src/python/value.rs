//! Constructs the values, which are frozen dataclasses of vfio_probe._values and vfio_probe._events.

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyAny, PyTuple, PyType};

/// A Python value.
pub(crate) type Value<'py> = Bound<'py, PyAny>;

/// A dataclass with slots. Its __init__ is not called: for 15 fields it takes 30 times as long.
pub(crate) struct Class {
    module: &'static str,
    name: &'static str,
    fields: &'static [&'static str],
    loaded: PyOnceLock<(Py<PyType>, Vec<Slot>)>,
}

/// The slot of a field: its descriptor in the class, and the function that sets it.
struct Slot {
    descriptor: Py<PyAny>,
    set: ffi::descrsetfunc,
}

impl Class {
    pub(crate) const fn new(
        module: &'static str,
        name: &'static str,
        fields: &'static [&'static str],
    ) -> Self {
        Self { module, name, fields, loaded: PyOnceLock::new() }
    }

    /// Returns a new value. The contents are in the order of the fields.
    #[expect(
        unsafe_code,
        reason = "PyType_GenericAlloc has no wrapper; object.__new__ takes three times as long"
    )]
    pub(crate) fn create<'py, const N: usize>(
        &self,
        py: Python<'py>,
        contents: &[Value<'py>; N],
    ) -> PyResult<Value<'py>> {
        let (class, slots) = self.loaded.get_or_try_init(py, || self.load(py))?;
        // SAFETY: the class is alive, and its instances have no other state than their slots, which are empty now. The
        // result is a new reference, or null with an exception.
        let value = unsafe {
            Bound::from_owned_ptr_or_err(py, ffi::PyType_GenericAlloc(class.bind(py).as_type_ptr(), 0))?
        };
        for (slot, content) in slots.iter().zip(contents) {
            slot.set(&value, content)?;
        }
        Ok(value)
    }

    fn load(&self, py: Python<'_>) -> PyResult<(Py<PyType>, Vec<Slot>)> {
        let class = py.import(self.module)?.getattr(self.name)?.cast_into::<PyType>()?;
        let fields: Vec<String> = class.getattr(intern!(py, "__match_args__"))?.extract()?;
        // A field that is missing here would have no content.
        if fields != self.fields {
            return Err(PyTypeError::new_err(format!("{} has the fields {fields:?}", self.name)));
        }
        let slots = self.fields.iter().map(|field| Slot::load(&class.getattr(*field)?));
        Ok((class.clone().unbind(), slots.collect::<PyResult<_>>()?))
    }
}

impl Slot {
    #[expect(unsafe_code, reason = "PyType_GetSlot has no wrapper")]
    fn load(descriptor: &Bound<'_, PyAny>) -> PyResult<Self> {
        // SAFETY: the type is alive. PyType_GetSlot accepts every type and returns null for an empty slot; the slot
        // tp_descr_set contains a descrsetfunc.
        let set = unsafe {
            let set = ffi::PyType_GetSlot(descriptor.get_type().as_type_ptr(), ffi::Py_tp_descr_set);
            std::mem::transmute::<*mut std::ffi::c_void, Option<ffi::descrsetfunc>>(set)
        };
        let set = set.ok_or_else(|| PyTypeError::new_err("a field of the value has no slot"))?;
        Ok(Self { descriptor: descriptor.clone().unbind(), set })
    }

    /// Sets the field of a new value. The value is frozen, so the class's own __setattr__ refuses.
    #[expect(
        unsafe_code,
        reason = "the descriptor's __set__ as a C function; a look-up by name takes three times as long"
    )]
    fn set(&self, value: &Value<'_>, content: &Value<'_>) -> PyResult<()> {
        // SAFETY: the three objects are alive for the duration of the call, and `set` is of the descriptor's type. It
        // checks the type of the value.
        let failed = unsafe { (self.set)(self.descriptor.as_ptr(), value.as_ptr(), content.as_ptr()) };
        if failed == 0 { Ok(()) } else { Err(PyErr::fetch(value.py())) }
    }
}

/// Constructs a value of a class with all its fields, in the class's order: `value!(py, _values.Member { name: text, ... })`.
macro_rules! value {
    ($py:expr, $module:ident . $class:ident { $($field:ident: $content:expr),+ $(,)? }) => {{
        static CLASS: $crate::python::value::Class = $crate::python::value::Class::new(
            concat!("vfio_probe.", stringify!($module)),
            stringify!($class),
            &[$(stringify!($field)),+],
        );
        let py: pyo3::Python<'_> = $py;
        let contents = [$(pyo3::IntoPyObjectExt::into_bound_py_any($content, py)?),+];
        CLASS.create(py, &contents)
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
