//! Where each tensor of a network lies in its one flat parameter vector.

use serde::{Deserialize, Serialize};
use std::ops::Range;

use crate::error::{Error, Result, check_length};

/// A tensor that a layer wants, by the name it has within the layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterShape {
    /// Name within the layer, such as `weight`.
    pub name: &'static str,
    /// Length of each side, outermost first.
    pub shape: Vec<usize>,
    /// Whether its two sides are swapped in files, where other programs expect them so.
    pub is_transposed_in_files: bool,
}

impl ParameterShape {
    /// A tensor that lies in files as it does here.
    pub fn new(name: &'static str, shape: Vec<usize>) -> Self {
        Self {
            name,
            shape,
            is_transposed_in_files: false,
        }
    }

    /// Number of elements.
    pub fn length(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A named tensor in the flat vector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParameterEntry {
    /// Name in the network, such as `layers.0.weight`.
    pub name: String,
    /// Length of each side, outermost first.
    pub shape: Vec<usize>,
    /// Its elements in the flat vector.
    pub range: Range<usize>,
    /// Whether its two sides are swapped in files.
    pub is_transposed_in_files: bool,
}

impl ParameterEntry {
    /// Its shape in files.
    pub(crate) fn shape_in_files(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.is_transposed_in_files {
            shape.reverse();
        }
        shape
    }

    /// Where each element lies here, counted from the tensor's begin, in the order of files.
    pub(crate) fn order_in_files(&self) -> impl Iterator<Item = usize> + use<> {
        // A tensor that is not swapped is one of a single row.
        let (rows, columns) = match (self.is_transposed_in_files, &self.shape[..]) {
            (true, [rows, columns]) => (*rows, *columns),
            _ => (self.range.len(), 1),
        };
        (0..columns).flat_map(move |column| (0..rows).map(move |row| row * columns + column))
    }
}

/// All tensors of a network, in the order of the flat vector, without gaps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct ParameterLayout {
    entries: Vec<ParameterEntry>,
}

/// What was read from outside and may contradict itself.
#[derive(Deserialize)]
struct Unchecked {
    entries: Vec<ParameterEntry>,
}

impl TryFrom<Unchecked> for ParameterLayout {
    type Error = Error;

    fn try_from(Unchecked { entries }: Unchecked) -> Result<Self> {
        let mut begin = 0;
        for entry in &entries {
            let length = entry
                .shape
                .iter()
                .try_fold(1_usize, |product, side| product.checked_mul(*side));
            let end = length
                .and_then(|length| length.checked_add(begin))
                .unwrap_or(usize::MAX);
            check_length("the tensors before one of a layout", begin, entry.range.start)?;
            check_length("a tensor of a layout with those before it", end, entry.range.end)?;
            begin = end;
        }
        Ok(Self { entries })
    }
}

impl ParameterLayout {
    /// Appends a layer's tensors as `layers.{layer}.{name}` and gives the range that they take together.
    pub(crate) fn append(&mut self, layer: usize, shapes: &[ParameterShape]) -> Range<usize> {
        let start = self.parameter_count();
        for shape in shapes {
            let begin = self.parameter_count();
            self.entries.push(ParameterEntry {
                name: format!("layers.{layer}.{}", shape.name),
                shape: shape.shape.clone(),
                range: begin..begin + shape.length(),
                is_transposed_in_files: shape.is_transposed_in_files,
            });
        }
        start..self.parameter_count()
    }

    /// The tensors, in order.
    pub fn entries(&self) -> &[ParameterEntry] {
        &self.entries
    }

    /// Length of the flat vector.
    pub fn parameter_count(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.range.end)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_layout_that_contradicts_itself_is_not_read() {
        let mut layout = ParameterLayout::default();
        layout.append(
            0,
            &[
                ParameterShape::new("weight", vec![2, 3]),
                ParameterShape::new("bias", vec![3]),
            ],
        );
        let text = serde_json::to_string(&layout).unwrap();
        assert_eq!(serde_json::from_str::<ParameterLayout>(&text).unwrap(), layout);
        for (from, to) in [
            ("\"start\":6", "\"start\":7"),
            ("\"end\":9", "\"end\":90"),
            ("[2,3]", "[2,4]"),
        ] {
            let wrong = text.replace(from, to);
            assert!(
                wrong != text && serde_json::from_str::<ParameterLayout>(&wrong).is_err(),
                "{wrong}"
            );
        }
    }
}
