//! Reverse-mode differentiation: walks the graph backwards and lets each operator add the nodes of its gradient.

use super::{Graph, Node, Shape, ValueId};
use crate::error::{Error, Result};
use crate::ops::{Add, Fill};

/// What an operator's gradient rule sees: its node and the gradients of the scalar with respect to its results.
#[derive(Debug)]
pub struct Backward<'a> {
    /// The graph to add nodes to.
    pub graph: &'a mut Graph,
    /// The node being differentiated.
    pub node: &'a Node,
    /// For each result, the gradient with respect to it, or `None` when the scalar does not depend on it.
    pub cotangents: &'a [Option<ValueId>],
    /// For each input, whether its gradient is wanted.
    pub wanted: &'a [bool],
}

impl Backward<'_> {
    /// The gradient with respect to the first result.
    ///
    /// # Errors
    /// [`Error::Request`] when another result reaches the scalar: such results (statistics) are not differentiable.
    pub fn cotangent(&self) -> Result<ValueId> {
        match self.cotangents {
            [Some(first), others @ ..] if others.iter().all(Option::is_none) => Ok(*first),
            _ => {
                let name = &self.node.name;
                Err(Error::Request(format!("{name}: only the first result of this operator is differentiable")))
            }
        }
    }

    /// Adds a gradient node named after the differentiated one, if input `input` wants it.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn when_wanted(
        &mut self,
        input: usize,
        op: impl Into<crate::ops::Op>,
        inputs: &[ValueId],
    ) -> Result<Option<ValueId>> {
        if !self.wanted.get(input).copied().unwrap_or(false) {
            return Ok(None);
        }
        let name = format!("{}/grad{input}", self.node.name);
        self.graph.apply_one(&name, op, inputs).map(Some)
    }
}

impl Graph {
    /// Adds the gradient of the scalar `of` with respect to each value of `with_respect_to`, in that order.
    ///
    /// A value that `of` does not depend on gets a gradient of zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] when `of` is no scalar; [`Error::Request`] when an operator on the way has no gradient.
    pub fn differentiate(&mut self, of: ValueId, with_respect_to: &[ValueId]) -> Result<Vec<ValueId>> {
        if self.shape(of) != Shape::Scalar {
            let value = self.value(of);
            let problem = format!("only a scalar can be differentiated, not {}", value.shape);
            return Err(Error::Shape { node: value.name.clone(), problem });
        }
        let seed = self.apply_one("seed", Fill { shape: Shape::Scalar, value: 1.0 }, &[])?;
        self.pull_back(&[(of, seed)], with_respect_to)
    }

    /// Adds the vector-Jacobian product: the gradient of `sum(value * cotangent)` over all `seeds`.
    ///
    /// # Errors
    /// As [`Graph::differentiate`].
    pub fn pull_back(&mut self, seeds: &[(ValueId, ValueId)], with_respect_to: &[ValueId]) -> Result<Vec<ValueId>> {
        let depends = self.dependents(with_respect_to);
        let mut gradients: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for &(value, cotangent) in seeds {
            self.accumulate(&mut gradients[value.index()], cotangent)?;
        }
        for index in (0..self.nodes.len()).rev() {
            let node = self.nodes[index].clone();
            let cotangents: Vec<Option<ValueId>> =
                node.outputs.iter().map(|id| gradients.get(id.index()).copied().flatten()).collect();
            let wanted: Vec<bool> =
                node.inputs.iter().map(|id| depends.get(id.index()).copied().unwrap_or(false)).collect();
            if cotangents.iter().all(Option::is_none) || !wanted.contains(&true) {
                continue;
            }
            let op = node.op.clone();
            let backward = Backward { graph: self, node: &node, cotangents: &cotangents, wanted: &wanted };
            let contributions = op.operator().gradient(backward)?;
            for (input, contribution) in node.inputs.iter().zip(contributions) {
                if let Some(gradient) = contribution {
                    self.accumulate(&mut gradients[input.index()], gradient)?;
                }
            }
        }
        with_respect_to.iter().map(|id| self.gradient_or_zeros(*id, gradients[id.index()])).collect()
    }

    /// For each present value, whether it depends on any of `roots`.
    fn dependents(&self, roots: &[ValueId]) -> Vec<bool> {
        let mut depends = vec![false; self.values.len()];
        for root in roots {
            depends[root.index()] = true;
        }
        for node in &self.nodes {
            if node.inputs.iter().any(|id| depends[id.index()]) {
                for id in &node.outputs {
                    depends[id.index()] = true;
                }
            }
        }
        depends
    }

    fn accumulate(&mut self, total: &mut Option<ValueId>, term: ValueId) -> Result<()> {
        *total = Some(match *total {
            None => term,
            Some(sum) => {
                let name = format!("{}/sum", self.value(term).name);
                self.apply_one(&name, Add, &[sum, term])?
            }
        });
        Ok(())
    }

    fn gradient_or_zeros(&mut self, of: ValueId, gradient: Option<ValueId>) -> Result<ValueId> {
        match gradient {
            Some(id) => Ok(id),
            None => {
                let (name, shape) = (format!("{}/zero", self.value(of).name), self.shape(of));
                self.apply_one(&name, Fill { shape, value: 0.0 }, &[])
            }
        }
    }
}
