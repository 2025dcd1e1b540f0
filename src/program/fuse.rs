//! Which nodes run, and which run together: dead nodes are dropped, epilogues are folded into their producers.

use super::pooling::{Pooling, pooling_of};
use super::{Span, Step, Target};
use crate::graph::{Graph, Node, Source, ValueId};
use crate::ops::{Normalise, Op};
use std::collections::HashMap;

/// What is done to a step's first result in the pass that writes it: norm first, then residual and ReLU, then sigmoid,
/// then statistics.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Epilogue {
    /// Instance norm with this epsilon. Gamma and beta are the inputs behind the operator's, the norm's statistics are one
    /// more result.
    pub norm: Option<f32>,
    /// The last input is added.
    pub residual: Option<Residual>,
    /// `max(result, 0)`.
    pub relu: bool,
    /// `1 / (1 + exp(-result))`.
    pub sigmoid: bool,
    /// One more result: of each channel of each sample the mean and `1 / sqrt(var + epsilon)`, with this epsilon. They
    /// are the second result of an [`crate::ops::InstanceNorm`] that follows, of which [`Normalise`] is left.
    pub statistics: Option<f32>,
}

/// When a residual is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Residual {
    /// Before ReLU, or without one.
    BeforeRelu,
    /// To what ReLU has left.
    AfterRelu,
}

impl Epilogue {
    /// How many of a step's inputs belong to it; they are the last ones.
    pub fn inputs(&self) -> usize {
        2 * usize::from(self.norm.is_some()) + usize::from(self.residual.is_some())
    }
}

/// The steps that `outputs` and the updates need, with what can be folded folded.
pub(super) fn fuse(graph: &Graph, outputs: &[ValueId], target: &dyn Target) -> Vec<Step> {
    let mut fusion = Fusion::new(graph, outputs, target);
    fusion.find_poolings();
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
    /// What the last nodes of several that are one step stand for.
    poolings: HashMap<usize, Pooling>,
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
        let poolings = HashMap::new();
        Fusion { graph, target, live, absorbed: none.clone(), measured: none, poolings, readers, kept }
    }

    /// Makes one step of the nodes of each multi-kernel pooling, if the device has one.
    fn find_poolings(&mut self) {
        for (index, node) in self.graph.nodes().iter().enumerate().filter(|(index, _)| self.live[*index]) {
            let pooling = pooling_of(self.graph, node, |value| self.only_reader(value).is_some());
            let Some(pooling) = pooling.filter(|pooling| self.target.has_step(&pooling.op.clone().into())) else {
                continue;
            };
            pooling.nodes.iter().for_each(|&part| self.absorbed[part] = true);
            self.poolings.insert(index, pooling);
        }
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

    /// Whether a step that begins with node `index` may run as late as node `to`: nothing in between needs that node's
    /// further results or replaces a state that the step reads.
    fn may_wait(&self, step: &Step, index: usize, to: usize) -> bool {
        let (node, nodes, updates) = (&self.graph.nodes()[index], self.graph.nodes(), self.graph.updates());
        let replaces = |new| updates.iter().any(|(state, by)| by == new && step.inputs.contains(state));
        let needs = |id| node.outputs[1..].contains(id);
        let between = (index + 1..to).filter(|&other| self.live[other]).map(|other| &nodes[other]);
        !between.into_iter().any(|other| other.inputs.iter().any(needs) || other.outputs.iter().any(replaces))
    }

    /// What a node has to do: with others before it, or, of a norm whose statistics are there, to apply them.
    fn rest_of(&self, index: usize) -> Step {
        let node = &self.graph.nodes()[index];
        let mut step = Step {
            name: node.name.clone(),
            op: node.op.clone(),
            prologue: None,
            epilogue: Epilogue::default(),
            inputs: node.inputs.clone(),
            outputs: node.outputs.clone(),
            workspace: Span { offset: 0, len: 0 },
            filter_is_its_own: false,
            convolutions_before: 0,
            convolutions_behind: 0,
        };
        if let Some(pooling) = self.poolings.get(&index) {
            step.op = pooling.op.clone().into();
            step.inputs.clone_from(&pooling.inputs);
        }
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
        let (mut position, mut step) = (index, self.rest_of(index));
        while let Some((reader, longer)) = self.longer(&step, index) {
            (position, step) = (reader, longer);
            self.absorbed[reader] = true;
        }
        let epilogue = |epsilon| Epilogue { statistics: Some(epsilon), ..step.epilogue };
        if step.epilogue.norm.is_none()
            && let Some((reader, epsilon)) = self.norm_of(step.outputs[0])
            && self.folds(&step, epilogue(epsilon))
        {
            step.epilogue = epilogue(epsilon);
            step.outputs.push(self.graph.nodes()[reader].outputs[1]);
            self.measured[reader] = true;
        }
        (position, step)
    }

    /// Node number and step, if the only reader of a step's result can be folded into it; it begins with node `index`.
    fn longer(&self, step: &Step, index: usize) -> Option<(usize, Step)> {
        let result = step.outputs[0];
        let (reader, node) = self.only_reader(result)?;
        let mut longer = step.clone();
        let then = &mut longer.epilogue;
        match &node.op {
            Op::InstanceNorm(norm) if *then == Epilogue::default() && node.inputs[0] == result => {
                // Whoever reads the statistics might do so before the step has run.
                if !self.readers[node.outputs[1].index()].is_empty() {
                    return None;
                }
                then.norm = Some(norm.epsilon);
                longer.inputs.extend(&node.inputs[1..]);
                longer.outputs.push(node.outputs[1]);
            }
            _ if then.sigmoid => return None,
            Op::Add(_) if then.residual.is_none() => {
                then.residual = Some(if then.relu { Residual::AfterRelu } else { Residual::BeforeRelu });
                longer.inputs.push(if node.inputs[0] == result { node.inputs[1] } else { node.inputs[0] });
            }
            Op::Relu(_) if !then.relu => then.relu = true,
            Op::Sigmoid(_) => then.sigmoid = true,
            _ => return None,
        }
        longer.outputs[0] = node.outputs[0];
        let folds = self.may_wait(&longer, index, reader) && self.folds(&longer, longer.epilogue);
        folds.then_some((reader, longer))
    }

    /// Whether the device can do all this where it writes the step's result.
    fn folds(&self, step: &Step, epilogue: Epilogue) -> bool {
        self.target.folds(&step.op, self.graph.shape(step.outputs[0]), &epilogue)
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
