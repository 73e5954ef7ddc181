//! Which rows a layer reads, and where the backward pass keeps the gradients by them.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::kernels::sums::add;
use crate::scalar::Scalar;

/// What a layer reads. Rows are named by the number of layers that have made them: 0 is the network's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wires {
    /// Its inputs.
    pub(super) inputs: usize,
    /// What is added to its outputs.
    pub(super) added: Option<usize>,
}

impl Wires {
    /// Those of a layer that follows `before` others in a chain.
    pub(super) fn chain(before: usize) -> Self {
        Self {
            inputs: before,
            added: None,
        }
    }

    /// These wires behind so many more layers.
    pub(super) fn behind(self, layers: usize) -> Self {
        Self {
            inputs: self.inputs + layers,
            added: self.added.map(|added| added + layers),
        }
    }

    /// What they are, for the layer of this index: nothing where layers are a chain.
    pub(super) fn words(self, index: usize) -> String {
        match self {
            chain if chain == Self::chain(index) => String::new(),
            Self { inputs, added: None } => format!(" of {inputs}"),
            Self {
                inputs,
                added: Some(added),
            } => format!(" of {inputs} and {added}"),
        }
    }
}

/// Buffers of a backward pass, as few as there can be: a chain takes two in turns, and each shortcut that is open one
/// more.
#[derive(Clone, Debug)]
pub(super) struct GradientBuffers {
    /// Of each layer, none where nobody wants its gradients.
    layers: Vec<Option<LayerBuffers>>,
    count: usize,
}

/// The buffers of one layer's backward pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LayerBuffers {
    /// Holds the gradient by its outputs.
    pub(super) output: usize,
    /// Gets the gradient by its inputs, if somebody wants it.
    pub(super) input: Option<usize>,
    /// Which are added to which when it is done: others have read the same rows.
    pub(super) sums: Vec<[usize; 2]>,
}

impl GradientBuffers {
    /// Where the loss writes the gradient by the last outputs.
    pub(super) const LOSS: usize = 0;

    /// For layers that read so. A view's outputs are its inputs, and so are the gradients by them. Nobody wants
    /// gradients by rows that come from layers which learn nothing.
    pub(super) fn new(wires: &[Wires], is_view: impl Fn(usize) -> bool, is_learnt: impl Fn(usize) -> bool) -> Self {
        let mut are_wanted = vec![false];
        for (index, Wires { inputs, added }) in wires.iter().enumerate() {
            let are_of_rows = are_wanted[*inputs] || added.is_some_and(|added| are_wanted[added]);
            are_wanted.push(are_of_rows || is_learnt(index));
        }
        let made_by_layer = |mut rows: usize| {
            while rows > 0 && is_view(rows - 1) {
                rows = wires[rows - 1].inputs;
            }
            rows
        };
        let mut pool = Pool::default();
        let mut buffer_of = BTreeMap::from([(made_by_layer(wires.len()), pool.take())]);
        let mut layers = vec![None; wires.len()];
        let has_pass = |index: &usize| !is_view(*index) && are_wanted[index + 1];
        for index in (0..wires.len()).rev().filter(has_pass) {
            // Whoever reads the outputs comes later, and has been here.
            let output = buffer_of.remove(&(index + 1)).unwrap_or_else(|| pool.take());
            let (mut sums, mut is_kept) = (Vec::new(), false);
            let wanted = |rows: usize| Some(made_by_layer(rows)).filter(|rows| are_wanted[*rows]);
            if let Some(added) = wires[index].added.and_then(wanted) {
                match buffer_of.get(&added) {
                    Some(buffer) => sums.push([output, *buffer]),
                    None => {
                        buffer_of.insert(added, output);
                        is_kept = true;
                    }
                }
            }
            let input = wanted(wires[index].inputs).map(|inputs| {
                let input = pool.take();
                match buffer_of.get(&inputs) {
                    Some(buffer) => {
                        sums.push([input, *buffer]);
                        pool.give_back(input);
                    }
                    None => drop(buffer_of.insert(inputs, input)),
                }
                input
            });
            if !is_kept {
                pool.give_back(output);
            }
            layers[index] = Some(LayerBuffers { output, input, sums });
        }
        Self {
            layers,
            count: pool.made,
        }
    }

    /// Number of buffers.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Those of a layer; none if it has no backward pass.
    pub(super) fn of(&self, layer: usize) -> Option<&LayerBuffers> {
        self.layers[layer].as_ref()
    }
}

impl LayerBuffers {
    /// Of all buffers those of the gradients by the layer's outputs and inputs.
    pub(super) fn output_and_input<'a, T>(&self, buffers: &'a mut [Vec<T>]) -> (&'a mut [T], Option<&'a mut [T]>) {
        let Some(input) = self.input else {
            return (&mut buffers[self.output], None);
        };
        let [output, input] = two(buffers, [self.output, input]);
        (output, Some(input))
    }

    /// Adds what this layer found to what others did that have read the same rows, of so many elements.
    pub(super) fn add_up<T: Scalar>(&self, length: usize, buffers: &mut [Vec<T>]) -> Result<()> {
        for sum in &self.sums {
            let [values, sums] = two(buffers, *sum);
            add(&values[..length], &mut sums[..length])?;
        }
        Ok(())
    }
}

#[expect(
    clippy::expect_used,
    reason = "a buffer that is taken is not free, so the pool gives another"
)]
fn two<T>(buffers: &mut [Vec<T>], indices: [usize; 2]) -> [&mut Vec<T>; 2] {
    buffers.get_disjoint_mut(indices).expect("two buffers of the workspace")
}

/// Buffers that are free, and how many there are in all.
#[derive(Default)]
struct Pool {
    free: Vec<usize>,
    made: usize,
}

impl Pool {
    fn take(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.made += 1;
            self.made - 1
        })
    }

    fn give_back(&mut self, buffer: usize) {
        self.free.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]
    use super::*;

    fn of(buffers: &GradientBuffers, layer: usize) -> &LayerBuffers {
        buffers.of(layer).expect("a backward pass")
    }

    #[test]
    fn a_chain_takes_two_buffers_in_turns() {
        let chain: Vec<Wires> = (0..5).map(Wires::chain).collect();
        let buffers = GradientBuffers::new(&chain, |_| false, |_| true);
        assert_eq!(buffers.count(), 2);
        let all = (0..5)
            .rev()
            .map(|layer| (of(&buffers, layer).output, of(&buffers, layer).input));
        assert!(all.eq([(0, Some(1)), (1, Some(0)), (0, Some(1)), (1, Some(0)), (0, None)]));
        assert!((0..5).all(|layer| of(&buffers, layer).sums.is_empty()));
        let one = GradientBuffers::new(&chain[..1], |_| false, |_| true);
        assert_eq!((one.count(), of(&one, 0).input), (1, None));
    }

    #[test]
    fn views_take_none() {
        let chain: Vec<Wires> = (0..4).map(Wires::chain).collect();
        let buffers = GradientBuffers::new(&chain, |layer| layer == 1 || layer == 3, |_| true);
        assert_eq!(of(&buffers, 2).output, GradientBuffers::LOSS, "of the view behind it");
        assert_eq!(
            of(&buffers, 2).input,
            Some(of(&buffers, 0).output),
            "of the view before it"
        );
    }

    /// Layers 1 and 2 beside nothing, then their sum, then one more.
    fn with_a_block() -> [Wires; 5] {
        let sum = Wires {
            inputs: 3,
            added: Some(1),
        };
        [0, 1, 2, 3, 4].map(|layer| if layer == 3 { sum } else { Wires::chain(layer) })
    }

    #[test]
    fn a_gradient_waits_until_all_who_read_the_rows_are_through() {
        let buffers = GradientBuffers::new(&with_a_block(), |_| false, |_| true);
        assert_eq!(buffers.count(), 3);
        let kept = of(&buffers, 3).output;
        for layer in [2, 1] {
            let of = of(&buffers, layer);
            assert!(of.output != kept && of.input != Some(kept));
        }
        assert_eq!(of(&buffers, 1).sums, [[of(&buffers, 1).input.expect("one"), kept]]);
        assert_eq!(of(&buffers, 0).output, kept);
    }

    #[test]
    fn what_nobody_learns_from_is_left_out() {
        let buffers = |learnt: usize| GradientBuffers::new(&with_a_block(), |_| false, move |layer| layer == learnt);
        // Below the block: all of it.
        assert!((0..5).all(|layer| buffers(0).of(layer).is_some()));
        // Within: the way round it is not gone.
        let within = buffers(2);
        assert_eq!(
            [0, 1, 2, 3, 4].map(|layer| within.of(layer).is_some()),
            [false, false, true, true, true]
        );
        assert_eq!((of(&within, 2).input, &of(&within, 3).sums), (None, &Vec::new()));
        assert_eq!(within.count(), 2);
        assert_eq!([3, 4].map(|layer| buffers(4).of(layer).is_some()), [false, true]);
    }
}
