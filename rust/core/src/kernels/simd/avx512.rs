//! Sixteen lanes: AVX-512.

#![allow(unsafe_code, reason = "intrinsics of a tier that the type proves")]

use super::{Op, Simd};
use crate::isa::Avx512;
use std::arch::x86_64::*;

/// Sixteen lanes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct F32x16(());

impl Simd for F32x16 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    const LANES: usize = 16;

    #[inline(always)]
    fn detect() -> Option<F32x16> {
        Avx512::detect().map(|_| F32x16(()))
    }
    #[inline(always)]
    unsafe fn assume() -> F32x16 {
        F32x16(())
    }
    #[inline(always)]
    fn run<O: Op>(self, op: O) -> O::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
        fn compiled<O: Op>(s: F32x16, op: O) -> O::Output {
            op.eval(s)
        }
        // SAFETY: `self` proves the tier.
        unsafe { compiled(self, op) }
    }

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m512) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_first(self, p: *const f32, n: usize) -> __m512 {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm512_maskz_loadu_ps(first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize, x: __m512) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm512_mask_storeu_ps(p, first(n), x) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn neg_mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn sqrt(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_sqrt_ps(x) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn floor(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn ceil(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn trunc(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn rint(self, x: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x) }
    }
    #[inline(always)]
    fn eq(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    fn lt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) }
    }
    #[inline(always)]
    fn le(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LE_OQ>(a, b) }
    }
    #[inline(always)]
    fn not(self, m: __mmask16) -> __mmask16 {
        !m
    }
    #[inline(always)]
    fn and(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }
    #[inline(always)]
    fn or(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a | b
    }
    #[inline(always)]
    fn select(self, m: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn first(self, n: usize) -> __mmask16 {
        first(n)
    }
    #[inline(always)]
    fn swap(self, x: __m512, distance: usize) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe {
            match distance {
                8 => _mm512_shuffle_f32x4::<0x4E>(x, x),
                4 => _mm512_shuffle_f32x4::<0xB1>(x, x),
                2 => _mm512_permute_ps::<0x4E>(x),
                _ => _mm512_permute_ps::<0xB1>(x),
            }
        }
    }
    #[inline(always)]
    fn lane0(self, x: __m512) -> f32 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_cvtss_f32(x) }
    }
    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_set1_epi32(x) }
    }
    #[inline(always)]
    fn bits(self, x: __m512) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_castps_si512(x) }
    }
    #[inline(always)]
    fn as_float(self, x: __m512i) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_castsi512_ps(x) }
    }
    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    fn sub_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    fn and_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    fn or_int(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    fn shl(self, x: __m512i, n: i32) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_sll_epi32(x, _mm_cvtsi32_si128(n)) }
    }
    #[inline(always)]
    fn sar(self, x: __m512i, n: i32) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_sra_epi32(x, _mm_cvtsi32_si128(n)) }
    }
    #[inline(always)]
    fn to_int(self, x: __m512) -> __m512i {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_cvtps_epi32(x) }
    }
    #[inline(always)]
    fn to_float(self, x: __m512i) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_u8(self, p: *const u8) -> __m512i {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store_u8(self, p: *mut u8, x: __m512i) {
        // SAFETY: `self` proves the tier; the pointer is the caller's.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(x));
        }
    }
    #[inline(always)]
    fn scale(self, x: __m512, n: __m512) -> __m512 {
        // SAFETY: `self` proves the tier.
        unsafe { _mm512_scalef_ps(x, n) }
    }
}

/// The mask of the first `n < 16` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1u32 << n) - 1) as __mmask16
}
