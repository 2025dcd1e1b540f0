//! Claims about segmenting a clip, checked with a reader and a network in which every frame is recognisable.

mod command_line;
mod embedded_weights;
mod fakes;
mod pipeline;
mod result_folder;
mod results;
mod stream;
