//! What convolutions and norms are told about what they do as they write, see `kernels/finish.cuh`.

use super::super::driver::Address;
use super::{Binding, maps};
use crate::program::{Epilogue, Residual};
use bytemuck::NoUninit;

/// The kernels' `Finish`.
#[derive(Debug, Clone, Copy, NoUninit)]
#[repr(C)]
pub(super) struct Finish {
    gamma: Address,
    beta: Address,
    residual: Address,
    activation: i32,
    channels: i32,
    residual_is_half: i32,
    unused: i32,
}

impl Finish {
    /// What a binding's epilogue asks for.
    pub fn of(binding: &Binding<'_>) -> Finish {
        let [gamma, beta] = binding.norm().unwrap_or([Address(0); 2]);
        let residual = binding.residual();
        let (_, channels, _, _) = maps(binding.output_shapes[0]);
        Finish {
            gamma,
            beta,
            residual: residual.map_or(Address(0), |operand| operand.address),
            activation: activation(&binding.epilogue),
            channels: channels as i32,
            residual_is_half: i32::from(residual.is_some_and(|operand| operand.is_half)),
            unused: 0,
        }
    }

    /// The same of a norm that is a step of its own.
    pub fn with_norm(self, gamma: Address, beta: Address) -> Finish {
        Finish { gamma, beta, ..self }
    }
}

/// The kernels' `Activation`.
fn activation(epilogue: &Epilogue) -> i32 {
    match (epilogue.sigmoid, epilogue.relu, epilogue.residual) {
        (true, ..) => 3,
        (false, false, _) => 0,
        (false, true, None | Some(Residual::BeforeRelu)) => 1,
        (false, true, Some(Residual::AfterRelu)) => 2,
    }
}
