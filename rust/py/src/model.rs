//! The board's side: load, run, profile, and what a model tells of itself.

use gossamer_core::error::Error;
use gossamer_core::file::{self, Source};
use gossamer_core::isa::Tier;
use gossamer_core::kernels::FAMILIES;
use gossamer_core::ops::size::Size;
use gossamer_core::plan::Plan;
use gossamer_core::pool::available_threads;
use gossamer_core::run::{self, Options};
use gossamer_core::weight::Tensor;
use numpy::PyUntypedArray;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::array;
use crate::calls::detached;
use crate::error::raise;

#[pyclass(module = "gossamer._core", frozen)]
pub(crate) struct Model {
    inner: run::Model,
    mapped: bool,
}

/// Where a model comes from: a path, or the file's bytes.
#[derive(FromPyObject)]
pub(crate) enum Origin<'py> {
    Bytes(Bound<'py, PyBytes>),
    Path(PathBuf),
}

#[pyfunction]
#[pyo3(signature = (source, *, threads=None, isa=None, mmap=true, max_memory=None, winograd=false, dense=false))]
#[allow(clippy::too_many_arguments, reason = "they are keywords in Python")]
pub(crate) fn load(
    py: Python<'_>,
    source: Origin<'_>,
    threads: Option<usize>,
    isa: Option<&str>,
    mmap: bool,
    max_memory: Option<usize>,
    winograd: bool,
    dense: bool,
) -> PyResult<Model> {
    let options = Options {
        tier: Tier::choose(isa).map_err(raise)?,
        threads: threads.unwrap_or_else(available_threads).clamp(1, 256),
        winograd,
        max_memory: max_memory.unwrap_or_else(run::free_memory_share),
    };
    let source = match &source {
        Origin::Bytes(bytes) => Source::Bytes(bytes.as_bytes()),
        Origin::Path(path) if mmap => Source::Map(path),
        Origin::Path(path) => Source::Read(path),
    };
    let read = || {
        let mut graph = file::read(source)?;
        if dense {
            graph.expand(options.max_memory)?;
        }
        run::Model::new(graph, options)
    };
    let inner = detached(py, read).map_err(raise)?;
    Ok(Model { inner, mapped: matches!(source, Source::Map(_)) })
}

impl Model {
    fn plan_for(&self, inputs: &[Bound<'_, PyUntypedArray>]) -> PyResult<Arc<Plan>> {
        let metas = inputs.iter().map(array::meta).collect::<PyResult<Vec<_>>>()?;
        for (input, meta) in self.inner.graph().inputs.iter().zip(&metas) {
            if input.dtype != meta.dtype {
                let (name, want) = (&input.name, input.dtype);
                return Err(raise(Error::Shape(format!("input {name:?}: got {meta}, expected {want}"))));
            }
        }
        let shapes: Vec<&[usize]> = metas.iter().map(|meta| meta.shape.as_slice()).collect();
        self.inner.plan(&shapes).map_err(raise)
    }
}

#[pymethods]
impl Model {
    fn run<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Bound<'py, PyUntypedArray>>,
    ) -> PyResult<Vec<Bound<'py, PyUntypedArray>>> {
        let plan = self.plan_for(&inputs)?;
        self.inner.admit(&plan).map_err(raise)?;
        let bytes = inputs.iter().map(array::bytes).collect::<PyResult<Vec<_>>>()?;
        let outputs =
            plan.outputs.iter().map(|meta| array::output(py, meta)).collect::<PyResult<Vec<_>>>()?;
        let (arrays, mut slices): (Vec<_>, Vec<_>) = outputs.into_iter().unzip();
        detached(py, || self.inner.run(&plan, &bytes, &mut slices)).map_err(raise)?;
        Ok(arrays)
    }

    /// Runs `repeat` times; one dict a step with its mean time in seconds.
    fn profile<'py>(
        &self,
        py: Python<'py>,
        inputs: Vec<Bound<'py, PyUntypedArray>>,
        repeat: usize,
    ) -> PyResult<Bound<'py, PyList>> {
        let plan = self.plan_for(&inputs)?;
        self.inner.admit(&plan).map_err(raise)?;
        let bytes = inputs.iter().map(array::bytes).collect::<PyResult<Vec<_>>>()?;
        let mut times = vec![Duration::ZERO; plan.steps.len()];
        let repeat = repeat.max(1);
        for _ in 0..repeat {
            let outputs =
                plan.outputs.iter().map(|meta| array::output(py, meta)).collect::<PyResult<Vec<_>>>()?;
            let (_arrays, mut slices): (Vec<_>, Vec<_>) = outputs.into_iter().unzip();
            detached(py, || self.inner.profile(&plan, &bytes, &mut slices, &mut times)).map_err(raise)?;
        }
        let rows = PyList::empty(py);
        for (planned, time) in plan.steps.iter().zip(&times) {
            let row = PyDict::new(py);
            row.set_item("name", &planned.name)?;
            row.set_item("op", planned.op)?;
            row.set_item("kernel", &planned.step.kernel)?;
            row.set_item("shape", &planned.shape)?;
            row.set_item("seconds", time.as_secs_f64() / repeat as f64)?;
            row.set_item("estimate", planned.step.estimate)?;
            row.set_item("flops", planned.step.flops)?;
            let moved = planned.inputs.iter().chain(&planned.outputs).map(|place| place.len).sum::<usize>();
            row.set_item("bytes", moved + planned.step.weight_bytes)?;
            rows.append(row)?;
        }
        Ok(rows)
    }

    #[getter]
    fn inputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let rows = PyList::empty(py);
        for input in &self.inner.graph().inputs {
            rows.append((&input.name, dims(py, &input.shape)?, input.dtype.name()))?;
        }
        Ok(rows)
    }

    #[getter]
    fn outputs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let plan = self.inner.example_plan().map_err(raise)?;
        let rows = PyList::empty(py);
        for (output, meta) in self.inner.graph().outputs.iter().zip(&plan.outputs) {
            rows.append((&output.name, dims(py, &output.shape)?, meta.dtype.name()))?;
        }
        Ok(rows)
    }

    /// Shapes of the inputs the model was converted with.
    #[getter]
    fn examples(&self) -> Vec<Vec<usize>> {
        self.inner.graph().inputs.iter().map(|input| input.example.clone()).collect()
    }

    /// One dict a step of the plan for the example shapes.
    #[getter]
    fn layers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let plan = self.inner.example_plan().map_err(raise)?;
        let graph = self.inner.graph();
        let rows = PyList::empty(py);
        for planned in &plan.steps {
            let row = PyDict::new(py);
            row.set_item("name", &planned.name)?;
            row.set_item("op", planned.op)?;
            row.set_item("kernel", &planned.step.kernel)?;
            row.set_item("reason", &planned.step.reason)?;
            row.set_item("shape", &planned.shape)?;
            let weight = planned.node.and_then(|n| {
                graph.nodes[n].inputs.iter().find_map(|reference| match reference {
                    gossamer_core::graph::Ref::Tensor(id) => match &graph.tensors[*id] {
                        Tensor::Matrix(matrix) => Some((&graph.names[*id], matrix)),
                        Tensor::Plain(_) => None,
                    },
                    _ => None,
                })
            });
            if let Some((name, matrix)) = weight {
                row.set_item("weight", name)?;
                row.set_item("format", matrix.format())?;
                row.set_item("weight_shape", (matrix.m(), matrix.k()))?;
                row.set_item("nnz", matrix.nnz())?;
            }
            let tensors = planned.node.map_or(0, |n| {
                let size = |r: &gossamer_core::graph::Ref| match r {
                    gossamer_core::graph::Ref::Tensor(id) => graph.tensors[*id].bytes(),
                    _ => 0,
                };
                graph.nodes[n].inputs.iter().map(size).sum()
            });
            row.set_item("bytes", tensors)?;
            rows.append(row)?;
        }
        Ok(rows)
    }

    /// Bytes mapped from the file, held privately, and in arenas.
    #[getter]
    fn memory<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (mut in_place, mut copied) = (0, 0);
        for tensor in &self.inner.graph().tensors {
            match tensor {
                Tensor::Plain(plain) => in_place += plain.bytes.len(),
                Tensor::Matrix(matrix) => {
                    in_place += matrix.value_bytes();
                    copied += matrix.copied_bytes() + matrix.form_bytes();
                }
            }
        }
        let plan = self.inner.example_plan().map_err(raise)?;
        let memory = PyDict::new(py);
        memory.set_item("mapped", if self.mapped { in_place } else { 0 })?;
        memory.set_item("private", copied + if self.mapped { 0 } else { in_place })?;
        memory.set_item("arena", self.inner.held().max(plan.bytes()))?;
        Ok(memory)
    }

    #[getter]
    fn tier(&self) -> &'static str {
        self.inner.options().tier.name()
    }

    #[getter]
    fn threads(&self) -> usize {
        self.inner.options().threads
    }

    /// Bytes a run at the given input shapes needs in its arena.
    fn arena_bytes(&self, shapes: Vec<Vec<usize>>) -> PyResult<usize> {
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        self.inner.plan(&shapes).map(|plan| plan.bytes()).map_err(raise)
    }
}

fn dims<'py>(py: Python<'py>, shape: &[Size]) -> PyResult<Bound<'py, PyList>> {
    let dims = PyList::empty(py);
    for size in shape {
        match size {
            Size::Fixed(value) => dims.append(value)?,
            Size::Expr(text) => dims.append(text)?,
        }
    }
    Ok(dims)
}

#[pyfunction]
pub(crate) fn cpu(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let tier = Tier::choose(None).map_err(raise)?;
    let found = PyDict::new(py);
    found.set_item("tiers", Tier::available().iter().map(|tier| tier.name()).collect::<Vec<_>>())?;
    found.set_item("chosen", tier.name())?;
    found.set_item("threads", available_threads())?;
    let families = PyDict::new(py);
    for family in FAMILIES {
        families.set_item(family.name, family.chosen(tier).name())?;
    }
    found.set_item("families", families)?;
    Ok(found)
}
