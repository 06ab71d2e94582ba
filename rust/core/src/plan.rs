//! Graph → plan: what runs, in which order, where everything lies.
//!
//! A plan is for one set of input shapes. It asks every op for the layouts it wants and inserts the copies between them,
//! lets a step take over its operand's buffer where that operand is not needed again, gives outputs the caller's memory, and
//! packs all other buffers into one arena by their life times (greedy by size: Pisarchyk and Lee, *Efficient Memory
//! Management for Deep Neural Net Inference*, 2020).

use crate::error::{Error, Result};
use crate::graph::{Graph, Ref, at_node, meta_of};
use crate::isa::Tier;
use crate::ops::relayout::{copy, relayout};
use crate::ops::{Args, Op, Prepared, Site, Step, Wants};
use crate::tensor::{ALIGN, Layout, Meta, Planes};
use crate::weight::{Bytes, Tensor};

/// Where a buffer is in a run.
#[derive(Clone, Debug)]
pub enum At {
    /// An operand that is not there.
    Absent,
    /// The caller's input.
    Input(usize),
    /// The caller's output.
    Output(usize),
    /// The arena, at that offset.
    Arena(usize),
    /// The file.
    Tensor(Bytes),
}

/// A buffer in a run, and its bytes.
#[derive(Clone, Debug)]
pub struct Place {
    /// Where it is.
    pub at: At,
    /// Its length.
    pub len: usize,
}

/// One thing that runs.
#[derive(Debug)]
pub struct Planned {
    /// The torch module path of its node.
    pub name: String,
    /// Its op; `relayout` and `copy` are the plan's own.
    pub op: &'static str,
    /// Its node in the graph; none for what the plan inserted.
    pub node: Option<usize>,
    /// The code and what is known of it.
    pub step: Step,
    /// Operands.
    pub inputs: Vec<Place>,
    /// Outputs.
    pub outputs: Vec<Place>,
    /// Shape of output 0.
    pub shape: Vec<usize>,
}

/// What to do for one set of input shapes.
#[derive(Debug)]
pub struct Plan {
    /// Steps in order.
    pub steps: Vec<Planned>,
    /// Types and shapes of the inputs.
    pub inputs: Vec<Meta>,
    /// Types and shapes of the outputs.
    pub outputs: Vec<Meta>,
    /// Bytes of the arena.
    pub arena: usize,
    /// Bytes of scratch each thread needs.
    pub scratch: usize,
    /// Threads it is made for.
    pub threads: usize,
    /// Bytes of the forms that kernels keep of the weights, those of earlier plans included.
    pub forms: usize,
}

impl Plan {
    /// Bytes a run needs beside the weights and the caller's arrays.
    pub fn bytes(&self) -> usize {
        self.arena.saturating_add(self.scratch.saturating_mul(self.threads))
    }
}

/// A buffer while the plan is made. Steps are counted as they are added.
#[derive(Debug)]
struct Buffer {
    at: Option<At>,
    len: usize,
    /// The step that first writes it, and the last that touches it.
    life: (usize, usize),
    /// The last node that needs any value in it; `usize::MAX` for an output.
    needed: usize,
}

/// A value in one layout.
#[derive(Clone, Copy, Debug)]
struct Slot {
    layout: Layout,
    buffer: usize,
}

/// Bytes of a value in a layout.
fn len_in(meta: &Meta, layout: Layout) -> Result<usize> {
    let len = match layout {
        Layout::Plain => return meta.bytes(),
        Layout::Features | Layout::Columns => {
            let planes = Planes::of(meta, layout);
            // An empty value too: its parts are multiplied without a check.
            let most = planes.n.max(1).checked_mul(planes.channels.max(1));
            let most = most.and_then(|n| n.checked_mul(planes.pitch)?.checked_mul(meta.dtype.size()));
            most.filter(|&len| isize::try_from(len).is_ok())
                .map(|_| planes.n * planes.channels * planes.pitch * meta.dtype.size())
        }
    };
    len.ok_or_else(|| Error::Shape(format!("{meta} does not fit in memory")))
}

/// The layout under its simplest name: where planes have no gap between them, features are plain.
fn canonical(meta: &Meta, layout: Layout) -> Layout {
    let same = layout == Layout::Features
        && (meta.shape.len() < 3 || {
            let planes = Planes::of(meta, Layout::Features);
            planes.plane == planes.pitch
        });
    if same { Layout::Plain } else { layout }
}

struct Planner<'a> {
    graph: &'a Graph,
    values: &'a [Meta],
    buffers: Vec<Buffer>,
    steps: Vec<Draft>,
    /// Each value's slots: as it was made, and converted.
    slots: Vec<[Option<Slot>; 2]>,
}

/// A step whose buffers have no place yet.
struct Draft {
    name: String,
    op: &'static str,
    node: Option<usize>,
    step: Step,
    inputs: Vec<Source>,
    outputs: Vec<usize>,
    shape: Vec<usize>,
}

enum Source {
    Absent,
    Buffer(usize),
    Tensor(Bytes),
}

impl Planner<'_> {
    fn buffer(&mut self, at: Option<At>, len: usize, needed: usize) -> usize {
        let now = self.steps.len();
        self.buffers.push(Buffer { at, len, life: (now, now), needed });
        self.buffers.len() - 1
    }

    fn push(&mut self, draft: Draft) {
        let now = self.steps.len();
        let read = draft
            .inputs
            .iter()
            .filter_map(|source| if let Source::Buffer(b) = source { Some(*b) } else { None });
        for buffer in read.chain(draft.outputs.iter().copied()) {
            self.buffers[buffer].life.1 = now;
        }
        self.steps.push(draft);
    }

    /// The slot of a value in a layout, converted first where it is in another.
    fn slot(&mut self, value: usize, layout: Layout, name: &str) -> Result<Slot> {
        let meta = &self.values[value];
        let layout = canonical(meta, layout);
        let [made, converted] = self.slots[value];
        let made = made.expect("a value is made before it is used");
        if let Some(slot) = [Some(made), converted].into_iter().flatten().find(|slot| slot.layout == layout) {
            return Ok(slot);
        }
        let needed = self.buffers[made.buffer].needed;
        let buffer = self.buffer(None, len_in(meta, layout)?, needed);
        self.push(Draft {
            name: name.to_owned(),
            op: "relayout",
            node: None,
            step: relayout(meta, made.layout, layout),
            inputs: vec![Source::Buffer(made.buffer)],
            outputs: vec![buffer],
            shape: meta.shape.clone(),
        });
        let slot = Slot { layout, buffer };
        self.slots[value][1] = Some(slot);
        Ok(slot)
    }
}

/// What a plan may use.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// The highest tier.
    pub tier: Tier,
    /// Threads.
    pub threads: usize,
    /// Convolutions that round otherwise than sums do.
    pub winograd: bool,
}

/// Makes the plan of a graph for given input shapes.
///
/// # Errors
/// [`Error::Shape`] where the shapes do not fit; [`Error::Graph`] where an op cannot run so.
pub fn plan(graph: &Graph, shapes: &[&[usize]], means: Means) -> Result<Plan> {
    let inferred = graph.infer(shapes)?;
    let tensors: Vec<Meta> = graph.tensors.iter().map(meta_of).collect();
    let mut needed = vec![0; inferred.values.len()];
    for (n, node) in graph.nodes.iter().enumerate() {
        for reference in &node.inputs {
            if let Ref::Value(id) = reference {
                needed[*id] = n;
            }
        }
    }
    for output in &graph.outputs {
        if let Ref::Value(id) = output.value {
            needed[id] = usize::MAX;
        }
    }
    let by_channels = readers(graph, &inferred, &tensors, Op::by_channels)?;
    let mut by_columns = readers(graph, &inferred, &tensors, |op, args| {
        matches!(op.wants(args, means.tier), Wants::Columns | Wants::FromColumns)
    })?;
    // An output is read as it leaves: plain.
    by_columns.iter_mut().zip(&needed).for_each(|(all, &needed)| *all &= needed != usize::MAX);
    let mut planner = Planner {
        graph,
        values: &inferred.values,
        buffers: vec![],
        steps: vec![],
        slots: vec![[None; 2]; inferred.values.len()],
    };
    for (i, meta) in inferred.values[..graph.inputs.len()].iter().enumerate() {
        let buffer = planner.buffer(Some(At::Input(i)), meta.bytes()?, needed[i]);
        planner.slots[i][0] = Some(Slot { layout: Layout::Plain, buffer });
    }
    for n in 0..graph.nodes.len() {
        let named = |error| at_node(&graph.nodes[n], error);
        planner.node(n, &inferred, &tensors, (&needed, &by_channels, &by_columns), means).map_err(named)?;
    }
    let outputs = planner.outputs(&tensors)?;
    let inputs = inferred.values[..graph.inputs.len()].to_vec();
    let (steps, arena) = planner.place()?;
    let scratch = steps.iter().map(|planned| planned.step.scratch).max().unwrap_or(0).next_multiple_of(ALIGN);
    Ok(Plan { steps, inputs, outputs, arena, scratch, threads: means.threads, forms: graph.form_bytes() })
}

/// Which values are read only as operand 0, and only by ops that are `so`.
fn readers(
    graph: &Graph,
    inferred: &crate::graph::Inferred,
    tensors: &[Meta],
    so: impl Fn(&Op, &Args<'_>) -> bool,
) -> Result<Vec<bool>> {
    let mut all: Vec<Option<bool>> = vec![None; inferred.values.len()];
    for node in &graph.nodes {
        let args = node
            .inputs
            .iter()
            .map(|&r| graph.arg(r, &inferred.values, tensors))
            .collect::<Result<Vec<_>>>()?;
        let so = so(&node.op, &Args { args: &args, sizes: &inferred.sizes });
        for (i, reference) in node.inputs.iter().enumerate() {
            if let Ref::Value(id) = reference {
                all[*id] = Some(all[*id].unwrap_or(true) && so && i == 0);
            }
        }
    }
    Ok(all.into_iter().map(|all| all.unwrap_or(false)).collect())
}

impl Planner<'_> {
    /// Plans one node.
    fn node(
        &mut self,
        n: usize,
        inferred: &crate::graph::Inferred,
        tensors: &[Meta],
        (needed, by_channels, by_columns): (&[usize], &[bool], &[bool]),
        Means { tier, threads, winograd }: Means,
    ) -> Result<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let args =
            node.inputs.iter().map(|&r| graph.arg(r, self.values, tensors)).collect::<Result<Vec<_>>>()?;
        let args = Args { args: &args, sizes: &inferred.sizes };
        let first = inferred.first[n];
        let end = inferred.first.get(n + 1).copied().unwrap_or(self.values.len());
        let outputs = &self.values[first..end];

        let wants = node.op.wants(&args, tier);
        let common = || {
            let as_made = |r: &Ref| if let Ref::Value(id) = r { self.slots[*id][0] } else { None };
            let spread = node.inputs.iter().filter_map(as_made).any(|slot| slot.layout == Layout::Features);
            if spread { Layout::Features } else { Layout::Plain }
        };
        let (take, give) = match wants {
            Wants::Plain | Wants::FromColumns => (Layout::Plain, Layout::Plain),
            Wants::Columns => {
                (Layout::Plain, if by_columns[first] { Layout::Columns } else { Layout::Plain })
            }
            Wants::Features => (Layout::Features, Layout::Features),
            Wants::FromFeatures => (Layout::Features, Layout::Plain),
            Wants::Same => {
                let layout = common();
                (layout, layout)
            }
        };
        let (mut sources, mut layouts) = (vec![], vec![]);
        for &reference in &node.inputs {
            let (source, layout) = match reference {
                Ref::Absent => (Source::Absent, Layout::Plain),
                Ref::Tensor(id) => match &graph.tensors[id] {
                    Tensor::Plain(plain) => (Source::Tensor(plain.bytes.clone()), Layout::Plain),
                    Tensor::Matrix(_) => (Source::Absent, Layout::Plain),
                },
                Ref::Value(id) => {
                    // None but those who take columns read what was made so, and all of them as operand 0.
                    let made = self.slots[id][0].map(|slot| slot.layout);
                    let take = made.filter(|&layout| layout == Layout::Columns).unwrap_or(take);
                    let slot = self.slot(id, take, &node.name)?;
                    (Source::Buffer(slot.buffer), slot.layout)
                }
            };
            sources.push(source);
            layouts.push(layout);
        }
        let layout = outputs.first().map_or(Layout::Plain, |meta| canonical(meta, give));
        // Before anything is reckoned with them.
        for meta in outputs {
            len_in(meta, canonical(meta, give))?;
        }
        let by_channels = by_channels.get(first).is_some_and(|&all| all);
        let site = Site { args, layouts: &layouts, outputs, layout, tier, threads, winograd, by_channels };
        match node.op.prepare(&site)? {
            Prepared::Alias => {
                let made = match sources.swap_remove(0) {
                    Source::Buffer(buffer) => buffer,
                    Source::Tensor(bytes) => {
                        let len = bytes.len();
                        self.buffer(Some(At::Tensor(bytes)), len, needed[first])
                    }
                    Source::Absent => return Err(Error::Graph("operand 0 is missing".into())),
                };
                let buffer = &mut self.buffers[made];
                buffer.needed = buffer.needed.max(needed[first]);
                self.slots[first][0] = Some(Slot { layout, buffer: made });
            }
            Prepared::Step(step) => {
                let mut made = vec![];
                for (id, meta) in (first..end).zip(outputs) {
                    let layout = canonical(meta, give);
                    let len = len_in(meta, layout)?;
                    let taken = step.in_place.filter(|_| id == first).and_then(|i| match &sources[i] {
                        Source::Buffer(b) => {
                            let buffer = &self.buffers[*b];
                            let twice =
                                sources.iter().filter(|s| matches!(s, Source::Buffer(o) if o == b)).count()
                                    > 1;
                            let free =
                                buffer.at.is_none() && buffer.needed == n && buffer.len == len && !twice;
                            free.then_some(*b)
                        }
                        _ => None,
                    });
                    let buffer = match taken {
                        Some(buffer) => {
                            self.buffers[buffer].needed = needed[id];
                            buffer
                        }
                        None => self.buffer(None, len, needed[id]),
                    };
                    self.slots[id][0] = Some(Slot { layout, buffer });
                    made.push(buffer);
                }
                self.push(Draft {
                    name: node.name.clone(),
                    op: node.op.name(),
                    node: Some(n),
                    step,
                    inputs: sources,
                    outputs: made,
                    shape: outputs.first().map_or_else(Vec::new, |meta| meta.shape.clone()),
                });
            }
        }
        Ok(())
    }

    /// Brings every output into the caller's memory.
    fn outputs(&mut self, tensors: &[Meta]) -> Result<Vec<Meta>> {
        let graph = self.graph;
        let mut metas = vec![];
        for (o, output) in graph.outputs.iter().enumerate() {
            let (source, meta) = match output.value {
                Ref::Value(id) => {
                    let slot = self.slot(id, Layout::Plain, &output.name)?;
                    let buffer = &mut self.buffers[slot.buffer];
                    metas.push(self.values[id].clone());
                    if buffer.at.is_none() {
                        buffer.at = Some(At::Output(o));
                        continue;
                    }
                    (Source::Buffer(slot.buffer), &self.values[id])
                }
                Ref::Tensor(id) => {
                    let Tensor::Plain(plain) = &graph.tensors[id] else {
                        return Err(Error::Graph(format!("output {:?} is a weight matrix", output.name)));
                    };
                    metas.push(tensors[id].clone());
                    (Source::Tensor(plain.bytes.clone()), &tensors[id])
                }
                Ref::Absent => return Err(Error::Graph(format!("output {:?} is nothing", output.name))),
            };
            let buffer = self.buffer(Some(At::Output(o)), meta.bytes()?, usize::MAX);
            self.push(Draft {
                name: output.name.clone(),
                op: "copy",
                node: None,
                step: copy(),
                inputs: vec![source],
                outputs: vec![buffer],
                shape: meta.shape.clone(),
            });
        }
        Ok(metas)
    }

    /// Packs what has no place into the arena.
    ///
    /// # Errors
    /// [`Error::Memory`] where it would be larger than an address space.
    fn place(self) -> Result<(Vec<Planned>, usize)> {
        let mut buffers = self.buffers;
        let mut order: Vec<usize> = (0..buffers.len()).filter(|&b| buffers[b].at.is_none()).collect();
        order.sort_by_key(|&b| (std::cmp::Reverse(buffers[b].len), buffers[b].life.0));
        let mut arena = 0;
        // (offset, end, life) of what is placed, by offset.
        let mut placed: Vec<(usize, usize, (usize, usize))> = vec![];
        for b in order {
            let (len, life) = (buffers[b].len.next_multiple_of(ALIGN), buffers[b].life);
            let mut offset = 0;
            for &(start, end, other) in &placed {
                if other.0 <= life.1 && life.0 <= other.1 {
                    if offset + len <= start {
                        break;
                    }
                    offset = offset.max(end);
                }
            }
            buffers[b].at = Some(At::Arena(offset));
            // Offsets stay below this, so the sums above fit as well.
            let end = offset.checked_add(len).filter(|&end| isize::try_from(end).is_ok());
            let end =
                end.ok_or_else(|| Error::Memory("a run needs more than an address space holds".into()))?;
            arena = arena.max(end);
            let index = placed.partition_point(|&(start, ..)| start < offset);
            placed.insert(index, (offset, end, life));
        }
        let place = |b: usize| Place {
            at: buffers[b].at.clone().expect("every buffer has a place by now"),
            len: buffers[b].len,
        };
        let planned = |draft: Draft| Planned {
            name: draft.name,
            op: draft.op,
            node: draft.node,
            step: draft.step,
            inputs: draft
                .inputs
                .into_iter()
                .map(|source| match source {
                    Source::Absent => Place { at: At::Absent, len: 0 },
                    Source::Buffer(b) => place(b),
                    Source::Tensor(bytes) => Place { len: bytes.len(), at: At::Tensor(bytes) },
                })
                .collect(),
            outputs: draft.outputs.into_iter().map(place).collect(),
            shape: draft.shape,
        };
        Ok((self.steps.into_iter().map(planned).collect(), arena))
    }
}
