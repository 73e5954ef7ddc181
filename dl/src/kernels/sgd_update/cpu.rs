//! One pass.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

dispatched! {
    pub(super) fn sgd_update(learning_rate: f32, gradient: &[f32], before: &[f32], after: &mut [f32]) {
        for ((after, &before), &gradient) in after.iter_mut().zip(before).zip(gradient) {
            *after = before - learning_rate * gradient;
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
            let before: Vec<f32> = (0..131).map(|index| index as f32 * 0.731 - 40.0).collect();
            let mut after = vec![f32::NAN; 131];
            let gradient: Vec<f32> = (0..131).map(|index| 7.0 - index as f32 * 0.317).collect();
            sgd_update(level, 0.013, &gradient, &before, &mut after);
            after.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }
}
