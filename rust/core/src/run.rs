//! Models: a graph, its plans, and the memory and threads its runs use.
//!
//! Many threads may run one model at once, with different shapes. Nothing here makes one call wait for another: a call takes
//! a free context or makes one, and looks plans up by trying the lock, so that a lock left taken by a fork does not hang
//! the child.

#![allow(unsafe_code, reason = "buffers of one arena are handed to steps as the plan laid them out")]

use crate::error::{Error, Result, ensure};
use crate::graph::Graph;
use crate::isa::Tier;
use crate::ops::{Failure, Frame, Operand};
use crate::plan::{At, Means, Place, Plan, Planned, plan};
use crate::pool::{Pool, contain};
use crate::tensor::{ALIGN, Meta};
use memmap2::MmapMut;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Plans kept for shapes seen lately.
const PLANS: usize = 16;
/// Contexts kept for later calls.
const CONTEXTS: usize = 8;

/// How a model is to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The highest tier to use.
    pub tier: Tier,
    /// Threads of a call.
    pub threads: usize,
    /// Whether 3 x 3 convolutions may be computed by Winograd's method, which is faster and rounds more.
    pub winograd: bool,
    /// Bytes a run may use beside the file's weights: buffers, outputs, and the forms that kernels keep of weights.
    pub max_memory: usize,
}

/// A network that can run.
pub struct Model {
    graph: Graph,
    options: Options,
    plans: Mutex<Vec<Arc<Plan>>>,
    contexts: Mutex<Vec<Context>>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What a running call has for itself.
struct Context {
    pool: Pool,
    arena: Arena,
}

impl Model {
    /// A model of a graph. Its plan for the shapes it was built with is made at once, so that what cannot run fails here.
    ///
    /// # Errors
    /// [`Error::Graph`] where an op cannot run; [`Error::Memory`] where forms of the weights take more than `max_memory`.
    pub fn new(graph: Graph, options: Options) -> Result<Model> {
        let model = Model { graph, options, plans: Mutex::new(vec![]), contexts: Mutex::new(vec![]) };
        model.example_plan()?;
        Ok(model)
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// How it runs.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The plan for the shapes the graph was built with.
    ///
    /// # Errors
    /// [`Error::Graph`] where an op cannot run.
    pub fn example_plan(&self) -> Result<Arc<Plan>> {
        let shapes: Vec<&[usize]> = self.graph.inputs.iter().map(|input| input.example.as_slice()).collect();
        self.plan(&shapes)
    }

    /// The plan for input shapes.
    ///
    /// # Errors
    /// [`Error::Shape`] where they do not fit; [`Error::Graph`] where an op cannot run so; [`Error::Memory`] where the forms
    /// that kernels keep of the weights take more than `max_memory`.
    pub fn plan(&self, shapes: &[&[usize]]) -> Result<Arc<Plan>> {
        let fits =
            |plan: &Plan| plan.inputs.iter().map(|meta| meta.shape.as_slice()).eq(shapes.iter().copied());
        if let Ok(mut plans) = self.plans.try_lock()
            && let Some(at) = plans.iter().position(|plan| fits(plan))
        {
            plans[..=at].rotate_right(1);
            return Ok(Arc::clone(&plans[0]));
        }
        let Options { tier, threads, winograd, max_memory } = self.options;
        let means = Means { tier, threads, winograd };
        let made = contain(|| plan(&self.graph, shapes, means));
        let made = Arc::new(
            made.map_err(|text| Error::Graph(format!("planning failed, a bug in gossamer: {text}")))??,
        );
        ensure!(
            made.forms <= max_memory,
            Memory,
            "the forms that kernels keep of the weights take {} bytes, more than the {max_memory} that may be used: load \
             with a larger max_memory{}",
            made.forms,
            if winograd { ", or without Winograd's method" } else { "" }
        );
        if let Ok(mut plans) = self.plans.try_lock() {
            plans.insert(0, Arc::clone(&made));
            plans.truncate(PLANS);
        }
        Ok(made)
    }

    /// Runs a plan of this model. Arrays are contiguous and as long as the plan's inputs and outputs say.
    ///
    /// # Errors
    /// [`Error::Memory`] where it needs more than `max_memory`; [`Error::Shape`] where an array is not what the plan takes, or
    /// holds an index out of range;
    /// [`Error::Graph`] where a kernel panicked, which is a bug of ours.
    pub fn run(&self, plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) -> Result<()> {
        self.execute(plan, inputs, outputs, None)
    }

    /// Runs a plan and adds up the time each step takes.
    ///
    /// # Errors
    /// As [`Model::run`].
    pub fn profile(
        &self,
        plan: &Plan,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        times: &mut [Duration],
    ) -> Result<()> {
        self.execute(plan, inputs, outputs, Some(times))
    }

    /// Checks that a run of a plan, outputs and the forms of weights included, takes no more than `max_memory`; what
    /// allocates outputs asks first.
    ///
    /// # Errors
    /// [`Error::Memory`] where it takes more.
    pub fn admit(&self, plan: &Plan) -> Result<()> {
        let outputs = plan.outputs.iter().map(|meta| meta.bytes().unwrap_or(usize::MAX));
        let need = outputs.fold(plan.bytes().saturating_add(plan.forms), usize::saturating_add);
        ensure!(
            need <= self.options.max_memory,
            Memory,
            "a run at these shapes needs {need} bytes, more than the {} it may use: give it a smaller batch, or load with \
             a larger max_memory",
            self.options.max_memory
        );
        Ok(())
    }

    fn execute(
        &self,
        plan: &Plan,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        mut times: Option<&mut [Duration]>,
    ) -> Result<()> {
        let sized = |metas: &[Meta], lens: &[usize]| {
            metas.len() == lens.len()
                && metas.iter().zip(lens).all(|(meta, &len)| meta.bytes().is_ok_and(|b| b == len))
        };
        let lens: Vec<usize> = inputs.iter().map(|bytes| bytes.len()).collect();
        ensure!(
            sized(&plan.inputs, &lens),
            Shape,
            "inputs have {lens:?} bytes, which is not what the plan is for"
        );
        let lens: Vec<usize> = outputs.iter().map(|bytes| bytes.len()).collect();
        ensure!(
            sized(&plan.outputs, &lens),
            Shape,
            "outputs have {lens:?} bytes, which is not what the plan is for"
        );
        self.admit(plan)?;
        let mut context = self.take_context();
        context.arena.reserve(plan.bytes())?;
        let base = context.arena.ptr();
        // An array without elements may be at any address: it gets one that every type takes.
        let nowhere = std::ptr::without_provenance_mut(ALIGN);
        let start = |bytes: &[u8]| if bytes.is_empty() { nowhere } else { bytes.as_ptr().cast_mut() };
        let inputs: Vec<*mut u8> = inputs.iter().map(|bytes| start(bytes)).collect();
        let start = |bytes: &mut [u8]| if bytes.is_empty() { nowhere } else { bytes.as_mut_ptr() };
        let outputs: Vec<*mut u8> = outputs.iter_mut().map(|bytes| start(bytes)).collect();
        let operand = |place: &Place| Operand {
            ptr: match &place.at {
                At::Absent => nowhere,
                At::Input(i) => inputs[*i],
                At::Output(o) => outputs[*o],
                // SAFETY: the plan keeps every buffer inside the arena, which was just made large enough.
                At::Arena(offset) => unsafe { base.add(*offset) },
                At::Tensor(bytes) => bytes.as_ptr().cast_mut(),
            },
            len: place.len,
        };
        // SAFETY: scratch lies behind the arena's buffers, in the same allocation.
        let scratch = unsafe { base.add(plan.arena) };
        let pool = &context.pool;
        let failure = Failure::default();
        let done = contain(|| {
            let _session = pool.session();
            let (mut ins, mut outs) = (Vec::new(), Vec::new());
            for (s, planned) in plan.steps.iter().enumerate() {
                ins.clear();
                ins.extend(planned.inputs.iter().map(operand));
                outs.clear();
                outs.extend(planned.outputs.iter().map(operand));
                let frame = Frame {
                    pool,
                    inputs: &ins,
                    outputs: &outs,
                    scratch,
                    scratch_len: plan.scratch,
                    failure: &failure,
                };
                match times.as_deref_mut() {
                    None => (planned.step.body)(&frame),
                    Some(times) => {
                        let start = Instant::now();
                        (planned.step.body)(&frame);
                        times[s] += start.elapsed();
                    }
                }
                if let Some(error) = failure.take() {
                    return Err(in_step(planned, error));
                }
            }
            Ok(())
        });
        self.give_back(context);
        done.map_err(|text| Error::Graph(format!("a kernel failed, a bug in gossamer: {text}")))?
    }

    fn take_context(&self) -> Context {
        let kept = self.contexts.try_lock().ok().and_then(|mut contexts| contexts.pop());
        match kept {
            Some(context) if context.pool.is_here() => context,
            // Made before a fork: its threads are not in this process.
            Some(context) => Context { pool: Pool::new(self.options.threads), arena: context.arena },
            None => Context { pool: Pool::new(self.options.threads), arena: Arena::default() },
        }
    }

    fn give_back(&self, context: Context) {
        if let Ok(mut contexts) = self.contexts.try_lock()
            && contexts.len() < CONTEXTS
        {
            contexts.push(context);
        }
    }

    /// Bytes of arenas held for later calls.
    pub fn held(&self) -> usize {
        self.contexts.try_lock().map_or(0, |contexts| contexts.iter().map(|context| context.arena.len).sum())
    }
}

/// Names the step in the message of what it found in its operands.
fn in_step(step: &Planned, error: Error) -> Error {
    match error {
        Error::Shape(text) => Error::Shape(format!("{} `{}`: {text}", step.op, step.name)),
        other => other,
    }
}

/// Half of the memory that this machine, or the cgroup this process is in, has free.
pub fn free_memory_share() -> usize {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
    });
    let in_group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(most, used)| most.saturating_sub(used));
    let free = [available, in_group].into_iter().flatten().min();
    // Where the system does not tell, what 32 bits address.
    free.unwrap_or(4 << 30) / 2
}

/// Bytes of a huge page, on the processors that have them.
const HUGE: usize = 2 << 20;

/// Initialised memory on a page, grown when a plan needs more; on huge pages where they are used by half or more.
///
/// Rows of a strip lie a plane apart, so on small pages each is on one of its own, and there are more of them than a
/// translation cache holds.
#[derive(Debug, Default)]
struct Arena {
    map: Option<MmapMut>,
    /// Where in the map it starts.
    start: usize,
    len: usize,
}

impl Arena {
    fn ptr(&mut self) -> *mut u8 {
        self.map
            .as_mut()
            .map_or(std::ptr::without_provenance_mut(ALIGN), |map| map[self.start..].as_mut_ptr())
    }

    /// Makes it at least `len` bytes; what it held is gone where it grows.
    fn reserve(&mut self, len: usize) -> Result<()> {
        if len <= self.len {
            return Ok(());
        }
        *self = Arena::default();
        let refused = |error| Error::Memory(format!("the system refuses {len} bytes for a run: {error}"));
        let huge = len.saturating_add(HUGE / 2) / HUGE * HUGE;
        // The system makes a page huge only where one fits between the map's ends; room for one more lets it start on one.
        // What is not touched takes no memory.
        let room = if huge == 0 { len } else { len.max(huge).saturating_add(HUGE) };
        let map = MmapMut::map_anon(room).map_err(refused)?;
        let start = if huge == 0 { 0 } else { map.as_ptr().addr().wrapping_neg() % HUGE };
        // It is advice: where the system has none, nothing is lost.
        #[cfg(target_os = "linux")]
        if huge > 0 {
            let _ = map.advise_range(memmap2::Advice::HugePage, start, huge);
        }
        *self = Arena { map: Some(map), start, len };
        Ok(())
    }
}
