//! One pass each.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use crate::scalar::Scalar;

dispatched! {
    pub(super) fn scale_bytes<T: Scalar>(bytes: &[u8], scale: T, row: &mut [T]) {
        for (value, &byte) in row.iter_mut().zip(bytes) {
            *value = T::from_u8(byte) * scale;
        }
    }
}

dispatched! {
    pub(super) fn copy_values<T: Scalar>(values: &[f32], row: &mut [T]) {
        for (to, &from) in row.iter_mut().zip(values) {
            *to = T::from_f32(from);
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
            let (bytes, mut row): (Vec<u8>, _) = ((0..=255).collect(), vec![f32::NAN; 256]);
            scale_bytes(level, &bytes, 1.0 / 255.0, &mut row);
            let mut copied = vec![f32::NAN; 256];
            copy_values(level, &row, &mut copied);
            assert_eq!((copied[0], copied[51], copied[255]), (0.0, 51.0 * (1.0 / 255.0), 1.0));
            copied.iter().map(|value: &f32| value.to_bits()).collect::<Vec<_>>()
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }
}
