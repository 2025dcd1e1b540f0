//! Memory planning: one arena, one offset for each value, memory shared by values that are never alive together.
//!
//! Buffers are placed largest first, each into the tightest gap that its lifetime leaves free (greedy by size, Pisarchyk
//! and Lee 2020). A result may take over its input's buffer where the operator allows it and nobody needs the input
//! any more; an updated state always keeps its own buffer.

use super::{Step, Target};
use crate::error::{Error, Result};
use crate::graph::{Graph, Shape, Source, ValueId};

/// A range of the arena, in float32 numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First number.
    pub offset: usize,
    /// How many.
    pub len: usize,
}

/// How values are laid out in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Values whose lifetimes do not overlap share memory.
    Shared,
    /// Each value has memory of its own with this many unused numbers on both sides, to find overruns and stale reads.
    Isolated {
        /// Unused numbers on each side.
        guard: usize,
    },
}

/// Offsets are multiples of this, a cache line of 16 float32 numbers.
pub(super) const ALIGNMENT: usize = 16;

pub(super) struct Plan {
    pub spans: Vec<Option<Span>>,
    pub arena_len: usize,
    pub state_len: usize,
    pub unshared_len: usize,
}

/// Memory alive from step `first` to step `last`, both included.
#[derive(Debug, Clone)]
struct Buffer {
    len: usize,
    first: usize,
    last: usize,
    offset: usize,
}

pub(super) fn plan(
    graph: &Graph,
    outputs: &[ValueId],
    steps: &mut [Step],
    target: &dyn Target,
    placement: Placement,
) -> Result<Plan> {
    let mut planner = Planner::new(graph, outputs, steps, target, placement);
    planner.assign_buffers(graph, steps)?;
    planner.check_updates(graph)?;
    let workspaces: Vec<usize> =
        steps.iter().enumerate().map(|(at, step)| planner.workspace(graph, at, step)).collect();
    let (state_len, arena_len) = planner.place();
    for (step, buffer) in steps.iter_mut().zip(workspaces) {
        let Buffer { offset, len, .. } = planner.buffers[buffer];
        step.workspace = Span { offset, len };
    }
    let spans: Vec<Option<Span>> = planner
        .buffer_of
        .iter()
        .enumerate()
        .map(|(value, buffer)| {
            let len = planner.lens[value];
            buffer.map(|b| Span { offset: planner.buffers[b].offset, len })
        })
        .collect();
    let unshared_len = spans.iter().flatten().map(|span| span.len.next_multiple_of(ALIGNMENT)).sum::<usize>()
        + steps.iter().map(|step| step.workspace.len.next_multiple_of(ALIGNMENT)).sum::<usize>();
    Ok(Plan { spans, arena_len, state_len, unshared_len })
}

/// How many numbers each value occupies.
fn lens(graph: &Graph, steps: &[Step], target: &dyn Target) -> Vec<usize> {
    let mut lens: Vec<usize> = graph.values().iter().map(|value| target.storage(value.shape)).collect();
    for step in steps {
        if let Some(filter) = step.own_filter() {
            let shapes: Vec<Shape> = step.inputs.iter().map(|&id| graph.shape(id)).collect();
            lens[filter.index()] = target.filter_storage(step, &shapes);
        }
    }
    lens
}

struct Planner<'a> {
    target: &'a dyn Target,
    placement: Placement,
    buffers: Vec<Buffer>,
    buffer_of: Vec<Option<usize>>,
    /// Numbers of each value.
    lens: Vec<usize>,
    last_read: Vec<usize>,
    end: usize,
    /// The first buffers hold states; they are placed first, one after the other.
    states: usize,
}

impl<'a> Planner<'a> {
    fn new(
        graph: &Graph,
        outputs: &[ValueId],
        steps: &[Step],
        target: &'a dyn Target,
        placement: Placement,
    ) -> Planner<'a> {
        let end = steps.len();
        let mut last_read = vec![0; graph.values().len()];
        for (at, step) in steps.iter().enumerate() {
            step.inputs.iter().for_each(|id| last_read[id.index()] = at);
        }
        outputs.iter().for_each(|id| last_read[id.index()] = end);
        let buffer_of = vec![None; graph.values().len()];
        let lens = lens(graph, steps, target);
        Planner { target, placement, buffers: Vec::new(), buffer_of, lens, last_read, end, states: 0 }
    }

    fn assign_buffers(&mut self, graph: &Graph, steps: &[Step]) -> Result<()> {
        let used = |id: ValueId| steps.iter().any(|s| s.inputs.contains(&id)) || self.last_read[id.index()] == self.end;
        let given: Vec<ValueId> =
            graph.ids().filter(|&id| !matches!(graph.value(id).source, Source::Node(_)) && used(id)).collect();
        let (states, inputs): (Vec<ValueId>, Vec<ValueId>) =
            given.into_iter().partition(|&id| graph.value(id).source == Source::State);
        self.states = states.len();
        for id in states.into_iter().chain(inputs) {
            self.last_read[id.index()] = self.end;
            self.new_buffer(id, 0);
        }
        for (at, step) in steps.iter().enumerate() {
            for (position, &output) in step.outputs.iter().enumerate() {
                let updated = graph.updates().iter().find(|&&(_, new)| new == output).map(|&(state, _)| state);
                match updated {
                    Some(state) => self.update_in_place(graph, steps, at, (position, output), state)?,
                    None => match self.reusable_input(graph, at, step, position) {
                        Some(buffer) => {
                            self.buffer_of[output.index()] = Some(buffer);
                            let last = self.last_read[output.index()].max(at);
                            self.buffers[buffer].last = self.buffers[buffer].last.max(last);
                        }
                        None => self.new_buffer(output, at),
                    },
                }
            }
        }
        Ok(())
    }

    /// Every update must have been made in its state's own memory, by some step.
    fn check_updates(&self, graph: &Graph) -> Result<()> {
        let ignored = graph.updates().iter().find(|(state, new)| {
            let (old, new) = (self.buffer_of[state.index()], self.buffer_of[new.index()]);
            old.is_none() || old != new
        });
        match ignored {
            None => Ok(()),
            Some((state, new)) => {
                let (state, new) = (&graph.value(*state).name, &graph.value(*new).name);
                Err(Error::Request(format!(
                    "{state} cannot be updated by {new}: no step computes it for this state alone"
                )))
            }
        }
    }

    fn new_buffer(&mut self, id: ValueId, first: usize) {
        let last = self.last_read[id.index()].max(first);
        self.buffer_of[id.index()] = Some(self.buffers.len());
        self.buffers.push(Buffer { len: self.lens[id.index()], first, last, offset: 0 });
    }

    fn workspace(&mut self, graph: &Graph, at: usize, step: &Step) -> usize {
        let shapes = |ids: &[ValueId]| ids.iter().map(|&id| graph.shape(id)).collect::<Vec<Shape>>();
        let len = self.target.workspace(step, &shapes(&step.inputs), &shapes(&step.outputs));
        self.buffers.push(Buffer { len, first: at, last: at, offset: 0 });
        self.buffers.len() - 1
    }

    /// The buffer of an input that the result may take over.
    fn reusable_input(&self, graph: &Graph, at: usize, step: &Step, position: usize) -> Option<usize> {
        if self.placement != Placement::Shared {
            return None;
        }
        let output = graph.shape(step.outputs[position]);
        let candidates = step.op.operator().in_place().iter().filter(|&&(_, result)| result == position);
        candidates.map(|&(input, _)| step.inputs[input]).find_map(|id| {
            let dead = self.last_read[id.index()] == at && matches!(graph.value(id).source, Source::Node(_));
            let buffer = self.buffer_of[id.index()]?;
            // The buffer may have been taken over already by another result of this step, or outlive this value.
            let free = self.buffers[buffer].last == at;
            let taken = step.outputs.iter().any(|o| self.buffer_of[o.index()] == Some(buffer));
            (dead && free && !taken && graph.shape(id) == output).then_some(buffer)
        })
    }

    fn update_in_place(
        &mut self,
        graph: &Graph,
        steps: &[Step],
        at: usize,
        (position, output): (usize, ValueId),
        state: ValueId,
    ) -> Result<()> {
        let step = &steps[at];
        let in_place = step
            .op
            .operator()
            .in_place()
            .iter()
            .any(|&(input, result)| result == position && step.inputs[input] == state);
        let read_later = steps[at + 1..].iter().any(|later| later.inputs.contains(&state));
        if !in_place || read_later {
            let name = &graph.value(state).name;
            return Err(Error::Request(format!("{name} cannot be updated in place by {}", step.name)));
        }
        self.buffer_of[output.index()] = self.buffer_of[state.index()];
        Ok(())
    }

    /// Gives every buffer its offset; returns the length of the states and of the whole arena.
    fn place(&mut self) -> (usize, usize) {
        let guard = match self.placement {
            Placement::Shared => 0,
            Placement::Isolated { guard } => guard.next_multiple_of(ALIGNMENT),
        };
        let (mut next, mut state_len) = (guard, 0);
        for (index, buffer) in self.buffers.iter_mut().enumerate() {
            if index < self.states || self.placement != Placement::Shared {
                buffer.offset = next;
                next += buffer.len.next_multiple_of(ALIGNMENT) + guard;
            }
            if index < self.states {
                state_len = next;
            }
        }
        if self.placement != Placement::Shared {
            return (state_len, next);
        }
        let mut order: Vec<usize> = (self.states..self.buffers.len()).filter(|&b| self.buffers[b].len > 0).collect();
        order.sort_by_key(|&b| (std::cmp::Reverse(self.buffers[b].len), self.buffers[b].first, b));
        let mut arena_len = next;
        let mut placed: Vec<usize> = Vec::new();
        for index in order {
            let offset = self.tightest_gap(&placed, index, state_len);
            self.buffers[index].offset = offset;
            arena_len = arena_len.max(offset + self.buffers[index].len.next_multiple_of(ALIGNMENT));
            let position = placed.partition_point(|&b| self.buffers[b].offset <= offset);
            placed.insert(position, index);
        }
        (state_len, arena_len)
    }

    /// The start of the smallest gap that holds buffer `index`, among those alive with it; `placed` is by offset.
    fn tightest_gap(&self, placed: &[usize], index: usize, floor: usize) -> usize {
        let buffer = &self.buffers[index];
        let len = buffer.len.next_multiple_of(ALIGNMENT);
        let (mut cursor, mut best) = (floor, None::<(usize, usize)>);
        for other in placed.iter().map(|&b| &self.buffers[b]) {
            if other.last < buffer.first || buffer.last < other.first {
                continue;
            }
            let gap = other.offset.saturating_sub(cursor);
            if gap >= len && best.is_none_or(|(size, _)| gap < size) {
                best = Some((gap, cursor));
            }
            cursor = cursor.max(other.offset + other.len.next_multiple_of(ALIGNMENT));
        }
        best.map_or(cursor, |(_, offset)| offset)
    }
}
