//! Masks, probabilities and pictures for people, as pixels and as PNG bytes. Nothing here touches the disk.

mod caption;
mod contact_sheet;
mod overlay;
mod png;

pub use contact_sheet::ContactSheet;
pub use overlay::{OverlayPainter, SideBySide, compare_masks, frame_digits};
pub use png::{mask_png, picture_png, probability_png};
