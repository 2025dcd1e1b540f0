//! One use of the engine: a data set and a network go in, how well the masks agree with the labels comes out.

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
    /// Vessel probability at the frame's own size.
    pub probability: ProbabilityMap,
    /// The label.
    pub label: Mask,
}

/// Runs the network over every labelled frame of `sections`, in their order, windows staying within their section.
///
/// # Errors
/// [`Error::Network`] when a probability is not a number; those of the data set, of the network and of `each`.
pub fn for_each_prediction(
    network: &mut dyn WindowNetwork,
    dataset: &Dataset,
    sections: &[Section],
    mut each: impl FnMut(Prediction) -> Result<()>,
) -> Result<()> {
    let (neighbours, input) = (network.neighbours(), network.input_size());
    let mut values = vec![0.0; input.area()];
    for section in sections {
        let Some(first) = section.labelled(dataset).next() else { continue };
        let source = dataset.clip(first).size;
        let mut preparer = FramePreparer::new(source, network.colour(), input)?;
        let mut resize = BilinearResize::new(input, source)?;
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
            let probability = to_source_size(&mut resize, &values)?;
            each(Prediction { id, probability, label: dataset.read_label(id)? })?;
        }
    }
    Ok(())
}
