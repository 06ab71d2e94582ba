//! The converter's side: a graph made node by node.

use gossamer_core::error::Result;
use gossamer_core::graph::{self, Ref};
use gossamer_core::ops::Op;
use gossamer_core::ops::size::Size;
use gossamer_core::tensor::DType;
use gossamer_core::weight::{Bytes, Matrix, Plain};
use gossamer_core::{Error, file};
use half::f16;
use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;

use crate::array;
use crate::calls::detached;
use crate::error::raise;

/// An int or an expression, as Python gives a size.
#[derive(FromPyObject)]
enum Dim {
    Fixed(i64),
    Expr(String),
}

impl From<Dim> for Size {
    fn from(dim: Dim) -> Size {
        match dim {
            Dim::Fixed(value) => Size::Fixed(value),
            Dim::Expr(text) => Size::Expr(text),
        }
    }
}

#[pyclass(module = "gossamer._core")]
pub(crate) struct Builder {
    inner: Option<graph::Builder>,
}

fn used() -> PyErr {
    raise(Error::Graph("this builder has been saved: make a new one".into()))
}

impl Builder {
    fn get(&mut self) -> PyResult<&mut graph::Builder> {
        self.inner.as_mut().ok_or_else(used)
    }

    fn finish(&mut self) -> PyResult<graph::Graph> {
        self.inner.take().ok_or_else(used)?.finish().map_err(raise)
    }
}

fn parse(token: &str) -> PyResult<Ref> {
    token.parse().map_err(raise)
}

/// Rows and columns of an array that must be a matrix.
fn matrix_shape(name: &str, array: &Bound<'_, PyUntypedArray>, dtype: DType) -> PyResult<(usize, usize)> {
    let meta = array::meta(array)?;
    match *meta.shape {
        [m, k] if meta.dtype == dtype => Ok((m, k)),
        _ => Err(raise(Error::Graph(format!("matrix {name:?}: got {meta}, expected {dtype} of rank 2")))),
    }
}

#[pymethods]
impl Builder {
    #[new]
    fn new() -> Builder {
        Builder { inner: Some(graph::Builder::new()) }
    }

    fn input(&mut self, name: &str, dtype: &str, shape: Vec<Dim>, example: Vec<usize>) -> PyResult<String> {
        let dtype = DType::parse(dtype).map_err(raise)?;
        let shape = shape.into_iter().map(Size::from).collect();
        self.get()?.input(name, dtype, shape, example).map(|r| r.to_string()).map_err(raise)
    }

    fn tensor(&mut self, name: &str, array: &Bound<'_, PyUntypedArray>) -> PyResult<String> {
        let meta = array::meta(array)?;
        let plain = Plain::new(meta.dtype, meta.shape, Bytes::copy(array::bytes(array)?)).map_err(raise)?;
        Ok(self.get()?.plain(name, plain).to_string())
    }

    #[pyo3(signature = (name, array, *, groups=1, storage="float32"))]
    fn matrix(
        &mut self,
        name: &str,
        array: &Bound<'_, PyUntypedArray>,
        groups: usize,
        storage: &str,
    ) -> PyResult<String> {
        let (m, k) = matrix_shape(name, array, DType::Float32)?;
        let bytes = array::bytes(array)?;
        let rows: &[f32] = bytemuck::cast_slice(bytes);
        let shape = (m, k, groups);
        let packed = match storage {
            "float32" => Matrix::pack(shape, rows, None),
            "float16" => half_rows(rows)
                .map_or_else(|| Matrix::pack(shape, rows, None), |halves| Matrix::pack(shape, &halves, None)),
            "int8" => {
                let (q, scales) = quantize(rows, k);
                Matrix::pack(shape, &q, Some(scales))
            }
            other => Err(Error::Graph(format!("storage {other:?}: expected float32, float16 or int8"))),
        };
        let packed = packed.map_err(|error| raise(named(name, error)))?;
        Ok(self.get()?.matrix(name, packed).to_string())
    }

    #[pyo3(signature = (name, array, *, groups=1, scales=None))]
    fn matrix_int8(
        &mut self,
        name: &str,
        array: &Bound<'_, PyUntypedArray>,
        groups: usize,
        scales: Option<Vec<f32>>,
    ) -> PyResult<String> {
        let (m, k) = matrix_shape(name, array, DType::Int8)?;
        let rows: &[i8] = bytemuck::cast_slice(array::bytes(array)?);
        let packed = Matrix::pack((m, k, groups), rows, scales).map_err(|error| raise(named(name, error)))?;
        Ok(self.get()?.matrix(name, packed).to_string())
    }

    fn low_rank(&mut self, name: &str, u: &str, v: &str) -> PyResult<String> {
        let (u, v) = (parse(u)?, parse(v)?);
        self.get()?.low_rank(name, u, v).map(|r| r.to_string()).map_err(raise)
    }

    #[pyo3(signature = (op, inputs, attrs=None, *, name=""))]
    fn add(
        &mut self,
        py: Python<'_>,
        op: &str,
        inputs: Vec<Option<String>>,
        attrs: Option<&Bound<'_, PyDict>>,
        name: &str,
    ) -> PyResult<Py<PyAny>> {
        let inputs = inputs
            .iter()
            .map(|token| token.as_deref().map_or(Ok(Ref::Absent), parse))
            .collect::<PyResult<Vec<_>>>()?;
        let text: String = match attrs {
            Some(attrs) => py.import("json")?.call_method1("dumps", (attrs,))?.extract()?,
            None => "{}".into(),
        };
        let op = op_of(op, &text).map_err(|error| raise(named(name, error)))?;
        let outputs = self.get()?.add(op, inputs, name).map_err(raise)?;
        let tokens: Vec<String> = outputs.iter().map(ToString::to_string).collect();
        Ok(match <[String; 1]>::try_from(tokens) {
            Ok([one]) => one.into_pyobject(py)?.into_any().unbind(),
            Err(many) => many.into_pyobject(py)?.into_any().unbind(),
        })
    }

    fn shape(&mut self, token: &str) -> PyResult<Vec<usize>> {
        let token = parse(token)?;
        self.get()?.meta(token).map(|meta| meta.shape).map_err(raise)
    }

    fn dtype(&mut self, token: &str) -> PyResult<&'static str> {
        let token = parse(token)?;
        self.get()?.meta(token).map(|meta| meta.dtype.name()).map_err(raise)
    }

    #[pyo3(signature = (name, value, shape=None))]
    fn output(&mut self, name: &str, value: &str, shape: Option<Vec<Dim>>) -> PyResult<()> {
        let value = parse(value)?;
        let shape = shape.map(|shape| shape.into_iter().map(Size::from).collect());
        self.get()?.output(name, value, shape).map_err(raise)
    }

    fn save(&mut self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let graph = self.finish()?;
        detached(py, || file::save(&graph, &path)).map_err(raise)
    }

    #[pyo3(name = "to_bytes")]
    fn bytes<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, pyo3::types::PyBytes>> {
        let graph = self.finish()?;
        let bytes = detached(py, || file::to_bytes(&graph)).map_err(raise)?;
        Ok(pyo3::types::PyBytes::new(py, &bytes))
    }
}

/// The op of that name with attributes given as JSON.
fn op_of(op: &str, attrs: &str) -> Result<Op> {
    if !gossamer_core::ops::NAMES.contains(&op) {
        return Err(Error::Graph(format!(
            "op {op:?} does not exist; there are {}",
            gossamer_core::ops::NAMES.join(", ")
        )));
    }
    let name = serde_json::Value::String(op.to_owned());
    serde_json::from_str(&format!("{{\"op\":{name},\"attrs\":{attrs}}}"))
        .map_err(|error| Error::Graph(format!("{op}: attributes {attrs}: {error}")))
}

fn named(name: &str, error: Error) -> Error {
    match error {
        Error::Graph(text) | Error::Format(text) => Error::Graph(format!("`{name}`: {text}")),
        other => other,
    }
}

/// The values as float16, where it can hold them all: a finite value that would become infinite it cannot.
fn half_rows(rows: &[f32]) -> Option<Vec<f16>> {
    let halves: Vec<f16> = rows.iter().map(|&value| f16::from_f32(value)).collect();
    rows.iter().zip(&halves).all(|(value, half)| value.is_finite() == half.is_finite()).then_some(halves)
}

/// Symmetric int8 of each row: `scale = max |w| / 127`, `q = rint(w / scale)`.
fn quantize(rows: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    let mut q = Vec::with_capacity(rows.len());
    let mut scales = Vec::new();
    for row in rows.chunks_exact(k.max(1)) {
        let largest = row.iter().fold(0f32, |most, value| most.max(value.abs()));
        let scale = if largest > 0.0 { largest / 127.0 } else { 1.0 };
        q.extend(row.iter().map(|value| (value / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    (q, scales)
}
