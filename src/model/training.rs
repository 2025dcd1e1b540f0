//! Training as a graph: the loss, its gradients and the optimiser's update are nodes beside the network's own, so that a
//! whole step lowers to one program.

use super::CeNet;
use crate::error::Result;
use crate::graph::{Graph, Shape, ValueId};
use crate::ops::{Fill, Sgd};

/// One step of training as a graph: loss, gradients and the optimiser's update.
#[derive(Debug, Clone)]
pub struct TrainingStep {
    /// The network within the same graph.
    pub network: CeNet,
    /// The reference mask, an input of batch x 1 x height x width with 0 or 1.
    pub mask: ValueId,
    /// The learning rate, an input.
    pub rate: ValueId,
    /// The Dice term of the loss.
    pub dice_loss: ValueId,
    /// The whole loss, `dice + rho ||parameters||^2` and the background's term if there is one, before the step.
    pub total_loss: ValueId,
    /// The gradient of the Dice terms with respect to each parameter, in the parameters' order.
    pub gradients: Vec<ValueId>,
}

impl TrainingStep {
    /// Adds loss, gradients and SGD with `momentum` to a network. Momenta are states named `PARAMETER/momentum`.
    ///
    /// # Errors
    /// None that a network built by [`CeNet::build`] can cause.
    pub fn build(network: CeNet, rho: f32, momentum: f32) -> Result<TrainingStep> {
        TrainingStep::with_background(network, rho, momentum, 0.0)
    }

    /// As [`TrainingStep::build`], with `background` times the Dice term of the background (`1 - probability` against
    /// `1 - mask`) added to the loss. Where there is no vessel, the vessel's own Dice term hardly has a gradient: it is
    /// this term that teaches a network to leave empty frames alone.
    ///
    /// # Errors
    /// As [`TrainingStep::build`].
    pub fn with_background(mut network: CeNet, rho: f32, momentum: f32, background: f32) -> Result<TrainingStep> {
        let parameters = network.parameters.clone();
        let graph = &mut network.graph;
        let mask = graph.input("mask", graph.shape(network.probability));
        let rate = graph.input("rate", Shape::Scalar);
        let ids: Vec<ValueId> = parameters.iter().map(|&(_, id)| id).collect();
        let dice_loss = graph.soft_dice("dice loss", network.probability, mask)?;
        let mut loss = dice_loss;
        if background != 0.0 {
            let term = background_dice(graph, network.logits, mask)?;
            let term = graph.scale("weighted background dice", term, background)?;
            loss = graph.add("dice of both", dice_loss, term)?;
        }
        let squares = graph.sum_of_squares("l2", &ids)?;
        let penalty = graph.scale("rho l2", squares, rho)?;
        let total_loss = graph.add("total loss", loss, penalty)?;
        let gradients = graph.differentiate(loss, &ids)?;
        // The penalty's gradient, 2 rho w, is the optimiser's weight decay.
        let sgd = Sgd { momentum, weight_decay: 2.0 * rho };
        for ((name, w), &gradient) in parameters.iter().zip(&gradients) {
            let v = graph.state(&format!("{name}/momentum"), graph.shape(*w));
            let stepped = graph.apply(&format!("{name}/sgd"), sgd, &[*w, v, gradient, rate])?;
            graph.update(*w, stepped[0])?;
            graph.update(v, stepped[1])?;
        }
        Ok(TrainingStep { network, mask, rate, dice_loss, total_loss, gradients })
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
