//! Elements left out by chance.

#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use crate::error::{Result, check_length};
use crate::rng::{Purpose, Stream};
use crate::scalar::Scalar;

/// Which elements are left out: element n by the word `first` + n of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chance {
    /// The share that is left out, 0 to 1, and not 1.
    pub probability: f64,
    /// The seed of the stream.
    pub seed: u64,
    /// The ids of the stream.
    pub ids: [u64; 2],
    /// The word of the first element.
    pub first: u64,
}

impl Chance {
    /// What the other elements are multiplied with, so that the sum stays the same on average.
    fn scale(&self) -> f64 {
        1.0 / (1.0 - self.probability)
    }
}

/// `to` = `from`, scaled, and 0 where an element is left out. Errors if lengths differ.
pub fn apply<T: Scalar>(chance: &Chance, from: &[T], to: &mut [T]) -> Result<()> {
    check_length("the outputs", from.len(), to.len())?;
    let scale = T::from_f64(chance.scale());
    let mut stream = Stream::new(chance.seed, Purpose::Dropout, chance.ids);
    stream.seek(chance.first);
    for (to, from) in to.iter_mut().zip(from) {
        let is_out = stream.next_chance(chance.probability);
        *to = if is_out { T::ZERO } else { *from * scale };
    }
    Ok(())
}
