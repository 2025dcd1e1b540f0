//! Programs: a graph lowered for one device to a flat list of steps over one memory arena.
//!
//! Lowering drops what no result needs, folds what follows an operator (norm, residual, ReLU) into its step as far as the
//! device can do that, and gives each value an offset in the arena so that values whose lifetimes do not overlap share memory. While a program runs there
//! is no allocation, no branching on shapes and no naming: a device binds each step once and then only executes.

mod arena;
mod fuse;
mod pooling;
mod prologue;
mod table;

pub use arena::{Placement, Span};
pub use fuse::{Epilogue, Residual};
pub use prologue::Prologue;

use crate::error::{Error, Result};
use crate::graph::{Graph, Shape, Source, Value, ValueId};
use crate::ops::Op;

/// What lowering must know about a device.
pub trait Target {
    /// How many float32 numbers a value occupies there, padding included.
    fn storage(&self, shape: Shape) -> usize;

    /// Whether the step of an operator can do all that an epilogue asks for as it writes its first result, of this shape.
    fn folds(&self, op: &Op, result: Shape, epilogue: &Epilogue) -> bool {
        let _ = (op, result, epilogue);
        false
    }

    /// Whether a step with a [`Step::prologue`] can be run, whose inputs have these shapes.
    fn norms_first(&self, step: &Step, inputs: &[Shape]) -> bool {
        let _ = (step, inputs);
        false
    }

    /// Whether the device has one step for an operator that stands for several nodes of a graph.
    fn has_step(&self, op: &Op) -> bool {
        let _ = op;
        false
    }

    /// How many float32 numbers of scratch memory a step needs while it runs there. `inputs` and `outputs` are the shapes
    /// of its operands and results.
    fn workspace(&self, step: &Step, inputs: &[Shape], outputs: &[Shape]) -> usize;

    /// How many float32 numbers the filter of a step with [`Step::filter_is_its_own`] occupies there; not
    /// [`Target::storage`] where the device keeps it in a form of its own.
    fn filter_storage(&self, step: &Step, inputs: &[Shape]) -> usize {
        let _ = step;
        self.storage(inputs[1])
    }
}

/// One operator, ready to be bound to memory.
#[derive(Debug, Clone)]
pub struct Step {
    /// The node's name.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// What is done to the first input as it is read.
    pub prologue: Option<Prologue>,
    /// What is done to the first result as it is written.
    pub epilogue: Epilogue,
    /// The operator's inputs, then statistics, gamma and beta if there is a prologue, then gamma and beta if the epilogue has
    /// a norm, then the residual if it has one.
    pub inputs: Vec<ValueId>,
    /// The operator's results, then the statistics if the epilogue takes any.
    pub outputs: Vec<ValueId>,
    /// Scratch memory, used by no other step's values meanwhile.
    pub workspace: Span,
    /// Of a convolution, or a transposed one: whether nobody but steps like it, on maps of the same shape, reads its filter, and
    /// no run of a program that replaces states changes it. The device may then keep the filter in whatever form such steps
    /// like.
    pub filter_is_its_own: bool,
    /// The convolutions on the longest way to this step, and on the longest way from it; what is rounded early goes through
    /// all that follow. Convolutions that share a filter of their own have the least before and the most behind them.
    pub convolutions_before: usize,
    /// See [`Step::convolutions_before`].
    pub convolutions_behind: usize,
}

impl Step {
    /// How many of the inputs are the operator's; they are the first ones.
    pub fn operands(&self) -> usize {
        let of_prologue = self.prologue.map_or(0, |_| Prologue::INPUTS);
        self.inputs.len() - of_prologue - self.epilogue.inputs()
    }

    /// The filter of [`Step::filter_is_its_own`].
    pub fn own_filter(&self) -> Option<ValueId> {
        self.filter_is_its_own.then(|| self.inputs[1])
    }
}

/// A graph lowered for one device.
#[derive(Debug, Clone)]
pub struct Program {
    values: Vec<Value>,
    spans: Vec<Option<Span>>,
    steps: Vec<Step>,
    outputs: Vec<ValueId>,
    updates: Vec<(ValueId, ValueId)>,
    arena_len: usize,
    state_len: usize,
    unshared_len: usize,
    placement: Placement,
}

impl Program {
    /// Lowers what `outputs` and the graph's updates need.
    ///
    /// # Errors
    /// [`Error::Request`] when an update cannot be made in place.
    pub fn lower(graph: &Graph, outputs: &[ValueId], target: &dyn Target, placement: Placement) -> Result<Program> {
        let mut steps = fuse::fuse(graph, outputs, target);
        check_order(graph, &steps)?;
        find_own_filters(graph, outputs, &mut steps);
        count_convolutions(graph, &mut steps);
        prologue::fold(graph, outputs, &mut steps, target);
        let plan = arena::plan(graph, outputs, &mut steps, target, placement)?;
        Ok(Program {
            values: graph.values().to_vec(),
            spans: plan.spans,
            steps,
            outputs: outputs.to_vec(),
            updates: graph.updates().to_vec(),
            arena_len: plan.arena_len,
            state_len: plan.state_len,
            unshared_len: plan.unshared_len,
            placement,
        })
    }

    /// The steps in the order they run.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The values that can be read after a run.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// One value's name and shape.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// Where a value lies, or `None` when the program does not need it.
    pub fn span(&self, id: ValueId) -> Option<Span> {
        self.spans[id.index()]
    }

    /// Whether a value replaces a state, in the state's own memory.
    pub fn is_update(&self, id: ValueId) -> bool {
        self.updates.iter().any(|&(_, new)| new == id)
    }

    /// Whether a value is a state that a run replaces.
    pub fn is_updated(&self, id: ValueId) -> bool {
        self.updates.iter().any(|&(state, _)| state == id)
    }

    /// Whether a run replaces states: the program is a training step.
    pub fn trains(&self) -> bool {
        !self.updates.is_empty()
    }

    /// Whether a value may be read after a run: it is an output, an input or a state.
    pub fn is_readable(&self, id: ValueId) -> bool {
        let kept = self.outputs.contains(&id) || self.is_update(id);
        self.span(id).is_some() && (kept || !matches!(self.value(id).source, Source::Node(_)))
    }

    /// How values are laid out.
    pub fn placement(&self) -> Placement {
        self.placement
    }

    /// The ranges of the arena that belong to no value and no workspace: guards and padding for alignment.
    pub fn unused_spans(&self) -> Vec<Span> {
        let workspaces = self.steps.iter().map(|step| step.workspace);
        let mut used: Vec<Span> =
            self.spans.iter().copied().flatten().chain(workspaces).filter(|s| s.len > 0).collect();
        used.sort_unstable_by_key(|span| span.offset);
        let (mut unused, mut next) = (Vec::new(), 0);
        for span in used {
            if span.offset > next {
                unused.push(Span { offset: next, len: span.offset - next });
            }
            next = next.max(span.offset + span.len);
        }
        unused.push(Span { offset: next, len: self.arena_len - next });
        unused
    }

    /// Float32 numbers in the arena: states, inputs, values and workspaces.
    pub fn arena_len(&self) -> usize {
        self.arena_len
    }

    /// Float32 numbers of the arena that hold states.
    pub fn state_len(&self) -> usize {
        self.state_len
    }

    /// Float32 numbers the arena would have if no two values shared memory.
    pub fn unshared_len(&self) -> usize {
        self.unshared_len
    }

    /// Floating-point operations of a run, a multiply-add counted as two.
    pub fn flops(&self) -> u64 {
        self.steps.iter().map(|step| self.step_flops(step)).sum()
    }

    /// Multiply-adds of the convolutions of a run.
    pub fn macs(&self) -> u64 {
        let convolutions = self.steps.iter().filter(|step| step.op.operator().is_convolution());
        convolutions.map(|step| self.op_flops(step) / 2).sum()
    }

    /// Floating-point operations of a step, prologue and epilogue included.
    pub fn step_flops(&self, step: &Step) -> u64 {
        let first = step.prologue.map_or(0, |prologue| {
            let read = self.value(step.inputs[0]).shape.elements() as u64;
            read * (4 + u64::from(prologue.relu))
        });
        let results = self.value(step.outputs[0]).shape.elements() as u64;
        let Epilogue { norm, residual, relu, sigmoid, statistics } = step.epilogue;
        let each = 8 * u64::from(norm.is_some())
            + u64::from(residual.is_some())
            + u64::from(relu)
            + 4 * u64::from(sigmoid)
            + 4 * u64::from(statistics.is_some());
        first + self.op_flops(step) + results * each
    }

    fn op_flops(&self, step: &Step) -> u64 {
        let shapes = |ids: &[ValueId]| ids.iter().map(|&id| self.value(id).shape).collect::<Vec<_>>();
        step.op.operator().flops(&shapes(&step.inputs[..step.operands()]), &shapes(&step.outputs))
    }
}

/// Marks the convolutions that may keep their filters as they like.
fn find_own_filters(graph: &Graph, outputs: &[ValueId], steps: &mut [Step]) {
    if !graph.updates().is_empty() {
        return;
    }
    let alike = |a: &Step, b: &Step| a.op == b.op && graph.shape(a.inputs[0]) == graph.shape(b.inputs[0]);
    let own = |step: &Step| {
        let (Op::Conv(_) | Op::TransposedConv(_)) = step.op else { return false };
        let filter = step.inputs[1];
        let given = !matches!(graph.value(filter).source, Source::Node(_)) && !outputs.contains(&filter);
        let reads = |other: &Step| other.inputs.iter().filter(|&&id| id == filter).count();
        let readers = steps.iter().map(|other| (reads(other), other)).filter(|(reads, _)| *reads > 0);
        given && readers.into_iter().all(|(reads, other)| reads == 1 && alike(step, other) && other.inputs[1] == filter)
    };
    let marks: Vec<bool> = steps.iter().map(own).collect();
    steps.iter_mut().zip(marks).for_each(|(step, mark)| step.filter_is_its_own = mark);
}

/// Every step's operands must come from earlier steps, whatever fusion has moved.
fn check_order(graph: &Graph, steps: &[Step]) -> Result<()> {
    let mut made: Vec<bool> = graph.values().iter().map(|v| !matches!(v.source, Source::Node(_))).collect();
    for step in steps {
        if let Some(missing) = step.inputs.iter().find(|id| !made[id.index()]) {
            let problem = format!("reads {} before it is computed", graph.value(*missing).name);
            return Err(Error::Shape { node: step.name.clone(), problem });
        }
        step.outputs.iter().for_each(|id| made[id.index()] = true);
    }
    Ok(())
}

/// Counts the convolutions before and behind each step.
fn count_convolutions(graph: &Graph, steps: &mut [Step]) {
    let counts = |step: &Step| usize::from(matches!(step.op, Op::Conv(_) | Op::TransposedConv(_)));
    let most = |depths: &[usize], ids: &[ValueId]| ids.iter().map(|id| depths[id.index()]).max().unwrap_or(0);
    let mut before = vec![0; graph.values().len()];
    for step in steps.iter_mut() {
        step.convolutions_before = most(&before, &step.inputs);
        step.outputs.iter().for_each(|id| before[id.index()] = step.convolutions_before + counts(step));
    }
    let mut behind = vec![0; graph.values().len()];
    for step in steps.iter_mut().rev() {
        step.convolutions_behind = most(&behind, &step.outputs);
        let through = step.convolutions_behind + counts(step);
        step.inputs.iter().for_each(|id| behind[id.index()] = through.max(behind[id.index()]));
    }
    for index in 0..steps.len() {
        let Some(filter) = steps[index].own_filter() else { continue };
        let alike = || steps.iter().filter(|step| step.own_filter() == Some(filter));
        let before = alike().map(|step| step.convolutions_before).min();
        let behind = alike().map(|step| step.convolutions_behind).max();
        (steps[index].convolutions_before, steps[index].convolutions_behind) =
            (before.unwrap_or(0), behind.unwrap_or(0));
    }
}
