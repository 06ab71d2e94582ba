//! AVX2: 16 outputs in two vectors of sums. Bytes are widened to 16 bits and `vpmaddwd` adds two taps at a time.
//!
//! With stride 1 one vector holds the even outputs and one the odd: a pair of neighbouring bytes is what an output of
//! either sees of two taps. With stride 2 they are the first and the second eight.

#![allow(unsafe_code, reason = "AVX2 intrinsics behind the Avx2 token")]

use super::lanes::{Lanes, gather};
use super::{Channels, Kernel, padded, scalar, taps};
use crate::isa::Avx2;
use crate::kernels::strip_i8::Residual;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: an `Avx2` exists only where the processor has the features `run` is compiled with.
    Avx2::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run(channels: &Channels<'_>, out: &mut [u8]) {
    // SAFETY: this function has the features of `Pairs`.
    if !unsafe { padded::run::<Pairs>(channels, out) || taps::run::<Pairs>(channels, out) } {
        scalar::run(channels, out);
    }
}

/// The two vectors of something; with stride 1 that of even and that of odd outputs.
pub(super) struct Pairs;

/// Two taps, as `vpmaddwd` multiplies them.
#[inline(always)]
pub(super) fn pack(taps: [i8; 4]) -> i32 {
    i32::from(taps[0]) & 0xffff | i32::from(taps[1]) << 16
}

/// The output that 16-bit element `e` of vector `half` is for, there being `n` in all.
pub(super) const fn lane<const S: usize>(half: usize, e: usize, n: usize) -> usize {
    if S == 1 { e / 2 * 2 + half } else { half * n / 2 + e / 2 }
}

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl Lanes for Pairs {
    const N: usize = 16;
    const TAPS: usize = 2;
    const READ: [usize; 2] = [17, 32];
    type X = [__m256i; 2];
    type W = __m256i;
    type M = [__m256i; 2];
    type Sums = [__m256i; 2];
    type Reals = [__m256; 2];
    type F = __m256;
    type Z = __m256i;

    #[inline(always)]
    fn pack(taps: [i8; 4]) -> i32 {
        pack(taps)
    }
    #[inline(always)]
    unsafe fn weights(packed: i32) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi32(packed) }
    }
    #[inline(always)]
    unsafe fn mask<const S: usize>(lanes: [u32; 4]) -> [__m256i; 2] {
        let half = |half: usize| {
            let elements: [i16; 16] =
                std::array::from_fn(|e| -((lanes[e % 2] >> lane::<S>(half, e, 16) & 1) as i16));
            // SAFETY: as above; the array is a vector long.
            unsafe { _mm256_loadu_si256(elements.as_ptr().cast()) }
        };
        [half(0), half(1)]
    }
    #[inline(always)]
    unsafe fn constant(value: u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi16(i16::from(value)); 2] }
    }
    #[inline(always)]
    unsafe fn windows<const S: usize>(from: *const u8) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let second = from.add(if S == 1 { 1 } else { 16 });
            [from, second].map(|from| _mm256_cvtepu8_epi16(_mm_loadu_si128(from.cast())))
        }
    }
    #[inline(always)]
    unsafe fn windows_edge<const S: usize>(
        from: *const u8,
        mask: [__m256i; 2],
        outside: [__m256i; 2],
    ) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let [a, b] = Self::windows::<S>(from);
            [_mm256_blendv_epi8(outside[0], a, mask[0]), _mm256_blendv_epi8(outside[1], b, mask[1])]
        }
    }
    #[inline(always)]
    unsafe fn windows_some<const S: usize>(
        from: *const u8,
        bytes: u64,
        mask: [__m256i; 2],
        outside: [__m256i; 2],
    ) -> [__m256i; 2] {
        // SAFETY: as above; what is gathered is as long as what is read.
        unsafe {
            let zero_point = _mm256_extract_epi8::<0>(outside[0]) as u8;
            let row = gather(from, bytes, zero_point);
            Self::windows_edge::<S>(row.as_ptr(), mask, outside)
        }
    }
    #[inline(always)]
    unsafe fn sums(offset: i32) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_set1_epi32(offset); 2] }
    }
    #[inline(always)]
    unsafe fn add(sums: [__m256i; 2], x: [__m256i; 2], w: __m256i) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(x[0], w)),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(x[1], w)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn zero_point(value: u8) -> __m256i {
        // SAFETY: as above.
        unsafe { _mm256_set1_epi16(i16::from(value)) }
    }
    #[inline(always)]
    unsafe fn real<const S: usize>([a, b]: [__m256i; 2], scale: __m256, bias: __m256) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            let spread = if S == 1 {
                [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
            } else {
                spread(a, b)
            };
            spread.map(|sums| {
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
                _mm256_add_ps(scaled, bias)
            })
        }
    }
    #[inline(always)]
    unsafe fn add_residual([a, b]: [__m256; 2], from: *const u8, how: Residual) -> [__m256; 2] {
        let half = |from: *const u8| {
            // SAFETY: as above.
            unsafe {
                let steps = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
                _mm256_sub_epi32(steps, _mm256_set1_epi32(i32::from(how.zero_point)))
            }
        };
        // SAFETY: as above.
        unsafe {
            let scale = _mm256_set1_ps(how.scale);
            let addends = spread(half(from), half(from.wrapping_add(8)));
            let [c, d] = addends.map(|steps| _mm256_mul_ps(_mm256_cvtepi32_ps(steps), scale));
            [_mm256_add_ps(a, c), _mm256_add_ps(b, d)]
        }
    }
    #[inline(always)]
    unsafe fn store_u8(to: *mut u8, reals: [__m256; 2], [lo, hi]: [__m256; 2], zero_point: __m256i) {
        // SAFETY: as above. `max` gives its second operand for a NaN; bounded, a conversion is exact and rounds to even.
        unsafe {
            let [a, b] = reals.map(|reals| _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(reals, lo), hi)));
            let steps = _mm256_add_epi16(_mm256_packs_epi32(a, b), zero_point);
            let (low, high) = (_mm256_castsi256_si128(steps), _mm256_extracti128_si256::<1>(steps));
            _mm_storeu_si128(to.cast(), _mm_packus_epi16(low, high));
        }
    }
    #[inline(always)]
    unsafe fn store_f32(to: *mut f32, reals: [__m256; 2], [lo, hi]: [__m256; 2]) {
        // SAFETY: as above. Both keep a NaN, which is their second operand.
        unsafe {
            let [a, b] = reals.map(|reals| _mm256_min_ps(hi, _mm256_max_ps(lo, reals)));
            _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add(8), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}

/// The order of [`Lanes::Reals`], of sums in the order of the outputs: lanes 0 to 3 and 8 to 11, then the others, which is
/// how outputs come to lie where even and odd ones are unpacked, and how they must lie to be packed.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn spread(a: __m256i, b: __m256i) -> [__m256i; 2] {
    // SAFETY: as above.
    unsafe { [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)] }
}
