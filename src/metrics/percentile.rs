//! Percentiles by linear interpolation, as NumPy's default.

/// The value below which `fraction` (0 to 1) of `values` lie; `None` without values. Reorders them.
pub(super) fn percentile(values: &mut [f64], fraction: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let rank = last as f64 * fraction.clamp(0.0, 1.0);
    let below = (rank.floor() as usize).min(last);
    let (_, &mut low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    Some(low + (high - low) * (rank - below as f64))
}

#[cfg(test)]
mod tests {
    use super::percentile;
    use proptest::prelude::*;

    #[test]
    fn between_two_values_it_is_interpolated() {
        assert_eq!(percentile(&mut [], 0.5), None);
        assert_eq!(percentile(&mut [7.0], 0.95), Some(7.0));
        assert_eq!(percentile(&mut [3.0, 1.0], 0.5), Some(2.0));
        assert_eq!(percentile(&mut [5.0, 1.0, 4.0, 2.0, 3.0], 0.25), Some(2.0));
        assert_eq!(percentile(&mut [0.0, 10.0, 20.0], 0.875), Some(17.5));
    }

    proptest! {
        #[test]
        fn it_rises_from_the_least_to_the_greatest_value(mut values in proptest::collection::vec(-1e3..1e3, 1..40)) {
            let at: Vec<f64> = (0..=10).map(|i| percentile(&mut values, f64::from(i) / 10.0).unwrap()).collect();
            prop_assert!(at.is_sorted());
            values.sort_by(f64::total_cmp);
            prop_assert_eq!((at[0], at[10]), (values[0], values[values.len() - 1]));
        }
    }
}
