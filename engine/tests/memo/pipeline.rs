//! Pipelines that note what they compute, and the files that remember it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use distdl_engine::{Config, Context, Dataset, Result};

/// Partitions that were computed, in order of number.
#[derive(Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Vec<usize>>>);

impl Ledger {
    pub(crate) fn note(&self, partition: usize) {
        self.0.lock().unwrap().push(partition);
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Vec<usize> {
        let mut noted = std::mem::take(&mut *self.0.lock().unwrap());
        noted.sort_unstable();
        noted
    }
}

pub(crate) fn config(cache: &Path) -> Config {
    Config::default().with_threads(2).with_cache_folder(cache)
}

pub(crate) fn context(cache: &Path) -> Context {
    Context::new(config(cache)).unwrap()
}

/// Numbered files with some words each.
pub(crate) fn write_files(folder: &Path, count: usize) {
    for file in 0..count {
        write_file(folder, file, &format!("word{} word{} all", file, file % 7));
    }
}

/// Writes a file anew; its length differs from that of any other text of the tests, so that the grain of the file
/// system's clock does not matter.
pub(crate) fn write_file(folder: &Path, number: usize, text: &str) {
    std::fs::write(folder.join(format!("{number:03}.txt")), text).unwrap();
}

/// The slow part: one file a partition, read and taken apart.
pub(crate) fn words(context: &Context, files: &Path, partitions: usize, ledger: &Ledger) -> Result<Dataset<String>> {
    let ledger = ledger.clone();
    let objects = context.objects(&format!("{}/*.txt", files.display()), partitions)?;
    Ok(objects.map_partitions_with_index(move |partition, objects| {
        ledger.note(partition);
        objects.flat_map(|(_, bytes)| {
            let text = String::from_utf8(bytes).unwrap();
            text.split(' ').map(str::to_owned).collect::<Vec<String>>()
        })
    }))
}

/// Files of remembered blocks, sorted.
pub(crate) fn remembered(cache: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| {
        std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path())
    };
    let mut files: Vec<PathBuf> = inside(&cache.join("computed/blocks"))
        .flat_map(|folder| inside(&folder).collect::<Vec<_>>())
        .collect();
    files.sort();
    files
}
