//! The geometry of a *walk*, by which the depthwise families go over a plane.
//!
//! A walk goes down a column of the output one vector wide, an output row a *step*, visiting every input row once: what the
//! row is to the taps is worked out once and added to all outputs in progress. A vector that hangs over the edge of its row
//! is loaded whole from the neighbouring rows and what is foreign is masked; only a vector that would leave the slice is
//! loaded lane by lane.
//!
//! Where two rows fit in a vector (7×7 maps and a vector of 16), rows are taken in *pairs*: lanes `[0, w)` hold one row's
//! outputs and `[w, 2w)` the next row's, which is a walk with twice the vertical stride.

use super::window::Window2;
use std::ops::Range;

/// Bytes of input walked column by column before the next channels: half of the smallest first-level cache, 32 KiB.
const GROUP: usize = 16 << 10;

/// A walk over the planes of a window.
#[derive(Clone, Copy)]
pub(super) struct Walk<'a> {
    /// The geometry.
    pub(super) window: &'a Window2,
    /// Outputs of a vector.
    pub(super) n: usize,
    /// Input rows between outputs of neighbouring steps, and input columns between those of neighbouring lanes; they differ
    /// where a vector holds a pair of rows.
    pub(super) stride: [usize; 2],
    /// Outputs in progress at a time: the kernel's rows over the vertical stride, rounded up.
    pub(super) q: usize,
    /// Input columns read for a vector, from its first lane's first tap on.
    pub(super) reach: usize,
    /// Most steps before the next column.
    pub(super) band: usize,
}

/// One column of a band.
pub(super) struct Part {
    /// First output column.
    pub(super) column: usize,
    /// Input column of the first lane of the first tap.
    pub(super) left: isize,
    /// Its steps.
    pub(super) steps: Range<usize>,
    /// Whether vectors may leave their row, or hold a pair of rows.
    pub(super) edge: bool,
    /// How many steps of the same channel come before, where a channel is walked to its end before the next one starts.
    pub(super) before: Option<usize>,
}

/// What happens at which step of one channel: loading begins with the first row that is a tap of the first output, and an
/// output is finished `q - 1` steps after the one that started it.
pub(super) struct Steps {
    /// All.
    pub(super) all: Range<usize>,
    /// Those whose rows are loaded, and whose outputs may be stored, whole.
    pub(super) whole: Range<usize>,
    /// The first that finishes an output.
    pub(super) emits: usize,
}

impl<'a> Walk<'a> {
    /// Rows of output a vector holds.
    #[inline(always)]
    pub(super) fn rows(&self) -> usize {
        self.stride[0] / self.stride[1]
    }

    /// The parts of some channels' planes, of elements of `size` bytes, each with the channels to walk it in turn.
    #[inline(always)]
    pub(super) fn parts(
        self,
        channels: usize,
        size: usize,
    ) -> impl Iterator<Item = (Part, Range<usize>)> + use<'a> {
        let Window2 { h, w, oh, ow, pad, .. } = *self.window;
        let steps = oh.div_ceil(self.rows());
        // With several bands a channel is finished before the next one starts: what its last row writes past the plane may be
        // the start of the next plane's first.
        let group = if steps <= self.band { (GROUP / size / (h * w).max(1)).max(1) } else { 1 };
        let columns = ow.div_ceil(self.n);
        let bands = steps.div_ceil(self.band);
        (0..channels.div_ceil(group) * bands * columns).map(move |i| {
            let (first, band, block) =
                (i / columns / bands * group, i / columns % bands * self.band, i % columns);
            // The last block is moved left to end with the row, so that only a plane narrower than a vector has idle lanes.
            let column = (block * self.n).min(ow.saturating_sub(self.n));
            let left = (column * self.stride[1]) as isize - pad[1] as isize;
            let inside = left >= 0 && left as usize + self.reach <= w;
            let before = (group == 1).then_some(band * columns + block * (steps - band).min(self.band));
            let steps = band..steps.min(band + self.band);
            let part = Part { column, left, steps, edge: !inside || self.rows() > 1, before };
            (part, first..channels.min(first + group))
        })
    }

    /// The steps of a part in a plane: its first lane's first tap in row 0 is element `start` of a slice of `len`, and
    /// `fits` says whether the slices of the output have room for a whole vector wherever the plane has an output.
    #[inline(always)]
    pub(super) fn steps(&self, part: &Part, start: isize, len: usize, fits: bool) -> Steps {
        let (h, w, top) = (self.window.h as isize, self.window.w as isize, self.window.pad[0] as isize);
        let (rows, down) = (self.rows(), self.stride[0] as isize);
        // Rows whose vectors are loaded whole: their lanes are rows of the plane, and they stay in the slice.
        let last = h - rows as isize;
        let after = len as isize - self.reach as isize - start;
        let from = if !part.edge || start >= 0 { 0 } else { (w - 1 - start) / w.max(1) };
        let to = if !part.edge || last * w <= after { last + 1 } else { (after + w).max(0) / w.max(1) };
        let close = if fits { 0 } else { 2 + self.n / (rows * self.window.ow) };
        let step = |row: isize| ((row + top) / down).max(0) as usize;
        let all = part.steps.start..part.steps.end + self.q - 1;
        let head = step(from + down - 1).clamp(all.start, all.end);
        let tail = step(to).min(all.end.saturating_sub(close)).max(head);
        Steps { emits: all.start + self.q - 1, whole: head..tail, all }
    }

    /// Lanes of the vector that a step finishes.
    #[inline(always)]
    pub(super) fn lanes(&self, part: &Part, step: usize) -> usize {
        match self.rows() {
            1 => self.window.ow - part.column,
            _ => self.window.ow * (self.window.oh - (step + 1 - self.q) * 2).min(2),
        }
    }
}
