//! `conv_i8`: `conv` in integers, as `kernels/strip_i8` defines them.

#![allow(unsafe_code, reason = "strips of one output are written by several threads")]

use super::conv::{Geometry, Runs};
use super::cut::{Outputs, Parts, Piece};
use super::frame::Shared;
use super::integer::{self, Quantized};
use super::{Args, Frame, Operator, Prepared, Site, Step, Wants};
use crate::error::Result;
use crate::isa::Tier;
use crate::kernels::gemm_i8::{Blocks, Magnitudes};
use crate::kernels::pack::{self, Beside, Fill, Gather, LANES_U8, RunBeside, RunGather, Taps};
use crate::kernels::spmm_i8::{Quads, cost::Cost};
use crate::kernels::strip_i8::{DEPTH, LANES, NR, Pack, StripI8, StripI8Kernel};
use crate::kernels::window::Window2;
use crate::kernels::{depthwise_i8, gemm_i8, pick, spmm_i8};
use crate::tensor::{DType, Meta, Planes};
use crate::weight::{Matrix, Plain, QUAD, Structure, TilesI8, Unit};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Attributes of `conv_i8`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvI8 {
    /// Where the taps lie.
    #[serde(flatten)]
    pub geometry: Geometry,
    /// The integers.
    #[serde(flatten)]
    pub quantized: Quantized,
}

/// Channels whose taps are packed at a time: their rows stay in the first-level cache, and are whole groups of four.
const CHANNELS: usize = 16;

impl Operator for ConvI8 {
    const ARITY: (usize, usize) = (4, 5);

    fn infer(&self, args: &Args<'_>) -> Result<Vec<Meta>> {
        let (x, geometry) = (args.meta(0)?, &self.geometry);
        let (m, k) = geometry.weight(args, DType::Int8, integer::matrix)?;
        Ok(vec![self.quantized.infer(args, m, k, geometry.output(x, m)?)?])
    }

    fn wants(&self, _args: &Args<'_>, _tier: Tier) -> Wants {
        Wants::Features
    }

    fn by_channels(&self, args: &Args<'_>) -> bool {
        args.meta(0).is_ok_and(|x| self.geometry.is_depthwise(x))
    }

    fn prepare(&self, site: &Site<'_>) -> Result<Prepared> {
        let x = site.args.meta(0)?;
        if self.geometry.is_depthwise(x) { self.depthwise(site) } else { self.strips(site) }
    }
}

impl ConvI8 {
    /// Each channel by itself, planes spread over the threads.
    fn depthwise(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        let window = self.geometry.window(x)?;
        let (from, to) = (Planes::of(x, site.layouts[0]), Planes::of(out, site.layout));
        let residual_pitch = pitch_of_residual(site);
        let taps = window.kernel()[0] * window.kernel()[1];
        let weight: Arc<Plain> = Arc::clone(site.args.plain(1, DType::Int8, to.channels * taps)?);
        let sums: Vec<i32> = weight
            .of::<i8>()
            .chunks_exact(taps)
            .map(|filter| filter.iter().map(|&w| i32::from(w)).sum())
            .collect();
        let epilogue = self.quantized.epilogue(site, &sums)?;
        let (tier, kernel) = pick(depthwise_i8::TABLE, site.tier);
        let zero_point = self.quantized.x_zero_point;
        let size = out.dtype.size();
        let (flops, weight_bytes) =
            (2.0 * taps as f64 * (to.n * to.channels * to.plane) as f64, weight.bytes.len());
        let runs = Runs::new(from.channels, to.channels, to.pitch, site.threads);
        let mut step = Step::new(format!("depthwise_i8/{tier}"), move |frame: &Frame<'_>| {
            let (x, weights) = (frame.input::<u8>(0), weight.of::<i8>());
            let residual = epilogue.residual.map(|_| frame.input::<u8>(4));
            let out = Shared(frame.output_ptr::<u8>(0));
            frame.pool.run(to.n * runs.count(), &|item, _| {
                let (image, run) = (item / runs.count(), runs.at(item % runs.count()));
                let (start, end) = (image * to.channels + run.first, image * to.channels + run.last);
                let call = depthwise_i8::Channels {
                    window: &window,
                    x: &x[(image * from.channels + run.source) * from.pitch..],
                    x_pitch: if run.same { 0 } else { from.pitch },
                    x_zero_point: zero_point,
                    weights: &weights[run.first * taps..run.last * taps],
                    requant: epilogue.rows(run.first, run.last - run.first),
                    residual: residual.map_or(&[], |residual| &residual[start * residual_pitch..]),
                    residual_pitch,
                    out_pitch: to.pitch,
                };
                // SAFETY: the output holds that many planes a pitch apart; each run is one item's.
                kernel(&call, unsafe { out.part(start * to.pitch * size, end * to.pitch * size) });
            });
        });
        step.flops = flops;
        step.weight_bytes = weight_bytes;
        Ok(step.into())
    }

    /// As a product of the weight and a panel of what the taps see.
    fn strips(&self, site: &Site<'_>) -> Result<Prepared> {
        let (x, out) = (site.args.meta(0)?, &site.outputs[0]);
        let window = self.geometry.window(x)?;
        let (from, to) = (Planes::of(x, site.layouts[0]), Planes::of(out, site.layout));
        let residual_pitch = pitch_of_residual(site);
        let groups = self.geometry.groups;
        let (depth, m) = (from.channels / groups, to.channels / groups);
        let taps = window.kernel()[0] * window.kernel()[1];
        let stored = integer::matrix(&site.args)?;
        let epilogue = self.quantized.epilogue(site, &integer::row_sums(stored))?;
        let direct = self.geometry.is_pointwise();
        let (dense, reason) =
            prefers_dense(stored, to.plane, site.tier, direct && from.pitch.is_multiple_of(NR));
        if dense && self.suits_image(site)? {
            return self.image(site, reason);
        }
        let form = Form::new(stored, dense, &window, groups, site.tier)?;
        let (_, fill) = pick(pack::TABLE_U8, site.tier);
        let zero_point = self.quantized.x_zero_point;
        let size = out.dtype.size();
        let pack = form.pack();
        // A dense kernel reads its own panel, made of a few channels' rows at a time; a sparse one the rows themselves.
        let channels_at_once = if pack.is_some() { CHANNELS.min(depth) } else { depth };
        let panel_len = if pack.is_some() { form.depth().next_multiple_of(DEPTH) * NR } else { 0 };
        // Rows are read over whole strips by a sparse kernel, which the end of the last plane may not have.
        let in_place = direct && (pack.is_some() || from.pitch.is_multiple_of(NR));
        let parts = if in_place && pack.is_none() { Parts::Free } else { Parts::Copy };
        let (products, columns) = (to.n * groups, to.plane);
        let nr = form.nr();
        // A sparse kernel takes as long for a few columns less than NR, so only the last strip may have them.
        let grain = if pack.is_some() { LANES } else { NR };
        let outputs = Outputs { products, m, columns, nr, grain, threads: site.threads, parts };
        let by_rows = site.by_channels && groups == 1 && direct;
        let cut = by_rows.then(|| outputs.cut_by_rows()).flatten().unwrap_or_else(|| outputs.cut());
        // It is at its best with NR columns, where the gap after the planes has room for them.
        let fills_gap =
            pack.is_none() && size == 1 && to.pitch.is_multiple_of(NR) && residual_pitch.is_multiple_of(NR);
        let values = if let Form::Sparse(..) | Form::Quads(..) | Form::Fours(..) = form {
            stored.nnz()
        } else {
            stored.m() * stored.k()
        };
        let flops = 2.0 * values as f64 * (to.n * to.plane) as f64;
        let bytes = form.bytes();
        let gathers = form.gathering();
        let mut step = Step::new(form.name(), move |frame: &Frame<'_>| {
            let x = Shared(frame.input::<u8>(0).as_ptr().cast_mut());
            let residual = epilogue.residual.map(|_| Shared(frame.input::<u8>(4).as_ptr().cast_mut()));
            let out = Shared(frame.output_ptr::<u8>(0));
            frame.pool.run(cut.items(), &|item, worker| {
                let Piece { product, columns: (p0, p1), rows } = cut.at(item);
                let (image, group) = (product / groups, product % groups);
                let n = if fills_gap && p1 - p0 > NR / 2 { (p1 - p0).next_multiple_of(NR) } else { p1 - p0 };
                let planes = x.get().wrapping_add((image * from.channels + group * depth) * from.pitch);
                let panel = frame.scratch_ptr::<u8>(worker);
                let plain = panel.wrapping_add(panel_len);
                let see = || Taps::new(&window, (p0, p1 - p0), LANES_U8);
                match gathers {
                    Gathering::Beside(gather) => {
                        let (x, pitch) = (planes.cast_const(), from.pitch);
                        let (window, channels, padding) = (&window, depth, zero_point);
                        // SAFETY: `pick` found the tier's token; the channels' planes are there, and the panel has room for all.
                        unsafe { gather(&Beside { window, p0, n, x, pitch, channels, padding, panel }) };
                    }
                    Gathering::Taps(gather) => {
                        let seen = (!in_place).then(see);
                        let call = Gather {
                            taps: seen.as_ref(),
                            n,
                            x: planes.wrapping_add(if in_place { p0 } else { 0 }).cast_const(),
                            pitch: from.pitch,
                            channels: depth,
                            padding: zero_point,
                            panel,
                        };
                        // SAFETY: as above.
                        unsafe { gather(&call) };
                    }
                    Gathering::Rows => {
                        let seen = (!in_place).then(see);
                        for c0 in (0..depth).step_by(channels_at_once.max(1)) {
                            let channels = channels_at_once.min(depth - c0);
                            let first = planes.wrapping_add(c0 * from.pitch);
                            if let Some(seen) = &seen {
                                for tap in 0..taps {
                                    let call = Fill {
                                        taps: seen,
                                        tap,
                                        x: first.cast_const(),
                                        pitch: from.pitch,
                                        channels,
                                        out: plain.wrapping_add(tap * nr),
                                        out_stride: taps * nr,
                                        padding: zero_point,
                                    };
                                    // SAFETY: `pick` found the tier's token; the channels' planes are there, and scratch has a row
                                    // for each of their taps.
                                    unsafe { fill(&call) };
                                }
                            }
                            if let Some(pack) = pack {
                                let (base, apart, rows) = if in_place {
                                    (first.wrapping_add(p0), from.pitch, channels)
                                } else {
                                    (plain, nr, channels * taps)
                                };
                                let rows: Vec<*const u8> =
                                    (0..rows).map(|r| base.wrapping_add(r * apart).cast_const()).collect();
                                // SAFETY: rows are whole vectors of columns; `c0 * taps` is a multiple of four, and the panel has room
                                // for all groups of the depth.
                                unsafe { pack(&rows, n, panel.wrapping_add(c0 * taps * NR), NR) };
                            }
                        }
                    }
                }
                let channel = image * to.channels + group * m;
                let sparse_panel = if in_place { (planes.wrapping_add(p0), from.pitch) } else { (plain, nr) };
                let (source, stride) = if pack.is_some() { (panel, NR) } else { sparse_panel };
                let call = StripI8 {
                    weight: (),
                    rows,
                    panel: source.cast_const(),
                    panel_stride: stride,
                    n,
                    out: out.get().wrapping_add((channel * to.pitch + p0) * size),
                    out_stride: to.pitch,
                    residual: residual.map_or(std::ptr::null(), |r| {
                        r.get().wrapping_add(channel * residual_pitch + p0).cast_const()
                    }),
                    residual_stride: residual_pitch,
                    requant: epilogue.rows(group * m, m),
                };
                // Sparse rows of all groups are one matrix: rows count through, pointers count from its row 0.
                let whole = || {
                    let base = group * m;
                    let mut whole = call;
                    whole.rows = (call.rows.0 + base, call.rows.1 + base);
                    whole.out = call.out.wrapping_sub(base * to.pitch * size);
                    if !call.residual.is_null() {
                        whole.residual = call.residual.wrapping_sub(base * residual_pitch);
                    }
                    whole.requant = epilogue.rows(0, to.channels);
                    whole
                };
                // SAFETY: as above; the output's rows are whole vectors, and no other item has these columns of these rows.
                unsafe {
                    match &form {
                        Form::Tiles(_, kernel, dense, _) => (kernel.run)(&call.with(dense.tiles_i8(group))),
                        Form::Magnitudes(_, kernel, magnitudes, _) => {
                            (kernel.run)(&call.with(&magnitudes[group]));
                        }
                        Form::Blocks(_, kernel, blocks, _) => (kernel.run)(&call.with(&blocks[group])),
                        Form::Fours(_, kernel, matrix) => (kernel.run)(&whole().with(matrix.fours())),
                        Form::Sparse(_, kernel, matrix) => kernel(&whole().with(matrix.rows())),
                        Form::Quads(_, kernel, _, quads) => (kernel.run)(&whole().with(quads)),
                    }
                }
            });
        });
        let rows = matches!(gathers, Gathering::Rows);
        step.scratch = panel_len + if in_place || !rows { 0 } else { channels_at_once * taps * nr };
        step.flops = flops;
        step.weight_bytes = bytes;
        step.reason = reason;
        debug_assert!(to.pitch.is_multiple_of(LANES));
        Ok(step.into())
    }
}

/// Whether to compute a matrix dense, and why, where it is stored sparse.
fn prefers_dense(matrix: &Matrix, columns: usize, tier: Tier, in_place: bool) -> (bool, String) {
    let Structure::Sparse(sparse) = matrix.structure() else { return (true, String::new()) };
    let (m, k, nnz) = (matrix.m(), matrix.k(), matrix.nnz());
    // What is left over after whole strips costs both sides alike.
    let n = columns.clamp(1, NR);
    let cost = Cost::of(tier);
    let with_zeros = cost.dense_ns((m, k), n);
    let blocks = k.div_ceil(sparse.block());
    let without = match sparse.unit() {
        Unit::FOUR => cost.fours_ns((m, k), (sparse.indices().len(), blocks), n),
        _ => cost.sparse_ns((m, k), (nnz, blocks), n, in_place),
    };
    let zeros = 100.0 * (1.0 - nnz as f64 / (m * k).max(1) as f64);
    let dense = with_zeros < without;
    let verdict = if dense { "computed dense" } else { "sparse" };
    let times = if dense { without / with_zeros } else { with_zeros / without };
    (dense, format!("{zeros:.0} % zeros: {verdict}, {times:.1} times faster on {tier} by estimate"))
}

/// A weight in the form that its kernel reads.
enum Form {
    Tiles(Tier, gemm_i8::Tiles, Arc<Matrix>, Order),
    Magnitudes(Tier, gemm_i8::ByMagnitude, Arc<Vec<Magnitudes>>, Order),
    Blocks(Tier, gemm_i8::ByBlocks, Arc<Vec<Blocks>>, Order),
    Fours(Tier, StripI8Kernel<spmm_i8::fours::Run>, Arc<Matrix>),
    Sparse(Tier, spmm_i8::ByRows, Arc<Matrix>),
    Quads(Tier, spmm_i8::ByQuads, Arc<Matrix>, Arc<Quads>),
}

/// The order of a dense weight's columns.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// The file's.
    Stored,
    /// Every row of taps filled up to fours with zeros, where each row has so many.
    Beside(usize),
}

/// How the rows that taps see become a kernel's panel.
#[derive(Clone, Copy)]
enum Gathering {
    /// At once.
    Taps(RunGather),
    /// At once, taps that lie side by side in a group.
    Beside(RunBeside),
    /// Row by row; a sparse kernel reads them as they are.
    Rows,
}

impl Form {
    fn new(stored: &Arc<Matrix>, dense: bool, window: &Window2, groups: usize, tier: Tier) -> Result<Form> {
        if !dense {
            if stored.unit() == Unit::FOUR {
                let (tier, kernel) = pick(spmm_i8::fours::TABLE, tier);
                return Ok(Form::Fours(tier, kernel, Arc::clone(stored)));
            }
            let (tier, kernel) = pick(spmm_i8::TABLE, tier);
            return Ok(match kernel {
                spmm_i8::Kernel::Rows(kernel) => Form::Sparse(tier, kernel, Arc::clone(stored)),
                spmm_i8::Kernel::Quads(kernel) => {
                    let quads = stored.form("spmm_i8", |matrix| {
                        let quads = (kernel.made)(&matrix.rows());
                        let bytes = quads.bytes();
                        Ok((quads, bytes))
                    })?;
                    Form::Quads(tier, kernel, Arc::clone(stored), quads)
                }
            });
        }
        let (tier, kernel) = pick(gemm_i8::TABLE, tier);
        let [rows, columns] = window.kernel();
        // Few channels' taps are few groups either way; of more, no more than one in eight may be multiplied for nothing.
        let filled = columns.next_multiple_of(QUAD);
        let few = stored.k() / (rows * columns) < QUAD && rows * filled <= DEPTH;
        let order = if kernel.gathers().is_some()
            && Beside::serves(window)
            && (few || (filled - columns) * 8 <= filled)
        {
            Order::Beside(columns)
        } else {
            Order::Stored
        };
        Ok(match kernel {
            gemm_i8::Kernel::Tiles(kernel) => {
                let matrix = match order {
                    Order::Stored => stored.to_dense()?,
                    Order::Beside(_) => {
                        let make = |matrix: &Matrix| {
                            let made = order.of(matrix)?;
                            let bytes = made.bytes();
                            Ok(((order, Arc::new(made)), bytes))
                        };
                        let kept = stored.form("conv_i8", make)?;
                        // Another window may have the same weight.
                        if kept.0 == order { Arc::clone(&kept.1) } else { Arc::new(order.of(stored)?) }
                    }
                };
                Form::Tiles(tier, kernel, matrix, order)
            }
            gemm_i8::Kernel::Magnitudes(kernel) => {
                let magnitudes = order.made(stored, groups, Magnitudes::new, Magnitudes::bytes)?;
                Form::Magnitudes(tier, kernel, magnitudes, order)
            }
            gemm_i8::Kernel::Blocks(kernel) => {
                let blocks = order.made(stored, groups, Blocks::new, Blocks::bytes)?;
                Form::Blocks(tier, kernel, blocks, order)
            }
        })
    }

    /// What makes the panel of plain rows, of a kernel that takes four of them at a time.
    fn pack(&self) -> Option<Pack> {
        match self {
            Form::Tiles(_, kernel, ..) => Some(kernel.pack),
            Form::Magnitudes(_, kernel, ..) => Some(kernel.pack),
            Form::Blocks(_, kernel, ..) => Some(kernel.pack),
            Form::Fours(_, kernel, _) => Some(kernel.pack),
            Form::Sparse(..) | Form::Quads(..) => None,
        }
    }

    /// Most columns of a strip.
    fn nr(&self) -> usize {
        if let Form::Quads(_, kernel, ..) = self { kernel.nr } else { NR }
    }

    fn gathering(&self) -> Gathering {
        let (gathers, order) = match self {
            Form::Tiles(_, kernel, _, order) => (kernel.gathers, *order),
            Form::Magnitudes(_, kernel, _, order) => (kernel.gathers, *order),
            Form::Blocks(_, kernel, _, order) => (kernel.gathers, *order),
            Form::Fours(_, kernel, _) => (kernel.gathers, Order::Stored),
            Form::Sparse(..) | Form::Quads(..) => (None, Order::Stored),
        };
        match (gathers, order) {
            (None, _) => Gathering::Rows,
            (Some(gathers), Order::Stored) => Gathering::Taps(gathers.taps),
            (Some(gathers), Order::Beside(_)) => Gathering::Beside(gathers.beside),
        }
    }

    /// Columns of the weight.
    fn depth(&self) -> usize {
        match self {
            Form::Tiles(_, _, matrix, _)
            | Form::Fours(_, _, matrix)
            | Form::Sparse(_, _, matrix)
            | Form::Quads(_, _, matrix, _) => matrix.k(),
            Form::Magnitudes(_, _, magnitudes, _) => magnitudes.first().map_or(0, Magnitudes::k),
            Form::Blocks(_, _, blocks, _) => blocks.first().map_or(0, Blocks::k),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Form::Tiles(_, _, matrix, _) | Form::Fours(_, _, matrix) | Form::Sparse(_, _, matrix) => {
                matrix.bytes()
            }
            Form::Quads(_, _, _, quads) => quads.bytes(),
            Form::Magnitudes(_, _, magnitudes, _) => magnitudes.iter().map(Magnitudes::bytes).sum(),
            Form::Blocks(_, _, blocks, _) => blocks.iter().map(Blocks::bytes).sum(),
        }
    }

    fn name(&self) -> String {
        match self {
            Form::Tiles(tier, ..) | Form::Magnitudes(tier, ..) | Form::Blocks(tier, ..) => {
                format!("gemm_i8/{tier}")
            }
            Form::Fours(tier, ..) => format!("spmm_i8 1x4/{tier}"),
            Form::Sparse(tier, ..) | Form::Quads(tier, ..) => format!("spmm_i8/{tier}"),
        }
    }
}

impl Order {
    /// The form `new` of a weight with its columns in this order, for each group, made once.
    fn made<F: Send + Sync + 'static>(
        self,
        stored: &Matrix,
        groups: usize,
        new: impl Fn(&TilesI8<'_>) -> F,
        bytes: impl Fn(&F) -> usize,
    ) -> Result<Arc<Vec<F>>> {
        let make = |matrix: &Matrix| -> Result<Arc<Vec<F>>> {
            let as_stored = self == Order::Stored && matches!(matrix.structure(), Structure::Dense(_));
            let ordered = if as_stored { None } else { Some(self.of(matrix)?) };
            let dense = ordered.as_ref().unwrap_or(matrix);
            Ok(Arc::new((0..groups).map(|group| new(&dense.tiles_i8(group))).collect()))
        };
        let kept = stored.form("gemm_i8", |matrix| {
            let made = make(matrix)?;
            let bytes = made.iter().map(bytes).sum();
            Ok(((self, made), bytes))
        })?;
        // Another window may have the same weight.
        if kept.0 == self { Ok(Arc::clone(&kept.1)) } else { make(stored) }
    }

    /// A dense matrix with the weight's columns in this order.
    fn of(self, matrix: &Matrix) -> Result<Matrix> {
        let (m, k, groups) = (matrix.m(), matrix.k(), matrix.groups());
        let rows = matrix.to_rows::<i8>();
        match self {
            Order::Stored => Matrix::dense((m, k, groups), &rows, None),
            Order::Beside(columns) => {
                let filled = columns.next_multiple_of(QUAD);
                let mut wide = vec![0; rows.len() / columns * filled];
                for (wide, row) in wide.chunks_exact_mut(filled).zip(rows.chunks_exact(columns)) {
                    wide[..columns].copy_from_slice(row);
                }
                Matrix::dense((m, k / columns * filled, groups), &wide, None)
            }
        }
    }
}

/// Bytes from one plane of the residual to the next.
pub(super) fn pitch_of_residual(site: &Site<'_>) -> usize {
    match site.args.meta(4) {
        Ok(meta) => Planes::of(meta, site.layouts[4]).pitch,
        Err(_) => 0,
    }
}
