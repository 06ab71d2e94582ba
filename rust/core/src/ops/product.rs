//! Weights times panels: what convolution and linear share.
//!
//! A [`Chain`] is a weight made ready for strips: one factor, or the two of a low-rank weight, whose product between lives
//! in the scratch of the thread that computes the strip.

#![allow(unsafe_code, reason = "strips are windows of arrays that several threads write")]

use super::cut::Parts;
use crate::error::Result;
use crate::isa::Tier;
use crate::kernels::spmm_f32::cost::{self, Cost};
use crate::kernels::strip::{Epilogue, Strip, StripKernel, TILE};
use crate::kernels::{Impl, gemm_f32, pick, spmm_f32};
use crate::pool::Ranges;
use crate::tensor::DType;
use crate::weight::{Matrix, QUAD, SparseRows, Structure, Tiles, Unit};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::sync::Arc;

/// The kernel of a factor.
enum Kernel {
    Dense(StripKernel<gemm_f32::Run>),
    /// Values that are not float32 are widened, a tile and block at a time, in scratch.
    Widened(StripKernel<gemm_f32::Run>),
    Sparse(Box<dyn Sparse>),
}

/// A kernel for sparse rows, or stacks of them, of one type of values.
trait Sparse: Send + Sync {
    /// # Safety
    /// As for [`StripKernel`], `call` counting the rows of all groups.
    unsafe fn run(&self, matrix: &Matrix, call: &Strip<'_, ()>);
}

/// What an index of a sparse matrix names: a number, those of a stack, or a [`Four`].
trait Stored: 'static {
    type Unit: 'static;

    const TABLE: &'static [Impl<StripKernel<spmm_f32::Run<Self::Unit>>>];

    fn rows(matrix: &Matrix) -> SparseRows<'_, Self::Unit>;
}

/// Four columns of a row.
struct Four<T>(std::marker::PhantomData<T>);

/// The kernel of what is stored.
struct Stores<T: Stored>(spmm_f32::Run<T::Unit>);

impl<T: Stored> Sparse for Stores<T> {
    unsafe fn run(&self, matrix: &Matrix, call: &Strip<'_, ()>) {
        // SAFETY: the caller's.
        unsafe { (self.0)(&with(call, T::rows(matrix), call.epilogue)) };
    }
}

macro_rules! stored {
    ($($t:ty, $one:ident, $two:ident, $four:ident, $sixteen:ident;)+) => {$(
        impl Stored for Four<$t> {
            type Unit = [$t; QUAD];
            const TABLE: &'static [Impl<StripKernel<spmm_f32::Run<[$t; QUAD]>>>] = spmm_f32::fours::$one;
            fn rows(matrix: &Matrix) -> SparseRows<'_, [$t; QUAD]> {
                matrix.fours()
            }
        }
        impl Stored for $t {
            type Unit = $t;
            const TABLE: &'static [Impl<StripKernel<spmm_f32::Run<$t>>>] = spmm_f32::$one;
            fn rows(matrix: &Matrix) -> SparseRows<'_, $t> {
                matrix.rows()
            }
        }
        stored!(@stack $t, 2, $two);
        stored!(@stack $t, 4, $four);
        stored!(@stack $t, 16, $sixteen);
    )+};
    (@stack $t:ty, $height:literal, $table:ident) => {
        impl Stored for [$t; $height] {
            type Unit = Self;
            const TABLE: &'static [Impl<StripKernel<spmm_f32::Run<Self>>>] = spmm_f32::stacked::$table;
            fn rows(matrix: &Matrix) -> SparseRows<'_, Self> {
                matrix.stacks()
            }
        }
    };
}

stored! {
    f32, TABLE_F32, TABLE_2_F32, TABLE_4_F32, TABLE_16_F32;
    f16, TABLE_F16, TABLE_2_F16, TABLE_4_F16, TABLE_16_F16;
    i8, TABLE_I8, TABLE_2_I8, TABLE_4_I8, TABLE_16_I8;
}

/// The kernel for a sparse matrix, its tier and the widest strip it takes.
fn sparse_kernel(matrix: &Matrix, tier: Tier) -> (Kernel, Tier, usize) {
    fn of<T: Stored>(tier: Tier) -> (Kernel, Tier, usize) {
        let (found, kernel) = pick(T::TABLE, tier);
        (Kernel::Sparse(Box::new(Stores::<T>(kernel.run))), found, kernel.nr)
    }
    macro_rules! units {
        ($t:ty) => {
            match matrix.unit() {
                Unit::FOUR => of::<Four<$t>>(tier),
                Unit { height: 2, .. } => of::<[$t; 2]>(tier),
                Unit { height: 4, .. } => of::<[$t; 4]>(tier),
                Unit { height: 16, .. } => of::<[$t; 16]>(tier),
                _ => of::<$t>(tier),
            }
        };
    }
    match matrix.dtype() {
        DType::Float16 => units!(f16),
        DType::Int8 => units!(i8),
        _ => units!(f32),
    }
}

/// One matrix with its kernel.
struct Factor {
    matrix: Arc<Matrix>,
    kernel: Kernel,
    name: String,
    /// Why sparse or dense, where the file has it sparse.
    reason: String,
    /// Whose costs decided.
    tier: Tier,
    nr: usize,
    kb: usize,
}

impl Factor {
    /// A matrix for outputs of `columns` columns. One that is stored sparse is computed dense where that is faster.
    fn new(stored: &Arc<Matrix>, columns: usize, tier: Tier) -> Result<Factor> {
        let (dense, reason) = prefers_dense(stored, columns, tier);
        let matrix = &if dense { stored.to_dense()? } else { Arc::clone(stored) };
        let (kernel, found, family, nr, kb) = match (matrix.structure(), matrix.dtype()) {
            (Structure::Dense(_), dtype) => {
                let (found, kernel) = pick(gemm_f32::TABLE, tier);
                let kind =
                    if dtype == DType::Float32 { Kernel::Dense(kernel) } else { Kernel::Widened(kernel) };
                (kind, found, "gemm_f32".to_owned(), kernel.nr, kernel.kb)
            }
            (Structure::Sparse(sparse), _) => {
                let (kernel, found, nr) = sparse_kernel(matrix, tier);
                (kernel, found, sparse_family(sparse.unit()), nr, sparse.block())
            }
            (Structure::LowRank { .. }, _) => unreachable!("a chain takes a low-rank weight apart"),
        };
        let name = format!("{family}/{found}");
        Ok(Factor { matrix: Arc::clone(matrix), kernel, name, reason, tier, nr, kb })
    }

    /// Nanoseconds of a strip of `n` columns of one group, by the cost model.
    fn strip_ns(&self, n: usize) -> f64 {
        strip_ns(&self.matrix, n, self.tier) / self.matrix.groups() as f64
    }

    /// Rows of one group.
    fn rows(&self) -> usize {
        self.matrix.m() / self.matrix.groups()
    }

    /// Ranges of the depth.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> {
        let (k, kb) = (self.matrix.k(), self.kb);
        // A depth of zero is one empty block: the epilogue still runs.
        (0..k.max(1)).step_by(kb).map(move |k0| (k0, (k0 + kb).min(k)))
    }

    /// Floats of scratch that widening needs.
    fn widened(&self) -> usize {
        if matches!(self.kernel, Kernel::Widened(_)) { self.kb * TILE } else { 0 }
    }

    /// # Safety
    /// As for [`StripKernel`], `call` being in terms of the group's rows and bias; `wide` holds [`Factor::widened`] floats.
    unsafe fn multiply(&self, group: usize, call: &Strip<'_, ()>, wide: *mut f32) {
        let (base, rows) = (group * self.rows(), self.rows());
        let scale = self.matrix.scales().map(|scales| &scales[base..][..rows]);
        match &self.kernel {
            Kernel::Dense(kernel) => {
                let strip = with(call, self.matrix.tiles::<f32>(group), Epilogue { scale, ..call.epilogue });
                // SAFETY: the caller's.
                unsafe { (kernel.run)(&strip) };
            }
            Kernel::Widened(kernel) => {
                let depth = call.block.1 - call.block.0;
                for r in call.rows().step_by(TILE) {
                    // SAFETY: `wide` is this thread's and large enough for a tile of a block.
                    let tile = unsafe { std::slice::from_raw_parts_mut(wide, depth * TILE) };
                    match self.matrix.dtype() {
                        DType::Int8 => widen_i8(self.matrix.tiles_i8(group).tile(r / TILE), call.block, tile),
                        _ => widen_f16(self.matrix.tiles(group).tile(r / TILE), call.block, tile),
                    }
                    let height = (call.rows.1 - r).min(TILE);
                    let epilogue = Epilogue {
                        scale: scale.map(|scale| &scale[r..][..height]),
                        bias: call.epilogue.bias.map(|bias| &bias[r..][..height]),
                        clamp: call.epilogue.clamp,
                    };
                    let weight =
                        Tiles::new(height, depth, &*tile).expect("a tile of that depth was just written");
                    let strip = Strip { rows: (0, height), block: (0, depth), ..moved(call, r as isize) };
                    // SAFETY: the caller's, for the rows of the tile.
                    unsafe { (kernel.run)(&with(&strip, weight, epilogue)) };
                }
            }
            Kernel::Sparse(kernel) => {
                // Sparse rows of all groups are one matrix: its rows count through, so its pointers count from its row 0.
                let rows = (call.rows.0 + base, call.rows.1 + base);
                let epilogue = Epilogue { scale: self.matrix.scales(), ..call.epilogue };
                let strip = Strip { rows, epilogue, ..moved(call, -(base as isize)) };
                // SAFETY: the caller's; rows and pointers moved together.
                unsafe { kernel.run(&self.matrix, &strip) };
            }
        }
    }
}

/// The family's name, as `FAMILIES` has it but for the type of the values.
fn sparse_family(unit: Unit) -> String {
    if unit == Unit::ONE { "spmm_f32".to_owned() } else { format!("spmm_f32 {unit}") }
}

/// Nanoseconds of a strip of `n` columns of all groups, by the cost model.
fn strip_ns(matrix: &Matrix, n: usize, tier: Tier) -> f64 {
    let (m, k) = (matrix.m(), matrix.k());
    match matrix.structure() {
        Structure::Sparse(sparse) => {
            let blocks = k.div_ceil(sparse.block());
            Cost::of(tier).sparse_ns(matrix.dtype(), m, sparse.values().len(), sparse.unit(), blocks, n)
        }
        _ => Cost::of(tier).dense_ns(m, k, n),
    }
}

/// Whether a sparse matrix is computed faster with its zeros, and the reason in words.
fn prefers_dense(matrix: &Matrix, columns: usize, tier: Tier) -> (bool, String) {
    let Structure::Sparse(_) = matrix.structure() else { return (false, String::new()) };
    let (m, k, nnz) = (matrix.m(), matrix.k(), matrix.nnz());
    // The widest strip of any tier; what is left over costs both sides alike.
    let n = columns.clamp(1, 64);
    // A weight is read from afar once for all strips.
    let cost = Cost::of(tier);
    let read = |bytes: usize| cost.around_ns(0.0, bytes as f64) / columns.div_ceil(n).max(1) as f64;
    let with_zeros = cost.dense_ns(m, k, n) + read(m * k * size_of::<f32>());
    let without = strip_ns(matrix, n, tier) + read(matrix.bytes());
    let zeros = 100.0 * (1.0 - nnz as f64 / (m * k).max(1) as f64);
    let dense = cost::prefers_dense(without, with_zeros);
    let verdict = if dense { "computed dense" } else { "sparse" };
    let (here, there) = if dense { (with_zeros, without) } else { (without, with_zeros) };
    let times = there / here;
    (dense, format!("{zeros:.0} % zeros: {verdict}, {times:.1} times as fast on {tier} by estimate"))
}

/// The call with a weight and an epilogue.
fn with<'a, W>(call: &Strip<'_, ()>, weight: W, epilogue: Epilogue<'a>) -> Strip<'a, W> {
    let Strip { rows, block, panel, panel_stride, n, out, out_stride, residual, first, last, .. } = *call;
    Strip { weight, rows, block, panel, panel_stride, n, out, out_stride, residual, epilogue, first, last }
}

/// The call with its output and residual seen from `rows` further down.
fn moved<'a>(call: &Strip<'a, ()>, rows: isize) -> Strip<'a, ()> {
    let by = rows * call.out_stride as isize;
    let residual = if call.residual.is_null() { call.residual } else { call.residual.wrapping_offset(by) };
    Strip { out: call.out.wrapping_offset(by), residual, ..*call }
}

/// Widens the block `[start, end)` of a tile.
fn widen_f16(tile: &[f16], (start, end): (usize, usize), out: &mut [f32]) {
    tile[start * TILE..end * TILE].convert_to_f32_slice(out);
}

/// Widens the block `[start, end)` of an int8 tile, whose columns lie in fours.
fn widen_i8(tile: &[i8], (start, end): (usize, usize), out: &mut [f32]) {
    for (k, row) in (start..end).zip(out.chunks_exact_mut(TILE)) {
        let four = &tile[k / 4 * TILE * 4..][..TILE * 4];
        for (value, q) in row.iter_mut().zip(four[k % 4..].iter().step_by(4)) {
            *value = f32::from(*q);
        }
    }
}

/// One strip of an output: which rows and columns of it, and where they lie.
#[derive(Clone, Copy)]
pub(super) struct Window<'a> {
    /// The group.
    pub(super) group: usize,
    /// Rows of the group; starts at a multiple of [`TILE`].
    pub(super) rows: (usize, usize),
    /// Columns.
    pub(super) n: usize,
    /// Row 0 of the group, column 0 of the strip.
    pub(super) out: *mut f32,
    /// Elements from one output row to the next.
    pub(super) out_stride: usize,
    /// The addend's row 0, column 0, with rows as `out` has them; or null.
    pub(super) residual: *const f32,
    /// The whole weight's biases.
    pub(super) bias: Option<&'a [f32]>,
    /// Bounds.
    pub(super) clamp: [f32; 2],
}

/// A weight ready for strips.
pub(super) struct Chain {
    /// One factor, or the right and the left one of a low-rank weight, in the order in which they are applied.
    factors: Vec<Factor>,
}

impl Chain {
    /// Chooses kernels for a weight and outputs of `columns` columns.
    pub(super) fn new(matrix: &Arc<Matrix>, columns: usize, tier: Tier) -> Result<Chain> {
        let factors = matrix.factors().into_iter().map(|factor| Factor::new(factor, columns, tier));
        Ok(Chain { factors: factors.collect::<Result<_>>()? })
    }

    /// Whether operands and outputs of that many columns are better left as columns than transposed for each product: where
    /// they are one strip of sparse kernels. Dense kernels read a strip fewer vectors at a time, of rows so far apart that
    /// they share few cache sets; and several strips are nearer together in a panel and a tile.
    pub(super) fn suits_columns(matrix: &Arc<Matrix>, columns: usize, tier: Tier) -> bool {
        matrix.factors().into_iter().all(|factor| {
            matches!(factor.structure(), Structure::Sparse(_))
                && columns <= sparse_kernel(factor, tier).2
                && !prefers_dense(factor, columns, tier).0
        })
    }

    /// Why these kernels, where there was a choice.
    pub(super) fn reason(&self) -> String {
        let reasons: Vec<&str> =
            self.factors.iter().map(|f| f.reason.as_str()).filter(|r| !r.is_empty()).collect();
        reasons.join("; ")
    }

    /// What parts of the rows cost where the input is read `in_place`, or is not.
    pub(super) fn parts(&self, in_place: bool) -> Parts {
        match (self.factors.len(), in_place) {
            (2, _) => Parts::Recompute,
            (_, true) => Parts::Free,
            (_, false) => Parts::Copy,
        }
    }

    /// The kernels' names.
    pub(super) fn name(&self) -> String {
        let names: Vec<&str> = self.factors.iter().map(|factor| factor.name.as_str()).collect();
        match *names.as_slice() {
            [one] => one.to_owned(),
            _ => format!("low_rank({})", names.join(", ")),
        }
    }

    /// Seconds that one thread takes for strips `strips` of `products` products (images, groups), by the cost model: of a
    /// weight that was stored sparse. `gathered` rows of each strip are written beside the product, and `bytes` of operands
    /// and output are moved.
    pub(super) fn estimate(
        &self,
        strips: Ranges,
        products: usize,
        gathered: usize,
        bytes: usize,
    ) -> Option<f64> {
        let first = self.factors.iter().find(|factor| !factor.reason.is_empty())?;
        let width = |strip: usize| {
            let (start, end) = strips.at(strip);
            end - start
        };
        // All strips are as wide as one of the first two, the last excepted; of very many, some speak for all.
        let sample = strips.len().min(64);
        let (mut product, mut vectors) = (0.0, 0);
        for n in (0..sample).map(|i| width(i * strips.len() / sample)) {
            product += self.factors.iter().map(|factor| factor.strip_ns(n)).sum::<f64>();
            vectors += n.div_ceil(16);
        }
        let times = products as f64 * strips.len() as f64 / sample.max(1) as f64;
        let around = Cost::of(first.tier)
            .around_ns((gathered * vectors) as f64 * times, bytes.saturating_add(self.bytes()) as f64);
        Some((product * times + around) * 1e-9)
    }

    /// Multiplications and additions of one column.
    pub(super) fn flops(&self) -> f64 {
        let stored = |factor: &Factor| match factor.matrix.structure() {
            Structure::Sparse(_) => factor.matrix.nnz(),
            _ => factor.matrix.m() * factor.matrix.k(),
        };
        2.0 * self.factors.iter().map(|factor| stored(factor) as f64).sum::<f64>()
    }

    /// Bytes of all values and indices.
    pub(super) fn bytes(&self) -> usize {
        self.factors.iter().map(|factor| factor.matrix.bytes()).sum()
    }

    /// Most columns of a strip.
    pub(super) fn nr(&self) -> usize {
        self.factors.iter().map(|factor| factor.nr).min().expect("a chain has a factor")
    }

    /// Floats of a panel that the caller fills.
    pub(super) fn panel(&self) -> usize {
        self.factors[0].kb.min(self.factors[0].matrix.k()) * self.nr()
    }

    /// Floats of scratch that [`Chain::strip`] needs beside the panel.
    pub(super) fn scratch(&self) -> usize {
        let between = if self.factors.len() == 2 { self.factors[0].rows() * self.nr() } else { 0 };
        between + self.factors.iter().map(Factor::widened).max().unwrap_or(0)
    }

    /// Computes a strip. `fill(start, end)` makes rows `start..end` of its input and says where they lie and how far apart.
    ///
    /// # Safety
    /// As for [`StripKernel`]: the pointers of `window` and what `fill` returns are valid up to whole vectors of columns,
    /// nothing else touches that part of the output meanwhile, and `scratch` holds [`Chain::scratch`] floats of this thread.
    pub(super) unsafe fn strip(
        &self,
        window: &Window<'_>,
        scratch: *mut f32,
        mut fill: impl FnMut(usize, usize) -> (*const f32, usize),
    ) {
        let last = self.factors.last().expect("a chain has a factor");
        let base = window.group * last.rows();
        let epilogue = Epilogue {
            scale: None,
            bias: window.bias.map(|bias| &bias[base..][..last.rows()]),
            clamp: window.clamp,
        };
        let call = |block: (usize, usize), panel: (*const f32, usize), k: usize| Strip {
            weight: (),
            rows: window.rows,
            block,
            panel: panel.0,
            panel_stride: panel.1,
            n: window.n,
            out: window.out,
            out_stride: window.out_stride,
            residual: window.residual,
            epilogue,
            first: block.0 == 0,
            last: block.1 == k,
        };
        match &*self.factors {
            [only] => {
                // Sparse rows index the biases of all groups themselves.
                let sparse = matches!(only.matrix.structure(), Structure::Sparse(_));
                let whole = Epilogue { bias: window.bias, ..epilogue };
                for block in only.blocks() {
                    let mut strip = call(block, fill(block.0, block.1), only.matrix.k());
                    strip.epilogue = if sparse { whole } else { epilogue };
                    // SAFETY: the caller's.
                    unsafe { only.multiply(window.group, &strip, scratch) };
                }
            }
            [v, u] => {
                let (between, stride) = (scratch, self.nr());
                let wide = scratch.wrapping_add(v.rows() * stride);
                for block in v.blocks() {
                    let strip = Strip {
                        rows: (0, v.rows()),
                        out: between,
                        out_stride: stride,
                        residual: std::ptr::null(),
                        epilogue: Epilogue::NONE,
                        ..call(block, fill(block.0, block.1), v.matrix.k())
                    };
                    // SAFETY: the caller's; the product between is in this thread's scratch.
                    unsafe { v.multiply(0, &strip, wide) };
                }
                for block in u.blocks() {
                    let panel = (between.wrapping_add(block.0 * stride).cast_const(), stride);
                    // SAFETY: the caller's; the rows of the product between are written.
                    unsafe { u.multiply(0, &call(block, panel, u.matrix.k()), wide) };
                }
            }
            _ => unreachable!("a chain has one factor or two"),
        }
    }
}
