//! Operators: what a graph's node means.
//!
//! An op is its attributes, a rule for the shape of its outputs, and a way to make a [`Step`] of it for given shapes, layouts
//! and processor. `ops!` below is the one list of them.

use crate::error::{Error, Result, ensure};
use crate::isa::Tier;
use crate::pool::Pool;
use crate::tensor::{DType, Layout, Meta};
use crate::weight::{Matrix, Plain, Tensor};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

mod activation;
mod arange;
mod argmax;
mod binary;
mod bytes;
mod cast;
mod cat;
mod choice;
mod conv;
mod conv_i8;
mod cut;
mod dynamic;
mod embedding;
mod fold;
mod frame;
mod grid;
mod image_i8;
mod index;
mod integer;
mod linear;
mod linear_i8;
mod map;
mod matmul;
mod normalize;
mod pad;
mod pool;
mod product;
mod reduce;
pub mod relayout;
mod reshape;
mod resize;
mod scan;
pub mod size;
mod sort;
mod strided;
mod truth;
mod vectors;

pub use frame::{Failure, Frame, Operand};
use size::Sizes;

/// One operand of a node, as an op sees it before anything runs.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// An optional operand that is not there.
    Absent,
    /// A value that an input or another node provides.
    Value(&'a Meta),
    /// Something the file holds.
    Tensor(&'a Tensor, &'a Meta),
}

/// A node's operands and the sizes its symbols stand for.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    /// In order.
    pub args: &'a [Arg<'a>],
    /// Symbols of the graph's inputs.
    pub sizes: &'a Sizes,
}

impl<'a> Args<'a> {
    /// How many there are, absent ones included.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// Whether operand `i` is there.
    pub fn has(&self, i: usize) -> bool {
        !matches!(self.args.get(i), None | Some(Arg::Absent))
    }

    /// Type and shape of operand `i`, a value or a plain tensor.
    ///
    /// # Errors
    /// [`Error::Graph`] where it is absent or a matrix.
    pub fn meta(&self, i: usize) -> Result<&'a Meta> {
        match self.args.get(i) {
            Some(Arg::Value(meta) | Arg::Tensor(Tensor::Plain(_), meta)) => Ok(meta),
            Some(Arg::Tensor(Tensor::Matrix(_), _)) => Err(Error::Graph(format!(
                "operand {i} is a weight matrix, expected a value or a plain tensor"
            ))),
            _ => Err(Error::Graph(format!("operand {i} is missing"))),
        }
    }

    /// As [`Args::meta`], for an operand of float32 or int64.
    ///
    /// # Errors
    /// [`Error::Graph`] where it is of another type.
    pub fn number(&self, i: usize) -> Result<&'a Meta> {
        let x = self.meta(i)?;
        let sound = matches!(x.dtype, DType::Float32 | DType::Int64);
        ensure!(sound, Graph, "input {x}: expected float32 or int64");
        Ok(x)
    }

    /// Operand `i`, which the file must hold as a matrix.
    ///
    /// # Errors
    /// [`Error::Graph`] where it is something else.
    pub fn matrix(&self, i: usize) -> Result<&'a Arc<Matrix>> {
        match self.args.get(i) {
            Some(Arg::Tensor(Tensor::Matrix(matrix), _)) => Ok(matrix),
            _ => Err(Error::Graph(format!("operand {i} is not a weight matrix"))),
        }
    }

    /// Operand `i`, which the file must hold as plain numbers of a type and number.
    ///
    /// # Errors
    /// [`Error::Graph`] where it is something else.
    pub fn plain(&self, i: usize, dtype: DType, elements: usize) -> Result<&'a Arc<Plain>> {
        match self.args.get(i) {
            Some(Arg::Tensor(Tensor::Plain(plain), meta)) => {
                ensure!(
                    plain.dtype == dtype && meta.elements() == elements,
                    Graph,
                    "operand {i} is {meta}, expected {elements} numbers of {dtype}"
                );
                Ok(plain)
            }
            _ => Err(Error::Graph(format!("operand {i} is not a plain tensor of the file"))),
        }
    }

    /// As [`Args::plain`], for an operand that may be absent.
    ///
    /// # Errors
    /// [`Error::Graph`] where it is there and something else.
    pub fn optional(&self, i: usize, dtype: DType, elements: usize) -> Result<Option<&'a Arc<Plain>>> {
        if self.has(i) { self.plain(i, dtype, elements).map(Some) } else { Ok(None) }
    }
}

/// Which layout an op takes its operands in and gives its outputs in, for the shapes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Everything plain.
    Plain,
    /// Values of rank 3 and more, in and out, as features.
    Features,
    /// Operands as features, outputs plain.
    FromFeatures,
    /// Operand 0 as it was made, plain or as columns; the output as columns where all who read it take them.
    Columns,
    /// Operand 0 as it was made, plain or as columns; everything else plain.
    FromColumns,
    /// All operands and outputs have one shape and may have either layout, so long as it is the same.
    Same,
}

/// What a [`Step`] is made for.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// The operands.
    pub args: Args<'a>,
    /// Their layouts.
    pub layouts: &'a [Layout],
    /// Types and shapes of the outputs.
    pub outputs: &'a [Meta],
    /// The layout of the outputs.
    pub layout: Layout,
    /// The highest tier to use.
    pub tier: Tier,
    /// Threads the pool has.
    pub threads: usize,
    /// Whether convolutions may round otherwise than sums do, for speed.
    pub winograd: bool,
    /// Whether whoever reads output 0 shares it out by channels; see [`Operator::by_channels`].
    pub by_channels: bool,
}

/// The code of a step.
pub type Body = Box<dyn Fn(&Frame<'_>) + Send + Sync>;

/// A node made ready to run.
pub struct Step {
    /// Family and tier of the kernel: `gemm_f32/avx512`.
    pub kernel: String,
    /// Why that one, where there was a choice.
    pub reason: String,
    /// Arithmetic operations of a run, multiply and add counted as two; zeros that are skipped do not count.
    pub flops: f64,
    /// Bytes of weights that a run reads.
    pub weight_bytes: usize,
    /// Seconds that one thread is expected to take, where a cost model chose the kernel: on the processor it was calibrated
    /// on.
    pub estimate: Option<f64>,
    /// Bytes of scratch each thread needs.
    pub scratch: usize,
    /// The operand whose buffer output 0 may take over, where its bytes are read before they are overwritten.
    pub in_place: Option<usize>,
    /// What it does.
    pub body: Body,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").field("kernel", &self.kernel).finish_non_exhaustive()
    }
}

impl Step {
    /// A step of a kernel; the rest is set by field.
    pub fn new(kernel: impl Into<String>, body: impl Fn(&Frame<'_>) + Send + Sync + 'static) -> Step {
        Step {
            kernel: kernel.into(),
            reason: String::new(),
            flops: 0.0,
            weight_bytes: 0,
            estimate: None,
            scratch: 0,
            in_place: None,
            body: Box::new(body),
        }
    }
}

/// What a node becomes.
#[derive(Debug)]
pub enum Prepared {
    /// Output 0 is operand 0's bytes under another shape: nothing runs.
    Alias,
    /// Something runs.
    Step(Step),
}

impl From<Step> for Prepared {
    fn from(step: Step) -> Prepared {
        Prepared::Step(step)
    }
}

/// An operator: attributes that know what they mean.
pub trait Operator {
    /// Fewest and most operands.
    const ARITY: (usize, usize);

    /// Types and shapes of the outputs.
    ///
    /// # Errors
    /// [`Error::Graph`] or [`Error::Shape`] where attributes and operands do not fit.
    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>>;

    /// Which layouts it takes and gives where kernels are of that tier or lower.
    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Plain
    }

    /// Whether its threads share channels, each reading whole planes of operand 0: then a thread had better have written
    /// the same channels, which its core's cache still holds.
    fn by_channels(&self, _args: &Args<'_>) -> bool {
        false
    }

    /// Makes it ready for given shapes, layouts and processor. Called only where [`Operator::infer`] accepted the operands.
    ///
    /// # Errors
    /// [`Error::Graph`] where this combination cannot run.
    fn prepare(&self, site: &Site<'_>) -> Result<Prepared>;
}

/// The op set: name in the file, module, attribute type. From it come the enum, its serialised form and its dispatch.
macro_rules! ops {
    ($($(#[$doc:meta])* $name:literal => $module:ident::$attrs:ident),+ $(,)?) => {
        /// An operator with its attributes.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "op", content = "attrs")]
        pub enum Op {
            $($(#[$doc])* #[serde(rename = $name)] $attrs($module::$attrs),)+
        }

        /// The names of all operators.
        pub const NAMES: &[&str] = &[$($name),+];

        impl Op {
            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Op::$attrs(_) => $name,)+ }
            }

            /// Types and shapes of the outputs; see [`Operator::infer`].
            ///
            /// # Errors
            /// [`Error::Graph`] or [`Error::Shape`] where attributes and operands do not fit.
            pub fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
                let (least, most) = match self { $(Op::$attrs(_) => $module::$attrs::ARITY,)+ };
                ensure!(
                    (least..=most).contains(&args.len()),
                    Graph,
                    "got {} operands, expected {least} to {most}",
                    args.len()
                );
                let metas = match self { $(Op::$attrs(op) => Operator::infer(op, args)?,)+ };
                for meta in &metas {
                    meta.bytes()?;
                }
                Ok(metas)
            }

            /// Which layouts it takes and gives; see [`Operator::wants`].
            pub fn wants(&self, args: &Args<'_>, tier: Tier) -> Wants {
                match self { $(Op::$attrs(op) => op.wants(args, tier),)+ }
            }

            /// Whether its threads share channels; see [`Operator::by_channels`].
            pub fn by_channels(&self, args: &Args<'_>) -> bool {
                match self { $(Op::$attrs(op) => op.by_channels(args),)+ }
            }

            /// Makes it ready; see [`Operator::prepare`].
            ///
            /// # Errors
            /// [`Error::Graph`] where this combination cannot run.
            pub fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
                match self { $(Op::$attrs(op) => op.prepare(site),)+ }
            }
        }
    };
}

ops! {
    /// Convolution.
    "conv" => conv::Conv,
    /// `y = x Wᵀ + b` over the last dimension.
    "linear" => linear::Linear,
    /// `conv` in integers.
    "conv_i8" => conv_i8::ConvI8,
    /// `linear` in integers.
    "linear_i8" => linear_i8::LinearI8,
    /// `linear` in integers on float32 rows.
    "dynamic_linear_i8" => dynamic::DynamicLinearI8,
    /// A function of one variable, element by element.
    "map" => map::MapOp,
    /// float32 to bytes.
    "quantize" => bytes::Quantize,
    /// Bytes to float32.
    "dequantize" => bytes::Dequantize,
    /// A function of a byte, by table.
    "lookup_i8" => bytes::LookupI8,
    /// The sum of two arrays of bytes.
    "add_i8" => bytes::AddI8,
    /// The product of two arrays of bytes.
    "mul_i8" => bytes::MulI8,
    /// The greatest or the mean of windows.
    "pool" => pool::Pool,
    /// The same over a given number of windows.
    "adaptive_pool" => pool::AdaptivePool,
    /// The mean of bytes over axes.
    "mean_i8" => pool::MeanI8,
    /// Sums, extremes and the like over axes.
    "reduce" => reduce::ReduceOp,
    /// What sums to one along an axis.
    "softmax" => normalize::Softmax,
    /// Normalisation over the last dimensions.
    "layer_norm" => normalize::LayerNorm,
    /// Normalisation over groups of channels.
    "group_norm" => normalize::GroupNorm,
    /// A factor and an addend a channel.
    "affine" => normalize::Affine,
    /// A function of two variables, element by element.
    "binary" => binary::BinaryOp,
    /// The same bytes under another shape.
    "reshape" => reshape::Reshape,
    /// Dimensions in another order.
    "permute" => strided::Permute,
    /// A range of one axis.
    "slice" => strided::Slice,
    /// Dimensions of one element repeated.
    "expand" => strided::Expand,
    /// Arrays one after the other.
    "cat" => cat::Cat,
    /// One of two operands, element by element.
    "where" => choice::Where,
    /// Another element type.
    "cast" => cast::Cast,
    /// More elements around.
    "pad" => pad::Pad,
    /// Rows of a weight.
    "embedding" => embedding::Embedding,
    /// Slices along one axis, by index.
    "take" => index::Take,
    /// Elements along one axis, by index.
    "gather" => index::Gather,
    /// Elements put elsewhere along one axis, by index.
    "scatter" => index::Scatter,
    /// Products of matrices that are both computed.
    "matmul" => matmul::Matmul,
    /// Where the greatest or least element of an axis is.
    "arg_extreme" => argmax::ArgExtreme,
    /// Whether any element, or every one, is not zero.
    "truth" => truth::Truth,
    /// An axis in order, or its greatest elements.
    "sort" => sort::Sort,
    /// Running sums or products along an axis.
    "scan" => scan::Scan,
    /// Numbers a step apart.
    "arange" => arange::Arange,
    /// Windows added up into planes.
    "fold" => fold::Fold,
    /// Planes taken apart into windows.
    "unfold" => fold::Unfold,
    /// Planes of another size.
    "resize" => resize::Resize,
    /// Planes sampled at given places.
    "grid_sample" => grid::GridSample,
}

/// Calls a function generic over an element type with the unsigned integer of that many bytes.
macro_rules! by_size {
    ($size:expr, $function:ident $arguments:tt) => {
        match $size {
            1 => $function::<u8> $arguments,
            2 => $function::<u16> $arguments,
            4 => $function::<u32> $arguments,
            _ => $function::<u64> $arguments,
        }
    };
}
use by_size;

/// Spreads `n` elements over the pool in ranges of a multiple of `grain`, where that pays.
pub fn parallel(pool: &Pool, n: usize, grain: usize, body: &(dyn Fn(usize, usize) + Sync)) {
    // Some tens of kilobytes a part: below that, waking a thread costs more than it saves.
    const PART: usize = 16 * 1024;
    let parts = (n / PART).clamp(1, pool.threads() * 4);
    if parts == 1 {
        if n > 0 {
            body(0, n);
        }
        return;
    }
    let ranges = crate::pool::split(n, parts, grain);
    pool.run(ranges.len(), &|item, _| {
        let (start, end) = ranges.at(item);
        body(start, end);
    });
}
