//! Parameters in a file that other frameworks can read (safetensors), and their fingerprint.
//!
//! Names and shapes are those of a PyTorch module whose `layers` is an `nn.Sequential` of the same layers.

mod at_url;
mod local;

use self::local::{load, save};
use crate::error::{Error, Result};
use crate::layout::{ParameterEntry, ParameterLayout};
use crate::network::NeuralNetwork;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::Path;

impl NeuralNetwork {
    /// Writes all parameters to a safetensors file: whole or not at all, and on the disk when this returns.
    ///
    /// Names and shapes are those of a PyTorch module whose `layers` is an `nn.Sequential` of the same layers,
    /// activations as layers of their own: `load_state_dict(load_file(path))` takes the file, and [`load`](Self::load)
    /// takes what `save_file(state_dict(), path)` has written. `Dense::relu` and the like, of which
    /// [`NeuralNetwork::dense`] is made, are one layer here: such a file fits an `nn.Sequential` whose elements are
    /// layer and activation in one.
    ///
    /// ```
    /// # let folder = tempfile::tempdir().expect("a folder");
    /// # let path = folder.path().join("digits.safetensors");
    /// use distdl_dl::NeuralNetwork;
    ///
    /// let network = NeuralNetwork::dense(784, &[256, 128], 10)?;
    /// let parameters = network.initialize(7)?;
    /// network.save(&path, &parameters)?;
    /// assert_eq!(network.load(&path)?, parameters);
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    ///
    /// For a URL, and for one file of several processes, there is [`save_to`](Self::save_to).
    ///
    /// # Errors
    /// If there are not as many parameters as the network has, or the file cannot be written; the file that was there
    /// before is then untouched.
    pub fn save(&self, path: impl AsRef<Path>, parameters: &[f32]) -> Result<()> {
        save(path.as_ref(), self.parameter_layout(), parameters)
    }

    /// The parameters that a safetensors file holds, of this network.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or holds tensors of other names, shapes or types; the message lists how
    /// they differ.
    pub fn load(&self, path: impl AsRef<Path>) -> Result<Vec<f32>> {
        load(path.as_ref(), self.parameter_layout())
    }
}

/// How a file and a network differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Difference {
    pub(crate) problem: String,
    remedy: Cow<'static, str>,
}

impl Difference {
    /// That of files of other networks.
    fn of(problem: String) -> Self {
        let remedy = "build the network that it was saved from, or name another file".into();
        Self { problem, remedy }
    }

    fn in_file(self, path: &Path) -> Error {
        Error::ModelFile {
            path: path.into(),
            problem: self.problem,
            remedy: self.remedy,
        }
    }
}

/// The most that names and shapes in a file take; safetensors itself takes no more.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// What is longer is no file of such a network; 8 bytes a value, so that a file of f64 is told what it is.
fn bytes_max(layout: &ParameterLayout) -> u64 {
    layout.parameter_count() as u64 * size_of::<f64>() as u64 + HEADER_BYTES_MAX
}

fn check_bytes(length: u64, bytes_max: u64) -> Result<(), Difference> {
    if length > bytes_max {
        return Err(Difference::of(format!(
            "longer than {bytes_max} bytes, which no file of this network is; take that of another network"
        )));
    }
    Ok(())
}

/// BLAKE3 of the parameters' little-endian bytes, in hexadecimal. Equal bits give equal hashes.
pub fn parameters_hash(parameters: &[f32]) -> String {
    blake3::hash(bytemuck::cast_slice(parameters)).to_hex().to_string()
}

/// All tensors of `parameters` in safetensors format.
pub(crate) fn serialize(layout: &ParameterLayout, parameters: &[f32]) -> Result<Vec<u8>, String> {
    let in_files = |entry: &ParameterEntry| {
        let values = &parameters[entry.range.clone()];
        entry.order_in_files().map(|place| values[place]).collect::<Vec<_>>()
    };
    let values: Vec<f32> = layout.entries().iter().flat_map(in_files).collect();
    let bytes: &[u8] = bytemuck::cast_slice(&values);
    let views = layout.entries().iter().map(|entry| {
        let part = &bytes[entry.range.start * size_of::<f32>()..entry.range.end * size_of::<f32>()];
        TensorView::new(Dtype::F32, entry.shape_in_files(), part).map(|view| (&entry.name, view))
    });
    let views = views
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    safetensors::serialize(views, None).map_err(|error| error.to_string())
}

/// What begins the name of each tensor: that of the `nn.Sequential` within its module.
const PREFIX: &str = "layers.";

/// The parameters in a safetensors file; or how its tensors differ from the layout's.
pub(crate) fn deserialize(bytes: &[u8], layout: &ParameterLayout) -> Result<Vec<f32>, Difference> {
    let whole = SafeTensors::deserialize(bytes);
    let tensors = whole.map_err(|error| Difference::of(format!("not a whole safetensors file: {error}")))?;
    let mut parameters = vec![0.0; layout.parameter_count()];
    let (mut differences, mut of_types) = (Vec::new(), Vec::new());
    for entry in layout.entries() {
        match read(&tensors, entry, &mut parameters[entry.range.clone()]) {
            Ok(None) => {}
            Ok(Some(of_type)) => of_types.push(of_type),
            Err(difference) => differences.push(difference),
        }
    }
    differences.extend(unknown(&tensors, layout));
    if differences.is_empty() && of_types.is_empty() {
        return Ok(parameters);
    }
    if is_without_prefix(&tensors, layout) {
        return Err(Difference {
            problem: format!("the names of its tensors lack `{PREFIX}`, as those of an `nn.Sequential` by itself do"),
            remedy: format!(
                "put it before each name, as `{{f\"{PREFIX}{{name}}\": tensor for name, tensor in state_dict.items()}}` does, and save \
                 that"
            )
            .into(),
        });
    }
    let are_types_all = differences.is_empty();
    differences.append(&mut of_types);
    let difference = Difference::of(differences.join("; "));
    match are_types_all {
        true => Err(Difference {
            remedy: "save the tensors as float32, which `.float()` makes of them in PyTorch".into(),
            ..difference
        }),
        false => Err(difference),
    }
}

/// Tensors of a file that the network has not.
fn unknown(tensors: &SafeTensors<'_>, layout: &ParameterLayout) -> Vec<String> {
    // PyTorch counts the batches of a batch normalisation; its result does not follow from them.
    let known = |name: &str| {
        let is_counted = name
            .strip_suffix("num_batches_tracked")
            .map(|layer| format!("{layer}running_mean"));
        let wanted = is_counted.as_deref().unwrap_or(name);
        layout.entries().iter().any(|entry| entry.name == wanted)
    };
    let mut unknown: Vec<_> = tensors.names().into_iter().filter(|name| !known(name)).collect();
    unknown.sort_unstable();
    let unknown = unknown.into_iter();
    unknown
        .map(|name| format!("{name} is not part of the network"))
        .collect()
}

/// Whether a file has all tensors of the network, but their names begin later.
fn is_without_prefix(tensors: &SafeTensors<'_>, layout: &ParameterLayout) -> bool {
    let has = |name: &str| tensors.tensor(name).is_ok();
    let mut names = layout.entries().iter().map(|entry| &*entry.name);
    names.len() > 0 && names.all(|name| !has(name) && name.strip_prefix(PREFIX).is_some_and(has))
}

/// Reads a tensor; or says of which other type it is.
fn read(tensors: &SafeTensors<'_>, entry: &ParameterEntry, parameters: &mut [f32]) -> Result<Option<String>, String> {
    let name = &entry.name;
    let tensor = tensors.tensor(name).map_err(|_| format!("{name} is missing"))?;
    let expected = entry.shape_in_files();
    if tensor.shape() != expected {
        return Err(format!("{name} has shape {:?}, expected {expected:?}", tensor.shape()));
    }
    if tensor.dtype() != Dtype::F32 {
        return Ok(Some(format!("{name} is {:?}, expected F32", tensor.dtype())));
    }
    for (place, bytes) in entry.order_in_files().zip(tensor.data().as_chunks().0) {
        parameters[place] = f32::from_le_bytes(*bytes);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::layout::ParameterShape;

    fn layout(sides: &[usize]) -> ParameterLayout {
        let mut layout = ParameterLayout::default();
        for (layer, side) in sides.windows(2).enumerate() {
            let weight = ParameterShape::new("weight", side.to_vec());
            layout.append(layer, &[weight, ParameterShape::new("bias", vec![side[1]])]);
        }
        layout
    }

    fn parameters(layout: &ParameterLayout) -> Vec<f32> {
        (0..layout.parameter_count())
            .map(|index| index as f32 * 0.37 - 3.0)
            .collect()
    }

    #[test]
    fn what_is_saved_is_loaded_also_over_an_older_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        for sides in [&[5, 3][..], &[4, 12, 11, 2]] {
            let layout = layout(sides);
            save(&path, &layout, &parameters(&layout)).unwrap();
            assert_eq!(load(&path, &layout).unwrap(), parameters(&layout));
        }
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "a temporary file was left behind"
        );
    }

    #[test]
    fn a_dense_layers_weight_lies_in_files_as_pytorch_has_it() {
        let network = crate::NeuralNetwork::dense(2, &[], 3).unwrap();
        let parameters = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
        let bytes = serialize(network.parameter_layout(), &parameters).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let weight = tensors.tensor("layers.0.weight").unwrap();
        assert_eq!(weight.shape(), [3, 2]);
        assert_eq!(
            weight.data(),
            bytemuck::cast_slice::<f32, u8>(&[1.0, 4.0, 2.0, 5.0, 3.0, 6.0])
        );
        assert_eq!(deserialize(&bytes, network.parameter_layout()).unwrap(), parameters);
    }

    #[test]
    fn layers_without_bias_are_those_of_files_without() {
        let image = crate::Image {
            channels: 1,
            height: 3,
            width: 3,
        };
        let network = |convolution: crate::Conv2d, dense: crate::Dense| {
            let builder = crate::NeuralNetwork::new(image).hidden(convolution);
            builder.output(dense, crate::Loss::L1).unwrap()
        };
        let (convolution, dense) = (crate::Conv2d::new(2, 2), crate::Dense::linear(1));
        let without = network(convolution.without_bias(), dense.without_bias());
        let values = (0..16u8).map(f32::from).collect::<Vec<f32>>();
        let bytes = serialize(without.parameter_layout(), &values).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<&str> = tensors.names();
        names.sort_unstable();
        assert_eq!(names, ["layers.0.weight", "layers.1.weight"]);
        assert_eq!(deserialize(&bytes, without.parameter_layout()).unwrap(), values);
        let with = network(convolution, dense);
        let refusal = deserialize(&bytes, with.parameter_layout()).unwrap_err().problem;
        assert!(refusal.contains("layers.0.bias is missing"), "{refusal}");
        // Nor is a checkpoint of one that of the other.
        for (with, without) in with.words().into_iter().zip(without.words()).take(2) {
            assert_ne!(with, without);
        }
    }

    #[test]
    fn batches_that_pytorch_counted_are_passed_over() {
        let builder = crate::NeuralNetwork::new(crate::Input(2)).hidden(crate::BatchNorm::default());
        let network = builder.output(crate::Dense::linear(1), crate::Loss::L1).unwrap();
        let parameters = network.initialize(1).unwrap();
        let bytes = serialize(network.parameter_layout(), &parameters).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let counted = |name: &str| {
            let count = TensorView::new(Dtype::I64, vec![], &[7, 0, 0, 0, 0, 0, 0, 0]).unwrap();
            let others = tensors.tensors().into_iter();
            let all = others.chain([(name.to_owned(), count)]);
            deserialize(&safetensors::serialize(all, None).unwrap(), network.parameter_layout())
        };
        assert_eq!(counted("layers.0.num_batches_tracked").unwrap(), parameters);
        let refusal = counted("layers.1.num_batches_tracked").unwrap_err();
        assert_eq!(
            refusal.problem,
            "layers.1.num_batches_tracked is not part of the network"
        );
    }

    #[test]
    fn every_difference_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let saved = layout(&[4, 3, 2]);
        save(&path, &saved, &parameters(&saved)).unwrap();
        let message = |wanted: &ParameterLayout| load(&path, wanted).unwrap_err().to_string();
        let wider = message(&layout(&[5, 3, 2]));
        assert!(
            wider.contains("layers.0.weight has shape [4, 3], expected [5, 3]"),
            "{wider}"
        );
        let deeper = message(&layout(&[4, 3, 2, 2]));
        assert!(
            deeper.contains("layers.2.weight is missing; layers.2.bias is missing"),
            "{deeper}"
        );
        let shallower = message(&layout(&[4, 3]));
        assert!(
            shallower.contains("layers.1.bias is not part of the network"),
            "{shallower}"
        );
    }

    #[test]
    fn another_element_type_is_refused_with_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let message = |dtype: Dtype, bytes: &[u8], wanted: &ParameterLayout| {
            let view = TensorView::new(dtype, vec![2, 1], bytes).unwrap();
            let bias = TensorView::new(Dtype::F32, vec![1], &[0; 4]).unwrap();
            let tensors = [("layers.0.weight", view), ("layers.0.bias", bias)];
            std::fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
            load(&path, wanted).unwrap_err().to_string()
        };
        for (dtype, bytes) in [(Dtype::F64, 16), (Dtype::F16, 4), (Dtype::BF16, 4)] {
            let message = message(dtype, &vec![0; bytes], &layout(&[2, 1]));
            let says = format!("layers.0.weight is {dtype:?}, expected F32; save the tensors as float32");
            assert!(message.contains(&says), "{message}");
        }
        // Of another network that would not help.
        let deeper = message(Dtype::F16, &[0; 4], &layout(&[2, 1, 1]));
        assert!(
            deeper.contains("layers.0.weight is F16") && deeper.contains("build the network"),
            "{deeper}"
        );
    }

    #[test]
    fn names_of_a_bare_sequential_are_told_what_they_lack() {
        let (layout, other) = (layout(&[3, 2]), layout(&[3, 2, 2]));
        let bytes = serialize(&layout, &parameters(&layout)).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let bare = tensors.tensors().into_iter();
        let bare = bare.map(|(name, view)| (name.replace("layers.", ""), view));
        let bytes = safetensors::serialize(bare, None).unwrap();
        let difference = deserialize(&bytes, &layout).unwrap_err();
        assert!(difference.problem.contains("lack `layers.`"), "{difference:?}");
        assert!(
            difference.remedy.contains("`{f\"layers.{name}\": tensor for"),
            "{difference:?}"
        );
        let difference = deserialize(&bytes, &other).unwrap_err();
        assert!(
            difference.problem.contains("layers.1.weight is missing"),
            "{difference:?}"
        );
    }

    #[test]
    fn a_file_cut_anywhere_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let layout = layout(&[3, 2]);
        save(&path, &layout, &parameters(&layout)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(
                matches!(load(&path, &layout), Err(Error::ModelFile { .. })),
                "cut at {length}"
            );
        }
    }

    #[test]
    fn a_file_far_longer_than_the_network_is_refused_as_such() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let layout = layout(&[3, 2]);
        save(&path, &layout, &parameters(&layout)).unwrap();
        // A hole takes no room.
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_len(100_000_065).unwrap();
        let message = load(&path, &layout).unwrap_err().to_string();
        assert!(message.contains("longer than 100000064 bytes"), "{message}");
    }

    #[test]
    fn a_failed_save_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let layout = layout(&[3, 2]);
        let missing = folder.path().join("no such folder").join("model.safetensors");
        let refused = save(&missing, &layout, &parameters(&layout)).unwrap_err().to_string();
        let says = format!(
            "cannot write {}: No such file or directory (os error 2); check the path",
            missing.display()
        );
        assert_eq!(refused, says, "and no temporary file");
        assert!(matches!(
            save(&folder.path().join("short"), &layout, &[1.0]),
            Err(Error::Length { .. })
        ));
        assert!(matches!(load(&missing, &layout), Err(Error::Io { .. })));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_url_is_told_whose_it_is() {
        let layout = layout(&[3, 2]);
        let url = Path::new("memory://model.safetensors");
        let saved = save(url, &layout, &parameters(&layout)).unwrap_err().to_string();
        assert!(
            saved.contains("this is a URL") && saved.contains("`save_to`"),
            "{saved}"
        );
        let loaded = load(url, &layout).unwrap_err().to_string();
        assert!(loaded.contains("`load_from`"), "{loaded}");
    }

    #[test]
    fn a_hash_tells_bits_apart() {
        assert_eq!(parameters_hash(&[1.0, 2.0]), parameters_hash(&[1.0, 2.0]));
        assert_ne!(parameters_hash(&[0.0]), parameters_hash(&[-0.0]));
        assert_eq!(
            parameters_hash(&[1.0]),
            blake3::hash(&[0, 0, 0x80, 0x3f]).to_hex().to_string()
        );
    }
}
