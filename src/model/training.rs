//! Training as a graph: the loss, its gradients and the optimiser's update are nodes beside the network's own, so that a
//! whole step lowers to one program.

use super::CeNet;
use crate::error::{Error, Result};
use crate::graph::{Graph, Shape, ValueId};
use crate::ops::{AdamW, Fill, Op, Sgd};

/// What a training step minimises: the Dice loss of the vessel, and more terms with their weights. A weight of 0, the
/// default of all, leaves its term out.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Objective {
    /// Weight of the squared L2 norm of all parameters.
    pub rho: f32,
    /// Weight of the Dice loss of the background (`1 - probability` against `1 - mask`). Where there is no vessel, the
    /// vessel's own Dice loss hardly has a gradient: it is this term that teaches a network to leave empty frames alone.
    pub background: f32,
    /// Weight of the binary cross entropy, the mean over all pixels.
    pub cross_entropy: f32,
}

/// How a training step changes the parameters, along the gradient of the loss.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Optimizer {
    /// Stochastic gradient descent. Its states are named `PARAMETER/momentum`.
    Sgd {
        /// Share of the last step that is kept.
        momentum: f32,
    },
    /// Adam with decoupled weight decay ([`AdamW`], which says what the numbers are). Its states are named
    /// `PARAMETER/first_moment` and `PARAMETER/second_moment`. The decay takes the place of [`Objective::rho`], which
    /// must be 0.
    AdamW {
        /// Share of the mean gradient that is kept; from 0 to below 1, commonly 0.9.
        beta1: f32,
        /// Share of the mean squared gradient that is kept; from 0 to below 1, commonly 0.999.
        beta2: f32,
        /// Keeps small gradients from being divided by zero; above 0, commonly 1e-8.
        epsilon: f32,
        /// Share of a parameter, times the rate, that is taken off in each step; 0 or more, commonly 0.01.
        weight_decay: f32,
    },
}

/// One step of training as a graph: loss, gradients and the optimiser's update.
#[derive(Debug, Clone)]
pub struct TrainingStep {
    /// The network within the same graph.
    pub network: CeNet,
    /// What changes the parameters.
    pub optimizer: Optimizer,
    /// The reference mask, an input of batch x 1 x height x width with 0 or 1.
    pub mask: ValueId,
    /// The learning rate, an input.
    pub rate: ValueId,
    /// Inputs of AdamW that change with every step, see [`AdamW`]; [`TrainingStep::write_schedule`] knows their values.
    pub corrections: Option<[ValueId; 2]>,
    /// The Dice loss of the vessel.
    pub dice_loss: ValueId,
    /// The whole loss, all terms of the objective, before the step.
    pub total_loss: ValueId,
    /// The gradient of the loss without the parameters' norm with respect to each parameter, in the parameters' order.
    pub gradients: Vec<ValueId>,
}

impl TrainingStep {
    /// Adds loss, gradients and the optimiser's update to a network.
    ///
    /// # Errors
    /// [`Error::Request`] for AdamW with numbers out of range, or with a `rho` other than 0.
    pub fn build(mut network: CeNet, objective: Objective, optimizer: Optimizer) -> Result<TrainingStep> {
        let update = Update::new(optimizer, objective.rho)?;
        let parameters = network.parameters.clone();
        let graph = &mut network.graph;
        let mask = graph.input("mask", graph.shape(network.probability));
        let rate = graph.input("rate", Shape::Scalar);
        let corrections = update
            .has_corrections()
            .then(|| ["correction1", "correction2"].map(|name| graph.input(name, Shape::Scalar)));
        let ids: Vec<ValueId> = parameters.iter().map(|&(_, id)| id).collect();
        let dice_loss = graph.soft_dice("dice loss", network.probability, mask)?;
        let loss = objective.add_terms(graph, network.logits, mask, dice_loss)?;
        let total_loss = objective.add_norm(graph, &ids, loss)?;
        let gradients = graph.differentiate(loss, &ids)?;
        for ((name, w), &gradient) in parameters.iter().zip(&gradients) {
            update.apply(graph, (name, *w), gradient, rate, corrections)?;
        }
        Ok(TrainingStep { network, optimizer, mask, rate, corrections, dice_loss, total_loss, gradients })
    }

    /// Gives `write` the inputs that change from step to step: the learning rate and, for AdamW, the corrections of
    /// step `step`, counted from 1.
    ///
    /// # Errors
    /// [`Error::Request`] for step 0, and what `write` returns.
    pub fn write_schedule(
        &self,
        step: u64,
        rate: f32,
        mut write: impl FnMut(ValueId, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if step == 0 {
            return Err(Error::Request("the steps of training are counted from 1".into()));
        }
        write(self.rate, &[rate])?;
        if let (Optimizer::AdamW { beta1, beta2, .. }, Some(corrections)) = (self.optimizer, self.corrections) {
            for (id, beta) in corrections.into_iter().zip([beta1, beta2]) {
                write(id, &[(1.0 - f64::from(beta).powf(step as f64)) as f32])?;
            }
        }
        Ok(())
    }
}

impl Objective {
    /// The Dice loss with those of the other terms that depend on the mask.
    fn add_terms(&self, graph: &mut Graph, logits: ValueId, mask: ValueId, dice_loss: ValueId) -> Result<ValueId> {
        let mut loss = dice_loss;
        if self.background != 0.0 {
            let term = background_dice(graph, logits, mask)?;
            let term = graph.scale("weighted background dice", term, self.background)?;
            loss = graph.add("dice of both", loss, term)?;
        }
        if self.cross_entropy != 0.0 {
            let term = graph.cross_entropy("cross entropy", logits, mask)?;
            let term = graph.scale("weighted cross entropy", term, self.cross_entropy)?;
            loss = graph.add("dice and cross entropy", loss, term)?;
        }
        Ok(loss)
    }

    /// The loss with the parameters' norm.
    fn add_norm(&self, graph: &mut Graph, parameters: &[ValueId], loss: ValueId) -> Result<ValueId> {
        if self.rho == 0.0 {
            return Ok(loss);
        }
        let squares = graph.sum_of_squares("l2", parameters)?;
        let penalty = graph.scale("rho l2", squares, self.rho)?;
        graph.add("total loss", loss, penalty)
    }
}

/// The Dice loss of everything that is not vessel.
fn background_dice(graph: &mut Graph, logits: ValueId, mask: ValueId) -> Result<ValueId> {
    let shape = graph.shape(mask);
    let negated = graph.scale("negated logits", logits, -1.0)?;
    let probability = graph.sigmoid("background", negated)?;
    let ones = graph.apply_one("ones", Fill { shape, value: 1.0 }, &[])?;
    let negated = graph.scale("negated mask", mask, -1.0)?;
    let mask = graph.add("background mask", ones, negated)?;
    graph.soft_dice("background dice loss", probability, mask)
}

/// The optimiser's operator on each parameter.
struct Update {
    op: Op,
    /// Its states, for the parameter's name and a slash to stand before.
    states: &'static [&'static str],
}

impl Update {
    fn new(optimizer: Optimizer, rho: f32) -> Result<Update> {
        match optimizer {
            // The norm's gradient, 2 rho w, is the operator's weight decay.
            Optimizer::Sgd { momentum } => {
                Ok(Update { op: Sgd { momentum, weight_decay: 2.0 * rho }.into(), states: &["momentum"] })
            }
            Optimizer::AdamW { .. } if rho != 0.0 => Err(Error::Request(format!(
                "AdamW has a weight decay of its own: the weight of the parameters' norm must be 0, not {rho}"
            ))),
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                let op = AdamW { beta1, beta2, epsilon, weight_decay };
                op.check().map_err(|problem| Error::Request(format!("AdamW: {problem}")))?;
                Ok(Update { op: op.into(), states: &["first_moment", "second_moment"] })
            }
        }
    }

    fn has_corrections(&self) -> bool {
        matches!(self.op, Op::AdamW(_))
    }

    fn apply(
        &self,
        graph: &mut Graph,
        (name, parameter): (&str, ValueId),
        gradient: ValueId,
        rate: ValueId,
        corrections: Option<[ValueId; 2]>,
    ) -> Result<()> {
        let shape = graph.shape(parameter);
        let mut changed = vec![parameter];
        changed.extend(self.states.iter().map(|state| graph.state(&format!("{name}/{state}"), shape)));
        let inputs: Vec<ValueId> =
            changed.iter().copied().chain([gradient, rate]).chain(corrections.into_iter().flatten()).collect();
        let name = format!("{name}/{}", self.op.operator().name());
        let stepped = graph.apply(&name, self.op.clone(), &inputs)?;
        changed.into_iter().zip(stepped).try_for_each(|(old, new)| graph.update(old, new))
    }
}
