//! Multi-kernel pooling, found among the nodes that say the same.

use crate::graph::{Graph, Node, Shape, Source, ValueId};
use crate::ops::{Conv, MaxPool, MultiKernelPooling, Op};

/// Nodes that one operator stands for.
pub(super) struct Pooling {
    pub op: MultiKernelPooling,
    /// Of the operator.
    pub inputs: Vec<ValueId>,
    /// All of them but the concatenation.
    pub nodes: Vec<usize>,
}

/// What a concatenation is the end of, if its parts but the last are pools of that one, projected to one channel each by the
/// same filter and resized. `is_inner` says of a value whether nobody but one node reads it.
pub(super) fn pooling_of(graph: &Graph, node: &Node, is_inner: impl Fn(ValueId) -> bool) -> Option<Pooling> {
    let (&x, parts) = node.inputs.split_last().filter(|_| matches!(node.op, Op::Concatenate(_)))?;
    let maker = |id: ValueId| match graph.value(id).source {
        Source::Node(index) if is_inner(id) => Some((index, &graph.nodes()[index])),
        _ => None,
    };
    let (mut kernels, mut nodes, mut inputs) = (Vec::new(), Vec::new(), None);
    for &part in parts {
        let (resize, resized) = maker(part).filter(|(_, node)| matches!(node.op, Op::Resize(_)))?;
        let (conv, projected) = maker(resized.inputs[0]).filter(|(_, node)| node.op == Conv::same(1).into())?;
        let (pool, pooled) = maker(projected.inputs[0])?;
        let Op::MaxPool(max_pool) = pooled.op else { return None };
        let is_single =
            matches!(graph.shape(projected.inputs[1]), Shape::Filter { outputs: 1, height: 1, width: 1, .. });
        let is_shared = *inputs.get_or_insert(&projected.inputs[1..]) == &projected.inputs[1..];
        if pooled.inputs[0] != x || max_pool != MaxPool::tiled(max_pool.kernel) || !is_single || !is_shared {
            return None;
        }
        kernels.push(max_pool.kernel);
        nodes.extend([pool, conv, resize]);
    }
    let inputs = [&[x], inputs?].concat();
    Some(Pooling { op: MultiKernelPooling { kernels }, inputs, nodes })
}
