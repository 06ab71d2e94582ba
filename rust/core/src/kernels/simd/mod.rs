//! Lanes of float32: what the elementwise families are written over.
//!
//! [`Simd`] is a vector register and what can be done with it; a tier's file holds nothing but its impl. A family writes
//! its loop once as an [`Op`], generic over `Simd`; [`Simd::run`] compiles that loop for the tier, since everything in it
//! is inlined into one function that has the tier's features. Hence `#[inline(always)]` on whatever takes an `S: Simd`:
//! left out of line, it would be compiled without them.
//!
//! A value of a `Simd` type proves that the processor has the tier, so most methods are safe.

#![allow(unsafe_code, reason = "loads and stores")]

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
pub(crate) mod scalar;

/// Most lanes a tier has.
pub(crate) const MAX_LANES: usize = 16;

/// A loop to be compiled for every tier.
pub(crate) trait Op {
    /// What it gives.
    type Output;
    /// The loop; `#[inline(always)]` in every impl.
    fn eval<S: Simd>(self, s: S) -> Self::Output;
}

/// `LANES` lanes of float32, of int32, and of truth.
///
/// Arithmetic is IEEE's, each operation rounded once, denormals kept. `mul_add` is fused where the tier has it and two
/// roundings where not, so only what may differ between tiers uses it.
pub(crate) trait Simd: Copy {
    /// Lanes of float32.
    type F: Copy;
    /// As many lanes of int32; addition wraps.
    type I: Copy;
    /// As many truth values.
    type M: Copy;
    /// How many.
    const LANES: usize;

    /// The tier, where the processor has it.
    fn detect() -> Option<Self>;
    /// The tier.
    ///
    /// # Safety
    /// [`Simd::detect`] has given `Some` in this process.
    unsafe fn assume() -> Self;
    /// Runs a loop compiled with the tier's features.
    fn run<O: Op>(self, op: O) -> O::Output;

    fn splat(self, x: f32) -> Self::F;
    /// # Safety
    /// `LANES` elements at `p` are readable.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// # Safety
    /// `LANES` elements at `p` are writable.
    unsafe fn store(self, p: *mut f32, x: Self::F);
    /// Reads `n < LANES` elements; the other lanes are 0.
    ///
    /// # Safety
    /// `n` elements at `p` are readable.
    unsafe fn load_first(self, p: *const f32, n: usize) -> Self::F;
    /// Writes the first `n < LANES` lanes.
    ///
    /// # Safety
    /// `n` elements at `p` are writable.
    unsafe fn store_first(self, p: *mut f32, n: usize, x: Self::F);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a · b`.
    fn neg_mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn sqrt(self, x: Self::F) -> Self::F;
    /// The greater; a NaN of `b` comes through. Where `a` is NaN, or both are zeros, either.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The lesser; a NaN of `b` comes through. Where `a` is NaN, or both are zeros, either.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    fn floor(self, x: Self::F) -> Self::F;
    fn ceil(self, x: Self::F) -> Self::F;
    fn trunc(self, x: Self::F) -> Self::F;
    /// To the nearest integer, halves to even.
    fn rint(self, x: Self::F) -> Self::F;

    fn eq(self, a: Self::F, b: Self::F) -> Self::M;
    fn lt(self, a: Self::F, b: Self::F) -> Self::M;
    fn le(self, a: Self::F, b: Self::F) -> Self::M;
    fn not(self, m: Self::M) -> Self::M;
    fn and(self, a: Self::M, b: Self::M) -> Self::M;
    fn or(self, a: Self::M, b: Self::M) -> Self::M;
    /// `a` where the mask holds, else `b`.
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    /// Whether a lane is among the first `n < LANES`.
    fn first(self, n: usize) -> Self::M;
    /// Lane `i` from lane `i ^ distance`, a power of two below `LANES`.
    fn swap(self, x: Self::F, distance: usize) -> Self::F;
    /// Lane 0.
    fn lane0(self, x: Self::F) -> f32;

    fn splat_int(self, x: i32) -> Self::I;
    /// The bits of the floats.
    fn bits(self, x: Self::F) -> Self::I;
    /// The floats of the bits.
    fn as_float(self, x: Self::I) -> Self::F;
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn or_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shift left by a constant.
    fn shl(self, x: Self::I, n: i32) -> Self::I;
    /// Arithmetic shift right by a constant.
    fn sar(self, x: Self::I, n: i32) -> Self::I;
    /// Of floats that are integers within int32.
    fn to_int(self, x: Self::F) -> Self::I;
    fn to_float(self, x: Self::I) -> Self::F;
    /// Reads `LANES` bytes.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load_u8(self, p: *const u8) -> Self::I;
    /// Writes lanes within `0..=255` as bytes.
    ///
    /// # Safety
    /// `LANES` bytes at `p` are writable.
    unsafe fn store_u8(self, p: *mut u8, x: Self::I);

    /// `x · 2ⁿ`, correctly rounded, of an integral `n` in `[-252, 252]`.
    #[inline(always)]
    fn scale(self, x: Self::F, n: Self::F) -> Self::F {
        // Two factors, since 2ⁿ alone need not be a float. The first halves the exponent: it leaves x normal, so that only
        // the second rounds.
        let n = self.to_int(n);
        let half = self.sar(n, 1);
        let power = |k| self.as_float(self.shl(self.add_int(k, self.splat_int(127)), 23));
        self.mul(self.mul(x, power(half)), power(self.sub_int(n, half)))
    }

    #[inline(always)]
    fn abs(self, x: Self::F) -> Self::F {
        self.as_float(self.and_int(self.bits(x), self.splat_int(i32::MAX)))
    }

    #[inline(always)]
    fn neg(self, x: Self::F) -> Self::F {
        // Wrapping addition of the sign bit flips it.
        self.as_float(self.add_int(self.bits(x), self.splat_int(i32::MIN)))
    }

    /// `magnitude`, which is not negative, with the sign of `sign`.
    #[inline(always)]
    fn with_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F {
        let sign = self.and_int(self.bits(sign), self.splat_int(i32::MIN));
        self.as_float(self.or_int(self.bits(magnitude), sign))
    }

    #[inline(always)]
    fn is_nan(self, x: Self::F) -> Self::M {
        self.not(self.eq(x, x))
    }

    /// The greater, or NaN where either is.
    #[inline(always)]
    fn max_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.max(a, b))
    }

    /// The lesser, or NaN where either is.
    #[inline(always)]
    fn min_nan(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.is_nan(a), a, self.min(a, b))
    }

    /// `x` within `[lo, hi]`; NaN stays.
    #[inline(always)]
    fn clamp(self, x: Self::F, lo: Self::F, hi: Self::F) -> Self::F {
        self.min(hi, self.max(lo, x))
    }

    /// The coefficients' polynomial, highest power first.
    #[inline(always)]
    fn polynomial<const N: usize>(self, x: Self::F, coefficients: [f32; N]) -> Self::F {
        let mut y = self.splat(coefficients[0]);
        for c in &coefficients[1..] {
            y = self.mul_add(y, x, self.splat(*c));
        }
        y
    }

    /// The sum of the lanes, halves onto halves.
    #[inline(always)]
    fn sum(self, x: Self::F) -> f32 {
        fold!(self, x, |a, b| self.add(a, b))
    }

    /// Reads `n <= LANES` elements, the other lanes being `fill`.
    ///
    /// # Safety
    /// `n` elements at `p` are readable.
    #[inline(always)]
    unsafe fn load_or(self, p: *const f32, n: usize, fill: f32) -> Self::F {
        if n >= Self::LANES {
            // SAFETY: the caller's.
            return unsafe { self.load(p) };
        }
        // SAFETY: the caller's; n < LANES.
        self.select(self.first(n), unsafe { self.load_first(p, n) }, self.splat(fill))
    }

    /// Reads `n <= LANES` elements; the other lanes are 0.
    ///
    /// # Safety
    /// `n` elements at `p` are readable.
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F {
        // SAFETY: the caller's.
        unsafe { if n >= Self::LANES { self.load(p) } else { self.load_first(p, n) } }
    }

    /// Writes the first `n <= LANES` lanes.
    ///
    /// # Safety
    /// `n` elements at `p` are writable.
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, x: Self::F) {
        // SAFETY: the caller's.
        unsafe { if n >= Self::LANES { self.store(p, x) } else { self.store_first(p, n, x) } }
    }

    /// Reads `n <= LANES` bytes; the other lanes are 0.
    ///
    /// # Safety
    /// `n` bytes at `p` are readable.
    #[inline(always)]
    unsafe fn load_u8_n(self, p: *const u8, n: usize) -> Self::I {
        if n >= Self::LANES {
            // SAFETY: the caller's.
            return unsafe { self.load_u8(p) };
        }
        let mut lanes = [0; MAX_LANES];
        // SAFETY: n < LANES bytes fit in the array and are readable; the array has every lane.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n);
            self.load_u8(lanes.as_ptr())
        }
    }

    /// Writes the first `n <= LANES` lanes, within `0..=255`, as bytes.
    ///
    /// # Safety
    /// `n` bytes at `p` are writable.
    #[inline(always)]
    unsafe fn store_u8_n(self, p: *mut u8, n: usize, x: Self::I) {
        if n >= Self::LANES {
            // SAFETY: the caller's.
            return unsafe { self.store_u8(p, x) };
        }
        let mut lanes = [0; MAX_LANES];
        // SAFETY: the array has every lane; n < LANES bytes are writable.
        unsafe {
            self.store_u8(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n);
        }
    }

    /// Writes the first `n <= LANES` truth values as bytes 0 and 1.
    ///
    /// # Safety
    /// `n` bytes at `p` are writable.
    #[inline(always)]
    unsafe fn store_mask_n(self, p: *mut u8, n: usize, m: Self::M) {
        let one = self.bits(self.select(m, self.as_float(self.splat_int(1)), self.splat(0.0)));
        // SAFETY: the caller's.
        unsafe { self.store_u8_n(p, n, one) };
    }
}

/// Calls a body for every vector of `0..n`: `each!(s, n, |i, count| …)` with `count` lanes at element `i`, the last call
/// with what is left. A macro, since a closure would not be inlined for certain.
macro_rules! each {
    ($s:ident, $n:expr, |$i:ident, $count:ident| $body:expr) => {{
        fn lanes<S: $crate::kernels::simd::Simd>(_: S) -> usize {
            S::LANES
        }
        let (n, lanes) = ($n, lanes($s));
        let mut i = 0;
        while i + lanes <= n {
            let ($i, $count) = (i, lanes);
            $body;
            i += lanes;
        }
        if i < n {
            let ($i, $count) = (i, n - i);
            $body;
        }
    }};
}
pub(crate) use each;

/// All lanes folded into one, halves onto halves: `fold!(s, x, |a, b| …)`.
macro_rules! fold {
    ($s:ident, $x:expr, |$a:ident, $b:ident| $join:expr) => {{
        fn lanes<S: $crate::kernels::simd::Simd>(_: S) -> usize {
            S::LANES
        }
        let mut $a = $x;
        let mut distance = lanes($s) / 2;
        while distance > 0 {
            let $b = $s.swap($a, distance);
            $a = $join;
            distance /= 2;
        }
        $s.lane0($a)
    }};
}
pub(crate) use fold;

/// The table of a family written over [`Simd`]: an entry a tier, each the instance `$run::<Tier>` of a generic function.
///
/// The table holds an instance only where that tier's `detect` has given `Some`, which is what `$run` may rely on for
/// [`Simd::assume`].
macro_rules! simd_table {
    ($kernel:ty, $run:ident) => {
        &[
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Impl {
                tier: $crate::isa::Tier::Avx512,
                get: || {
                    <$crate::kernels::simd::avx512::F32x16 as $crate::kernels::simd::Simd>::detect()
                        .map(|_| $run::<$crate::kernels::simd::avx512::F32x16> as $kernel)
                },
            },
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Impl {
                tier: $crate::isa::Tier::Avx2,
                get: || {
                    <$crate::kernels::simd::avx2::F32x8 as $crate::kernels::simd::Simd>::detect()
                        .map(|_| $run::<$crate::kernels::simd::avx2::F32x8> as $kernel)
                },
            },
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::Impl {
                tier: $crate::isa::Tier::Neon,
                get: || {
                    <$crate::kernels::simd::neon::F32x4 as $crate::kernels::simd::Simd>::detect()
                        .map(|_| $run::<$crate::kernels::simd::neon::F32x4> as $kernel)
                },
            },
            $crate::kernels::Impl {
                tier: $crate::isa::Tier::Scalar,
                get: || Some($run::<$crate::kernels::simd::scalar::F32x1> as $kernel),
            },
        ]
    };
}
pub(crate) use simd_table;
