//! Which nodes run, and which run together: dead nodes are dropped, epilogues are folded into their producers.

use super::{Span, Step};
use crate::graph::{Graph, Node, Source, ValueId};
use crate::ops::Op;

/// What is done to a step's first result in the pass that writes it: residual first, then ReLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Epilogue {
    /// The last input is added.
    pub residual: bool,
    /// `max(result, 0)`.
    pub relu: bool,
}

/// The steps that `outputs` and the updates need, with what can be folded folded.
pub(super) fn fuse(graph: &Graph, outputs: &[ValueId]) -> Vec<Step> {
    let mut fusion = Fusion::new(graph, outputs);
    let mut placed: Vec<Option<Step>> = vec![None; graph.nodes().len()];
    for index in 0..graph.nodes().len() {
        if fusion.live[index] && !fusion.absorbed[index] {
            let (position, step) = fusion.absorb_epilogue(index);
            placed[position] = Some(step);
        }
    }
    placed.into_iter().flatten().collect()
}

struct Fusion<'a> {
    graph: &'a Graph,
    live: Vec<bool>,
    absorbed: Vec<bool>,
    /// Live nodes that read each value; a value read from outside has none that may be folded.
    readers: Vec<Vec<usize>>,
    kept: Vec<bool>,
}

impl<'a> Fusion<'a> {
    fn new(graph: &'a Graph, outputs: &[ValueId]) -> Fusion<'a> {
        let mut kept = vec![false; graph.values().len()];
        let ends = outputs.iter().copied().chain(graph.updates().iter().map(|&(_, new)| new));
        ends.for_each(|id| kept[id.index()] = true);
        let live = live_nodes(graph, &kept);
        let mut readers = vec![Vec::new(); graph.values().len()];
        for (index, node) in graph.nodes().iter().enumerate().filter(|(index, _)| live[*index]) {
            node.inputs.iter().for_each(|id| readers[id.index()].push(index));
        }
        Fusion { graph, live, absorbed: vec![false; graph.nodes().len()], readers, kept }
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

    /// The step of node `index` with its epilogue, and the position of the last node that went into it.
    fn absorb_epilogue(&mut self, index: usize) -> (usize, Step) {
        let node = &self.graph.nodes()[index];
        let allowed = node.op.operator().epilogues();
        let (mut inputs, mut result, mut position) = (node.inputs.clone(), node.outputs[0], index);
        let mut epilogue = Epilogue::default();
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
        let mut outputs = node.outputs.clone();
        outputs[0] = result;
        let step = Step {
            name: node.name.clone(),
            op: node.op.clone(),
            epilogue,
            inputs,
            outputs,
            workspace: Span { offset: 0, len: 0 },
        };
        (position, step)
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
