//! Portable block of one tile by one vector, which compilers put in the vectors every x86-64 and ARM processor has.

#![allow(unsafe_code, reason = "reads through a part's raw pointers")]

use super::{Block, Gemv, Part, Run, Sums, walk};
use crate::kernels::strip::TILE;

pub(super) fn get<T: Copy + Into<f32> + 'static>() -> Run<T> {
    run
}

unsafe fn run<T: Copy + Into<f32> + 'static>(g: &Gemv<'_, T>) {
    // SAFETY: the caller's; a portable block needs no token.
    unsafe { walk(g, const { &[&[(1, block::<T> as Block<T>)]] }) }
}

/// # Safety
/// As for [`walk`]: the part's pointers are valid for its depth.
unsafe fn block<T: Copy + Into<f32>>(part: &Part<T>, sums: &mut [Sums], t: usize) {
    let mut sum = [0.0f32; TILE];
    for k in 0..part.depth {
        // SAFETY: the caller's.
        let (w, x) =
            unsafe { (part.weights.add(k * TILE).cast::<[T; TILE]>().read_unaligned(), *part.x.add(k)) };
        for (sum, w) in sum.iter_mut().zip(w) {
            *sum += w.into() * x;
        }
    }
    for (total, sum) in sums[0][t].iter_mut().zip(sum) {
        *total += sum;
    }
}
