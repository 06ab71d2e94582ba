//! AVX-512: 16 lanes; masked-out lanes keep their sum.

#![allow(unsafe_code, reason = "AVX-512 intrinsics behind the Avx512 token")]

use super::{Channels, Kernel, scalar, walk};
use crate::isa::Avx512;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: an `Avx512` exists only where the processor has the features `run` is compiled with.
    Avx512::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512cd,avx2,fma,f16c")]
fn run(channels: &Channels<'_>, out: &mut [f32]) {
    // SAFETY: this function has the features of `F32x16`.
    if !unsafe { walk::run::<F32x16>(channels, out) } {
        scalar::run(channels, out);
    }
}

struct F32x16;

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl walk::Lanes for F32x16 {
    const N: usize = 16;
    const BROADCASTS: bool = true;
    type V = __m512;
    type M = __mmask16;

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn mask(bits: u32) -> __mmask16 {
        bits as __mmask16
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn split(a: __m512, b: __m512) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            [_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b)]
        }
    }
    #[inline(always)]
    unsafe fn sort(evens: __m512) -> __m512 {
        evens
    }
    #[inline(always)]
    unsafe fn mask_evens(bits: u32) -> __mmask16 {
        walk::every_other(bits) as __mmask16
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, bits: u32) -> __m512 {
        // SAFETY: as above; lanes outside the mask are not accessed.
        unsafe { _mm512_maskz_loadu_ps(bits as __mmask16, from) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(sum: __m512, a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn some(value: __m512, _: __mmask16) -> __m512 {
        value
    }
    #[inline(always)]
    unsafe fn fma_some(sum: __m512, a: __m512, b: __m512, lanes: __mmask16) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_mask3_fmadd_ps(a, b, sum, lanes) }
    }
    #[inline(always)]
    unsafe fn clamp(value: __m512, lo: __m512, hi: __m512) -> __m512 {
        // SAFETY: as above. Both return their second operand where one is NaN.
        unsafe { _mm512_min_ps(hi, _mm512_max_ps(lo, value)) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, value: __m512, bits: u32) {
        // SAFETY: as above; lanes outside the mask are not accessed.
        unsafe { _mm512_mask_storeu_ps(to, bits as __mmask16, value) }
    }
}
