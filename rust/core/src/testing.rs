//! What kernel tests share: seeded numbers, aligned buffers, the error bound of a float sum, a walk over a table.

use crate::isa::Tier;
use crate::kernels::Impl;

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

/// Runs a test on every entry of a table that this processor has. `GOSSAMER_REQUIRE_ISA` (tiers, separated by commas)
/// turns an absence into a failure.
pub(crate) fn for_each_impl<K>(table: &[Impl<K>], mut test: impl FnMut(Tier, K)) {
    let required = std::env::var("GOSSAMER_REQUIRE_ISA").unwrap_or_default();
    for entry in table {
        match (entry.get)() {
            Some(kernel) => test(entry.tier, kernel),
            None if required.split(',').any(|name| name == entry.tier.name()) => {
                panic!("GOSSAMER_REQUIRE_ISA lists {}, which this processor lacks", entry.tier)
            }
            None => eprintln!("skipped: {} (not on this processor)", entry.tier),
        }
    }
}
