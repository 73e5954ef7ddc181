//! Gradients in fewer bytes.

use std::ops::Range;

use distdl_engine::UpdateFormat;

use crate::error::{Error, Result};

/// What is sent of gradients, between hosts and wherever memory is not shared. New parameters are sent whole.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub enum Compression {
    /// All of them, four bytes a value.
    #[default]
    None,
    /// All of them as bfloat16, two bytes a value: see [`UpdateFormat::Bf16`]. What batch norm has measured is rounded,
    /// too: a mean that is large beside its deviation loses digits.
    Bf16,
    /// Of each lane the largest ones, eight bytes a value.
    TopK(TopK),
}

/// The largest values of a lane's gradient are sent, and the rest is kept and added to its next gradient:
/// sparsification with error feedback (Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018).
///
/// Nobody else has what a lane keeps. So every `flush_every` steps, and at the end of each call of
/// [`iterate`](super::Training::iterate) and before each checkpoint, lanes send all they have; what a crash takes is
/// done again from there. So are the steps since then when lanes move to other processes; and where a program of one
/// process goes on after an error of `iterate`, for which it keeps a copy of parameters and state, the training is
/// again where all was last sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopK {
    /// The share of the values that is sent, above 0 and at most 1.
    pub share: f32,
    /// Steps from one time when all is sent to the next, 1 or more.
    pub flush_every: u64,
}

impl Default for TopK {
    /// One value in a hundred, all of them every 100 steps.
    fn default() -> Self {
        Self {
            share: 0.01,
            flush_every: 100,
        }
    }
}

impl Compression {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::TopK(TopK { share, .. }) if !(*share > 0.0 && *share <= 1.0) => Err(Error::Options(format!(
                "a share of {share} of the gradient to send; give one above 0 and at most 1"
            ))),
            Self::TopK(TopK { flush_every: 0, .. }) => Err(Error::Options(
                "all of the gradient to be sent every 0 steps; give 1 or more".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// For gradients that may be sparse by themselves.
    pub(super) fn format(&self, is_sparse: bool) -> UpdateFormat {
        match self {
            Self::None if is_sparse => UpdateFormat::Sparse,
            Self::None => UpdateFormat::Full,
            Self::Bf16 => UpdateFormat::Bf16,
            Self::TopK(_) => UpdateFormat::Sparse,
        }
    }

    pub(super) fn top_k(&self) -> Option<TopK> {
        match self {
            Self::TopK(top_k) => Some(*top_k),
            _ => None,
        }
    }
}

impl TopK {
    /// The first step behind `step` before which all was sent.
    pub(super) fn flush_after(&self, step: u64) -> u64 {
        step - step % self.flush_every + self.flush_every
    }
}

/// What a lane has kept of its gradients.
pub(super) struct Residual {
    share: f32,
    /// The step that sends all.
    last_step: u64,
    /// Parameters that gradients change; others are statistics, of which all is sent.
    learnt: Vec<Range<usize>>,
    /// By sample, as steps that are of unequally many samples divide by their number.
    kept: Vec<f32>,
    /// For the sizes of all values.
    sizes: Vec<f32>,
}

impl Residual {
    /// Of a loop that ends before step `end`.
    pub(super) fn new(top_k: TopK, end: u64, learnt: Vec<Range<usize>>) -> Self {
        Self {
            share: top_k.share,
            last_step: end.saturating_sub(1),
            kept: vec![0.0; learnt.iter().map(ExactSizeIterator::len).sum()],
            learnt,
            sizes: Vec::new(),
        }
    }

    /// Adds what was kept to a lane's part of the gradient of a step of so many samples, over all lanes, and keeps all
    /// but the largest values of the sum.
    pub(super) fn keep_small(&mut self, step: u64, samples: u64, gradient: &mut [f32]) {
        let samples = samples as f32;
        for (value, kept) in of(&self.learnt, gradient).zip(&mut self.kept) {
            *value += *kept * samples;
            *kept = 0.0;
        }
        if step == self.last_step {
            return;
        }
        let (smallest, mut ties) = self.threshold(gradient);
        for (value, kept) in of(&self.learnt, gradient).zip(&mut self.kept) {
            let size = value.abs();
            let is_sent = match size.total_cmp(&smallest) {
                std::cmp::Ordering::Greater => true,
                std::cmp::Ordering::Equal => {
                    ties = ties.saturating_sub(1);
                    ties > 0
                }
                std::cmp::Ordering::Less => false,
            };
            if !is_sent {
                *kept = std::mem::take(value) / samples;
            }
        }
    }

    /// The smallest size that is sent, and one more than how many values of that very size are.
    fn threshold(&mut self, gradient: &mut [f32]) -> (f32, usize) {
        self.sizes.clear();
        self.sizes.extend(of(&self.learnt, gradient).map(|value| value.abs()));
        let count = self.sizes.len();
        let sent = ((count as f64 * f64::from(self.share)).ceil() as usize).clamp(1, count.max(1));
        if count == 0 {
            return (0.0, 1);
        }
        let (_, smallest, larger) = self.sizes.select_nth_unstable_by(count - sent, f32::total_cmp);
        let above = larger.iter().filter(|size| size.total_cmp(smallest).is_gt()).count();
        (*smallest, sent - above + 1)
    }
}

/// The values of some ranges, in order.
fn of<'a>(ranges: &'a [Range<usize>], values: &'a mut [f32]) -> impl Iterator<Item = &'a mut f32> {
    let mut rest = (0, values);
    ranges.iter().flat_map(move |range| {
        let (begin, values) = std::mem::take(&mut rest);
        let (_, values) = values.split_at_mut(range.start - begin);
        let (own, behind) = values.split_at_mut(range.len());
        rest = (range.end, behind);
        own
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residual(share: f32) -> Residual {
        let top_k = TopK { share, flush_every: 10 };
        Residual::new(top_k, 10, vec![0..3, 4..7])
    }

    #[test]
    fn the_largest_are_sent_and_the_rest_comes_later() {
        let mut residual = residual(0.34);
        // The fourth is a statistic.
        let mut gradient = [1.0, -5.0, 2.0, 0.1, 3.0, -3.0, 0.0];
        residual.keep_small(0, 8, &mut gradient);
        assert_eq!(gradient, [0.0, -5.0, 0.0, 0.1, 3.0, -3.0, 0.0]);
        let mut gradient = [1.5, 0.0, 0.0, 0.2, 0.0, 0.0, 9.0];
        residual.keep_small(1, 8, &mut gradient);
        assert_eq!(gradient, [2.5, 0.0, 2.0, 0.2, 0.0, 0.0, 9.0]);
        assert_eq!(residual.kept, [0.0; 6]);
    }

    #[test]
    fn of_equal_ones_the_first_are_sent_and_at_last_all() {
        let mut residual = residual(0.5);
        let mut gradient = [1.0; 7];
        residual.keep_small(0, 8, &mut gradient);
        assert_eq!(gradient, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
        let mut gradient = [0.0; 7];
        residual.keep_small(9, 8, &mut gradient);
        assert_eq!(gradient, [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn what_was_kept_of_many_samples_weighs_no_more_in_a_step_of_few() {
        let mut residual = residual(0.01);
        // Means of 1 and 4 over 100 samples.
        let mut gradient = [100.0, 0.0, 0.0, 0.0, 400.0, 0.0, 0.0];
        residual.keep_small(8, 100, &mut gradient);
        assert_eq!(gradient, [0.0, 0.0, 0.0, 0.0, 400.0, 0.0, 0.0]);
        let mut gradient = [0.0; 7];
        residual.keep_small(9, 3, &mut gradient);
        assert_eq!(
            gradient,
            [3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            "a mean of 1 over 3 samples"
        );
    }

    #[test]
    fn all_is_sent_at_multiples() {
        let top_k = TopK {
            flush_every: 100,
            ..TopK::default()
        };
        assert_eq!(
            [0, 99, 100, 250].map(|step| top_k.flush_after(step)),
            [100, 100, 200, 300]
        );
    }
}
