//! The loop nest of pooling, for float32 and for bytes.
//!
//! A row of the output is reduced downwards first, into a line of the input's width, then across: a tap costs one
//! operation a column instead of one an output, and both loops run over neighbours, which the compiler vectorises for the
//! tier it is inlined into.

#![allow(clippy::inline_always, reason = "what is inlined takes on the features of the tier that calls it")]

use crate::kernels::window::Window2;
use std::ops::Range;

/// How the sum of a window is made an average.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Divisor {
    /// By the taps inside the plane.
    Inside,
    /// By the taps inside the plane and its padding, of which this much lies after the last row and column.
    Padded {
        /// `[bottom, right]`.
        after: [usize; 2],
    },
    /// By this number.
    Fixed(usize),
}

impl Divisor {
    /// Taps that count of output `o` of an axis (0: rows, 1: columns).
    fn taps(self, window: &Window2, axis: usize, o: usize) -> usize {
        let size = [window.h, window.w][axis];
        let start = o * window.stride[axis];
        match self {
            Divisor::Inside if axis == 0 => window.taps_of_row(o).0.len(),
            Divisor::Inside => window.taps_of_column(o).0.len(),
            Divisor::Padded { after } => {
                let end = size.saturating_add(window.pad[axis]).saturating_add(after[axis]);
                end.saturating_sub(start).div_ceil(window.dilation[axis]).min(window.kernel[axis])
            }
            Divisor::Fixed(_) => window.kernel[axis],
        }
    }

    /// Calls `each` with stretches of a row of outputs that divide by the same number: their range, and it.
    #[inline(always)]
    pub(in crate::kernels) fn stretches(
        self,
        window: &Window2,
        oy: usize,
        outputs: Range<usize>,
        mut each: impl FnMut(Range<usize>, usize),
    ) {
        if let Divisor::Fixed(count) = self {
            return each(outputs, count);
        }
        let (rows, wide, stride) = (self.taps(window, 0, oy), window.kernel[1], window.stride[1]);
        // Outputs all whose columns lie inside, and so count.
        let reach = (wide - 1) * window.dilation[1] + 1;
        let first = window.pad[1].div_ceil(stride).clamp(outputs.start, outputs.end);
        let last = (window.w + window.pad[1] + stride).saturating_sub(reach) / stride;
        let last = last.clamp(first, outputs.end);
        for ox in (outputs.start..first).chain(last..outputs.end) {
            each(ox..ox + 1, rows * self.taps(window, 1, ox));
        }
        if first < last {
            each(first..last, rows * wide);
        }
    }
}

/// Elements of a line.
const LINE: usize = 512;

/// Joins what every window sees and hands rows of results, in stretches, to `done(oy, first ox, results)`.
///
/// `join` takes what was joined before and what comes next; `nothing` is what an empty window gives.
///
/// # Panics
/// Where `x` is shorter than its plane.
#[inline(always)]
pub(in crate::kernels) fn slide<T: Copy, A: Copy>(
    window: &Window2,
    x: &[T],
    nothing: A,
    widen: impl Fn(T) -> A,
    join: impl Fn(A, A) -> A,
    mut done: impl FnMut(usize, usize, &[A]),
) {
    assert!(x.len() >= window.h * window.w, "the input is shorter than its plane");
    let [dy, dx] = window.dilation;
    let (wide, stride, w) = (window.kernel[1], window.stride[1], window.w);
    let reach = (wide - 1) * dx + 1;
    let mut line = [nothing; LINE];
    let mut joined = [nothing; LINE];
    // Outputs whose columns fit in a line, with the elements that a last step of `stride` passes over.
    let most = if reach + stride > LINE { 0 } else { (LINE - reach) / stride };
    for oy in 0..window.oh {
        let (rows, first) = window.taps_of_row(oy);
        if most == 0 {
            for ox in 0..window.ow {
                let (columns, left) = window.taps_of_column(ox);
                let mut all = nothing;
                for row in 0..rows.len() {
                    for column in 0..columns.len() {
                        all = join(all, widen(x[(first + row * dy) * w + left + column * dx]));
                    }
                }
                done(oy, ox, &[all]);
            }
            continue;
        }
        for start in (0..window.ow).step_by(most) {
            let count = most.min(window.ow - start);
            let len = count * stride + reach;
            // The line is the input from column `from`; its part `inside` is not padding.
            let from = (start * stride) as isize - window.pad[1] as isize;
            let begin = (-from).clamp(0, len as isize) as usize;
            let end = (w as isize - from).clamp(begin as isize, len as isize) as usize;
            line[..begin].fill(nothing);
            line[end..len].fill(nothing);
            let inside = &mut line[begin..end];
            let columns = inside.len();
            let row =
                |i: usize| &x[(first + i * dy) * w + (from + begin as isize).max(0) as usize..][..columns];
            match rows.len() {
                _ if columns == 0 => {}
                0 => inside.fill(nothing),
                1 => inside.iter_mut().zip(row(0)).for_each(|(to, &a)| *to = widen(a)),
                2 => {
                    let rows = row(0).iter().zip(row(1));
                    inside.iter_mut().zip(rows).for_each(|(to, (&a, &b))| *to = join(widen(a), widen(b)));
                }
                count => {
                    let three = row(0).iter().zip(row(1)).zip(row(2));
                    for (to, ((&a, &b), &c)) in inside.iter_mut().zip(three) {
                        *to = join(join(widen(a), widen(b)), widen(c));
                    }
                    for i in 3..count {
                        inside.iter_mut().zip(row(i)).for_each(|(to, &a)| *to = join(*to, widen(a)));
                    }
                }
            }
            let results = &mut joined[..count];
            let tap = |tx: usize| &line[tx * dx..][..count * stride];
            // With stride 2, neighbouring taps are read as pairs.
            match (wide, stride, dx) {
                (2, 1, _) => {
                    let two = tap(0).iter().zip(tap(1));
                    results.iter_mut().zip(two).for_each(|(to, (&a, &b))| *to = join(a, b));
                }
                (3, 1, _) => {
                    let three = tap(0).iter().zip(tap(1)).zip(tap(2));
                    results.iter_mut().zip(three).for_each(|(to, ((&a, &b), &c))| *to = join(join(a, b), c));
                }
                (2, 2, 1) => {
                    let (pairs, _) = tap(0).as_chunks::<2>();
                    results.iter_mut().zip(pairs).for_each(|(to, &[a, b])| *to = join(a, b));
                }
                (3, 2, 1) => {
                    let (pairs, _) = tap(0).as_chunks::<2>();
                    let (next, _) = tap(2).as_chunks::<2>();
                    let three = pairs.iter().zip(next);
                    results
                        .iter_mut()
                        .zip(three)
                        .for_each(|(to, (&[a, b], &[c, _]))| *to = join(join(a, b), c));
                }
                _ => {
                    for tx in 0..wide {
                        let taps = tap(tx).chunks_exact(stride);
                        for (to, x) in results.iter_mut().zip(taps) {
                            *to = if tx == 0 { x[0] } else { join(*to, x[0]) };
                        }
                    }
                }
            }
            done(oy, start, results);
        }
    }
}

/// The inputs that an adaptive pooling's output `o` of `outputs` sees: `⌊o·n/outputs⌋ .. ⌈(o + 1)·n/outputs⌉`, as in torch.
pub(in crate::kernels) fn adaptive(inputs: usize, outputs: usize, o: usize) -> Range<usize> {
    let (n, of) = (inputs as u128, outputs as u128);
    (o as u128 * n / of) as usize..((o as u128 + 1) * n).div_ceil(of) as usize
}
