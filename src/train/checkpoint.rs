//! A run at one moment: every number that the next step depends on, in one file.

use super::Progress;
use crate::device::Session;
use crate::error::{Error, Result};
use crate::graph::{Graph, Tensor};
use crate::new_file::NewFile;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// In the header: how far the run is, JSON.
const PROGRESS: &str = "coronet.progress";

/// Writes parameters, the optimiser's states and `progress`; an older checkpoint stays until the new one is complete.
///
/// # Errors
/// [`Error::Network`] when a number is not finite, [`Error::Io`] when the file cannot be written.
pub(super) fn save(path: &Path, graph: &Graph, session: &dyn Session, progress: &Progress) -> Result<()> {
    let mut states: Vec<(&str, Tensor)> = Vec::new();
    for (id, value) in graph.states() {
        let tensor = session.read(id)?;
        if let Some(number) = tensor.data().iter().find(|number| !number.is_finite()) {
            return Err(Error::Network(format!("{} holds {number}", value.name)));
        }
        states.push((&value.name, tensor));
    }
    let cannot = |error: &dyn std::fmt::Display| Error::Internal(format!("a checkpoint cannot be written ({error})"));
    let text = serde_json::to_string(progress).map_err(|error| cannot(&error))?;
    let views: Vec<(&str, TensorView<'_>)> = states
        .iter()
        .map(|(name, tensor)| {
            let bytes = bytemuck::cast_slice(tensor.data());
            Ok((*name, TensorView::new(Dtype::F32, tensor.shape().dims(), bytes).map_err(|error| cannot(&error))?))
        })
        .collect::<Result<_>>()?;
    let header = HashMap::from([(PROGRESS.to_owned(), text)]);
    let bytes = safetensors::serialize(views, Some(header)).map_err(|error| cannot(&error))?;
    NewFile::create(path)?.complete(&bytes)
}

/// Puts a checkpoint's numbers where they were and says how far the run was.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Weights`] when it is damaged or of another network.
pub(super) fn load(path: &Path, graph: &Graph, session: &mut dyn Session) -> Result<Progress> {
    let bytes = std::fs::read(path).map_err(Error::io("read checkpoint", path))?;
    let damaged = |problem: String| Error::weights(path, problem);
    let no_file = |error| damaged(format!("is no checkpoint, or a damaged one ({error})"));
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(no_file)?;
    let text = header.metadata().as_ref().and_then(|header| header.get(PROGRESS));
    let text = text.ok_or_else(|| damaged("is no checkpoint: it does not say how far its run was".into()))?;
    let progress = serde_json::from_str(text).map_err(|error| damaged(format!("is damaged ({error})")))?;
    let file = SafeTensors::deserialize(&bytes).map_err(no_file)?;
    for (id, value) in graph.states() {
        let view = file.tensor(&value.name).map_err(|_| damaged(format!("lacks {}", value.name)))?;
        if view.shape() != value.shape.dims() || view.dtype() != Dtype::F32 {
            return Err(damaged(format!("holds {} as {:?}, not {}", value.name, view.shape(), value.shape)));
        }
        let numbers: Vec<f32> =
            view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        session.write(id, &numbers)?;
    }
    Ok(progress)
}
