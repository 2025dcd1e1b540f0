//! What the convolutions of the CPU read and write, whichever way they are computed.

use super::memory::Region;
use super::moments::Moments;
use super::normed::Normed;

/// The memory of a convolution.
#[derive(Debug, Clone)]
pub(super) struct Operands {
    pub source: Region,
    /// What the source's numbers become as they are read; zeros around the map stay zeros.
    pub normed: Option<Normed>,
    pub filter: Region,
    pub bias: Option<Region>,
    pub target: Region,
    /// Where to leave what is found of the results.
    pub moments: Option<Moments>,
    /// Scratch memory; that of `normed` and `moments` lies behind what the convolution itself asks for.
    pub workspace: Region,
}
