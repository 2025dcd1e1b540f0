//! Claims about imports: files of every container are read to the last number, what fits comes over under our names,
//! and whatever a hostile or damaged file tries ends in a sentence.

mod containers;
mod damaged;
mod hostile;
mod luminance;
mod networks;
mod pytorch;
mod writer;
