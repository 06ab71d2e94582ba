//! Graphs: nodes over values, in the order in which they can run.
//!
//! A [`Graph`] is what a file holds: every node's operands come before it, and every shape was inferred from the example
//! it was built with. [`Builder`] makes one node by node, so that a mistake fails where it is made.

use crate::error::{Error, Result, ensure};
use crate::ops::size::{Size, Sizes};
use crate::ops::{Arg, Args, Op};
use crate::tensor::{DType, Meta, Shape, elements};
use crate::weight::{Matrix, Plain, Structure, TILE, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The index of a value: inputs come first, then the outputs of each node in turn.
pub type ValueId = usize;

/// What a node takes: a value, something the file holds, or nothing. Written `"v3"`, `"t5"`, `null`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ref {
    /// A value.
    Value(ValueId),
    /// A tensor of the graph.
    Tensor(usize),
    /// An optional operand that is not there.
    Absent,
}

impl std::fmt::Display for Ref {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ref::Value(id) => write!(f, "v{id}"),
            Ref::Tensor(id) => write!(f, "t{id}"),
            Ref::Absent => f.write_str("-"),
        }
    }
}

impl std::str::FromStr for Ref {
    type Err = Error;
    fn from_str(text: &str) -> Result<Ref> {
        let digits =
            |rest: &str| rest.bytes().all(|c| c.is_ascii_digit()).then(|| rest.parse().ok()).flatten();
        let found = match text.split_at_checked(1) {
            Some(("v", rest)) => digits(rest).map(Ref::Value),
            Some(("t", rest)) => digits(rest).map(Ref::Tensor),
            _ => None,
        };
        found.ok_or_else(|| {
            Error::Graph(format!("operand {text:?} is neither a value (\"v0\") nor a tensor (\"t0\")"))
        })
    }
}

impl Serialize for Ref {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        match self {
            Ref::Absent => serializer.serialize_none(),
            present => serializer.collect_str(present),
        }
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Ref, D::Error> {
        match Option::<String>::deserialize(deserializer)? {
            None => Ok(Ref::Absent),
            Some(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

/// An input of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Its dimensions; a dynamic one is a symbol.
    pub shape: Vec<Size>,
    /// The shape the graph was built with.
    pub example: Shape,
}

/// An output of the network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// What it is.
    pub value: Ref,
    /// Its dimensions in terms of the inputs' symbols, as far as the converter knows them.
    pub shape: Vec<Size>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The torch module path it came from.
    pub name: String,
    /// What it takes.
    pub inputs: Vec<Ref>,
    /// What it does.
    #[serde(flatten)]
    pub op: Op,
}

/// A network.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    /// Its inputs: values `0..inputs.len()`.
    pub inputs: Vec<Input>,
    /// Its operations, each after what it takes.
    pub nodes: Vec<Node>,
    /// Its outputs.
    pub outputs: Vec<Output>,
    /// Names of its tensors.
    pub names: Vec<String>,
    /// Its tensors.
    pub tensors: Vec<Tensor>,
}

/// Shapes and types of every value of a graph for one set of input shapes.
#[derive(Clone, Debug)]
pub struct Inferred {
    /// Of each value.
    pub values: Vec<Meta>,
    /// The first output value of each node.
    pub first: Vec<ValueId>,
    /// What the symbols stand for.
    pub sizes: Sizes,
}

impl Graph {
    /// The metas of the tensors, for [`Args`].
    fn tensor_metas(&self) -> Vec<Meta> {
        self.tensors.iter().map(meta_of).collect()
    }

    /// Bytes of the forms that kernels keep of the weights, beside what the file holds.
    pub fn form_bytes(&self) -> usize {
        let form =
            |tensor: &Tensor| if let Tensor::Matrix(matrix) = tensor { matrix.form_bytes() } else { 0 };
        self.tensors.iter().map(form).fold(0, usize::saturating_add)
    }

    /// Puts the dense matrix in the place of every sparse and low-rank one: what a runtime that knows nothing of compression
    /// would run, to compare with.
    ///
    /// # Errors
    /// As [`Matrix::expand`]; [`Error::Memory`] where they take more than `max_memory` bytes.
    pub fn expand(&mut self, max_memory: usize) -> Result<()> {
        let expanded = |tensor: &Tensor| match tensor {
            // As rows and as tiles.
            Tensor::Matrix(matrix) if !matches!(matrix.structure(), Structure::Dense(_)) => {
                elements(&[matrix.m().saturating_add(TILE), matrix.k(), 8])
            }
            _ => Ok(0),
        };
        let need = self.tensors.iter().map(expanded).try_fold(0usize, |sum, n| Ok(sum.saturating_add(n?)))?;
        ensure!(need <= max_memory, Memory, "the dense weights take {need} bytes, more than {max_memory}");
        for tensor in &mut self.tensors {
            if let Tensor::Matrix(matrix) = tensor
                && let Some(dense) = matrix.expand()?
            {
                *matrix = Arc::new(dense);
            }
        }
        Ok(())
    }

    /// What the symbols of the inputs stand for, where their shapes are these.
    ///
    /// # Errors
    /// [`Error::Shape`] where a rank or a fixed dimension differs, or one symbol would be two sizes.
    pub fn bind(&self, shapes: &[&[usize]]) -> Result<Sizes> {
        ensure!(
            shapes.len() == self.inputs.len(),
            Shape,
            "got {} inputs, expected {}: {}",
            shapes.len(),
            self.inputs.len(),
            self.inputs.iter().map(|input| input.name.as_str()).collect::<Vec<_>>().join(", ")
        );
        let mut sizes = Sizes::new();
        let wrong = |input: &Input, shape: &[usize]| {
            let want: Vec<_> = input.shape.iter().map(ToString::to_string).collect();
            Error::Shape(format!(
                "input {:?}: got shape {shape:?}, expected ({})",
                input.name,
                want.join(", ")
            ))
        };
        for (input, shape) in self.inputs.iter().zip(shapes) {
            if input.shape.len() != shape.len() {
                return Err(wrong(input, shape));
            }
            for (want, &got) in input.shape.iter().zip(*shape) {
                if let Some(symbol) = want.symbol() {
                    let got = i64::try_from(got).map_err(|_| wrong(input, shape))?;
                    let known = *sizes.entry(symbol.to_owned()).or_insert(got);
                    ensure!(
                        known == got,
                        Shape,
                        "input {:?}: dimension {symbol:?} is {got}, but {known} elsewhere",
                        input.name
                    );
                }
            }
        }
        for (input, shape) in self.inputs.iter().zip(shapes) {
            for (want, &got) in input.shape.iter().zip(*shape) {
                if want.eval(&sizes)? != got as i64 {
                    return Err(wrong(input, shape));
                }
            }
        }
        Ok(sizes)
    }

    /// Infers every value for the given input shapes.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shapes do not fit the inputs or an operation; [`Error::Graph`] where the graph is broken.
    pub fn infer(&self, shapes: &[&[usize]]) -> Result<Inferred> {
        let sizes = self.bind(shapes)?;
        let tensors = self.tensor_metas();
        let mut values: Vec<Meta> =
            self.inputs.iter().zip(shapes).map(|(input, shape)| Meta::new(input.dtype, *shape)).collect();
        for meta in &values {
            meta.bytes()?;
        }
        let mut first = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let outputs = self.infer_node(node, &values, &tensors, &sizes)?;
            first.push(values.len());
            values.extend(outputs);
        }
        for output in &self.outputs {
            self.arg(output.value, &values, &tensors)?;
        }
        Ok(Inferred { values, first, sizes })
    }

    /// Checks that there are outputs, that each is a value or plain numbers, and that it has the shape it declares.
    ///
    /// # Errors
    /// [`Error::Graph`] where one does not.
    pub fn check_outputs(&self, inferred: &Inferred) -> Result<()> {
        ensure!(!self.outputs.is_empty(), Graph, "the graph has no output");
        let tensors = self.tensor_metas();
        for output in &self.outputs {
            let shape = match self.arg(output.value, &inferred.values, &tensors)? {
                Arg::Value(meta) | Arg::Tensor(Tensor::Plain(_), meta) => &meta.shape,
                Arg::Tensor(Tensor::Matrix(_), _) | Arg::Absent => {
                    return Err(Error::Graph(format!(
                        "output {:?} is neither value nor numbers",
                        output.name
                    )));
                }
            };
            let declared =
                output.shape.iter().map(|size| size.dim(&inferred.sizes)).collect::<Result<Vec<_>>>()?;
            ensure!(
                declared == *shape,
                Graph,
                "output {:?}: dimensions {declared:?} are declared, it has {shape:?}",
                output.name
            );
        }
        Ok(())
    }

    fn infer_node(&self, node: &Node, values: &[Meta], tensors: &[Meta], sizes: &Sizes) -> Result<Vec<Meta>> {
        let named = |error: Error| at_node(node, error);
        let args = node.inputs.iter().map(|&r| self.arg(r, values, tensors)).collect::<Result<Vec<_>>>();
        let args = args.map_err(named)?;
        node.op.infer(&Args { args: &args, sizes }).map_err(named)
    }

    /// What a reference means to an op.
    ///
    /// # Errors
    /// [`Error::Graph`] where it names nothing that is there.
    pub fn arg<'a>(&'a self, reference: Ref, values: &'a [Meta], tensors: &'a [Meta]) -> Result<Arg<'a>> {
        let found = match reference {
            Ref::Absent => Some(Arg::Absent),
            Ref::Value(id) => values.get(id).map(Arg::Value),
            Ref::Tensor(id) => {
                self.tensors.get(id).zip(tensors.get(id)).map(|(t, meta)| Arg::Tensor(t, meta))
            }
        };
        found.ok_or_else(|| Error::Graph(format!("operand {reference} does not exist before it is used")))
    }
}

/// Type and shape of a tensor; `(m, k)` for a matrix.
pub fn meta_of(tensor: &Tensor) -> Meta {
    match tensor {
        Tensor::Plain(plain) => Meta::new(plain.dtype, plain.shape.clone()),
        Tensor::Matrix(matrix) => Meta::new(matrix.dtype(), [matrix.m(), matrix.k()]),
    }
}

/// Names the node in an error's message.
pub fn at_node(node: &Node, error: Error) -> Error {
    let prefix = |text: String| format!("{} `{}`: {text}", node.op.name(), node.name);
    match error {
        Error::Graph(text) => Error::Graph(prefix(text)),
        Error::Shape(text) => Error::Shape(prefix(text)),
        other => other,
    }
}

/// Makes a graph, node by node.
#[derive(Debug, Default)]
pub struct Builder {
    graph: Graph,
    values: Vec<Meta>,
    tensors: Vec<Meta>,
    sizes: Sizes,
}

impl Builder {
    /// An empty graph.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Declares an input; all of them before the first node. `example` is a shape it may have.
    ///
    /// # Errors
    /// [`Error::Graph`] where a node exists already or the example does not fit the dimensions.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Vec<Size>, example: Shape) -> Result<Ref> {
        ensure!(
            self.graph.nodes.is_empty(),
            Graph,
            "input {name:?}: inputs are declared before the first node"
        );
        self.graph.inputs.push(Input { name: name.to_owned(), dtype, shape, example });
        let examples: Vec<&[usize]> =
            self.graph.inputs.iter().map(|input| input.example.as_slice()).collect();
        match self.graph.bind(&examples) {
            Ok(sizes) => self.sizes = sizes,
            Err(error) => {
                self.graph.inputs.pop();
                return Err(error);
            }
        }
        let example = self.graph.inputs[self.values.len()].example.clone();
        self.values.push(Meta::new(dtype, example));
        Ok(Ref::Value(self.values.len() - 1))
    }

    /// Adds plain numbers.
    pub fn plain(&mut self, name: &str, plain: Plain) -> Ref {
        self.tensor(name, Tensor::Plain(Arc::new(plain)))
    }

    /// Adds a weight matrix.
    pub fn matrix(&mut self, name: &str, matrix: Matrix) -> Ref {
        self.tensor(name, Tensor::Matrix(Arc::new(matrix)))
    }

    /// Adds the product of two matrices added before, as one weight.
    ///
    /// # Errors
    /// [`Error::Graph`] where they are not matrices; [`Error::Format`] where their shapes do not fit.
    pub fn low_rank(&mut self, name: &str, u: Ref, v: Ref) -> Result<Ref> {
        let part = |reference: Ref| match reference {
            Ref::Tensor(id) => match self.graph.tensors.get(id) {
                Some(Tensor::Matrix(matrix)) => Ok(Arc::clone(matrix)),
                _ => Err(Error::Graph(format!("low-rank {name:?}: {reference} is not a matrix"))),
            },
            _ => Err(Error::Graph(format!("low-rank {name:?}: {reference} is not a matrix"))),
        };
        let (u, v) = (part(u)?, part(v)?);
        let structure = Structure::LowRank { u: Arc::clone(&u), v: Arc::clone(&v) };
        Ok(self.matrix(name, Matrix::new(u.m(), v.k(), 1, structure, None)?))
    }

    fn tensor(&mut self, name: &str, tensor: Tensor) -> Ref {
        self.tensors.push(meta_of(&tensor));
        self.graph.tensors.push(tensor);
        self.graph.names.push(name.to_owned());
        Ref::Tensor(self.graph.tensors.len() - 1)
    }

    /// Adds a node; its outputs are the returned values.
    ///
    /// # Errors
    /// [`Error::Graph`] or [`Error::Shape`], naming the node, where attributes and operands do not fit.
    pub fn add(&mut self, op: Op, inputs: Vec<Ref>, name: &str) -> Result<Vec<Ref>> {
        let node = Node { name: name.to_owned(), inputs, op };
        let outputs = self.graph.infer_node(&node, &self.values, &self.tensors, &self.sizes)?;
        let first = self.values.len();
        self.values.extend(outputs);
        self.graph.nodes.push(node);
        Ok((first..self.values.len()).map(Ref::Value).collect())
    }

    /// Type and shape of a value or tensor, at the example's sizes.
    ///
    /// # Errors
    /// [`Error::Graph`] where there is no such thing.
    pub fn meta(&self, reference: Ref) -> Result<Meta> {
        match self.graph.arg(reference, &self.values, &self.tensors)? {
            Arg::Value(meta) | Arg::Tensor(_, meta) => Ok(meta.clone()),
            Arg::Absent => Err(Error::Graph("nothing has no shape".into())),
        }
    }

    /// Declares an output. `shape`: its dimensions in terms of the inputs' symbols; where empty or unknown, the example's.
    ///
    /// # Errors
    /// [`Error::Graph`] where the value does not exist, or the dimensions are not its at the example's sizes.
    pub fn output(&mut self, name: &str, value: Ref, shape: Option<Vec<Size>>) -> Result<()> {
        let meta = self.meta(value)?;
        let fixed = || meta.shape.iter().map(|&d| Size::Fixed(d as i64)).collect();
        let shape: Vec<Size> = shape.unwrap_or_else(fixed);
        let at_example = shape.iter().map(|size| size.dim(&self.sizes)).collect::<Result<Vec<_>>>()?;
        ensure!(
            at_example == meta.shape,
            Graph,
            "output {name:?}: dimensions {at_example:?} were declared, it has {meta}"
        );
        self.graph.outputs.push(Output { name: name.to_owned(), value, shape });
        Ok(())
    }

    /// The graph, without what no output needs.
    ///
    /// # Errors
    /// [`Error::Graph`] where it has no output.
    pub fn finish(self) -> Result<Graph> {
        ensure!(!self.graph.outputs.is_empty(), Graph, "the graph has no output");
        Ok(self.graph.pruned())
    }
}

impl Graph {
    /// The same graph without nodes and tensors that no output needs.
    fn pruned(mut self) -> Graph {
        let examples: Vec<Shape> = self.inputs.iter().map(|input| input.example.clone()).collect();
        let examples: Vec<&[usize]> = examples.iter().map(Vec::as_slice).collect();
        let inferred = self.infer(&examples).expect("a builder infers every node it adds");
        let total = inferred.values.len();
        let ends: Vec<usize> = inferred.first.iter().skip(1).copied().chain([total]).collect();
        let mut used_values = vec![false; total];
        let mut used_tensors = vec![false; self.tensors.len()];
        let mut mark = |reference: Ref, values: &mut Vec<bool>| match reference {
            Ref::Value(id) => values[id] = true,
            Ref::Tensor(id) => used_tensors[id] = true,
            Ref::Absent => {}
        };
        for output in &self.outputs {
            mark(output.value, &mut used_values);
        }
        let mut kept = vec![false; self.nodes.len()];
        for n in (0..self.nodes.len()).rev() {
            kept[n] = used_values[inferred.first[n]..ends[n]].contains(&true);
            if kept[n] {
                for &reference in &self.nodes[n].inputs {
                    mark(reference, &mut used_values);
                }
            }
        }
        // A low-rank weight holds its factors, which the file lists as tensors of their own.
        for t in (0..self.tensors.len()).rev() {
            if let Tensor::Matrix(matrix) = &self.tensors[t]
                && let Structure::LowRank { u, v } = matrix.structure()
                && used_tensors[t]
            {
                for (other, used) in self.tensors.iter().zip(&mut used_tensors) {
                    if let Tensor::Matrix(other) = other {
                        *used |= Arc::ptr_eq(other, u) || Arc::ptr_eq(other, v);
                    }
                }
            }
        }
        // Inputs stay; then come the values of the nodes that do.
        let mut stays = vec![true; self.inputs.len()];
        for (n, &kept) in kept.iter().enumerate() {
            stays.resize(stays.len() + ends[n] - inferred.first[n], kept);
        }
        let (value_at, tensor_at) = (places(&stays), places(&used_tensors));
        let moved = |reference: Ref| match reference {
            Ref::Value(id) => Ref::Value(value_at[id]),
            Ref::Tensor(id) => Ref::Tensor(tensor_at[id]),
            Ref::Absent => Ref::Absent,
        };
        let keep = |used: &[bool]| {
            let used = used.to_vec();
            let mut i = 0;
            move || {
                i += 1;
                used[i - 1]
            }
        };
        let mut kept = keep(&kept);
        self.nodes.retain(|_| kept());
        let (mut keep_tensor, mut keep_name) = (keep(&used_tensors), keep(&used_tensors));
        self.tensors.retain(|_| keep_tensor());
        self.names.retain(|_| keep_name());
        for node in &mut self.nodes {
            node.inputs.iter_mut().for_each(|reference| *reference = moved(*reference));
        }
        for output in &mut self.outputs {
            output.value = moved(output.value);
        }
        self
    }
}

/// Where each entry of a list comes to lie when those that do not stay are gone; of no meaning for these.
fn places(stays: &[bool]) -> Vec<usize> {
    let after = |next: &mut usize, &stays: &bool| {
        let place = *next;
        *next += usize::from(stays);
        Some(place)
    };
    stays.iter().scan(0, after).collect()
}
