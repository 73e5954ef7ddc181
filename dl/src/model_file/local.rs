//! The same files on the disks of this host, by their paths.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use super::{Difference, bytes_max, check_bytes, deserialize, serialize};
use crate::error::{Error, Result, check_length};
use crate::layout::ParameterLayout;

pub(super) fn save(path: &Path, layout: &ParameterLayout, parameters: &[f32]) -> Result<()> {
    check_length("the parameters", layout.parameter_count(), parameters.len())?;
    check_path(path, "use `save_to`, which takes URLs, or name a path")?;
    let bytes = serialize(layout, parameters).map_err(|problem| Difference::of(problem).in_file(path))?;
    write_atomically(path, &bytes).map_err(|source| Error::Io {
        action: "write".into(),
        path: path.into(),
        source,
    })
}

pub(super) fn load(path: &Path, layout: &ParameterLayout) -> Result<Vec<f32>> {
    check_path(path, "use `load_from`, which takes URLs, or name a path")?;
    let failed = |source| Error::Io {
        action: "read".into(),
        path: path.into(),
        source,
    };
    let unsuitable = |difference: Difference| difference.in_file(path);
    let bytes_max = bytes_max(layout);
    let file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    check_bytes(length, bytes_max).map_err(unsuitable)?;
    let mut bytes = Vec::with_capacity(length as usize);
    // It may have grown, or be no file that has a length.
    file.take(bytes_max).read_to_end(&mut bytes).map_err(failed)?;
    deserialize(&bytes, layout).map_err(unsuitable)
}

/// A URL would be taken for a path in a folder that is called like its scheme.
fn check_path(path: &Path, remedy: &'static str) -> Result<()> {
    match path.to_string_lossy().contains("://") {
        false => Ok(()),
        true => Err(Error::ModelFile {
            path: path.into(),
            problem: "this is a URL, and a file is wanted".to_owned(),
            remedy: remedy.into(),
        }),
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // The error of a folder that is missing names no temporary file so.
    let opened = File::open(folder)?;
    let mut builder = tempfile::Builder::new();
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666)); // less what the umask takes away
    let mut file = builder.tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    opened.sync_all() // so that the new name survives a power cut as well
}
