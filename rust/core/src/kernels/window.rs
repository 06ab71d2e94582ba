//! Sliding windows: which inputs an output of a convolution or a pooling reads.
//!
//! Output `(oy, ox)` reads, through tap `(ty, tx)`, input `(oy·stride + ty·dilation - pad)` on each axis; a tap that falls
//! outside the plane reads the padding. A sequence is a plane of one row.

use std::ops::Range;

/// The geometry of a window over a plane of contiguous rows. `[y, x]` everywhere.
///
/// Padding after the last row and column is implied by the output's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window2 {
    /// Rows of the input.
    pub(super) h: usize,
    /// Columns of the input, and elements from one row to the next.
    pub(super) w: usize,
    /// Rows of the output.
    pub(super) oh: usize,
    /// Columns of the output, and elements from one row to the next.
    pub(super) ow: usize,
    /// Taps.
    pub(super) kernel: [usize; 2],
    /// Inputs from one output to the next.
    pub(super) stride: [usize; 2],
    /// Inputs from one tap to the next.
    pub(super) dilation: [usize; 2],
    /// Padding before the first row and column.
    pub(super) pad: [usize; 2],
}

/// No position, nor the reach of a window, exceeds this: sums and differences of them fit in `isize` and `i64`.
const LIMIT: usize = 1 << 30;

impl Window2 {
    /// A window over an `input` plane that gives an `output` plane; `pad` lies before the first row and column.
    ///
    /// `None` where a kernel, stride or dilation is zero, or a size is beyond what is computed with (2³⁰ positions on an
    /// axis, `isize` elements in a plane).
    pub fn new(
        input: [usize; 2],
        output: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        pad: [usize; 2],
    ) -> Option<Window2> {
        for axis in 0..2 {
            if kernel[axis] == 0 || stride[axis] == 0 || dilation[axis] == 0 || pad[axis] > LIMIT {
                return None;
            }
            let reach = dilation[axis].checked_mul(kernel[axis])?;
            let last = stride[axis].checked_mul(output[axis].max(1))?;
            if input[axis] > LIMIT || output[axis] > LIMIT || reach > LIMIT || last > LIMIT {
                return None;
            }
        }
        let fits = |[h, w]: [usize; 2]| h.checked_mul(w).is_some_and(|n| n <= isize::MAX as usize / 8);
        (fits(input) && fits(output) && fits(kernel)).then_some(Window2 {
            h: input[0],
            w: input[1],
            oh: output[0],
            ow: output[1],
            kernel,
            stride,
            dilation,
            pad,
        })
    }

    /// A window with padding `[[top, bottom], [left, right]]`, the output's size being torch's.
    ///
    /// `None` as in [`Window2::new`] and [`output_size`].
    pub fn padded(
        input: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
        padding: [[usize; 2]; 2],
        ceil_mode: bool,
    ) -> Option<Window2> {
        let size = |i: usize| output_size(input[i], kernel[i], stride[i], dilation[i], padding[i], ceil_mode);
        let output = [size(0)?, size(1)?];
        Window2::new(input, output, kernel, stride, dilation, [padding[0][0], padding[1][0]])
    }

    /// Rows and columns of the input.
    pub fn input(&self) -> [usize; 2] {
        [self.h, self.w]
    }

    /// Rows and columns of the output.
    pub fn output(&self) -> [usize; 2] {
        [self.oh, self.ow]
    }

    /// Inputs from one output to the next.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Taps, `[rows, columns]`.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Output columns whose tap column `tx` lies inside the input.
    pub(super) fn columns_of(&self, tx: usize) -> Range<usize> {
        outputs(self.w, self.ow, self.stride[1], tx * self.dilation[1], self.pad[1])
    }

    /// Tap rows of output row `oy` that lie inside the input, and the input row of the first of them.
    pub(super) fn taps_of_row(&self, oy: usize) -> (Range<usize>, usize) {
        taps(self.h, oy * self.stride[0], self.kernel[0], self.dilation[0], self.pad[0])
    }

    /// Tap columns of output column `ox` that lie inside the input, and the input column of the first of them.
    pub(super) fn taps_of_column(&self, ox: usize) -> (Range<usize>, usize) {
        taps(self.w, ox * self.stride[1], self.kernel[1], self.dilation[1], self.pad[1])
    }
}

/// Elements that planes `pitch` apart take together.
///
/// # Panics
/// Where they do not fit in an address space.
pub(super) fn span(planes: usize, plane: usize, pitch: usize) -> usize {
    match planes.checked_sub(1) {
        None => 0,
        Some(before) => {
            let span = before.checked_mul(pitch).and_then(|n| n.checked_add(plane));
            span.filter(|&n| isize::try_from(n).is_ok()).expect("planes fit in an address space")
        }
    }
}

/// Outputs of one axis, as torch counts them: `⌊(input + padding - dilation·(kernel - 1) - 1) / stride⌋ + 1`; with
/// `ceil_mode` the quotient is rounded up, but a last window that would start in the padding after the input is dropped.
///
/// `None` where the kernel is larger than the padded input, a parameter is zero, or a sum overflows.
pub fn output_size(
    input: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: [usize; 2],
    ceil_mode: bool,
) -> Option<usize> {
    let before = input.checked_add(padding[0])?;
    let reach = dilation.checked_mul(kernel.checked_sub(1)?)?.checked_add(1)?;
    let room = before.checked_add(padding[1])?.checked_sub(reach)?;
    if dilation == 0 || stride == 0 {
        return None;
    }
    let steps = if ceil_mode { room.div_ceil(stride) } else { room / stride };
    let starts_in_padding = ceil_mode && steps > 0 && steps.checked_mul(stride)? >= before;
    Some(if starts_in_padding { steps } else { steps + 1 })
}

/// Outputs `o < count` with `0 <= o·stride + offset - pad < input`.
fn outputs(input: usize, count: usize, stride: usize, offset: usize, pad: usize) -> Range<usize> {
    let end = (input + pad).saturating_sub(offset).div_ceil(stride).min(count);
    let start = pad.saturating_sub(offset).div_ceil(stride).min(end);
    start..end
}

/// Taps `t < kernel` with `0 <= start + t·dilation - pad < input`, and where the first of them reads.
fn taps(input: usize, start: usize, kernel: usize, dilation: usize, pad: usize) -> (Range<usize>, usize) {
    let end = (input + pad).saturating_sub(start).div_ceil(dilation).min(kernel);
    let first = pad.saturating_sub(start).div_ceil(dilation).min(end);
    (first..end, (start + first * dilation).saturating_sub(pad))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::Rng;

    /// A window for the tests of every family that slides one, and where its planes lie.
    #[derive(Debug)]
    pub(in crate::kernels) struct Case {
        pub(in crate::kernels) window: Window2,
        /// Channels of a run.
        pub(in crate::kernels) channels: usize,
        /// Elements between a plane and the next.
        pub(in crate::kernels) gap: usize,
        /// How many of them the last plane lacks.
        pub(in crate::kernels) cut: usize,
        /// Elements from a cache line's start to the plane's.
        pub(in crate::kernels) offset: usize,
    }

    /// What a window sees of `x`, in the plainest loops, and how many of its taps lie in the padding.
    pub(in crate::kernels) fn seen<T: Copy>(
        w: &Window2,
        after: [usize; 2],
        x: &[T],
        oy: usize,
        ox: usize,
    ) -> (Vec<T>, usize) {
        let (mut found, mut padding) = (Vec::new(), 0);
        for ty in 0..w.kernel[0] {
            for tx in 0..w.kernel[1] {
                let y = (oy * w.stride[0] + ty * w.dilation[0]) as i64 - w.pad[0] as i64;
                let column = (ox * w.stride[1] + tx * w.dilation[1]) as i64 - w.pad[1] as i64;
                if (0..w.h as i64).contains(&y) && (0..w.w as i64).contains(&column) {
                    found.push(x[y as usize * w.w + column as usize]);
                } else if y < (w.h + after[0]) as i64 && column < (w.w + after[1]) as i64 {
                    padding += 1;
                }
            }
        }
        (found, padding)
    }

    /// Every kernel, stride and dilation the tiers have a path of their own for, over plane sizes around the vectors'
    /// widths; then arbitrary ones. Output sizes are those of some padding after the plane, not always the one before.
    pub(in crate::kernels) fn cases() -> Vec<Case> {
        const SIZES: [usize; 12] = [1, 2, 3, 4, 7, 8, 14, 15, 16, 17, 33, 56];
        let mut rng = Rng::new(7);
        let mut found = Vec::new();
        let mut add = |input: [usize; 2], kernel, stride, dilation, padding, rng: &mut Rng| {
            if let Some(window) = Window2::padded(input, kernel, stride, dilation, padding, false) {
                let gap = [0, 5, 64][rng.below(3)];
                let (channels, cut) = (1 + rng.below(3), [0, gap][rng.below(2)]);
                found.push(Case { window, channels, gap, cut, offset: rng.below(16) });
            }
        };
        for k in [3, 5, 7] {
            for stride in [1, 2] {
                for (i, &h) in SIZES.iter().enumerate() {
                    for &w in &SIZES[i.saturating_sub(2)..] {
                        let same = [[k / 2; 2]; 2];
                        add([h, w], [k, k], [stride; 2], [1, 1], same, &mut rng);
                        add([w, h], [k, k], [stride; 2], [1, 1], same, &mut rng);
                        let any = [[rng.below(k), rng.below(k)], [rng.below(k), rng.below(k)]];
                        add([h, w], [k, k], [stride; 2], [1, 1], any, &mut rng);
                    }
                }
                // Windows that see nothing but padding: above, below, on the left, on the right.
                for padding in
                    [[[2 * k, 0], [0, 0]], [[0, 2 * k], [0, 0]], [[0, 0], [2 * k, 0]], [[0, 0], [0, 2 * k]]]
                {
                    add([9, 20], [k, k], [stride; 2], [1, 1], padding, &mut rng);
                }
            }
        }
        for _ in 0..1500 {
            let mut pick = |from: &[usize]| from[rng.below(from.len())];
            let input = [pick(&SIZES), pick(&SIZES)];
            let kernel = [pick(&[1, 2, 3, 4, 5, 6, 7]), pick(&[1, 2, 3, 4, 5, 6, 7])];
            let stride = [pick(&[1, 2, 3]), pick(&[1, 1, 2, 3])];
            let dilation = [pick(&[1, 1, 2]), pick(&[1, 1, 2])];
            let padding = [[pick(&[0, 1, 3]), pick(&[0, 1, 4])], [pick(&[0, 1, 3]), pick(&[0, 1, 4])]];
            add(input, kernel, stride, dilation, padding, &mut rng);
        }
        for (w, stride) in [(150, 1), (256, 1), (257, 1), (150, 2), (511, 2), (700, 2)] {
            for k in [2, 3] {
                add([3, w], [k, k], [1, stride], [1, 1], [[1, 0], [1, 1]], &mut rng);
            }
        }
        for (w, k, dilation) in [(50, 31, 1), (200, 15, 1), (100, 5, 4), (1, 1, 1)] {
            let padding = [[0, 0], [k / 2 * dilation; 2]];
            add([1, w], [1, k], [1, 1], [1, dilation], padding, &mut rng);
        }
        found
    }

    #[test]
    fn output_sizes_are_torchs() {
        assert_eq!(output_size(224, 3, 2, 1, [1, 1], false), Some(112));
        assert_eq!(output_size(224, 3, 2, 1, [0, 1], false), Some(112));
        assert_eq!(output_size(112, 3, 2, 1, [0, 0], false), Some(55));
        assert_eq!(output_size(112, 3, 2, 1, [0, 0], true), Some(56));
        // The window at 4 would start in the padding after 4 inputs and 0 before.
        assert_eq!(output_size(4, 2, 4, 1, [0, 1], true), Some(1));
        assert_eq!(output_size(7, 3, 1, 2, [2, 2], false), Some(7));
        assert_eq!(output_size(2, 3, 1, 1, [0, 0], false), None);
        assert_eq!(output_size(2, 0, 1, 1, [0, 0], false), None);
        assert_eq!(output_size(usize::MAX, 1, 1, 1, [1, 0], false), None);
    }

    #[test]
    fn ranges_are_what_a_count_finds() {
        for input in [1usize, 2, 5, 9] {
            for (kernel, stride, dilation, pad) in [(1, 1, 1, 0), (3, 2, 1, 1), (4, 3, 2, 7), (7, 1, 3, 2)] {
                for count in [1usize, 3, 6] {
                    let at = |o: usize, t: usize| (o * stride + t * dilation) as i64 - pad as i64;
                    let inside = |o: usize, t: usize| (0..input as i64).contains(&at(o, t));
                    for t in 0..kernel {
                        let found = outputs(input, count, stride, t * dilation, pad);
                        let listed: Vec<usize> = (0..count).filter(|&o| inside(o, t)).collect();
                        assert_eq!(found.collect::<Vec<_>>(), listed);
                    }
                    for o in 0..count {
                        let (found, first) = taps(input, o * stride, kernel, dilation, pad);
                        let listed: Vec<usize> = (0..kernel).filter(|&t| inside(o, t)).collect();
                        if let Some(&t) = listed.first() {
                            assert_eq!(first as i64, at(o, t));
                        }
                        assert_eq!(found.collect::<Vec<_>>(), listed);
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_beyond_reckoning_are_refused() {
        let one = [1, 1];
        assert!(Window2::new([8, 8], [8, 8], [3, 3], one, one, [1, 1]).is_some());
        assert!(Window2::new([8, 8], [8, 8], [0, 3], one, one, [1, 1]).is_none());
        assert!(Window2::new([8, 8], [8, 8], [3, 3], [1, usize::MAX], one, one).is_none());
        assert!(Window2::new([1 << 29, 1 << 30], [1, 1], [3, 3], one, one, one).is_some());
        assert!(Window2::new([8, 8], [8, 8], [3, 3], one, one, [usize::MAX, 0]).is_none());
    }
}
