//! Portable block of one tile by one vector, which compilers put in the vectors every x86-64 and ARM processor has.

#![allow(unsafe_code, reason = "reads through a part's raw pointers")]

use super::{Block, GROUP, Gemv, Part, Run, Sums, walk};
use crate::kernels::strip::TILE;
use half::f16;

/// A weight's type.
trait Weight: Copy + 'static {
    /// The weight as float32.
    fn widen(self) -> f32;
}

impl Weight for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Weight for f16 {
    /// Exact, and without a branch, so that it vectorises where [`f16::to_f32`] does not.
    fn widen(self) -> f32 {
        let bits = u32::from(self.to_bits());
        let magnitude = (bits & 0x7fff) << 13;
        // Moves the exponent from float16's bias of 15 to float32's of 127, subnormals included.
        const REBIAS: f32 = f32::from_bits((127 + 127 - 15) << 23);
        let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
        let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
        f32::from_bits(finite | special | (bits & 0x8000) << 16)
    }
}

#[allow(private_bounds, reason = "the weight types are those of the tables")]
pub(super) fn get<W: Weight>() -> Run<W> {
    run
}

unsafe fn run<W: Weight>(g: &Gemv<'_, W>) {
    // SAFETY: the caller's; a portable block needs no token.
    unsafe { walk(g, const { &[&[(1, block::<W> as Block<W>)]] }, GROUP) }
}

/// # Safety
/// As for [`walk`]: the part's pointers are valid for its depth.
unsafe fn block<W: Weight>(part: &Part<W>, sums: &mut [Sums], t: usize) {
    let mut sum = [0.0f32; TILE];
    for k in 0..part.depth {
        // SAFETY: the caller's.
        let (w, x) =
            unsafe { (part.weights.add(k * TILE).cast::<[W; TILE]>().read_unaligned(), *part.x.add(k)) };
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum += w.widen() * x;
        }
    }
    for (total, sum) in sums[0][t].iter_mut().zip(sum) {
        *total += sum;
    }
}
