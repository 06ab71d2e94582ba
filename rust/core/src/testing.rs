//! What kernel tests share: seeded numbers and weights, aligned buffers, sums in float64 and their error bound, a walk over
//! a table.

use crate::isa::Tier;
use crate::kernels::Impl;
use crate::kernels::strip::Epilogue;
use crate::weight::Number;
use half::f16;

/// A small seeded generator (xorshift), so that a failure repeats.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform in `[-1, 1)`.
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Uniform in `0..n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 33) as usize % n.max(1)
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    /// Floats of which a share is zero.
    pub(crate) fn sparse_floats(&mut self, n: usize, zeros: f64) -> Vec<f32> {
        (0..n)
            .map(|_| {
                let keep = self.below(1 << 20) as f64 >= zeros * f64::from(1 << 20);
                if keep { self.float() } else { 0.0 }
            })
            .collect()
    }
}

/// A buffer whose first element is 64-byte aligned and then `offset` elements further.
#[derive(Debug)]
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    pub(crate) fn new(len: usize, offset: usize) -> Aligned<T> {
        let slack = 64 / size_of::<T>();
        let data = vec![T::default(); len + offset + 2 * slack];
        let start = data.as_ptr().align_offset(64) + offset;
        Aligned { data, start, len }
    }

    pub(crate) fn from(values: &[T], offset: usize) -> Aligned<T> {
        let mut made = Aligned::new(values.len(), offset);
        made.copy_from_slice(values);
        made
    }
}

impl<T> std::ops::Deref for Aligned<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..][..self.len]
    }
}

impl<T> std::ops::DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..][..self.len]
    }
}

/// The most a float32 sum of `k` products may differ from the exact one, `magnitude` being the sum of the products'
/// absolute values: `(k + 2) · 2⁻²⁴ · magnitude` bounds every order of summation, fused or not (Higham, *Accuracy and
/// Stability of Numerical Algorithms*, section 3.1).
pub(crate) fn sum_bound(k: usize, magnitude: f64) -> f64 {
    (k as f64 + 2.0) * f64::from(f32::EPSILON) / 2.0 * magnitude + f64::from(f32::MIN_POSITIVE)
}

/// A type of stored values, as the tests make and read them.
pub(crate) trait Value: Number {
    /// The value nearest to a number of `[-1, 1]`, the largest integer standing for one.
    fn from_unit(x: f32) -> Self;
    /// The number it is.
    fn float(self) -> f32;
}

impl Value for f32 {
    fn from_unit(x: f32) -> f32 {
        x
    }
    fn float(self) -> f32 {
        self
    }
}

impl Value for f16 {
    fn from_unit(x: f32) -> f16 {
        f16::from_f32(x)
    }
    fn float(self) -> f32 {
        self.to_f32()
    }
}

impl Value for i8 {
    fn from_unit(x: f32) -> i8 {
        (x * 127.0).round() as i8
    }
    fn float(self) -> f32 {
        f32::from(self)
    }
}

/// One element of a product in float64, and the most a float32 kernel may be off: `weights` times `x`, zeros left out, then
/// the epilogue of row `r` with `residual`.
pub(crate) fn product_of(
    weights: impl IntoIterator<Item = f32>,
    x: impl Fn(usize) -> f32,
    (r, epilogue): (usize, &Epilogue<'_>),
    residual: Option<f32>,
) -> (f64, f64) {
    let (mut sum, mut magnitude, mut terms) = (0.0, 0.0, 3);
    for (c, weight) in weights.into_iter().enumerate().filter(|&(_, weight)| weight != 0.0) {
        let product = f64::from(weight) * f64::from(x(c));
        sum += product;
        magnitude += product.abs();
        terms += 1;
    }
    let scale = f64::from(epilogue.scale.map_or(1.0, |scale| scale[r]));
    let (mut y, mut size) = (scale * sum, scale.abs() * magnitude);
    for addend in [epilogue.bias.map(|bias| bias[r]), residual].into_iter().flatten() {
        y += f64::from(addend);
        size += f64::from(addend).abs();
    }
    let [lo, hi] = epilogue.clamp.map(f64::from);
    (y.clamp(lo, hi), sum_bound(terms, size))
}

/// Runs a test on every entry of a table that this processor has. Where `GOSSAMER_REQUIRE_ISA` lists tiers, separated by
/// commas, only entries of those are tested, and one that this processor lacks is a failure.
pub(crate) fn for_each_impl<K>(table: &[Impl<K>], mut test: impl FnMut(Tier, K)) {
    // A name that is no tier's would test nothing.
    let required = std::env::var("GOSSAMER_REQUIRE_ISA").ok().map(|tiers| {
        tiers.split(',').map(|name| Tier::parse(name).expect("GOSSAMER_REQUIRE_ISA")).collect::<Vec<_>>()
    });
    for entry in table {
        let listed = required.as_ref().map(|tiers| tiers.contains(&entry.tier));
        match ((entry.get)(), listed) {
            (Some(kernel), None | Some(true)) => test(entry.tier, kernel),
            (Some(_), Some(false)) => {}
            (None, Some(true)) => {
                panic!("GOSSAMER_REQUIRE_ISA lists {}, which this processor lacks", entry.tier)
            }
            (None, _) => eprintln!("skipped: {} (not on this processor)", entry.tier),
        }
    }
}
