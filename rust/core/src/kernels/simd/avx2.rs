//! Eight lanes: AVX2 and FMA.

#![allow(unsafe_code, reason = "intrinsics of a tier that the type proves")]

use super::{Op, Simd};
use crate::isa::Avx2;
use std::arch::x86_64::*;

/// Eight lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32x8(());

impl Simd for F32x8 {
    type F = __m256;
    type I = __m256i;
    type M = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    fn detect() -> Option<F32x8> {
        Avx2::detect().map(|_| F32x8(()))
    }
    #[inline(always)]
    unsafe fn assume() -> F32x8 {
        F32x8(())
    }
    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled<O: Op>(s: F32x8, op: O) -> O::Output {
            op.eval(s)
        }
        // SAFETY: `self` proves the tier.
        unsafe { compiled(self, op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m256) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm256_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m256 {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, x: __m256) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm256_maskstore_ps(p, first(n), x) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_sqrt_ps(x) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn floor(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_floor_ps(x) }
    }
    #[inline(always)]
    fn ceil(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_ceil_ps(x) }
    }
    #[inline(always)]
    fn trunc(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn rint(self, x: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn eq(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn lt(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn le(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_cmp_ps::<_CMP_LE_OQ>(a, b) }
    }
    #[inline(always)]
    fn not(self, m: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_xor_ps(m, _mm256_castsi256_ps(_mm256_set1_epi32(-1))) }
    }
    #[inline(always)]
    fn and(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_and_ps(a, b) }
    }
    #[inline(always)]
    fn or(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_or_ps(a, b) }
    }
    #[inline(always)]
    fn select(self, m: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_blendv_ps(b, a, m) }
    }
    #[inline(always)]
    fn first(self, n: usize) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_castsi256_ps(first(n)) }
    }
    #[inline(always)]
    fn swap(self, x: __m256, distance: usize) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe {
            match distance {
                4 => _mm256_permute2f128_ps::<0x01>(x, x),
                2 => _mm256_permute_ps::<0x4E>(x),
                _ => _mm256_permute_ps::<0xB1>(x),
            }
        }
    }
    #[inline(always)]
    fn lane0(self, x: __m256) -> f32 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_cvtss_f32(x) }
    }
    #[inline(always)]
    fn splat_int(self, x: i32) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_set1_epi32(x) }
    }
    #[inline(always)]
    fn bits(self, x: __m256) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_castps_si256(x) }
    }
    #[inline(always)]
    fn as_float(self, x: __m256i) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_castsi256_ps(x) }
    }
    #[inline(always)]
    fn add_int(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_int(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn and_int(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_and_si256(a, b) }
    }
    #[inline(always)]
    fn or_int(self, a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    fn shl(self, x: __m256i, n: i32) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_sll_epi32(x, _mm_cvtsi32_si128(n)) }
    }
    #[inline(always)]
    fn sar(self, x: __m256i, n: i32) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_sra_epi32(x, _mm_cvtsi32_si128(n)) }
    }
    #[inline(always)]
    fn to_int(self, x: __m256) -> __m256i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_cvtps_epi32(x) }
    }
    #[inline(always)]
    fn to_float(self, x: __m256i) -> __m256 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm256_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m256i {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: __m256i) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe {
            let words = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
        }
    }
}

/// All ones in the first `n` of eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn first(n: usize) -> __m256i {
    const LANE: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(n <= 8);
    // SAFETY: eight of sixteen elements, from the (8 - n)-th on.
    unsafe { _mm256_loadu_si256(LANE.as_ptr().add(8 - n.min(8)).cast()) }
}
