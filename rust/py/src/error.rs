//! The core's error enum → Python's exceptions, and nowhere else.

use gossamer_core::Error;
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

/// The exception types, made when the module is.
struct Types {
    error: Py<PyType>,
    format: Py<PyType>,
    shape: Py<PyType>,
}

static TYPES: PyOnceLock<Types> = PyOnceLock::new();

/// Makes the exception types and adds them to the module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let new = |name: &str, doc: &str, bases: &[&Bound<'_, PyType>]| -> PyResult<Py<PyType>> {
        let members = PyDict::new(py);
        members.set_item("__module__", "gossamer")?;
        members.set_item("__doc__", doc)?;
        let made = py
            .get_type::<PyType>()
            .call1((name, PyTuple::new(py, bases)?, members))?
            .cast_into::<PyType>()?;
        module.add(name, &made)?;
        Ok(made.unbind())
    };
    let error =
        new("Error", "Something gossamer was asked to do cannot be done.", &[&py.get_type::<PyException>()])?;
    let base = error.bind(py);
    let format =
        new("FormatError", "A .goss file is not one, is damaged, or needs a newer gossamer.", &[base])?;
    new(
        "UnsupportedOpError",
        "A module uses operators that gossamer does not have; the message lists all of them.",
        &[base],
    )?;
    let shape = new(
        "ShapeError",
        "An array's rank, size or dtype is not what the model takes.",
        &[base, &py.get_type::<PyValueError>()],
    )?;
    // Where the module is made twice, as under a reload, the first types stay in use.
    let _ = TYPES.set(py, Types { error, format, shape });
    Ok(())
}

/// The exception for an error.
pub(crate) fn raise(error: Error) -> PyErr {
    Python::attach(|py| {
        let text = error.to_string();
        let types = TYPES.get(py).expect("the module was imported before anything failed");
        match error {
            Error::Format(_) => PyErr::from_type(types.format.bind(py).clone(), text),
            Error::Shape(_) => PyErr::from_type(types.shape.bind(py).clone(), text),
            Error::Graph(_) | Error::Memory(_) | Error::Isa(_) => {
                PyErr::from_type(types.error.bind(py).clone(), text)
            }
            Error::Io { path, source } => {
                let reason = source.to_string();
                match source.raw_os_error() {
                    Some(code) => PyOSError::new_err((code, reason, path.display().to_string())),
                    None => PyOSError::new_err(text),
                }
            }
        }
    })
}
