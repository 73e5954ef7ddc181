//! One pass each.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

dispatched! {
    pub(super) fn add(sum: &mut [f32], addend: &[f32]) {
        for (sum, &addend) in sum.iter_mut().zip(addend) {
            *sum += addend;
        }
    }
}

dispatched! {
    pub(super) fn scale(values: &mut [f32], factor: f32) {
        for value in values {
            *value *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    fn all_levels_give_the_same_bits() {
        let run = |level| {
            let mut sum: Vec<f32> = (0..131).map(|index| index as f32 * 0.731 - 40.0).collect();
            let addend: Vec<f32> = (0..131).map(|index| 7.0 - index as f32 * 0.317).collect();
            add(level, &mut sum, &addend);
            scale(level, &mut sum, 0.37);
            sum.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }
}
