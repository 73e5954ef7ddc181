//! Whether two machines give the same bits.
//!
//! The same program may not: the logarithms, sines and powers of floats come from the system's library, which has
//! variants by processor and by release, and matrix products are others where a processor cannot multiply and add in
//! one step. Keys, samples and parameters that are computed again on another machine must be what they were, or records
//! go where nobody looks for them. So a process says at joining what its machine makes of some numbers.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// Arguments for each function: where two libraries differ, they do for one argument in some thousands.
const ARGUMENTS: u32 = 5_000;

/// A hash of what a machine makes of some numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arithmetic(u64);

impl Arithmetic {
    /// Of a process that may be on any machine.
    pub(crate) const ANY: Self = Self(0);

    /// Of this machine; takes a few milliseconds.
    pub(crate) fn of_this_machine() -> Self {
        Self::of(&LIBRARY, processor())
    }

    fn of(library: &Library, processor: [bool; 2]) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&processor.map(u8::from));
        // From 0 to 12, in steps that are no round numbers.
        let arguments = || (0..ARGUMENTS).map(|step| f64::from(step) * (PI / 1310.0));
        for function in &library.of_64_bits {
            arguments().for_each(|argument| hasher.update(&function(argument).to_bits().to_le_bytes()));
        }
        for function in &library.of_32_bits {
            arguments().for_each(|argument| hasher.update(&function(argument as f32).to_bits().to_le_bytes()));
        }
        Self(hasher.digest())
    }
}

/// Functions of floats.
struct Library {
    of_64_bits: [fn(f64) -> f64; 19],
    of_32_bits: [fn(f32) -> f32; 14],
}

/// What the standard library takes from the system's.
const LIBRARY: Library = Library {
    of_64_bits: [
        f64::exp,
        f64::exp2,
        f64::exp_m1,
        f64::ln,
        f64::ln_1p,
        f64::log2,
        f64::log10,
        f64::sin,
        f64::cos,
        f64::tan,
        f64::atan,
        f64::sinh,
        f64::cosh,
        f64::tanh,
        f64::cbrt,
        |argument| (argument / 12.0).asin(),
        |argument| argument.atan2(1.7),
        |argument| argument.hypot(1.7),
        |argument| argument.powf(1.0 + argument / 7.0),
    ],
    of_32_bits: [
        f32::exp,
        f32::exp2,
        f32::exp_m1,
        f32::ln,
        f32::ln_1p,
        f32::log2,
        f32::log10,
        f32::sin,
        f32::cos,
        f32::tan,
        f32::atan,
        f32::tanh,
        f32::cbrt,
        |argument| argument.powf(1.0 + argument / 7.0),
    ],
};

/// What matrix products of networks go by (crates `faer` and `pulp`): all x86-64 processors that multiply and add in
/// one step, and have the rest of x86-64-v3, give the same bits, with AVX-512 and without.
#[cfg(target_arch = "x86_64")]
fn processor() -> [bool; 2] {
    use std::is_x86_feature_detected as has;
    let fused = has!("fma");
    let third = has!("avx2") && has!("bmi1") && has!("bmi2") && has!("f16c") && has!("lzcnt") && has!("movbe");
    [fused, third && has!("popcnt")]
}

#[cfg(not(target_arch = "x86_64"))]
fn processor() -> [bool; 2] {
    [true; 2]
}

#[cfg(test)]
impl Arithmetic {
    pub(crate) fn of_another_machine(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_one_function_and_the_processor_count() {
        let this = Arithmetic::of_this_machine();
        assert_eq!(Arithmetic::of_this_machine(), this);
        let [fused, third] = processor();
        assert_ne!(Arithmetic::of(&LIBRARY, [!fused, third]), this);
        let mut other = LIBRARY;
        other.of_64_bits[6] = |argument| match argument.log10() {
            other if argument > 7.0 && argument < 7.001 => f64::from_bits(other.to_bits() + 1),
            same => same,
        };
        assert_ne!(Arithmetic::of(&other, [fused, third]), this);
    }
}
