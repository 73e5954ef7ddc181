//! MNIST's handwritten digits: 28 x 28 grey images of the classes 0 to 9.

use super::idx::{self, IdxBytes};
use crate::error::{Error, Result};
use crate::samples::{Features, SampleTargets, Samples};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Height and width of an image.
pub const SIDE: usize = 28;
/// Number of classes.
pub const CLASSES: usize = 10;

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
        let folder = folder.as_ref();
        Ok(Mnist {
            train: read_set(folder, "train")?,
            test: read_set(folder, "t10k")?,
        })
    }
}

fn read_set(folder: &Path, name: &str) -> Result<Samples> {
    let (images_path, images) = read(folder, &format!("{name}-images-idx3-ubyte"), 3)?;
    let (labels_path, labels) = read(folder, &format!("{name}-labels-idx1-ubyte"), 1)?;
    check_images(&images_path, &images)?;
    check_labels(&labels_path, &labels, images.shape[0])?;
    let labels = labels.elements.into_iter().map(u32::from).collect();
    let features = Features::U8 {
        bytes: images.elements,
        scale: 1.0 / 255.0,
    };
    Samples::new(SIDE * SIDE, features, SampleTargets::Labels(labels))
}

fn check_images(path: &Path, images: &IdxBytes) -> Result<()> {
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

fn check_labels(path: &Path, labels: &IdxBytes, images: usize) -> Result<()> {
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

fn read(folder: &Path, name: &str, sides: u8) -> Result<(PathBuf, IdxBytes)> {
    let (path, bytes) = read_bytes(folder, name)?;
    match idx::parse(&bytes, sides) {
        Ok(array) => Ok((path, array)),
        Err(error) => Err(damaged(&path, error.place(), error.to_string())),
    }
}

fn read_bytes(folder: &Path, name: &str) -> Result<(PathBuf, Vec<u8>)> {
    let (plain, packed) = (folder.join(name), folder.join(format!("{name}.gz")));
    let mut bytes = Vec::new();
    if plain.exists() {
        let file = File::open(&plain).map_err(|source| unreadable(&plain, source))?;
        file.take(BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| unreadable(&plain, source))?;
        return within_limit(plain, bytes);
    }
    let file = File::open(&packed).map_err(|source| unreadable(&packed, source))?;
    let unpacked = MultiGzDecoder::new(file).take(BYTES_MAX + 1).read_to_end(&mut bytes);
    match unpacked {
        Ok(_) => within_limit(packed, bytes),
        Err(error) => Err(damaged(
            &packed,
            &format!("byte {} of what it unpacks to", bytes.len()),
            error.to_string(),
        )),
    }
}

fn within_limit(path: PathBuf, bytes: Vec<u8>) -> Result<(PathBuf, Vec<u8>)> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err(damaged(
            &path,
            "its end",
            format!("unpacks to more than {BYTES_MAX} bytes"),
        ));
    }
    Ok((path, bytes))
}

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        action: "read",
        path: path.into(),
        source,
    }
}

fn damaged(path: &Path, at: &str, problem: String) -> Error {
    Error::DatasetFile {
        path: path.into(),
        at: at.into(),
        problem,
        remedy: REMEDY,
    }
}
