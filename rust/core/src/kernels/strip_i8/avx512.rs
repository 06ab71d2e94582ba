//! The arithmetic of a finished sum in AVX-512: what [`super::store_rows`] does, for bytes.
//!
//! Where the depth is small this is a good part of a kernel's time. `vcvtps2dq` rounds half to even, and packing four
//! registers at a time takes a quarter of the instructions that narrowing each would.

#![allow(unsafe_code, reason = "vector loads and stores through pointers")]

use std::arch::asm;
use std::arch::x86_64::*;

use super::{LANES, NR, Output, Requant, StripI8, Sums, store_rows};
use crate::kernels::relayout::avx512::transpose;
use crate::weight::TILE;

/// Indices that exchange two orders of a register's sixteen fours of bytes, four lanes of four: transposed.
///
/// The compiler is not to know them: where it does, it merges such a permutation into the unpacking before or after, which
/// makes slower ones of both.
#[target_feature(enable = "avx512f")]
#[inline]
pub(in crate::kernels) fn transposed() -> __m512i {
    let mut indices = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {} */", inout(zmm_reg) indices, options(pure, nomem, nostack, preserves_flags));
    }
    indices
}

/// Whether [`Bytes`] may store the strip.
pub(in crate::kernels) fn is_whole<W>(s: &StripI8<'_, W>) -> bool {
    s.vectors() * LANES == NR && matches!(s.requant.output, Output::U8 { .. })
}

/// What the rows of a strip have in common where sums become bytes.
pub(in crate::kernels) struct Bytes {
    columns: __mmask64,
    transposed: __m512i,
    /// What one step of a residual is worth, and its zero point and 2²³.
    residual: Option<(__m512, __m512)>,
    upper: __m512,
    zero_point: __m512i,
    lo: __m512i,
}

impl Bytes {
    /// Of a strip whose output is uint8.
    ///
    /// # Panics
    /// Where it is not.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub(in crate::kernels) fn new<W>(s: &StripI8<'_, W>) -> Bytes {
        let Output::U8 { zero_point, lo, hi } = s.requant.output else { unreachable!("the output is uint8") };
        let residual = s.requant.residual.map(|residual| {
            let zero_point = 8_388_608.0 + f32::from(residual.zero_point);
            (_mm512_set1_ps(residual.scale), _mm512_set1_ps(zero_point))
        });
        Bytes {
            columns: u64::MAX >> (NR - s.n),
            transposed: transposed(),
            residual,
            upper: _mm512_set1_ps((i32::from(hi) - i32::from(zero_point)) as f32),
            zero_point: _mm512_set1_epi16(zero_point.into()),
            lo: _mm512_set1_epi8(lo.cast_signed()),
        }
    }

    /// Stores the sums of row `r`. Lane `l` of `sums[i]` holds columns `16 i + 4 l ..` if they are `IN_ORDER`; if not,
    /// columns `16 l + 4 i ..`, where unpacking rows of bytes within lanes had put them, and packing puts them back.
    ///
    /// # Safety
    /// As [`store_rows`]; the strip is the one that this was made of.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub(in crate::kernels) unsafe fn store<const IN_ORDER: bool, W>(
        &self,
        s: &StripI8<'_, W>,
        r: usize,
        sums: [__m512i; 4],
    ) {
        let order = |bytes| if IN_ORDER { _mm512_permutexvar_epi32(self.transposed, bytes) } else { bytes };
        let (scale, bias) = (_mm512_set1_ps(s.requant.scale[r]), _mm512_set1_ps(s.requant.bias[r]));
        let mut y = sums.map(|sum| _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale), bias));
        let out = s.out.wrapping_add(r * s.out_stride).cast::<i8>();
        // A row of the strip is a line of a page of its own, which no prefetcher of the processor follows: the next strip's
        // line is asked for here, wherever it is.
        _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(NR));
        if let Some((scale, zero_point)) = self.residual {
            // Bytes over the exponent of 2²³ are 2²³ more than themselves; the difference is exact.
            let exponent = _mm512_set1_epi16(0x4b00);
            let from = s.residual.wrapping_add(r * s.residual_stride).cast::<i8>();
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(NR));
            // SAFETY: the strip has the row and these columns.
            let q = order(unsafe { _mm512_maskz_loadu_epi8(self.columns, from) });
            let zero = _mm512_setzero_si512();
            let (low, high) = (_mm512_unpacklo_epi8(q, zero), _mm512_unpackhi_epi8(q, zero));
            let q = [
                _mm512_unpacklo_epi16(low, exponent),
                _mm512_unpackhi_epi16(low, exponent),
                _mm512_unpacklo_epi16(high, exponent),
                _mm512_unpackhi_epi16(high, exponent),
            ];
            for (y, q) in y.iter_mut().zip(q) {
                let addend = _mm512_mul_ps(_mm512_sub_ps(_mm512_castsi512_ps(q), zero_point), scale);
                *y = _mm512_add_ps(*y, addend);
            }
        }
        // What is too small for an integer, and a NaN, which in this order of operands stays one, becomes the least integer;
        // narrowing with saturation then leaves the bound from below to the end.
        let q = y.map(|y| _mm512_cvtps_epi32(_mm512_min_ps(self.upper, y)));
        let [low, high] = [[q[0], q[1]], [q[2], q[3]]]
            .map(|[a, b]| _mm512_add_epi16(_mm512_packs_epi32(a, b), self.zero_point));
        let bytes = _mm512_max_epu8(_mm512_packus_epi16(low, high), self.lo);
        // SAFETY: the strip has the row and these columns.
        unsafe { _mm512_mask_storeu_epi8(out, self.columns, order(bytes)) };
    }
}

/// [`store_rows`], by way of [`Bytes`] where it serves.
///
/// # Safety
/// As [`store_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub(in crate::kernels) unsafe fn store_sums<W>(s: &StripI8<'_, W>, r0: usize, sums: &[[i32; NR]]) {
    if let Output::F32 { .. } = s.requant.output {
        // SAFETY: the caller's.
        return unsafe { store_rows(s, r0, sums) };
    }
    let bytes = Bytes::new(s);
    for (i, row) in sums.iter().enumerate() {
        // SAFETY: a row of sums is four registers; the rest is the caller's.
        unsafe {
            let sums = std::array::from_fn(|i| _mm512_loadu_si512(row.as_ptr().add(i * LANES).cast()));
            bytes.store::<true, W>(s, r0 + i, sums);
        }
    }
}

/// [`store_sums`] of sums that lack their offsets.
///
/// # Safety
/// As [`store_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub(in crate::kernels) unsafe fn store_products<W>(s: &StripI8<'_, W>, r0: usize, sums: &mut [[i32; NR]]) {
    let offset = |row: &[i32; NR], r: usize| -> [__m512i; 4] {
        let offset = _mm512_set1_epi32(s.requant.offset[r]);
        // SAFETY: a row of sums is four registers.
        let load = |i: usize| unsafe { _mm512_loadu_si512(row.as_ptr().add(i * LANES).cast()) };
        std::array::from_fn(|i| _mm512_add_epi32(load(i), offset))
    };
    if let Output::F32 { .. } = s.requant.output {
        for (i, row) in sums.iter_mut().enumerate() {
            for (v, sums) in offset(row, r0 + i).into_iter().enumerate() {
                // SAFETY: as they were loaded.
                unsafe { _mm512_storeu_si512(row.as_mut_ptr().add(v * LANES).cast(), sums) };
            }
        }
        // SAFETY: the caller's.
        return unsafe { store_rows(s, r0, sums) };
    }
    let bytes = Bytes::new(s);
    for (i, row) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { bytes.store::<true, W>(s, r0 + i, offset(row, r0 + i)) };
    }
}

/// The sums of one tile of rows over a strip, offsets not included: pixels apart, rows in the lanes.
#[repr(C, align(64))]
pub(in crate::kernels) struct Pixels(pub(in crate::kernels) [[i32; TILE]; NR]);

impl Pixels {
    pub(in crate::kernels) const ZERO: Pixels = Pixels([[0; TILE]; NR]);
}

/// Stores the sums of the tile of rows from `r0`, and bytes of no more columns than the strip has.
///
/// # Safety
/// As [`store_rows`], but that columns of bytes end where the strip does.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
#[inline]
pub(in crate::kernels) unsafe fn store_pixels<W>(s: &StripI8<'_, W>, r0: usize, sums: &Pixels) {
    let rows = s.tile_rows(r0);
    let Requant { offset, scale, bias, residual, output } = s.requant;
    let (None, Output::U8 { zero_point, lo, hi }) = (residual, output) else {
        // A residual lies as the output does, and floats are a row of registers: sums are turned first.
        let mut turned = Sums([[0; NR]; TILE]);
        for v in 0..s.vectors() {
            let to = turned.0.as_flattened_mut()[v * LANES..].as_mut_ptr();
            // SAFETY: sixteen pixels of sixteen rows, and as many of rows of `NR` columns.
            unsafe { transpose(sums.0[v * LANES..].as_ptr().cast(), TILE, to.cast(), NR) };
        }
        // SAFETY: the caller's.
        return unsafe { store_products(s, r0, &mut turned.0[..rows]) };
    };
    let lanes = u16::MAX >> (TILE - rows);
    let (offset, scale, bias) = (&offset[r0..][..rows], &scale[r0..][..rows], &bias[r0..][..rows]);
    // SAFETY: the mask keeps to the rows that the slices have.
    let (offset, scale, bias) = unsafe {
        (
            _mm512_maskz_loadu_epi32(lanes, offset.as_ptr()),
            _mm512_maskz_loadu_ps(lanes, scale.as_ptr()),
            _mm512_maskz_loadu_ps(lanes, bias.as_ptr()),
        )
    };
    let upper = _mm512_set1_ps((i32::from(hi) - i32::from(zero_point)) as f32);
    let zero_point = _mm512_set1_epi16(zero_point.into());
    let lo = _mm512_set1_epi8(lo.cast_signed());
    // Of four pixels by four rows a lane, rows by pixels.
    let order = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    // Register `i` has pixels `4 i ..`, four of a row in each of its sixteen fours of bytes.
    let mut fours = [_mm512_setzero_si512(); NR / 4];
    for (fours, sums) in fours.iter_mut().zip(sums.0.as_chunks::<4>().0).take(s.n.div_ceil(4)) {
        let q: [_; 4] = std::array::from_fn(|i| {
            // SAFETY: a pixel's sums are a register, aligned as `Pixels` is.
            let sum = unsafe { _mm512_load_si512(sums[i].as_ptr().cast()) };
            let sum = _mm512_cvtepi32_ps(_mm512_add_epi32(sum, offset));
            let y = _mm512_add_ps(_mm512_mul_ps(sum, scale), bias);
            // As in `Bytes::store`.
            _mm512_cvtps_epi32(_mm512_min_ps(upper, y))
        });
        let [low, high] =
            [[q[0], q[1]], [q[2], q[3]]].map(|[a, b]| _mm512_add_epi16(_mm512_packs_epi32(a, b), zero_point));
        let bytes = _mm512_max_epu8(_mm512_packus_epi16(low, high), lo);
        *fours = _mm512_shuffle_epi8(bytes, order);
    }
    let columns = u64::MAX >> (NR - s.n);
    let turned = turn(&fours);
    for (i, bytes) in turned.into_iter().enumerate().take(rows) {
        let out = s.out.wrapping_add((r0 + i) * s.out_stride).cast::<i8>();
        // SAFETY: the strip has the row and these columns.
        unsafe { _mm512_mask_storeu_epi8(out, columns, bytes) };
        // As in `Bytes::store`.
        _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(NR));
    }
}

/// Transposes sixteen by sixteen fours of bytes.
#[target_feature(enable = "avx512f")]
#[inline]
fn turn(x: &[__m512i; 16]) -> [__m512i; 16] {
    let mut y = *x;
    // Fours within lanes of four registers, then lanes of registers four apart.
    for i in 0..4 {
        let [a, b, c, d] = [x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]];
        let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low_2, high_2) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        y[4 * i] = _mm512_unpacklo_epi64(low, low_2);
        y[4 * i + 1] = _mm512_unpackhi_epi64(low, low_2);
        y[4 * i + 2] = _mm512_unpacklo_epi64(high, high_2);
        y[4 * i + 3] = _mm512_unpackhi_epi64(high, high_2);
    }
    let mut z = y;
    for i in 0..4 {
        let [a, b, c, d] = [y[i], y[4 + i], y[8 + i], y[12 + i]];
        let (low, high) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b));
        let (low_2, high_2) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d));
        z[i] = _mm512_shuffle_i32x4::<0x88>(low, low_2);
        z[4 + i] = _mm512_shuffle_i32x4::<0xDD>(low, low_2);
        z[8 + i] = _mm512_shuffle_i32x4::<0x88>(high, high_2);
        z[12 + i] = _mm512_shuffle_i32x4::<0xDD>(high, high_2);
    }
    z
}
