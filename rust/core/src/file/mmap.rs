//! The only memory map.

#![allow(unsafe_code, reason = "mapping a file is the one thing whose bytes another process may change")]

use memmap2::{Mmap, MmapOptions};
use std::fs::File;

/// Maps a file for reading.
///
/// What is mapped can change under us if somebody writes to the file. Every count and index is copied before it is checked
/// (`weight.rs`), so what may change afterwards are numbers: wrong answers, nothing worse, unless the file is truncated,
/// which ends the process with SIGBUS. `load(…, mmap=False)` reads privately and has neither risk.
pub(super) fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the bytes are only read as numbers of types for which every bit pattern is valid; see above for a file that
    // changes meanwhile.
    unsafe { MmapOptions::new().map(file) }
}
