//! Reading MNIST: small files made here in all ways wrong, and a right one.

use distdl_dl::{Features, Mnist, SampleTargets};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

fn idx(magic: u32, sides: &[u32], elements: &[u8]) -> Vec<u8> {
    let words = std::iter::once(magic)
        .chain(sides.iter().copied())
        .flat_map(u32::to_be_bytes);
    words.chain(elements.iter().copied()).collect()
}

fn images(count: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..count * 784).map(|index| (index % 256) as u8).collect();
    idx(0x0803, &[count, 28, 28], &pixels)
}

fn labels(labels: &[u8]) -> Vec<u8> {
    idx(0x0801, &[labels.len() as u32], labels)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

const TRAIN_IMAGES: &str = "train-images-idx3-ubyte";
const TRAIN_LABELS: &str = "train-labels-idx1-ubyte";

/// Three images to train on, two to test on; the training files plain, the test files packed.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.path().join(name), bytes).unwrap();
    write(TRAIN_IMAGES, images(3));
    write(TRAIN_LABELS, labels(&[7, 0, 9]));
    write("t10k-images-idx3-ubyte.gz", gzip(&images(2)));
    write("t10k-labels-idx1-ubyte.gz", gzip(&labels(&[1, 2])));
    folder
}

fn message_with(name: &str, bytes: &[u8]) -> String {
    let folder = folder();
    std::fs::write(folder.path().join(name), bytes).unwrap();
    let message = Mnist::open(folder.path()).unwrap_err().to_string();
    assert!(message.contains(name), "{message} does not name the file");
    message
}

#[test]
fn plain_and_packed_files_are_read() {
    let mnist = Mnist::open(folder().path()).unwrap();
    assert_eq!(
        (mnist.train.len(), mnist.test.len(), mnist.train.feature_length()),
        (3, 2, 784)
    );
    assert_eq!(mnist.train.targets(), &SampleTargets::Labels(vec![7, 0, 9]));
    let Features::U8 { bytes, scale } = mnist.test.features() else {
        panic!("bytes stay bytes")
    };
    assert_eq!((bytes.len(), bytes[300], *scale), (2 * 784, 44, 1.0 / 255.0));
}

#[test]
fn what_is_wrong_is_named() {
    let label_cases = [
        (images(3), "offset 0 (magic number)"),
        (labels(&[1, 2]), "2 labels for 3 images at offset 4"),
        (labels(&[1, 10, 2]), "label 10, expected 0 to 9 at offset 9 (label 1)"),
        (
            labels(&[1, 2, 3])[..10].to_vec(),
            "2 bytes of elements, the sides say 3",
        ),
        (vec![], "the header is cut: 0 bytes"),
    ];
    for (bytes, words) in label_cases {
        let message = message_with(TRAIN_LABELS, &bytes);
        assert!(
            message.contains(words) && message.contains("fetch the file again"),
            "{message}"
        );
    }
    let image_cases = [
        (labels(&[1, 2, 3]), "offset 0 (magic number)"),
        (
            idx(0x0803, &[3, 28, 27], &[0; 3 * 28 * 27]),
            "images of 28 x 27, expected 28 x 28",
        ),
        (idx(0x0803, &[0, 28, 28], &[]), "there are no images"),
        (images(3)[..2000].to_vec(), "1984 bytes of elements, the sides say 2352"),
        (
            [images(3), vec![0]].concat(),
            "2353 bytes of elements, the sides say 2352",
        ),
    ];
    for (bytes, words) in image_cases {
        let message = message_with(TRAIN_IMAGES, &bytes);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn damaged_gzip_is_named() {
    let name = "t10k-images-idx3-ubyte.gz";
    let whole = gzip(&images(2));
    for length in [0, 5, whole.len() / 2, whole.len() - 1] {
        message_with(name, &whole[..length]);
    }
    let mut checksum = whole.clone();
    let last = checksum.len() - 6;
    checksum[last] ^= 1;
    message_with(name, &checksum);
    message_with(name, &images(2));
}

#[test]
fn a_missing_file_is_named() {
    let folder = folder();
    std::fs::remove_file(folder.path().join(TRAIN_LABELS)).unwrap();
    let message = Mnist::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.contains("there is no such file") && message.contains("train-labels-idx1-ubyte.gz"),
        "{message}"
    );
    assert!(Mnist::open(folder.path().join("nowhere")).is_err());
}

#[test]
fn the_real_files_are_read() {
    let mnist = Mnist::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/mnist")).unwrap();
    assert_eq!((mnist.train.len(), mnist.test.len()), (60_000, 10_000));
    let SampleTargets::Labels(labels) = mnist.train.targets() else {
        panic!("labels")
    };
    assert_eq!(labels[..8], [5, 0, 4, 1, 9, 2, 1, 3]);
}
