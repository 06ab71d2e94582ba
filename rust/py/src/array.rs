//! numpy arrays ↔ bytes, without a copy.

#![allow(unsafe_code, reason = "an array's memory is read and written in place")]

use gossamer_core::Error;
use gossamer_core::tensor::{DType, Meta};
use numpy::{
    Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods,
};
use pyo3::prelude::*;

use crate::error::raise;

/// The array's element type.
pub(crate) fn dtype(array: &Bound<'_, PyUntypedArray>) -> PyResult<DType> {
    let descr = array.dtype();
    // Not by its name: numpy makes that anew, in Python, whenever it is asked for.
    let found = match (descr.kind(), descr.itemsize()) {
        (b'f', 4) => Some(DType::Float32),
        (b'f', 2) => Some(DType::Float16),
        (b'i', 8) => Some(DType::Int64),
        (b'i', 4) => Some(DType::Int32),
        (b'i', 1) => Some(DType::Int8),
        (b'u', 1) => Some(DType::UInt8),
        (b'b', 1) => Some(DType::Bool),
        _ => None,
    };
    let Some(found) = found else {
        let name: String = descr.getattr("name")?.extract()?;
        return DType::parse(&name).map_err(raise);
    };
    if !descr.is_native_byteorder().unwrap_or(true) {
        let text = format!("array of {found}: its byte order is not this machine's");
        return Err(raise(Error::Shape(text)));
    }
    Ok(found)
}

/// Type and shape.
pub(crate) fn meta(array: &Bound<'_, PyUntypedArray>) -> PyResult<Meta> {
    Ok(Meta::new(dtype(array)?, array.shape().to_vec()))
}

/// The array's bytes, for as long as the array is borrowed.
///
/// Another Python thread can write to the array meanwhile, as with every numpy function that releases the GIL: the numbers
/// read are then some of either, and no index is read twice by a kernel that relies on its range.
pub(crate) fn bytes<'a>(array: &'a Bound<'_, PyUntypedArray>) -> PyResult<&'a [u8]> {
    let meta = meta(array)?;
    // SAFETY: the array is alive while borrowed.
    let data = unsafe { (*array.as_array_ptr()).fields.data };
    if !array.is_c_contiguous() || !data.addr().is_multiple_of(meta.dtype.size()) {
        return Err(raise(Error::Shape(format!("array {meta}: it is not contiguous and aligned"))));
    }
    let len = meta.bytes().map_err(raise)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: a contiguous array of that type and shape has that many bytes from its data pointer on.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// A new array for an output, and its bytes, which belong to nobody else yet.
pub(crate) fn output<'py>(
    py: Python<'py>,
    meta: &Meta,
) -> PyResult<(Bound<'py, PyUntypedArray>, &'static mut [u8])> {
    fn make<'py, T: Element>(py: Python<'py>, meta: &Meta) -> (Bound<'py, PyUntypedArray>, *mut u8) {
        // SAFETY: the elements are plain numbers, all of which a run writes before anyone reads them.
        let array = unsafe { PyArrayDyn::<T>::new(py, meta.shape.clone(), false) };
        (array.as_untyped().clone(), array.data().cast())
    }
    let len = meta.bytes().map_err(raise)?;
    let (array, data) = match meta.dtype {
        DType::Float32 => make::<f32>(py, meta),
        DType::Int64 => make::<i64>(py, meta),
        DType::Int32 => make::<i32>(py, meta),
        DType::UInt8 => make::<u8>(py, meta),
        DType::Int8 => make::<i8>(py, meta),
        DType::Bool => make::<bool>(py, meta),
        DType::Float16 => {
            return Err(raise(Error::Graph("an output is float16, which is for weights only".into())));
        }
    };
    // SAFETY: `len` bytes from the array's data pointer on are its elements; the caller keeps the array alive while it uses
    // the slice, and nobody else has the array yet.
    let bytes = if len == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(data, len) } };
    Ok((array, bytes))
}
