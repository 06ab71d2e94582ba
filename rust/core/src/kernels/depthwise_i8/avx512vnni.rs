//! AVX-512 VNNI and VBMI: 16 outputs. `vpermb` spreads a row's bytes into windows of four taps, `vpdpbusd` adds them.

#![allow(unsafe_code, reason = "AVX-512 intrinsics behind the Avx512Vnni token")]

use super::lanes::Lanes;
use super::{Channels, Kernel, scalar, taps, walk};
use crate::isa::Avx512Vnni;
use crate::kernels::strip_i8::Residual;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: an `Avx512Vnni` exists only where the processor has the features `run` is compiled with.
    Avx512Vnni::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c,avx512vnni,avx512vbmi")]
fn run(channels: &Channels<'_>, out: &mut [u8]) {
    // SAFETY: this function has the features of `Windows`.
    if !unsafe { walk::run::<Windows>(channels, out) || taps::run::<Windows>(channels, out) } {
        scalar::run(channels, out);
    }
}

struct Windows;

/// Byte `4·lane + tap` of windows of stride `S` is byte `lane·S + tap` of the row.
const fn spread<const S: usize>() -> [u8; 64] {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 64 {
        index[i] = (i / 4 * S + i % 4) as u8;
        i += 1;
    }
    index
}

/// The lowest byte of every lane.
const LOWEST: [u8; 64] = {
    let mut index = [0; 64];
    let mut i = 0;
    while i < 16 {
        index[i] = 4 * i as u8;
        i += 1;
    }
    index
};

/// Bit `i` at bit `4·i`.
fn quads(lanes: u32) -> u64 {
    let mut spread = u64::from(lanes & 0xffff);
    for (shift, mask) in [
        (24, 0x0000_00ff_0000_00ff),
        (12, 0x000f_000f_000f_000f),
        (6, 0x0303_0303_0303_0303),
        (3, 0x1111_1111_1111_1111),
    ] {
        spread = (spread | spread << shift) & mask;
    }
    spread
}

/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn index(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array is a vector long.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl Lanes for Windows {
    const N: usize = 16;
    const TAPS: usize = 4;
    const READ: [usize; 2] = [32, 64];
    type X = __m512i;
    type W = __m512i;
    type M = __mmask64;
    type Sums = __m512i;
    type Reals = __m512;
    type F = __m512;
    type Z = __m128i;

    #[inline(always)]
    fn pack(taps: [i8; 4]) -> i32 {
        i32::from_le_bytes(taps.map(|tap| tap as u8))
    }
    #[inline(always)]
    unsafe fn weights(packed: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(packed) }
    }
    #[inline(always)]
    unsafe fn mask<const S: usize>(lanes: [u32; 4]) -> __mmask64 {
        quads(lanes[0]) | quads(lanes[1]) << 1 | quads(lanes[2]) << 2 | quads(lanes[3]) << 3
    }
    #[inline(always)]
    unsafe fn constant(value: u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi8(value as i8) }
    }
    #[inline(always)]
    unsafe fn windows<const S: usize>(from: *const u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_epi8(index(&spread::<S>()), load::<S>(from)) }
    }
    #[inline(always)]
    unsafe fn windows_edge<const S: usize>(from: *const u8, mask: __mmask64, outside: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_mask_permutexvar_epi8(outside, mask, index(&spread::<S>()), load::<S>(from)) }
    }
    #[inline(always)]
    unsafe fn windows_some<const S: usize>(
        from: *const u8,
        bytes: u64,
        mask: __mmask64,
        outside: __m512i,
    ) -> __m512i {
        // SAFETY: as above; bytes outside the mask are not accessed.
        unsafe {
            let row = _mm512_mask_loadu_epi8(outside, bytes, from.cast());
            _mm512_mask_permutexvar_epi8(outside, mask, index(&spread::<S>()), row)
        }
    }
    #[inline(always)]
    unsafe fn sums(offset: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(offset) }
    }
    #[inline(always)]
    unsafe fn add(sums: __m512i, x: __m512i, w: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_dpbusd_epi32(sums, x, w) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn zero_point(value: u8) -> __m128i {
        // SAFETY: as above.
        unsafe { _mm_set1_epi8(value as i8) }
    }
    #[inline(always)]
    unsafe fn real<const S: usize>(sums: __m512i, scale: __m512, bias: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe {
            let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
            _mm512_add_ps(scaled, bias)
        }
    }
    #[inline(always)]
    unsafe fn add_residual(reals: __m512, from: *const u8, how: Residual) -> __m512 {
        // SAFETY: as above.
        unsafe { add_residual(reals, _mm_loadu_si128(from.cast()), how) }
    }
    #[inline(always)]
    unsafe fn add_residual_some(reals: __m512, from: *const u8, how: Residual, lanes: usize) -> __m512 {
        // SAFETY: as above; bytes outside the mask are not accessed.
        unsafe { add_residual(reals, _mm_maskz_loadu_epi8(first(lanes), from.cast()), how) }
    }
    #[inline(always)]
    unsafe fn store_u8(to: *mut u8, reals: __m512, bounds: [__m512; 2], zero_point: __m128i) {
        // SAFETY: as above.
        unsafe { _mm_storeu_si128(to.cast(), bytes(reals, bounds, zero_point)) }
    }
    #[inline(always)]
    unsafe fn store_u8_some(
        to: *mut u8,
        reals: __m512,
        bounds: [__m512; 2],
        zero_point: __m128i,
        lanes: usize,
    ) {
        // SAFETY: as above; bytes outside the mask are not accessed.
        unsafe { _mm_mask_storeu_epi8(to.cast(), first(lanes), bytes(reals, bounds, zero_point)) }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, reals: __m512, [lo, hi]: [__m512; 2]) {
        // SAFETY: as above. Both keep a NaN, which is their second operand.
        unsafe { _mm512_storeu_ps(to, _mm512_min_ps(hi, _mm512_max_ps(lo, reals))) }
    }
    #[inline(always)]
    unsafe fn store_f32_some(to: *mut f32, reals: __m512, [lo, hi]: [__m512; 2], lanes: usize) {
        // SAFETY: as above; lanes outside the mask are not accessed.
        unsafe { _mm512_mask_storeu_ps(to, first(lanes), _mm512_min_ps(hi, _mm512_max_ps(lo, reals))) }
    }
}

/// The first `lanes` of 16.
fn first(lanes: usize) -> __mmask16 {
    ((1u32 << lanes) - 1) as __mmask16
}

/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn add_residual(reals: __m512, bytes: __m128i, how: Residual) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let steps =
            _mm512_sub_epi32(_mm512_cvtepu8_epi32(bytes), _mm512_set1_epi32(i32::from(how.zero_point)));
        _mm512_add_ps(reals, _mm512_mul_ps(_mm512_cvtepi32_ps(steps), _mm512_set1_ps(how.scale)))
    }
}

/// As `strip_i8::quantize`: bounds first, then an addition that leaves the integer in the low bits.
///
/// # Safety
/// The processor has AVX-512 with VBMI.
#[inline(always)]
unsafe fn bytes(reals: __m512, [lo, hi]: [__m512; 2], zero_point: __m128i) -> __m128i {
    // SAFETY: the caller's. `max` gives its second operand for a NaN.
    unsafe {
        let bounded = _mm512_min_ps(_mm512_max_ps(reals, lo), hi);
        let rounded = _mm512_castps_si512(_mm512_add_ps(bounded, _mm512_set1_ps(12_582_912.0)));
        let low = _mm512_castsi512_si128(_mm512_permutexvar_epi8(index(&LOWEST), rounded));
        _mm_add_epi8(low, zero_point)
    }
}

/// The bytes that windows of stride `S` are of.
///
/// # Safety
/// The processor has AVX-512; 32 bytes, or with stride 2 64 bytes, are readable.
#[inline(always)]
unsafe fn load<const S: usize>(from: *const u8) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        if S == 1 {
            _mm512_castsi256_si512(_mm256_loadu_si256(from.cast()))
        } else {
            _mm512_loadu_si512(from.cast())
        }
    }
}
