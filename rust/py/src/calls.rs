//! Work done while other Python threads run, and what the interpreter's exit waits for.
//!
//! A thread that asks for the interpreter back while it shuts down is ended by it, by unwinding: through frames of Rust that
//! aborts the process. So an exit waits for the calls that are under way, and those that a daemon thread still begins keep
//! the interpreter while they run.

use pyo3::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Calls under way in the low half, and in the high half the process they are in: a fork takes none of them along.
static CALLS: AtomicU64 = AtomicU64::new(0);
static EXITING: AtomicBool = AtomicBool::new(false);

/// No calls of this process.
fn none() -> u64 {
    u64::from(std::process::id()) << 32
}

/// How many of the calls are this process's.
fn ours(calls: u64) -> u64 {
    if calls >> 32 == none() >> 32 { calls - none() } else { 0 }
}

/// A call that is counted.
struct Call;

impl Call {
    fn begin() -> Call {
        let begun = |calls| Some(none() + ours(calls) + 1);
        let _ = CALLS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, begun);
        Call
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Does `work`, which touches nothing of Python's, while other Python threads run.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> T {
    let call = Call::begin();
    // Counted before it is asked: whoever exits sees the one or the other.
    if EXITING.load(Ordering::SeqCst) {
        drop(call);
        return work();
    }
    py.detach(work)
}

/// Called as the interpreter exits, before it ends any thread.
#[pyfunction]
fn wait_for_calls(py: Python<'_>) {
    EXITING.store(true, Ordering::SeqCst);
    py.detach(|| {
        while ours(CALLS.load(Ordering::SeqCst)) > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

/// Has the interpreter call us as it exits.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let waits = wrap_pyfunction!(wait_for_calls, module)?;
    module.py().import("atexit")?.call_method1("register", (waits,))?;
    Ok(())
}
