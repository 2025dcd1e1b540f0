//! Graphs: what to compute, with static shapes, and nothing about how.
//!
//! Model code adds inputs, states (parameters, momenta) and operators; every operator checks the shapes it is given.
//! [`Graph::differentiate`] adds the nodes of a gradient, and an optimiser step is nodes of the same graph, so that a
//! whole training step lowers to one [`crate::program::Program`] just as inference does.

mod differentiate;
mod shape;

pub use differentiate::Backward;
pub use shape::{Shape, Tensor};

use crate::error::{Error, Result};
use crate::ops::Op;

/// A value of a graph: an input, a state, or a result of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

impl ValueId {
    /// Position in [`Graph::values`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Written from outside before each run.
    Input,
    /// Written from outside once, kept from run to run, changed only by [`Graph::update`].
    State,
    /// Computed by this node.
    Node(usize),
}

/// A value: its name, shape and origin.
#[derive(Debug, Clone)]
pub struct Value {
    /// For people and error messages; parameters carry their name in weights files.
    pub name: String,
    /// What it is and how large.
    pub shape: Shape,
    /// Where it comes from.
    pub source: Source,
}

/// One use of an operator.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where in the network this is, e.g. `encoder1.0.conv1`.
    pub name: String,
    /// What is computed.
    pub op: Op,
    /// What it reads, in the operator's order.
    pub inputs: Vec<ValueId>,
    /// What it writes, in the operator's order.
    pub outputs: Vec<ValueId>,
}

/// A computation with static shapes. Nodes stand in an order in which they can run.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    values: Vec<Value>,
    updates: Vec<(ValueId, ValueId)>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// All nodes, in an order in which they can run.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// All values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// One value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.index()]
    }

    /// The shape of a value.
    pub fn shape(&self, id: ValueId) -> Shape {
        self.value(id).shape
    }

    /// Pairs of a state and the value that replaces it at the end of a run.
    pub fn updates(&self) -> &[(ValueId, ValueId)] {
        &self.updates
    }

    /// Every state with its identity, in the order of creation.
    pub fn states(&self) -> impl Iterator<Item = (ValueId, &Value)> {
        self.ids().zip(&self.values).filter(|(_, value)| value.source == Source::State)
    }

    /// Every value's identity.
    pub fn ids(&self) -> impl Iterator<Item = ValueId> + use<> {
        (0..self.values.len() as u32).map(ValueId)
    }

    /// A value written from outside before each run.
    pub fn input(&mut self, name: &str, shape: Shape) -> ValueId {
        self.add_value(name.to_owned(), shape, Source::Input)
    }

    /// A value kept from run to run: a parameter, a momentum.
    pub fn state(&mut self, name: &str, shape: Shape) -> ValueId {
        self.add_value(name.to_owned(), shape, Source::State)
    }

    /// At the end of a run, `state` becomes `new`.
    ///
    /// # Errors
    /// [`Error::Shape`] when `state` is no state, has its update already, or the shapes differ.
    pub fn update(&mut self, state: ValueId, new: ValueId) -> Result<()> {
        let (old, replacement) = (self.value(state), self.value(new));
        let problem = if old.source != Source::State {
            Some("only a state can be updated".to_owned())
        } else if self.updates.iter().any(|&(s, _)| s == state) {
            Some("this state is updated already".to_owned())
        } else if old.shape != replacement.shape {
            Some(format!("an update of {} cannot have the shape {}", old.shape, replacement.shape))
        } else {
            None
        };
        match problem {
            Some(problem) => Err(Error::Shape { node: old.name.clone(), problem }),
            None => {
                self.updates.push((state, new));
                Ok(())
            }
        }
    }

    /// Adds a node and returns its results.
    ///
    /// # Errors
    /// [`Error::Shape`], with the node's name and the shapes, when the operator cannot work on these inputs.
    pub fn apply(&mut self, name: &str, op: impl Into<Op>, inputs: &[ValueId]) -> Result<Vec<ValueId>> {
        let op = op.into();
        let shapes: Vec<Shape> = inputs.iter().map(|&id| self.shape(id)).collect();
        let checked = |shapes: &[Shape]| shapes.iter().try_for_each(Shape::check);
        let inferred = checked(&shapes).and_then(|()| op.operator().infer(&shapes));
        let inferred = inferred.and_then(|results| checked(&results).map(|()| results));
        let results = inferred.map_err(|problem| {
            let given: Vec<String> = shapes.iter().map(Shape::to_string).collect();
            Error::Shape {
                node: name.to_owned(),
                problem: format!("{} of ({}): {problem}", op.operator().name(), given.join(", ")),
            }
        })?;
        let node = self.nodes.len();
        let outputs: Vec<ValueId> = results
            .into_iter()
            .enumerate()
            .map(|(i, shape)| {
                let value_name = if i == 0 { name.to_owned() } else { format!("{name}#{i}") };
                self.add_value(value_name, shape, Source::Node(node))
            })
            .collect();
        self.nodes.push(Node { name: name.to_owned(), op, inputs: inputs.to_vec(), outputs: outputs.clone() });
        Ok(outputs)
    }

    /// Adds a node and returns its first result, the only one for most operators.
    ///
    /// # Errors
    /// As [`Graph::apply`].
    pub fn apply_one(&mut self, name: &str, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.apply(name, op, inputs)?[0])
    }

    /// Computes every value in float64 with the operators' references: slow, obvious, for tests.
    ///
    /// # Errors
    /// [`Error::Request`] when an input or state has no value, or one of another shape.
    pub fn evaluate(&self, given: &[(ValueId, Tensor<f64>)]) -> Result<Vec<Tensor<f64>>> {
        let mut known: Vec<Option<Tensor<f64>>> = vec![None; self.values.len()];
        for (id, tensor) in given {
            if tensor.shape() != self.shape(*id) {
                let value = self.value(*id);
                return Err(Error::Request(format!("{} is {}, not {}", value.name, value.shape, tensor.shape())));
            }
            known[id.index()] = Some(tensor.clone());
        }
        for node in &self.nodes {
            let mut inputs = Vec::with_capacity(node.inputs.len());
            for id in &node.inputs {
                let missing = || Error::Request(format!("{} was given no value", self.value(*id).name));
                inputs.push(known[id.index()].as_ref().ok_or_else(missing)?);
            }
            let results = node.op.operator().reference(&inputs);
            for (id, tensor) in node.outputs.iter().zip(results) {
                known[id.index()] = Some(tensor);
            }
        }
        let missing = |id: ValueId| Error::Request(format!("{} was given no value", self.value(id).name));
        self.ids().zip(known).map(|(id, tensor)| tensor.ok_or_else(|| missing(id))).collect()
    }

    fn add_value(&mut self, name: String, shape: Shape, source: Source) -> ValueId {
        let id = ValueId(self.values.len() as u32);
        self.values.push(Value { name, shape, source });
        id
    }
}
