//! AMX: tiles of sixteen vectors by sixteen rows of the weight, sixty-four depths an instruction.
//!
//! A tile of the weight as the file has it, sixteen groups of four depths, is what `tdpbusd` takes as its second operand, and
//! sixteen vectors, sixty-four bytes of each, its first: neither is packed. A pass keeps the sums of 32 vectors and 32 rows,
//! and four tiles of operands serve four products. A depth that is no multiple of 64 ends in copies filled up with zeros.
//! Where vectors are fewer than tiles have room for, some are computed twice; few vectors are left to AVX-512.

#![allow(unsafe_code, reason = "tile instructions, and loads and stores through pointers")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, avx512vnni};
use crate::isa::Amx;
use crate::kernels::amx::Shapes;
use crate::kernels::strip_i8::avx512::transposed;
use crate::kernels::strip_i8::rows::{Each, RowsI8};
use crate::kernels::strip_i8::{LANES, NR, Output};
use crate::weight::{QUAD, TILE, TilesI8};

/// Depths of an instruction.
const DEPTH: usize = 64;

/// Vectors of a pass.
const VECTORS: usize = 2 * TILE;

/// Bytes of a group of four depths of a tile of rows.
const GROUP: usize = TILE * QUAD;

pub(super) fn get() -> Option<Kernel> {
    Amx::detect().map(|_| run as Kernel)
}

/// Products of 32 vectors and 64 rows of the weight, offsets not included.
#[repr(C, align(64))]
struct Sums([[i32; NR]; VECTORS]);

/// The last depths of 32 vectors, and of four tiles of the weight.
#[repr(C, align(64))]
struct Ends {
    vectors: [[u8; DEPTH]; VECTORS],
    tiles: [[[i8; GROUP]; DEPTH / QUAD]; NR / TILE],
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn run(s: &RowsI8<'_, TilesI8<'_>>) {
    if s.n < TILE {
        // SAFETY: the caller's; who has AMX has AVX-512 VNNI.
        return unsafe { avx512vnni::run(s) };
    }
    // SAFETY: the token stands for AMX; the rest is the caller's.
    unsafe { Shapes::new([(TILE, DEPTH); 8]).with(|| walk(s)) };
}

/// What a pass has computed and is not yet stored.
#[derive(Clone, Copy)]
struct Done {
    /// The first row of the weight.
    r0: usize,
    /// The vector of each tile's first row of sums, and the first of all that is not stored before.
    starts: [usize; 2],
    from: usize,
}

/// # Safety
/// The caller's of [`run`]; tiles are configured.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn walk(s: &RowsI8<'_, TilesI8<'_>>) {
    let (k, quads) = (s.weight.k(), s.weight.quads());
    let (blocks, rest) = (k / DEPTH, k % DEPTH);
    let mut ends = Ends { vectors: [[0; DEPTH]; VECTORS], tiles: [[[0; GROUP]; DEPTH / QUAD]; NR / TILE] };
    let mut sums = [const { Sums([[0; NR]; VECTORS]) }; 2];
    // A pass's sums are stored while the next's products are under way: the matrix unit works by itself.
    let mut done: Option<Done> = None;
    let mut turn = 0;
    for r0 in s.rows().step_by(NR) {
        let tiles = (s.rows.1 - r0).min(NR).div_ceil(TILE);
        for (t, end) in ends.tiles.iter_mut().enumerate().take(if rest > 0 { tiles } else { 0 }) {
            let groups = s.weight.tile(r0 / TILE + t).as_chunks::<GROUP>().0;
            let left = &groups[blocks * (DEPTH / QUAD)..quads];
            end[..left.len()].copy_from_slice(left);
        }
        for from in (0..s.n).step_by(VECTORS) {
            // Where fewer are left, those before are computed again.
            let start = if s.n < VECTORS { 0 } else { from.min(s.n - VECTORS) };
            let starts = [start, (start + TILE).min(s.n - TILE)];
            if rest > 0 {
                for (tile, start) in starts.into_iter().enumerate() {
                    for i in 0..TILE {
                        // SAFETY: a vector has `k` bytes.
                        let end = unsafe {
                            let at = s.x.add((start + i) * s.x_stride + blocks * DEPTH);
                            std::slice::from_raw_parts(at, rest)
                        };
                        ends.vectors[tile * TILE + i][..rest].copy_from_slice(end);
                    }
                }
            }
            for pair in (0..tiles).step_by(2) {
                let both = [pair, (pair + 1).min(tiles - 1)];
                let part = Part {
                    vectors: starts.map(|start| s.x.wrapping_add(start * s.x_stride)),
                    stride: s.x_stride,
                    tiles: both.map(|t| s.weight.tile(r0 / TILE + t).as_ptr()),
                    blocks,
                    end_vectors: if rest > 0 { ends.vectors.as_ptr().cast() } else { std::ptr::null() },
                    end_tiles: both.map(|t| ends.tiles[t].as_ptr().cast()),
                };
                // SAFETY: tiles are configured; vectors and tiles of the weight have the blocks, the ends are whole.
                unsafe { pass(&part, sums[turn].0.as_mut_ptr().cast::<i32>().wrapping_add(pair * TILE)) };
            }
            if let Some(done) = done.replace(Done { r0, starts, from }) {
                // SAFETY: the caller's.
                unsafe { store(s, done, &sums[1 - turn]) };
            }
            turn = 1 - turn;
        }
    }
    if let Some(done) = done {
        // SAFETY: the caller's.
        unsafe { store(s, done, &sums[1 - turn]) };
    }
}

/// Two tiles of vectors and two of the weight over the whole depth.
struct Part {
    vectors: [*const u8; 2],
    /// Bytes from one vector to the next.
    stride: usize,
    tiles: [*const i8; 2],
    /// Of 64 depths.
    blocks: usize,
    /// The last depths of the vectors, filled up with zeros, or null.
    end_vectors: *const u8,
    /// Those of the tiles.
    end_tiles: [*const i8; 2],
}

/// Stores the products of a part; rows of sums are [`NR`] apart, the second tile of vectors follows the first.
///
/// # Safety
/// Tiles are configured as [`SHAPES`] says; operands have the blocks, ends are whole; the sums have 32 rows.
unsafe fn pass(part: &Part, sums: *mut i32) {
    let ([x0, x1], [w0, w1], [e0, e1]) = (part.vectors, part.tiles, part.end_tiles);
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "test {blocks}, {blocks}",
            "jz 3f",
            "2:",
            "tileloadd tmm4, [{x0} + {stride}]",
            "tileloadd tmm6, [{w0} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{w1} + {line}]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{x1} + {stride}]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {x0}, 64",
            "add {x1}, 64",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {blocks}",
            "jnz 2b",
            "3:",
            "test {end}, {end}",
            "jz 4f",
            "tileloadd tmm4, [{end} + {line}]",
            "tileloadd tmm6, [{e0} + {line}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{e1} + {line}]",
            "tdpbusd tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{end} + {line} + 1024]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm3, tmm5, tmm7",
            "4:",
            "tilestored [{sums} + {line} * 4], tmm0",
            "tilestored [{sums} + {line} * 4 + 64], tmm1",
            "tilestored [{sums} + {line} * 4 + 4096], tmm2",
            "tilestored [{sums} + {line} * 4 + 4160], tmm3",
            blocks = inout(reg) part.blocks => _,
            x0 = inout(reg) x0 => _,
            x1 = inout(reg) x1 => _,
            w0 = inout(reg) w0 => _,
            w1 = inout(reg) w1 => _,
            stride = in(reg) part.stride,
            line = in(reg) DEPTH,
            end = in(reg) part.end_vectors,
            e0 = in(reg) e0,
            e1 = in(reg) e1,
            sums = in(reg) sums,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

/// Stores what a pass has computed: the arithmetic of [`strip_i8`](crate::kernels::strip_i8), rows of the weight in the lanes.
///
/// # Safety
/// The caller's of [`run`]; the sums are those of `done`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
unsafe fn store(s: &RowsI8<'_, TilesI8<'_>>, done: Done, sums: &Sums) {
    let r0 = done.r0;
    let count = (s.rows.1 - r0).min(NR);
    let all = u64::MAX >> (NR - count);
    let masks: [__mmask16; 4] = std::array::from_fn(|v| (all >> (v * LANES)) as u16);
    let (offset, scale, bias) =
        (&s.requant.offset[r0..][..count], &s.requant.scale[r0..][..count], &s.requant.bias[r0..][..count]);
    // SAFETY: the mask keeps to what the slices have.
    let integers = |of: &[i32], v: usize| unsafe {
        _mm512_maskz_loadu_epi32(masks[v], of.as_ptr().wrapping_add(v * LANES))
    };
    // SAFETY: as above.
    let floats = |of: &[f32], v: usize| unsafe {
        _mm512_maskz_loadu_ps(masks[v], of.as_ptr().wrapping_add(v * LANES))
    };
    let offset: [_; 4] = std::array::from_fn(|v| integers(offset, v));
    let scale: [_; 4] = std::array::from_fn(|v| floats(scale, v));
    let bias: [_; 4] = std::array::from_fn(|v| floats(bias, v));
    let order = transposed();
    for (row, sums) in sums.0.iter().enumerate() {
        let i = done.starts[row / TILE] + row % TILE;
        let twice = row / TILE == 1 && i < done.starts[0] + TILE;
        if i < done.from || twice {
            continue;
        }
        let (mut offset, mut scale) = (offset, scale);
        if let Some(each) = s.each {
            let Each { zero_point, scale: step } = each[i];
            let (zero_point, step) = (_mm512_set1_epi32(zero_point), _mm512_set1_ps(step));
            offset = offset.map(|offset| _mm512_mullo_epi32(offset, zero_point));
            scale = scale.map(|scale| _mm512_mul_ps(step, scale));
        }
        let mut y: [_; 4] = std::array::from_fn(|v| {
            // SAFETY: a row of sums is four registers.
            let sum = unsafe { _mm512_load_si512(sums.as_ptr().add(v * LANES).cast()) };
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, offset[v]));
            _mm512_add_ps(_mm512_mul_ps(sum, scale[v]), bias[v])
        });
        if let Some(residual) = s.requant.residual {
            let step = _mm512_set1_ps(residual.scale);
            let zero_point = _mm512_set1_epi32(residual.zero_point.into());
            let from = s.residual.wrapping_add(i * s.residual_stride + r0).cast::<i8>();
            for (v, y) in y.iter_mut().enumerate() {
                // SAFETY: the mask keeps to the rows that the call has.
                let q = unsafe { _mm_maskz_loadu_epi8(masks[v], from.wrapping_add(v * LANES)) };
                let q = _mm512_sub_epi32(_mm512_cvtepu8_epi32(q), zero_point);
                *y = _mm512_add_ps(*y, _mm512_mul_ps(_mm512_cvtepi32_ps(q), step));
            }
        }
        match s.requant.output {
            Output::U8 { zero_point, lo, hi } => {
                // As in `strip_i8::avx512`: a NaN stays one, and becomes the least integer.
                let upper = _mm512_set1_ps((i32::from(hi) - i32::from(zero_point)) as f32);
                let q = y.map(|y| _mm512_cvtps_epi32(_mm512_min_ps(upper, y)));
                let zero_point = _mm512_set1_epi16(zero_point.into());
                let [low, high] = [[q[0], q[1]], [q[2], q[3]]]
                    .map(|[a, b]| _mm512_add_epi16(_mm512_packs_epi32(a, b), zero_point));
                let bytes =
                    _mm512_max_epu8(_mm512_packus_epi16(low, high), _mm512_set1_epi8(lo.cast_signed()));
                let out = s.out.wrapping_add(i * s.out_stride + r0).cast();
                // SAFETY: the mask keeps to the rows that the call has.
                unsafe { _mm512_mask_storeu_epi8(out, all, _mm512_permutexvar_epi32(order, bytes)) };
            }
            Output::F32 { lo, hi } => {
                let (lo, hi) = (_mm512_set1_ps(lo), _mm512_set1_ps(hi));
                let out = s.out.cast::<f32>().wrapping_add(i * s.out_stride + r0);
                for (v, y) in y.into_iter().enumerate() {
                    // In this order of operands a NaN stays one.
                    let y = _mm512_min_ps(hi, _mm512_max_ps(lo, y));
                    // SAFETY: as above.
                    unsafe { _mm512_mask_storeu_ps(out.wrapping_add(v * LANES), masks[v], y) };
                }
            }
        }
    }
}
