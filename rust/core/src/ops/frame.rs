//! What a step finds when it runs: where its operands lie, where its outputs go, scratch and threads.

#![allow(
    unsafe_code,
    reason = "steps read and write parts of one arena, whose disjointness the plan guarantees"
)]

use crate::pool::Pool;
use bytemuck::Pod;

/// Where an operand or output lies.
#[derive(Clone, Copy, Debug)]
pub struct Operand {
    /// Its first byte; aligned to its elements.
    pub ptr: *mut u8,
    /// Its bytes, the gaps of [`Layout::Features`](crate::tensor::Layout::Features) included.
    pub len: usize,
}

/// The operands of one step in one run.
///
/// Whoever makes one guarantees: every operand and output names initialised memory that lives as long as the frame; outputs
/// overlap nothing else, but for output 0 and the operand the step may take over in place; nobody else touches outputs and
/// scratch meanwhile.
#[derive(Debug)]
pub struct Frame<'a> {
    /// The threads.
    pub pool: &'a Pool,
    /// Operands; absent ones are empty.
    pub inputs: &'a [Operand],
    /// Outputs.
    pub outputs: &'a [Operand],
    /// Scratch of all threads, `scratch_len` bytes each, on a cache line.
    pub scratch: *mut u8,
    /// Bytes of scratch a thread has.
    pub scratch_len: usize,
}

// SAFETY: a frame is shared by the threads of one region; what they write through it is disjoint, as its contract says.
unsafe impl Sync for Frame<'_> {}

impl<'a> Frame<'a> {
    /// Operand `i` as numbers. Not to be used for the operand that a step works on in place.
    ///
    /// # Panics
    /// Where there is no such operand, or it is not aligned to its elements.
    pub fn input<T: Pod>(&self, i: usize) -> &'a [T] {
        let Operand { ptr, len } = self.inputs[i];
        assert!(ptr.cast::<T>().is_aligned(), "operands are aligned to their elements");
        // SAFETY: initialised, alive and not written meanwhile by the frame's contract; aligned as just checked.
        unsafe { std::slice::from_raw_parts(ptr.cast(), len / size_of::<T>()) }
    }

    /// Output `i` as numbers. To be called once a step.
    ///
    /// # Panics
    /// Where there is no such output, or it is not aligned to its elements.
    #[allow(clippy::mut_from_ref, reason = "the frame owns its outputs for the time of the step")]
    pub fn output<T: Pod>(&self, i: usize) -> &'a mut [T] {
        let Operand { ptr, len } = self.outputs[i];
        assert!(ptr.cast::<T>().is_aligned(), "outputs are aligned to their elements");
        // SAFETY: initialised, alive and this step's alone by the frame's contract; aligned as just checked.
        unsafe { std::slice::from_raw_parts_mut(ptr.cast(), len / size_of::<T>()) }
    }

    /// First element of operand `i`, for a step that may work in place.
    pub fn input_ptr<T>(&self, i: usize) -> *const T {
        self.inputs[i].ptr.cast()
    }

    /// First element of output `i`, for a step whose threads write parts of it that interleave.
    pub fn output_ptr<T>(&self, i: usize) -> *mut T {
        self.outputs[i].ptr.cast()
    }

    /// The scratch of a thread.
    pub fn scratch_ptr<T>(&self, worker: usize) -> *mut T {
        debug_assert!(worker < self.pool.threads());
        self.scratch.wrapping_add(worker * self.scratch_len).cast()
    }
}

/// A pointer that the threads of a region may share: each writes its own part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: it is only an address; whoever dereferences it says why that is sound.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address.
    pub(crate) fn get(self) -> *mut T {
        self.0
    }

    /// The part `start..end` of what it points at.
    ///
    /// # Safety
    /// That part is alive, initialised and nobody else's while the slice is used.
    pub(crate) unsafe fn part<'a>(self, start: usize, end: usize) -> &'a mut [T] {
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), end - start) }
    }
}
