//! `gossamer._core`: the core's doors to Python.

#![deny(unsafe_code)]
// Docstrings for Python live in `_core.pyi`, where tools read them.
#![allow(missing_docs, reason = "what is public here is public to Python only")]
#![allow(clippy::missing_errors_doc, clippy::needless_pass_by_value, reason = "signatures are Python's")]

use pyo3::prelude::*;

mod array;
mod builder;
mod calls;
mod error;
mod model;

#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    error::register(module)?;
    calls::register(module)?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("OPS", gossamer_core::ops::NAMES)?;
    module.add_class::<builder::Builder>()?;
    module.add_class::<model::Model>()?;
    module.add_function(wrap_pyfunction!(model::load, module)?)?;
    module.add_function(wrap_pyfunction!(model::cpu, module)?)
}
