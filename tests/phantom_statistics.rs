//! The phantom's reference looks like real angiograms, within the factors that `docs/phantom.md` states.
//! Needs the real ones in `../shared/data`.

#[path = "../tools/phantom_statistics/comparison.rs"]
mod comparison;
#[path = "../tools/phantom_statistics/measure.rs"]
mod measure;

use comparison::Comparison;
use std::path::Path;

#[test]
fn the_reference_agrees_with_real_angiograms() {
    let (cine, stills) = (Path::new("../shared/data/rca_cine.dcm"), Path::new("../shared/data/coronary_stills"));
    if !cine.exists() || !stills.exists() {
        println!("skipped: no real angiograms in ../shared/data");
        return;
    }
    if cfg!(not(feature = "dicom")) {
        println!("skipped: this build reads no DICOM");
        return;
    }
    let comparison = Comparison::measure(cine, stills).unwrap();
    let apart: Vec<&str> = comparison.rows.iter().filter(|row| !row.agrees()).map(|row| row.what).collect();
    assert!(apart.is_empty(), "{apart:?}\n{}", comparison.table());
}

/// What is measured is what is there: a dark bar of known width and contrast on known noise, moved by a known way.
#[test]
fn the_measures_measure() {
    use coronet::media::{Colour, Frame, Mask, Size};
    let size = Size { width: 300, height: 300 };
    let bar = |left: usize, i: usize| (left..left + 9).contains(&(i % 300));
    // A hash of the place (SplitMix64's): white noise, uniform over 17 levels, so of standard deviation 4.9.
    let noise = |i: usize| {
        let z = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % 17) as usize
    };
    let picture_with = |left: usize, contrast: usize| {
        let values =
            (0..size.area()).map(|i| (120 + noise(i) - if bar(left, i) { contrast } else { 0 }) as u8).collect();
        measure::Picture::new(Frame::new(size, Colour::Grey, values).unwrap()).unwrap()
    };
    let picture = |left| picture_with(left, 60);
    let mask = Mask { size, pixels: (0..size.area()).map(|i| if bar(140, i) { 255 } else { 0 }).collect() };
    let (_, vessel) = measure::compared_mask(&mask).unwrap();
    let ratio = measure::contrast_to_noise(&picture(140), &vessel).unwrap();
    assert!((ratio - 60.0 / 4.9).abs() < 1.0, "contrast-to-noise ratio {ratio}");
    let widths = measure::widths(&vessel, size);
    assert!(measure::quantile(&widths, 0.5).is_some_and(|width| (width - 9.0).abs() <= 1.0));
    let slope = measure::spectrum_slope(&picture_with(140, 0)).unwrap();
    assert!(slope.abs() < 0.3, "white noise has all frequencies alike, not a slope of {slope}");
    // A bar's way along itself cannot be seen; discs hide nothing.
    let discs = |shift: usize| {
        let inside = |i: usize| {
            let from_middle = |at: usize| (at % 40) as i64 - 20;
            from_middle(i % 300 + 300 - shift).pow(2) + from_middle(i / 300).pow(2) <= 25
        };
        let values = (0..size.area()).map(|i| (120 + noise(i) - if inside(i) { 60 } else { 0 }) as u8).collect();
        measure::Picture::new(Frame::new(size, Colour::Grey, values).unwrap()).unwrap()
    };
    let moved = measure::motion(&discs(0), &discs(3));
    assert!(measure::quantile(&moved, 0.5).is_some_and(|way| (way - 1.0).abs() < 0.2), "{moved:?}");
}
