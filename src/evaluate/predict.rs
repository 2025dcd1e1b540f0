//! The network over the labelled frames of a data set.

use crate::dataset::{Dataset, FrameId, Section};
use crate::error::{Error, Result};
use crate::media::{BilinearResize, FramePreparer, Mask, ProbabilityMap};
use crate::post::to_source_size;
use crate::segment::WindowNetwork;
use std::collections::BTreeMap;

/// What a network says about a frame, and what somebody has drawn on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The frame.
    pub id: FrameId,
    /// Vessel probability, of the label's size.
    pub probability: ProbabilityMap,
    /// The label.
    pub label: Mask,
}

/// The size at which a network's answer meets the label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ComparedAt {
    /// The frame's own: the probability is resized.
    #[default]
    SourceSize,
    /// The network's: the label is resized.
    NetworkSize,
}

/// Runs the network over every labelled frame of `sections`, in their order, windows staying within their section.
///
/// # Errors
/// [`Error::Network`] when a probability is not a number; those of the data set, of the network and of `each`.
pub fn for_each_prediction(
    network: &mut dyn WindowNetwork,
    dataset: &Dataset,
    sections: &[Section],
    at: ComparedAt,
    mut each: impl FnMut(Prediction) -> Result<()>,
) -> Result<()> {
    let (neighbours, input) = (network.neighbours(), network.input_size());
    let mut values = vec![0.0; input.area()];
    for section in sections {
        let Some(first) = section.labelled(dataset).next() else { continue };
        let source = dataset.clip(first).size;
        let mut preparer = FramePreparer::new(source, network.colour(), input)?;
        let (from, to) = match at {
            ComparedAt::SourceSize => (input, source),
            ComparedAt::NetworkSize => (source, input),
        };
        let mut resize = BilinearResize::new(from, to)?;
        let mut prepared: BTreeMap<FrameId, Vec<f32>> = BTreeMap::new();
        for id in section.labelled(dataset) {
            let ids: Vec<FrameId> = section.window(id.frame, neighbours).collect();
            prepared = prepared.split_off(&ids[0]);
            for &id in &ids {
                if let std::collections::btree_map::Entry::Vacant(place) = prepared.entry(id) {
                    let mut planes = vec![0.0; preparer.values()];
                    preparer.prepare(&dataset.read_frame(id)?, &mut planes)?;
                    place.insert(planes);
                }
            }
            let window: Vec<&[f32]> = ids.iter().map(|id| prepared[id].as_slice()).collect();
            network.run(&window, &mut values)?;
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                let path = dataset.frame(id).path.display();
                return Err(Error::Network(format!("the network produced {value} for {path}; check its weights")));
            }
            let label = dataset.read_label(id)?;
            each(match at {
                ComparedAt::SourceSize => Prediction { id, probability: to_source_size(&mut resize, &values)?, label },
                ComparedAt::NetworkSize => {
                    let probability = ProbabilityMap { size: input, values: values.clone() };
                    Prediction { id, probability, label: label.resized(&mut resize)? }
                }
            })?;
        }
    }
    Ok(())
}
