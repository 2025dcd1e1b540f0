//! What tensor cores may lose of a sum of products: they add a few at once and cut off what does not fit.
//!
//! The model (Fasi, Higham, Mikaitis and Pranesh 2021; Khattak and Mikaitis 2025): products are exact. The sum so far
//! and the products of a group, four or more of them, are cut off one bit or more behind the 24 of the largest, added
//! exactly, and what they add up to is cut off behind its own 24 bits.
//!
//! Let S be the sum of the sizes of all products, which no number on the way exceeds, and count losses in 2^-24 S. Of the
//! numbers that a group adds the largest loses nothing, and each other one less than 1: as many as there are products.
//! What they add up to loses less than 2. So K products in G groups lose less than K + 2 G.
//!
//! That is far more than they do, and for large K too much to find an error by. What is cut off is anything from nothing to
//! all of the last place, on average half of it, and a sum that grows to S is on average half of S: together a quarter,
//! (K + 2 G) / 4. Around that the variance of what is cut off at a place of size p is p^2 / 12, and the mean square of a
//! growing sum is S^2 / 3: (K + 4 G) / 36 in all. Six standard deviations, which no element of all tests should exceed,
//! are sqrt(K + 4 G).
//!
//! Groups of zeros change nothing. A convolution walks its taps one after the other, channels within, so that each tap
//! of few channels is a group of its own: G is K where there is one channel, and K / 4 where there are many.

use crate::graph::Shape;
use crate::ops::{Case, Conv, Op};

/// The fewest products that tensor cores add at once: those of sm_75, and of sm_80 for tf32.
const GROUP: usize = 4;

/// The most products that a filter gradient adds on tensor cores; such parts are then added in float32.
const PART: usize = 4096;

/// Roundings of a result in float32: of a bias, of a residual, and as the sums of four who share a convolution are added.
const ROUNDINGS: usize = 5;

/// The sum of the sizes of a result's products times this is what tensor cores may lose of the result at most.
pub(super) fn lost_share(case: &Case) -> f64 {
    let (products, groups, roundings) = most_terms(case);
    let [products, groups, roundings] = [products, groups, roundings].map(|count| count as f64);
    ((products + 2.0 * groups) / 4.0 + (products + 4.0 * groups).sqrt() + roundings) * 2f64.powi(-24)
}

/// The most products, groups of them and roundings in float32 that a result of the case has, away from the edges.
fn most_terms(case: &Case) -> (usize, usize, usize) {
    let (first, second) = (case.inputs[0].0, case.inputs[1].0);
    let of_taps = |taps: usize| match first {
        Shape::Maps { channels, .. } => (taps * channels, taps * channels.div_ceil(GROUP), ROUNDINGS),
        other => unreachable!("a convolution is of maps, not {other}"),
    };
    match (&case.op, second) {
        (Op::Conv(_), Shape::Filter { height, width, .. }) => of_taps(height * width),
        (Op::ConvInputGrad(op), Shape::Filter { height, width, .. }) => {
            of_taps(taps_backward(height, &op.conv) * taps_backward(width, &op.conv))
        }
        (Op::TransposedConv(op), Shape::Filter { height, width, .. }) => {
            of_taps(taps_backward(height, &op.conv()) * taps_backward(width, &op.conv()))
        }
        (Op::ConvFilterGrad(_), Shape::Maps { batch, height, width, .. }) => {
            let pixels = batch * height * width;
            let products = pixels.min(PART);
            (products, products.div_ceil(GROUP), pixels.div_ceil(PART) - 1)
        }
        _ => unreachable!("{case} is no convolution on tensor cores"),
    }
}

/// How many of a filter's rows (or columns) meet in one pixel of an input gradient.
fn taps_backward(size: usize, conv: &Conv) -> usize {
    // Dilated taps may all lie in the pixel's place among the steps of the stride.
    if conv.dilation == 1 { size.div_ceil(conv.stride) } else { size }
}

#[cfg(test)]
mod tests {
    use super::super::{Check, is_of_products};
    use super::*;
    use crate::ops::Fit;

    #[test]
    fn a_product_that_is_missing_or_there_twice_is_found() {
        let mut most = 0;
        // Whole numbers must be right bit for bit.
        let is_rough = |check: &&Check| matches!(check, Check::Rounded(case, _) if case.fit != Fit::Exact && is_of_products(&case.op));
        for check in Check::all().unwrap().iter().filter(is_rough) {
            let (case, operator) = (check.case(), check.case().op.operator());
            let inputs: Vec<Shape> = case.inputs[..case.operands()].iter().map(|(shape, _)| *shape).collect();
            let result = operator.infer(&inputs).unwrap()[0];
            let products = operator.flops(&inputs, &[result]) as f64 / (2 * result.elements()) as f64;
            let share = lost_share(case) * products;
            assert!(share < 0.6, "{check}: {share} of an average product");
            most = most.max(most_terms(case).0);
        }
        assert_eq!(most, 4608, "9 taps of 512 channels");
    }
}
