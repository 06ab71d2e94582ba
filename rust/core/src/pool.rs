//! Fork and join in a few microseconds.
//!
//! A [`Pool`] of `t` threads is the caller and `t - 1` workers. [`Pool::run`] publishes a *region*, a number of items and
//! a function of one item. Each thread has a share of the items, its queue, always the same part of the whole: so what
//! a step wrote is, where steps are cut alike, in the cache of the core whose turn it is to read it. Who is done with his
//! own helps the others, from the far end. The caller never waits for a worker that has not joined: a region is closed when
//! its items are gone, and only those inside are awaited. So a worker that sleeps costs nothing but its help.
//!
//! Between regions workers spin: for as long as a [`Session`] is open (a whole run of a network, whose regions follow each
//! other within microseconds), and for a moment after; then they park.

#![allow(unsafe_code, reason = "a region lends its closure to threads that outlive the call")]

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;

/// What a region runs: `f(item, worker)`, with `worker` below the pool's thread count and the caller as 0.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Rounds of spinning, each a pause instruction or a few, before an idle worker parks: some tens of microseconds.
const SPIN: u32 = 2_000;

/// In [`Shared::state`]: the region accepts workers.
const OPEN: u64 = 1 << 16;
/// In [`Shared::state`]: one region later.
const EPOCH: u64 = 1 << 17;
/// In [`Shared::state`]: how many workers are inside.
const INSIDE: u64 = OPEN - 1;

struct Shared {
    /// Epoch, open bit and workers inside, in one word so that joining and closing cannot cross.
    state: AtomicU64,
    /// The region; written while none is open and nobody is inside.
    body: UnsafeCell<Option<*const Body<'static>>>,
    /// One a thread.
    queues: Vec<Queue>,
    /// A worker's item panicked.
    panicked: AtomicBool,
    /// A session is open: do not park.
    hot: AtomicBool,
    quit: AtomicBool,
    parked: Vec<AtomicBool>,
}

/// A thread's share of a region's items, as in pthreadpool: its owner takes from the front, thieves from the back, and
/// whoever has brought `left` below what it was at a positive value owns one item, at whichever end he takes it.
#[derive(Default)]
#[repr(align(128))]
struct Queue {
    left: AtomicIsize,
    front: AtomicUsize,
    back: AtomicUsize,
}

impl Queue {
    fn fill(&self, start: usize, end: usize) {
        self.front.store(start, Ordering::Relaxed);
        self.back.store(end, Ordering::Relaxed);
        // A slice is never longer than `isize`, nor is a count of items that write to one.
        self.left.store((end - start).cast_signed(), Ordering::Relaxed);
    }

    /// Claims an item. What was claimed before is below zero by at most the number of threads.
    fn claim(&self) -> bool {
        self.left.load(Ordering::Relaxed) > 0 && self.left.fetch_sub(1, Ordering::Relaxed) > 0
    }

    fn take(&self) -> Option<usize> {
        self.claim().then(|| self.front.fetch_add(1, Ordering::Relaxed))
    }

    fn steal(&self) -> Option<usize> {
        self.claim().then(|| self.back.fetch_sub(1, Ordering::Relaxed) - 1)
    }
}

// SAFETY: `body` is written by the caller only while the state is closed and empty, and read by workers only while they are
// counted inside an open region; both go through `state` with acquire and release.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `body` is to a `Sync` closure.
unsafe impl Send for Shared {}

/// A team of threads that runs regions.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    process: u32,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

/// Cores this process may use: affinity and cgroup quota are heeded.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

impl Pool {
    /// A pool of `threads` threads, the caller included. Where the system refuses a thread, the pool has fewer.
    pub fn new(threads: usize) -> Pool {
        let helpers = threads.clamp(1, 256) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            body: UnsafeCell::new(None),
            queues: (0..=helpers).map(|_| Queue::default()).collect(),
            panicked: AtomicBool::new(false),
            hot: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            parked: (0..helpers).map(|_| AtomicBool::new(false)).collect(),
        });
        let spawn = |index: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("gossamer-{}", index + 1))
                .spawn(move || shared.work(index))
                .ok()
        };
        let workers = (0..helpers).map_while(spawn).collect();
        Pool { shared, workers, process: std::process::id() }
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Whether the workers live in this process: after a fork they do not exist in the child.
    pub fn is_here(&self) -> bool {
        self.process == std::process::id()
    }

    /// Runs `body(item, worker)` once for every item below `items`, on as many threads as come; returns when all are done.
    ///
    /// # Panics
    /// Where an item panics, after all threads have left the region.
    pub fn run(&self, items: usize, body: &Body<'_>) {
        if items <= 1 || self.workers.is_empty() {
            (0..items).for_each(|item| body(item, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed. The reference is used by workers counted inside the region, and `Region`
        // closes it and waits for them before this function returns, by panic too.
        let body: &Body<'static> = unsafe { std::mem::transmute(body) };
        // SAFETY: no region is open and nobody is inside: `&self` regions are begun by one thread at a time, since a pool
        // belongs to one running call.
        unsafe { *shared.body.get() = Some(std::ptr::from_ref(body)) };
        let shares = split(items, shared.queues.len(), 1);
        for (i, queue) in shared.queues.iter().enumerate() {
            let (start, end) = if i < shares.len() { shares.at(i) } else { (0, 0) };
            queue.fill(start, end);
        }
        let epoch = shared.state.load(Ordering::Relaxed) & !(OPEN | INSIDE);
        shared.state.store((epoch + EPOCH) | OPEN, Ordering::SeqCst);
        self.wake();
        {
            let _region = Region(shared);
            shared.take_items(body, 0);
        }
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        assert!(!panicked, "a kernel panicked on a worker thread");
    }

    /// Keeps the workers awake until the session is dropped.
    pub fn session(&self) -> Session<'_> {
        if !self.workers.is_empty() {
            self.shared.hot.store(true, Ordering::SeqCst);
            self.wake();
        }
        Session(self)
    }

    fn wake(&self) {
        for (worker, parked) in self.workers.iter().zip(&self.shared.parked) {
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if !self.is_here() {
            // The threads were left behind by a fork; there is nobody to join.
            std::mem::take(&mut self.workers).into_iter().for_each(std::mem::forget);
            return;
        }
        self.shared.quit.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches what its items throw, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

/// Closes a region and waits for those inside.
struct Region<'a>(&'a Shared);

impl Drop for Region<'_> {
    fn drop(&mut self) {
        // Where this thread unwinds, items are left: nobody may start them.
        self.0.drop_items();
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0u32;
        while self.0.state.load(Ordering::Acquire) & INSIDE != 0 {
            relax(&mut rounds);
        }
    }
}

/// An open session; see [`Pool::session`].
#[derive(Debug)]
pub struct Session<'a>(&'a Pool);

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.0.shared.hot.store(false, Ordering::Relaxed);
    }
}

/// Waits a moment, and gives way now and then so that more threads than cores still make progress.
fn relax(rounds: &mut u32) {
    *rounds = rounds.wrapping_add(1);
    if rounds.is_multiple_of(512) { std::thread::yield_now() } else { std::hint::spin_loop() }
}

impl Shared {
    fn take_items(&self, body: &Body<'_>, thread: usize) {
        let (others, own) = self.queues.split_at(thread);
        let (own, more) = own.split_first().expect("a queue a thread");
        while let Some(item) = own.take() {
            body(item, thread);
        }
        for other in more.iter().chain(others) {
            while let Some(item) = other.steal() {
                body(item, thread);
            }
        }
    }

    /// Leaves what nobody has begun undone.
    fn drop_items(&self) {
        self.queues.iter().for_each(|queue| queue.left.store(0, Ordering::Relaxed));
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let (mut seen, mut rounds) = (0u64, 0u32);
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & OPEN != 0 && state & !(OPEN | INSIDE) != seen {
                if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
                {
                    seen = state & !(OPEN | INSIDE);
                    rounds = 0;
                    // SAFETY: this worker is counted inside an open region, so its body is set and stays valid.
                    let body = unsafe { (*self.body.get()).expect("an open region has a body") };
                    // SAFETY: as above.
                    let body = unsafe { &*body };
                    if catch_unwind(AssertUnwindSafe(|| self.take_items(body, index + 1))).is_err() {
                        self.panicked.store(true, Ordering::Relaxed);
                        self.drop_items();
                    }
                    self.state.fetch_sub(1, Ordering::AcqRel);
                }
                continue;
            }
            if self.quit.load(Ordering::Relaxed) {
                return;
            }
            relax(&mut rounds);
            if rounds > SPIN && !self.hot.load(Ordering::Relaxed) {
                self.parked[index].store(true, Ordering::SeqCst);
                // Whoever publishes work or quits after this store sees it; what came before is looked at once more here.
                let now = self.state.load(Ordering::SeqCst);
                let news = now & OPEN != 0 && now & !(OPEN | INSIDE) != seen;
                if !news && !self.quit.load(Ordering::SeqCst) && !self.hot.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                self.parked[index].store(false, Ordering::SeqCst);
                rounds = 0;
            }
        }
    }
}

/// Splits `n` things into at most `parts` ranges of a multiple of `grain` (the last excepted), as even as that allows.
pub fn split(n: usize, parts: usize, grain: usize) -> Ranges {
    let grain = grain.max(1);
    let grains = n.div_ceil(grain);
    Ranges { n, grain, grains, parts: parts.clamp(1, grains.max(1)) }
}

/// Ranges that follow each other, none of them empty. Not a list: a file may ask for more than memory holds.
#[derive(Clone, Copy, Debug)]
pub struct Ranges {
    n: usize,
    grain: usize,
    grains: usize,
    parts: usize,
}

impl Ranges {
    /// How many there are; none of no things.
    pub fn len(self) -> usize {
        if self.n == 0 { 0 } else { self.parts }
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.n == 0
    }

    /// Range `i`, `[start, end)`.
    pub fn at(self, i: usize) -> (usize, usize) {
        (self.bound(i), self.bound(i + 1))
    }

    fn bound(self, part: usize) -> usize {
        // ⌊grains · part / parts⌋, taken apart so that the product of two counts of things fits.
        let (whole, rest) = (self.grains / self.parts, self.grains % self.parts);
        ((whole * part + rest * part / self.parts) * self.grain).min(self.n)
    }
}

/// Runs a closure and turns a panic into an error message; the doors of this crate use it so that a bug of ours stays one
/// call's failure.
///
/// # Errors
/// The panic's message.
pub fn contain<T>(work: impl FnOnce() -> T) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| match payload.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(payload) => resume_unwind(payload),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            for items in [0, 1, 2, 17, 1000] {
                let counts: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                pool.run(items, &|item, worker| {
                    assert!(worker < pool.threads());
                    counts[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn many_regions_in_a_session_and_after_a_rest() {
        let pool = Pool::new(3);
        let total = AtomicUsize::new(0);
        for round in 0..200 {
            let _session = (round % 2 == 0).then(|| pool.session());
            pool.run(7, &|item, _| {
                total.fetch_add(item, Ordering::Relaxed);
            });
            if round % 50 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
        }
        assert_eq!(total.load(Ordering::Relaxed), 200 * 21);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(2);
        let failed = contain(|| pool.run(100, &|item, _| assert!(item != 50, "item fifty")));
        assert!(failed.is_err());
        let done = AtomicUsize::new(0);
        pool.run(100, &|_, _| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn splits_cover_without_overlap() {
        for (n, parts, grain) in [(0, 3, 16), (1, 3, 16), (100, 3, 16), (96, 2, 16), (17, 9, 1)] {
            let ranges = split(n, parts, grain);
            let ranges: Vec<_> = (0..ranges.len()).map(|i| ranges.at(i)).collect();
            assert!(ranges.len() <= parts);
            assert_eq!(ranges.iter().map(|(a, b)| b - a).sum::<usize>(), n);
            assert!(ranges.windows(2).all(|w| w[0].1 == w[1].0 && w[0].1 % grain == 0));
        }
    }
}
