//! Metrics against scikit-image, scipy (as MONAI uses it) and scikit-learn: what `tools/check_metrics.py` has written
//! down in `tests/metrics/reference.json`.

use coronet::media::{Mask, ProbabilityMap, Size};
use coronet::metrics::{ClDice, Sweep, hd95, skeletonize};
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    mask: Vec<String>,
    mask_skeleton: Vec<String>,
    reference: Vec<String>,
    reference_skeleton: Vec<String>,
    /// Probabilities in thousandths.
    permille: Option<Vec<String>>,
    #[serde(flatten)]
    cl_dice: ClDice,
    hd95: Option<f64>,
    average_precision: Option<f64>,
}

impl Case {
    fn pair(&self) -> (Mask, Mask) {
        (mask(&self.mask), mask(&self.reference))
    }
}

fn cases() -> Vec<Case> {
    let reference: Reference = serde_json::from_str(include_str!("metrics/reference.json")).unwrap();
    assert!(reference.cases.len() >= 12);
    reference.cases
}

fn mask(rows: &[String]) -> Mask {
    let size = Size { width: rows[0].len(), height: rows.len() };
    let pixels = rows.iter().flat_map(|row| row.bytes()).map(|letter| if letter == b'#' { 255 } else { 0 }).collect();
    Mask { size, pixels }
}

fn drawing(mask: &Mask) -> Vec<String> {
    let letter = |&pixel: &u8| if pixel != 0 { '#' } else { '.' };
    mask.pixels.chunks(mask.size.width).map(|row| row.iter().map(letter).collect()).collect()
}

fn assert_close(name: &str, found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-9, "{name}: {found}, not {expected}");
}

#[test]
fn skeletons_are_those_of_scikit_image() {
    for case in cases() {
        let (mask, reference) = case.pair();
        assert_eq!(drawing(&skeletonize(&mask)), case.mask_skeleton, "mask of '{}'", case.name);
        assert_eq!(drawing(&skeletonize(&reference)), case.reference_skeleton, "reference of '{}'", case.name);
    }
}

#[test]
fn cl_dice_is_that_of_scikit_image_s_skeletons() {
    for case in cases() {
        let (mask, reference) = case.pair();
        let found = ClDice::of(&mask, &reference).unwrap();
        assert_close(&case.name, found.topology_precision, case.cl_dice.topology_precision);
        assert_close(&case.name, found.topology_sensitivity, case.cl_dice.topology_sensitivity);
        assert_close(&case.name, found.cl_dice, case.cl_dice.cl_dice);
    }
}

#[test]
fn hd95_is_that_of_monai() {
    for case in cases() {
        let (mask, reference) = case.pair();
        match (hd95(&mask, &reference).unwrap(), case.hd95) {
            (Some(found), Some(expected)) => assert_close(&case.name, found, expected),
            (found, expected) => assert_eq!(found, expected, "{}", case.name),
        }
    }
}

#[test]
fn average_precision_is_that_of_scikit_learn() {
    let mut compared = 0;
    for case in cases() {
        let Some(permille) = &case.permille else { continue };
        let values = permille.iter().flat_map(|row| row.split(' ')).map(|n| n.parse::<f32>().unwrap() / 1000.0);
        let reference = mask(&case.reference);
        let mut sweep = Sweep::new();
        sweep.add(&ProbabilityMap { size: reference.size, values: values.collect() }, &reference).unwrap();
        match (sweep.average_precision(), case.average_precision) {
            (Some(found), Some(expected)) => assert_close(&case.name, found, expected),
            (found, expected) => assert_eq!(found, expected, "{}", case.name),
        }
        compared += 1;
    }
    assert!(compared >= 6, "{compared}");
}
