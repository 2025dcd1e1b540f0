//! Operators on the CPU that treat every number alike.

use super::super::elementwise::{self, VECTOR, for_each_block, load, map, rectified, store};
use super::super::layout::padded;
use super::super::memory::Region;
use super::{Binding, Routine, maps};
use crate::graph::Shape;
use crate::ops::{AdamW, Fill, Scale, Sgd};

pub(super) fn add(binding: &Binding<'_>) -> Routine {
    let (a, b, sum) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    if binding.epilogue.relu {
        Box::new(move || {
            map(
                [a, b],
                sum,
                #[inline(always)]
                |[a, b]| rectified(a + b),
            )
        })
    } else {
        Box::new(move || {
            map(
                [a, b],
                sum,
                #[inline(always)]
                |[a, b]| a + b,
            )
        })
    }
}

pub(super) fn relu(binding: &Binding<'_>) -> Routine {
    let (x, y) = (binding.inputs[0], binding.outputs[0]);
    Box::new(move || {
        map(
            [x],
            y,
            #[inline(always)]
            |[x]| rectified(x),
        )
    })
}

pub(super) fn relu_grad(binding: &Binding<'_>) -> Routine {
    let (y, dy, dx) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    Box::new(move || {
        map(
            [y, dy],
            dx,
            #[inline(always)]
            |[y, dy]| if y > 0.0 { dy } else { 0.0 },
        )
    })
}

pub(super) fn scale(op: &Scale, binding: &Binding<'_>) -> Routine {
    let (x, y, factor) = (binding.inputs[0], binding.outputs[0], op.factor);
    Box::new(move || {
        map(
            [x],
            y,
            #[inline(always)]
            |[x]| factor * x,
        )
    })
}

/// Padding stays zero: the constant goes where the layout has elements.
pub(super) fn fill(op: &Fill, binding: &Binding<'_>) -> Routine {
    let (shape, value, y) = (op.shape, op.value, binding.outputs[0]);
    let mut pattern = vec![0.0; y.len()];
    super::super::layout::pack(shape, &vec![value; shape.elements()], &mut pattern);
    Box::new(move || {
        for_each_block(pattern.len(), |at, len| {
            // SAFETY: this task alone writes this block.
            unsafe { y.slice_mut(at, len).copy_from_slice(&pattern[at..at + len]) };
        });
    })
}

pub(super) fn sigmoid(binding: &Binding<'_>) -> Routine {
    sigmoid_of(binding.input_shapes[0], binding.inputs[0], binding.outputs[0])
}

/// Of maps; the result may lie over them. `sigmoid(0)` is not 0, so padding lanes are written as zeros.
pub(super) fn sigmoid_of(shape: Shape, x: Region, y: Region) -> Routine {
    let (_, channels, _, _) = maps(shape);
    let vectors = padded(channels) / VECTOR;
    Box::new(move || {
        for_each_block(
            x.len(),
            #[inline(always)]
            |start, len| {
                let (from, to) = (x.pointer(start, len).cast_const(), y.pointer(start, len));
                for at in (0..len).step_by(VECTOR) {
                    // SAFETY: both ranges were just checked, and pixels are whole vectors; this task alone writes this block.
                    unsafe {
                        let numbers = load(from.add(at)).map(elementwise::sigmoid);
                        let left = channels - ((start + at) / VECTOR % vectors * VECTOR).min(channels);
                        store(to.add(at), std::array::from_fn(|lane| if lane < left { numbers[lane] } else { 0.0 }));
                    }
                }
            },
        );
    })
}

pub(super) fn sigmoid_grad(binding: &Binding<'_>) -> Routine {
    let (y, dy, dx) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    Box::new(move || {
        map(
            [y, dy],
            dx,
            #[inline(always)]
            |[y, dy]| dy * y * (1.0 - y),
        )
    })
}

pub(super) fn square_grad(binding: &Binding<'_>) -> Routine {
    let (x, cotangent, dx) = (binding.inputs[0], binding.inputs[1], binding.outputs[0]);
    Box::new(move || {
        // SAFETY: nobody writes the cotangent while this step runs.
        let factor = 2.0 * unsafe { cotangent.slice(0, 1) }[0];
        map(
            [x],
            dx,
            #[inline(always)]
            |[x]| factor * x,
        );
    })
}

pub(super) fn sgd(op: &Sgd, binding: &Binding<'_>) -> Routine {
    let [w, v, g, rate] = [0, 1, 2, 3].map(|i| binding.inputs[i]);
    let (new_w, new_v) = (binding.outputs[0], binding.outputs[1]);
    let Sgd { momentum, weight_decay } = *op;
    Box::new(move || {
        // SAFETY: nobody writes the rate while this step runs.
        let rate = unsafe { rate.slice(0, 1) }[0];
        map(
            [v, g, w],
            new_v,
            #[inline(always)]
            |[v, g, w]| momentum * v + g + weight_decay * w,
        );
        map(
            [w, new_v],
            new_w,
            #[inline(always)]
            |[w, v]| w - rate * v,
        );
    })
}

pub(super) fn adamw(op: &AdamW, binding: &Binding<'_>) -> Routine {
    let [w, m, v, g] = [0, 1, 2, 3].map(|i| binding.inputs[i]);
    let scalars = [4, 5, 6].map(|i| binding.inputs[i]);
    let [new_w, new_m, new_v] = [0, 1, 2].map(|i| binding.outputs[i]);
    let AdamW { beta1, beta2, epsilon, weight_decay } = *op;
    Box::new(move || {
        // SAFETY: nobody writes the scalars while this step runs.
        let [rate, correction1, correction2] = scalars.map(|scalar| unsafe { scalar.slice(0, 1) }[0]);
        let kept = 1.0 - rate * weight_decay;
        map(
            [m, g],
            new_m,
            #[inline(always)]
            |[m, g]| beta1 * m + (1.0 - beta1) * g,
        );
        map(
            [v, g],
            new_v,
            #[inline(always)]
            |[v, g]| beta2 * v + (1.0 - beta2) * g * g,
        );
        map(
            [w, new_m, new_v],
            new_w,
            #[inline(always)]
            |[w, m, v]| kept * w - rate * (m / correction1) / ((v / correction2).sqrt() + epsilon),
        );
    })
}
