//! The only memory map.

#![allow(unsafe_code, reason = "mapping a file is the one thing whose bytes another process may change")]

use crate::weight::Owner;
use memmap2::{Mmap, MmapOptions};
use std::fs::File;

/// A mapped file.
pub(super) struct Map(Mmap);

impl Owner for Map {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn release(&self, start: usize, len: usize) {
        let inside = start.checked_add(len).is_some_and(|end| end <= self.0.len());
        #[cfg(unix)]
        if inside && len > 0 {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // Advice: where the system does not take it, nothing is lost.
            // SAFETY: the range is inside the map, and the map is of a file and only read, so pages that are dropped are read
            // from it again with the contents they had.
            let _ = unsafe { self.0.unchecked_advise_range(advice, start, len) };
        }
        #[cfg(not(unix))]
        let _ = inside;
    }
}

/// Maps a file for reading.
///
/// What is mapped can change under us if somebody writes to the file. Every count and index is copied before it is checked
/// (`weight`), so what may change afterwards are numbers: wrong answers, nothing worse, unless the file is truncated,
/// which ends the process with SIGBUS. `load(…, mmap=False)` reads privately and has neither risk.
pub(super) fn map(file: &File) -> std::io::Result<Map> {
    // SAFETY: the bytes are only read as numbers of types for which every bit pattern is valid; see above for a file that
    // changes meanwhile.
    unsafe { MmapOptions::new().map(file) }.map(Map)
}
