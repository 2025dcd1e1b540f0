//! The one-dimensional transforms.

use pulp::Simd;

/// Points of a row of the larger tile.
pub(super) const MOST: usize = 6;

/// The one-dimensional transforms of a tile.
pub(super) trait Points: Send + Sync {
    const MADE: usize;
    const READ: usize;

    /// `B^T d`.
    fn of_pixels<S: Simd>(simd: S, d: [S::f32s; MOST]) -> [S::f32s; MOST];

    /// `A^T m`.
    fn results<S: Simd>(simd: S, m: [S::f32s; MOST]) -> [S::f32s; 4];
}

pub(super) struct Two;
pub(super) struct Four;

impl Points for Two {
    const MADE: usize = 2;
    const READ: usize = 4;

    #[inline(always)]
    fn of_pixels<S: Simd>(simd: S, d: [S::f32s; MOST]) -> [S::f32s; MOST] {
        let zero = simd.splat_f32s(0.0);
        [
            simd.sub_f32s(d[0], d[2]),
            simd.add_f32s(d[1], d[2]),
            simd.sub_f32s(d[2], d[1]),
            simd.sub_f32s(d[1], d[3]),
            zero,
            zero,
        ]
    }

    #[inline(always)]
    fn results<S: Simd>(simd: S, m: [S::f32s; MOST]) -> [S::f32s; 4] {
        let zero = simd.splat_f32s(0.0);
        let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        [simd.add_f32s(m[0], sum), simd.sub_f32s(difference, m[3]), zero, zero]
    }
}

impl Points for Four {
    const MADE: usize = 4;
    const READ: usize = 6;

    #[inline(always)]
    fn of_pixels<S: Simd>(simd: S, d: [S::f32s; MOST]) -> [S::f32s; MOST] {
        let (two, four) = (simd.splat_f32s(2.0), simd.splat_f32s(4.0));
        let (minus_two, minus_four) = (simd.splat_f32s(-2.0), simd.splat_f32s(-4.0));
        let even = simd.mul_add_e_f32s(minus_four, d[2], d[4]);
        let odd = simd.mul_add_e_f32s(minus_four, d[1], d[3]);
        let (far_even, far_odd) = (simd.sub_f32s(d[4], d[2]), simd.sub_f32s(d[3], d[1]));
        [
            simd.mul_add_e_f32s(four, simd.sub_f32s(d[0], d[2]), far_even),
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            simd.mul_add_e_f32s(two, far_odd, far_even),
            simd.mul_add_e_f32s(minus_two, far_odd, far_even),
            simd.mul_add_e_f32s(minus_four, far_odd, simd.sub_f32s(d[5], d[3])),
        ]
    }

    #[inline(always)]
    fn results<S: Simd>(simd: S, m: [S::f32s; MOST]) -> [S::f32s; 4] {
        let [two, four, eight] = [2.0, 4.0, 8.0].map(|factor| simd.splat_f32s(factor));
        let (sum, difference) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
        let (far_sum, far_difference) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
        [
            simd.add_f32s(simd.add_f32s(m[0], sum), far_sum),
            simd.mul_add_e_f32s(two, far_difference, difference),
            simd.mul_add_e_f32s(four, far_sum, sum),
            simd.add_f32s(simd.mul_add_e_f32s(eight, far_difference, difference), m[5]),
        ]
    }
}
