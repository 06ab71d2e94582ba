//! AVX2: 8 lanes; foreign lanes of the input are cleared before they are added.

#![allow(unsafe_code, reason = "AVX2 intrinsics behind the Avx2 token")]

use super::{Channels, Kernel, scalar, walk};
use crate::isa::Avx2;
use std::arch::x86_64::*;

pub(super) fn get() -> Option<Kernel> {
    // SAFETY: an `Avx2` exists only where the processor has the features `run` is compiled with.
    Avx2::detect().map(|_| (|channels, out| unsafe { run(channels, out) }) as Kernel)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn run(channels: &Channels<'_>, out: &mut [f32]) {
    // SAFETY: this function has the features of `F32x8`.
    if !unsafe { walk::run::<F32x8>(channels, out) } {
        scalar::run(channels, out);
    }
}

struct F32x8;

// SAFETY (of every block): the trait's caller has the features, and vouches for the pointers.
impl walk::Lanes for F32x8 {
    const N: usize = 8;
    const BROADCASTS: bool = false;
    type V = __m256;
    type M = __m256;

    #[inline(always)]
    unsafe fn prefetch(at: *const f32) {
        // SAFETY: a prefetch does not fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn mask(bits: u32) -> __m256 {
        // SAFETY: as above.
        unsafe {
            let bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
            let chosen = _mm256_and_si256(_mm256_set1_epi32(bits as i32), bit);
            _mm256_castsi256_ps(_mm256_cmpeq_epi32(chosen, bit))
        }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn split(a: __m256, b: __m256) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_shuffle_ps::<0b10_00_10_00>(a, b), _mm256_shuffle_ps::<0b11_01_11_01>(a, b)] }
    }
    #[inline(always)]
    unsafe fn sort(evens: __m256) -> __m256 {
        // SAFETY: as above. Pairs of elements, two of either operand in each half.
        unsafe { _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(_mm256_castps_pd(evens))) }
    }
    #[inline(always)]
    unsafe fn mask_evens(bits: u32) -> __m256 {
        // SAFETY: as above.
        unsafe { Self::split(Self::mask(bits), Self::mask(bits >> 8))[0] }
    }
    #[inline(always)]
    unsafe fn load_some(from: *const f32, bits: u32) -> __m256 {
        // SAFETY: as above; lanes outside the mask are not accessed.
        unsafe { _mm256_maskload_ps(from, _mm256_castps_si256(Self::mask(bits))) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(sum: __m256, a: __m256, b: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn some(value: __m256, lanes: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_and_ps(value, lanes) }
    }
    #[inline(always)]
    unsafe fn fma_some(sum: __m256, a: __m256, b: __m256, _: __m256) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }
    #[inline(always)]
    unsafe fn clamp(value: __m256, lo: __m256, hi: __m256) -> __m256 {
        // SAFETY: as above. Both return their second operand where one is NaN.
        unsafe { _mm256_min_ps(hi, _mm256_max_ps(lo, value)) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn store_some(to: *mut f32, value: __m256, bits: u32) {
        // SAFETY: as above; lanes outside the mask are not accessed.
        unsafe { _mm256_maskstore_ps(to, _mm256_castps_si256(Self::mask(bits)), value) }
    }
}
