//! One pass.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

dispatched! {
    pub(super) fn sgd_update(learning_rate: f32, gradient: &[f32], parameters: &mut [f32]) {
        for (parameter, &gradient) in parameters.iter_mut().zip(gradient) {
            *parameter -= learning_rate * gradient;
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
            let mut parameters: Vec<f32> = (0..131).map(|index| index as f32 * 0.731 - 40.0).collect();
            let gradient: Vec<f32> = (0..131).map(|index| 7.0 - index as f32 * 0.317).collect();
            sgd_update(level, 0.013, &gradient, &mut parameters);
            parameters.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }
}
