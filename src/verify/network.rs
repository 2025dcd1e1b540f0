//! The layers of the w = 64 network as cases: every filter that production runs, forward and backward, on maps of a few
//! pixels, so that the float64 reference and the emulator stay fast.
//!
//! They are read off the network's own graph: a layer that changes there changes here.

use crate::error::Result;
use crate::graph::{Graph, Node, Shape, ValueId};
use crate::model::{CeNet, Config, Stem};
use crate::ops::{Case, Conv, Data, Op};

/// Base width of the network that production runs.
const WIDTH: usize = 64;

/// Rows and columns of the maps that layers read here: they differ, and both strides leave more than one pixel.
const ROWS: usize = 3;
const COLUMNS: usize = 4;

/// The convolutions of every kind, with their input and filter gradients, of the w = 64 network for both stems, all N
/// and all numbers of input channels, each once.
///
/// # Errors
/// None that the configurations listed here can cause.
pub fn layer_cases() -> Result<Vec<Case>> {
    let mut cases: Vec<Case> = Vec::new();
    for config in configurations()? {
        let side = config.least_side();
        let network = CeNet::build(config, 1, side, side)?;
        for layer in network.graph.nodes().iter().filter(|node| node.op.operator().is_convolution()) {
            for (op, inputs) in with_gradients(&network.graph, layer)? {
                let new = [Data::Integers, Data::Normal(0.0)].map(|data| Case::new(op.clone(), &inputs, data));
                if !cases.contains(&new[0]) {
                    cases.extend(new);
                }
            }
        }
    }
    Ok(cases)
}

/// Convolutions of more channels than any kernel has in fast memory at once, some so many that blocks share them; those on maps
/// as high as any patch, so that all of its halo is needed.
pub fn deep_cases() -> Vec<Case> {
    let shapes = |batch, channels, outputs, height, width| {
        let filter = Shape::Filter { outputs, inputs: channels, height: 3, width: 3 };
        [Shape::maps(batch, channels, height, width), filter]
    };
    let of = |shapes: [Shape; 2]| {
        [Data::Integers, Data::Normal(0.0)].map(|data| Case::new(Conv::same(3), &shapes, data)).into_iter()
    };
    // On the emulated GPU there are more blocks of the first ones than can be shared.
    of(shapes(13, 192, 8, 5, 6)).chain(of(shapes(1, 584, 72, 16, 10))).collect()
}

fn configurations() -> Result<Vec<Config>> {
    let mut configurations = Vec::new();
    for stem in [Stem::Half, Stem::Quarter] {
        for neighbours in 0..=3 {
            for channels in [1, 3] {
                configurations.push(Config::new(WIDTH, stem, neighbours, channels)?);
            }
        }
    }
    Ok(configurations)
}

/// A layer and the convolutions of its gradient on small maps: operators and the shapes of their inputs.
fn with_gradients(graph: &Graph, layer: &Node) -> Result<Vec<(Op, Vec<Shape>)>> {
    let mut small = Graph::new();
    let inputs: Vec<ValueId> = layer.inputs.iter().map(|&id| small.input("input", shrunk(graph.shape(id)))).collect();
    let made = small.apply_one(&layer.name, layer.op.clone(), &inputs)?;
    let cotangent = small.input("cotangent", small.shape(made));
    small.pull_back(&[(made, cotangent)], &inputs)?;
    let convolutions = small.nodes().iter().filter(|node| node.op.operator().is_convolution());
    let shapes = |node: &Node| node.inputs.iter().map(|&id| small.shape(id)).collect();
    Ok(convolutions.map(|node| (node.op.clone(), shapes(node))).collect())
}

/// The same channels on a few pixels.
fn shrunk(shape: Shape) -> Shape {
    match shape {
        Shape::Maps { batch, channels, .. } => Shape::maps(batch, channels, ROWS, COLUMNS),
        Shape::Window { batch, channels, frames, .. } => {
            Shape::Window { batch, channels, frames, height: ROWS, width: COLUMNS }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_filter_of_the_network_is_read_forward_and_backward_and_made_by_a_gradient() {
        let cases = layer_cases().unwrap();
        for config in configurations().unwrap() {
            let parameters = config.parameters().unwrap();
            let filters = |shape: &Shape| matches!(shape, Shape::Filter { .. } | Shape::TemporalFilter { .. });
            for (name, filter) in parameters.iter().filter(|(_, shape)| filters(shape)) {
                let reads = cases.iter().filter(|case| case.inputs[1].0 == *filter);
                let readers: BTreeSet<&str> = reads.map(|case| case.op.variant()).collect();
                let forward = ["Conv", "TemporalConv", "TransposedConv"];
                let backward = ["ConvInputGrad", "TemporalConvInputGrad", "Conv"];
                let pair = forward.iter().zip(backward).find(|(f, b)| readers.contains(*f) && readers.contains(b));
                assert!(pair.is_some(), "{config}, {name}: only {readers:?}");
                let makes = |case: &Case| {
                    let inputs: Vec<Shape> = case.inputs.iter().map(|(shape, _)| *shape).collect();
                    case.op.variant().ends_with("FilterGrad")
                        && case.op.operator().infer(&inputs).as_deref() == Ok(&[*filter])
                };
                assert!(cases.iter().any(makes), "{config}, {name}: no gradient makes it");
            }
        }
    }

    #[test]
    fn the_largest_layers_are_among_them_exactly_and_with_a_bound() {
        let texts: BTreeSet<String> = layer_cases().unwrap().iter().map(Case::to_string).collect();
        for data in ["Integers", "Normal 0.0"] {
            for dilation in [1, 3, 5] {
                let conv = format!("Conv stride 1, padding {dilation}, dilation {dilation}");
                let bias = if dilation == 1 { String::new() } else { format!(", channels 512 {data}") };
                let text = format!("{conv} of maps 1x512x3x4 {data}, filter 512x512x3x3 {data}{bias}");
                assert!(texts.contains(&text), "{text}");
            }
        }
    }
}
