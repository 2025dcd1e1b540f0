//! Which nodes run, and which run together: dead nodes are dropped, epilogues are folded into their producers.

use super::{Span, Step, Target};
use crate::graph::{Graph, Node, Source, ValueId};
use crate::ops::{Normalise, Op};

/// What is done to a step's first result in the pass that writes it: residual first, then ReLU, then statistics.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Epilogue {
    /// The last input is added.
    pub residual: bool,
    /// `max(result, 0)`.
    pub relu: bool,
    /// One more result: of each channel of each sample the mean and `1 / sqrt(var + epsilon)`, with this epsilon. They
    /// are the second result of an [`crate::ops::InstanceNorm`] that follows, of which [`Normalise`] is left.
    pub statistics: Option<f32>,
}

/// The steps that `outputs` and the updates need, with what can be folded folded.
pub(super) fn fuse(graph: &Graph, outputs: &[ValueId], target: &dyn Target) -> Vec<Step> {
    let mut fusion = Fusion::new(graph, outputs, target);
    let mut placed: Vec<Option<Step>> = vec![None; graph.nodes().len()];
    for index in 0..graph.nodes().len() {
        if fusion.live[index] && !fusion.absorbed[index] {
            let (position, step) = fusion.step_of(index);
            placed[position] = Some(step);
        }
    }
    placed.into_iter().flatten().collect()
}

struct Fusion<'a> {
    graph: &'a Graph,
    target: &'a dyn Target,
    live: Vec<bool>,
    absorbed: Vec<bool>,
    /// Norms whose statistics an earlier step takes.
    measured: Vec<bool>,
    /// Live nodes that read each value; a value read from outside has none that may be folded.
    readers: Vec<Vec<usize>>,
    kept: Vec<bool>,
}

impl<'a> Fusion<'a> {
    fn new(graph: &'a Graph, outputs: &[ValueId], target: &'a dyn Target) -> Fusion<'a> {
        let mut kept = vec![false; graph.values().len()];
        let ends = outputs.iter().copied().chain(graph.updates().iter().map(|&(_, new)| new));
        ends.for_each(|id| kept[id.index()] = true);
        let live = live_nodes(graph, &kept);
        let mut readers = vec![Vec::new(); graph.values().len()];
        for (index, node) in graph.nodes().iter().enumerate().filter(|(index, _)| live[*index]) {
            node.inputs.iter().for_each(|id| readers[id.index()].push(index));
        }
        let none = vec![false; graph.nodes().len()];
        Fusion { graph, target, live, absorbed: none.clone(), measured: none, readers, kept }
    }

    /// The one node that reads `value`, if nobody else needs it.
    fn only_reader(&self, value: ValueId) -> Option<(usize, &'a Node)> {
        match self.readers[value.index()][..] {
            [reader] if !self.kept[value.index()] && !self.absorbed[reader] => {
                Some((reader, &self.graph.nodes()[reader]))
            }
            _ => None,
        }
    }

    /// Whether node `index` may run as late as node `to`: nothing in between needs its further results or replaces a
    /// state that it reads.
    fn may_wait(&self, index: usize, to: usize) -> bool {
        let (node, nodes, updates) = (&self.graph.nodes()[index], self.graph.nodes(), self.graph.updates());
        let replaces = |new| updates.iter().any(|(state, by)| by == new && node.inputs.contains(state));
        let needs = |id| node.outputs[1..].contains(id);
        let between = (index + 1..to).filter(|&other| self.live[other]).map(|other| &nodes[other]);
        !between.into_iter().any(|other| other.inputs.iter().any(needs) || other.outputs.iter().any(replaces))
    }

    /// What is left to do of a node: of a norm whose statistics are there, to apply them.
    fn rest_of(&self, index: usize) -> Step {
        let node = &self.graph.nodes()[index];
        let mut step = Step {
            name: node.name.clone(),
            op: node.op.clone(),
            epilogue: Epilogue::default(),
            inputs: node.inputs.clone(),
            outputs: node.outputs.clone(),
            workspace: Span { offset: 0, len: 0 },
        };
        if self.measured[index] {
            step.op = Normalise.into();
            step.inputs.insert(1, node.outputs[1]);
            step.outputs.truncate(1);
        }
        step
    }

    /// The norm of a value whose statistics the step that computes it shall take: its node, its epsilon.
    fn norm_of(&self, value: ValueId) -> Option<(usize, f32)> {
        self.readers[value.index()].iter().find_map(|&reader| match self.graph.nodes()[reader].op {
            Op::InstanceNorm(norm) => Some((reader, norm.epsilon)),
            _ => None,
        })
    }

    /// The step of node `index` with its epilogue, and the position of the last node that went into it.
    fn step_of(&mut self, index: usize) -> (usize, Step) {
        let Step { name, op, mut epilogue, mut inputs, mut outputs, workspace } = self.rest_of(index);
        let allowed = op.operator().epilogues();
        let (mut result, mut position) = (outputs[0], index);
        if allowed.residual
            && let Some((reader, add @ Node { op: Op::Add(_), .. })) = self.only_reader(result)
            && self.may_wait(index, reader)
        {
            let other = if add.inputs[0] == result { add.inputs[1] } else { add.inputs[0] };
            inputs.push(other);
            (result, position, epilogue.residual) = (add.outputs[0], reader, true);
            self.absorbed[reader] = true;
        }
        if allowed.relu
            && let Some((reader, relu @ Node { op: Op::Relu(_), .. })) = self.only_reader(result)
            && self.may_wait(index, reader)
        {
            (result, position, epilogue.relu) = (relu.outputs[0], reader, true);
            self.absorbed[reader] = true;
        }
        outputs[0] = result;
        if allowed.statistics
            && self.target.takes_statistics(&op)
            && let Some((reader, epsilon)) = self.norm_of(result)
        {
            epilogue.statistics = Some(epsilon);
            outputs.push(self.graph.nodes()[reader].outputs[1]);
            self.measured[reader] = true;
        }
        (position, Step { name, op, epilogue, inputs, outputs, workspace })
    }
}

fn live_nodes(graph: &Graph, kept: &[bool]) -> Vec<bool> {
    let mut needed = kept.to_vec();
    let mut live = vec![false; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        live[index] = node.outputs.iter().any(|id| needed[id.index()]);
        if live[index] {
            node.inputs.iter().for_each(|id| needed[id.index()] = true);
        }
    }
    debug_assert!(
        graph.values().iter().zip(&needed).all(|(v, n)| !n || !matches!(v.source, Source::Node(i) if !live[i]))
    );
    live
}
