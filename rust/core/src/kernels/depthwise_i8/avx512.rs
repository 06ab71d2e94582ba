//! AVX-512 without VNNI: the way of `avx2`, 32 outputs at a time where rows are long or are computed as one.

#![allow(unsafe_code, reason = "AVX-512 intrinsics behind the Avx512 token")]

use super::avx2::{Pairs, lane, pack};
use super::lanes::Lanes;
use super::{Channels, Kernel, padded, scalar, taps};
use crate::isa::Avx512;
use crate::kernels::strip_i8::Residual;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: an `Avx512` exists only where the processor has the features `run` is compiled with.
    Avx512::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn run(channels: &Channels<'_>, out: &mut [u8]) {
    // SAFETY: this function has the features of both.
    let done = unsafe {
        if channels.window.stride == [1, 1] || channels.window.ow > Pairs::N {
            padded::run::<WidePairs>(channels, out) || taps::run::<WidePairs>(channels, out)
        } else {
            padded::run::<Pairs>(channels, out) || taps::run::<Pairs>(channels, out)
        }
    };
    if !done {
        scalar::run(channels, out);
    }
}

struct WidePairs;

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl Lanes for WidePairs {
    const N: usize = 32;
    const TAPS: usize = 2;
    const READ: [usize; 2] = [33, 64];
    type X = [__m512i; 2];
    type W = __m512i;
    type M = [__mmask32; 2];
    type Sums = [__m512i; 2];
    type Reals = [__m512; 2];
    type F = __m512;
    type Z = __m512i;

    #[inline(always)]
    fn pack(taps: [i8; 4]) -> i32 {
        pack(taps)
    }
    #[inline(always)]
    unsafe fn weights(packed: i32) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(packed) }
    }
    #[inline(always)]
    unsafe fn mask<const S: usize>(lanes: [u32; 4]) -> [__mmask32; 2] {
        [0, 1].map(|half| (0..32).fold(0, |mask, e| mask | (lanes[e % 2] >> lane::<S>(half, e, 32) & 1) << e))
    }
    #[inline(always)]
    unsafe fn constant(value: u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe { [_mm512_set1_epi16(i16::from(value)); 2] }
    }
    #[inline(always)]
    unsafe fn windows<const S: usize>(from: *const u8) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let second = from.add(if S == 1 { 1 } else { 32 });
            [from, second].map(|from| _mm512_cvtepu8_epi16(_mm256_loadu_si256(from.cast())))
        }
    }
    #[inline(always)]
    unsafe fn windows_edge<const S: usize>(
        from: *const u8,
        mask: [__mmask32; 2],
        outside: [__m512i; 2],
    ) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            let second = from.add(if S == 1 { 1 } else { 32 });
            let (a, b) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(second.cast()));
            [
                _mm512_mask_cvtepu8_epi16(outside[0], mask[0], a),
                _mm512_mask_cvtepu8_epi16(outside[1], mask[1], b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn windows_some<const S: usize>(
        from: *const u8,
        bytes: u64,
        mask: [__mmask32; 2],
        outside: [__m512i; 2],
    ) -> [__m512i; 2] {
        // SAFETY: as above; bytes outside the mask are not accessed.
        unsafe {
            let zero_point =
                _mm256_packus_epi16(_mm512_castsi512_si256(outside[0]), _mm512_castsi512_si256(outside[0]));
            let (skip, gap) = if S == 1 { (1, 1) } else { (32, 32) };
            let a = _mm256_mask_loadu_epi8(zero_point, bytes as u32, from.cast());
            let b = _mm256_mask_loadu_epi8(zero_point, (bytes >> gap) as u32, from.wrapping_add(skip).cast());
            [
                _mm512_mask_cvtepu8_epi16(outside[0], mask[0], a),
                _mm512_mask_cvtepu8_epi16(outside[1], mask[1], b),
            ]
        }
    }
    #[inline(always)]
    unsafe fn sums(offset: i32) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe { [_mm512_set1_epi32(offset); 2] }
    }
    #[inline(always)]
    unsafe fn add(sums: [__m512i; 2], x: [__m512i; 2], w: __m512i) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe {
            [
                _mm512_add_epi32(sums[0], _mm512_madd_epi16(x[0], w)),
                _mm512_add_epi32(sums[1], _mm512_madd_epi16(x[1], w)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn zero_point(value: u8) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_set1_epi32(i32::from(value)) }
    }
    #[inline(always)]
    unsafe fn real<const S: usize>([a, b]: [__m512i; 2], scale: __m512, bias: __m512) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let ordered = if S == 1 {
                let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
                [_mm512_permutex2var_epi32(a, low, b), _mm512_permutex2var_epi32(a, high, b)]
            } else {
                [a, b]
            };
            ordered.map(|sums| {
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale);
                _mm512_add_ps(scaled, bias)
            })
        }
    }
    #[inline(always)]
    unsafe fn add_residual(reals: [__m512; 2], from: *const u8, how: Residual) -> [__m512; 2] {
        let half = |reals: __m512, from: *const u8| {
            // SAFETY: as above.
            unsafe {
                let steps = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
                let steps = _mm512_sub_epi32(steps, _mm512_set1_epi32(i32::from(how.zero_point)));
                _mm512_add_ps(reals, _mm512_mul_ps(_mm512_cvtepi32_ps(steps), _mm512_set1_ps(how.scale)))
            }
        };
        [half(reals[0], from), half(reals[1], from.wrapping_add(16))]
    }
    #[inline(always)]
    unsafe fn store_u8(to: *mut u8, reals: [__m512; 2], [lo, hi]: [__m512; 2], zero_point: __m512i) {
        // SAFETY: as above. `max` gives its second operand for a NaN; bounded, a conversion is exact and rounds to even.
        unsafe {
            for (half, reals) in reals.into_iter().enumerate() {
                let steps = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(reals, lo), hi));
                let bytes = _mm512_cvtepi32_epi8(_mm512_add_epi32(steps, zero_point));
                _mm_storeu_si128(to.add(16 * half).cast(), bytes);
            }
        }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, reals: [__m512; 2], [lo, hi]: [__m512; 2]) {
        // SAFETY: as above. Both keep a NaN, which is their second operand.
        unsafe {
            for (half, reals) in reals.into_iter().enumerate() {
                let bounded = _mm512_min_ps(hi, _mm512_max_ps(lo, reals));
                _mm512_storeu_ps(to.add(16 * half), bounded);
            }
        }
    }
}
