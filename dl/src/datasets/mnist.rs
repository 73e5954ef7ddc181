//! MNIST's handwritten digits: 28 x 28 grey images of the classes 0 to 9.

use crate::error::{Error, Result};
use crate::samples::{Features, SampleTargets, Samples};
use distdl_engine::EngineError;
use distdl_storage::StorageError;
use distdl_storage::array::{Array, ArrayFormat, read_array};
use distdl_storage::remote::{ObjectError, Stores};
use std::path::{Path, PathBuf};

/// Height and width of an image.
const SIDE: usize = 28;
/// Number of classes.
const CLASSES: usize = 10;

const REMEDY: &str = "fetch the file again, or take the one that its name promises";
/// A file may unpack to this much at most: more than twenty times the real ones.
const BYTES_MAX: u64 = 1 << 30;

/// Both sets: the one to train on (60,000 images in the real files) and the one to test on (10,000).
#[derive(Clone, Debug, PartialEq)]
pub struct Mnist {
    /// The samples to train on.
    pub train: Samples,
    /// The samples to test on.
    pub test: Samples,
}

impl Mnist {
    /// Reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    /// `t10k-labels-idx1-ubyte` from `folder`, each plain or with `.gz`. Features are bytes with a scale of 1/255,
    /// labels are 0 to 9.
    ///
    /// Errors if a file is missing, cut, or not what its name says, or if there is a different number of images and
    /// labels.
    pub fn open(folder: impl AsRef<Path>) -> Result<Mnist> {
        Self::open_from(&Stores::new(), &folder.as_ref().to_string_lossy())
    }

    /// As [`open`](Self::open), from a folder, bucket or prefix by its URL, with the cache and the limits of `stores`.
    /// Errors as there, or if the URL cannot be read.
    pub fn open_from(stores: &Stores, url: &str) -> Result<Mnist> {
        Ok(Mnist {
            train: read_set(stores, url, "train")?,
            test: read_set(stores, url, "t10k")?,
        })
    }
}

fn read_set(stores: &Stores, folder: &str, name: &str) -> Result<Samples> {
    let (images_path, images) = read(stores, folder, &format!("{name}-images-idx3-ubyte"), 3)?;
    let (labels_path, labels) = read(stores, folder, &format!("{name}-labels-idx1-ubyte"), 1)?;
    check_images(&images_path, &images)?;
    check_labels(&labels_path, &labels, images.shape[0])?;
    let labels = labels.elements.into_iter().map(u32::from).collect();
    let features = Features::U8 {
        bytes: images.elements,
        scale: 1.0 / 255.0,
    };
    Samples::new(SIDE * SIDE, features, SampleTargets::Labels(labels))
}

fn check_images(path: &Path, images: &Array<u8>) -> Result<()> {
    if images.shape[1..] != [SIDE, SIDE] {
        let problem = format!(
            "images of {} x {}, expected {SIDE} x {SIDE}",
            images.shape[1], images.shape[2]
        );
        return Err(damaged(path, "offset 8 (height and width)", problem));
    }
    if images.shape[0] == 0 {
        return Err(damaged(
            path,
            "offset 4 (number of images)",
            "there are no images".into(),
        ));
    }
    Ok(())
}

fn check_labels(path: &Path, labels: &Array<u8>, images: usize) -> Result<()> {
    if labels.shape[0] != images {
        let problem = format!("{} labels for {images} images", labels.shape[0]);
        return Err(damaged(path, "offset 4 (number of labels)", problem));
    }
    match labels.elements.iter().position(|&label| usize::from(label) >= CLASSES) {
        None => Ok(()),
        Some(index) => {
            let problem = format!("label {}, expected 0 to {}", labels.elements[index], CLASSES - 1);
            Err(damaged(path, &format!("offset {} (label {index})", 8 + index), problem))
        }
    }
}

/// Reads the array of bytes with that many sides, from the plain file or else from the packed one.
fn read(stores: &Stores, folder: &str, name: &str, sides: usize) -> Result<(PathBuf, Array<u8>)> {
    let plain = format!("{}/{name}", folder.trim_end_matches('/'));
    let packed = format!("{plain}.gz");
    let (path, objects) = match stores.list(&plain) {
        Err(StorageError::Object(ObjectError::NotFound { .. })) => (PathBuf::from(&packed), stores.list(&packed)),
        listed => (PathBuf::from(&plain), listed),
    };
    let array = objects.and_then(|objects| read_array(stores, &objects[0], &ArrayFormat::Idx, BYTES_MAX));
    let array = array.map_err(|error| not_idx(&path, error))?;
    if array.shape.len() != sides {
        let (got, expected) = (0x0800 | array.shape.len(), 0x0800 | sides);
        let problem = format!("magic number {got:#010x}, expected {expected:#010x} (unsigned bytes, {sides} sides)");
        return Err(damaged(&path, "offset 0 (magic number)", problem));
    }
    Ok((path, array))
}

fn not_idx(path: &Path, error: StorageError) -> Error {
    match error {
        StorageError::Object(ObjectError::Malformed { place, problem, .. }) => damaged(path, &place, problem),
        error => Error::Engine(EngineError::Storage(error)),
    }
}

fn damaged(path: &Path, at: &str, problem: String) -> Error {
    Error::DatasetFile {
        path: path.into(),
        at: at.into(),
        problem,
        remedy: REMEDY.into(),
    }
}
