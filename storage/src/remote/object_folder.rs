//! A folder, or a prefix of objects, that is read and written one object at a time through `object_store`.

use std::cmp::Ordering;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};

use super::client::{Client, Target, failed};
use super::pattern::names_unfinished;
use super::{Stores, local};
use crate::object::ObjectError;
use crate::owner::LEFT_AFTER;

type Result<T> = std::result::Result<T, ObjectError>;

/// A folder or prefix. Local files and their names are on the disk when a write returns.
#[derive(Debug, Clone)]
pub(crate) struct ObjectFolder {
    client: Arc<Client>,
    target: Target,
    /// The folder itself, if it is a local one.
    folder: Option<PathBuf>,
    read_bytes_max: u64,
    objects_max: usize,
}

/// An object of a folder.
#[derive(Debug, Clone)]
pub(crate) struct FolderEntry {
    pub(crate) name: String,
    meta: ObjectMeta,
}

impl FolderEntry {
    /// Its length in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.meta.size
    }

    /// Which of two objects was written first, by the store's clock.
    pub(crate) fn by_age(&self, other: &Self) -> Ordering {
        self.meta.last_modified.cmp(&other.meta.last_modified)
    }

    /// Whether it was last written a day or more before another.
    pub(crate) fn is_left_behind(&self, other: &Self) -> bool {
        let since = other.meta.last_modified - self.meta.last_modified;
        since.to_std().is_ok_and(|since| since >= LEFT_AFTER)
    }
}

impl ObjectFolder {
    pub(super) fn of(stores: &Stores, target: Target) -> Self {
        let options = stores.options();
        Self {
            client: Arc::clone(&stores.0.client),
            target,
            folder: None,
            read_bytes_max: options.read_bytes_max,
            objects_max: options.list_objects_max,
        }
    }

    pub(super) fn local(stores: &Stores, url: &str, path: &str) -> Result<Self> {
        let folder = without_parents(Path::new(path)).map_err(|error| ObjectError::invalid_name(url, error))?;
        let path = ObjectPath::from_absolute_path(&folder).map_err(|error| ObjectError::invalid_name(url, error))?;
        let target = Target {
            url: url.to_owned(),
            store: Arc::new(LocalFileSystem::new().with_fsync(true)),
            path,
        };
        let place = Self::of(stores, target);
        Ok(Self {
            folder: Some(folder),
            ..place
        })
    }

    /// A prefix of a store that the caller has opened.
    pub(crate) fn within(stores: &Stores, store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self> {
        let path = ObjectPath::parse(prefix).map_err(|error| ObjectError::invalid_name(prefix, error))?;
        let url = format!("{store}/{prefix}");
        Ok(Self::of(stores, Target { url, store, path }))
    }

    /// Its name, for people.
    pub(crate) fn url(&self) -> &str {
        &self.target.url
    }

    /// The URL of an object in it.
    pub(crate) fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.target.url.trim_end_matches('/'))
    }

    /// The objects right in it; none if it does not exist.
    pub(crate) fn list(&self) -> Result<Vec<FolderEntry>> {
        let target = self.target.clone();
        let listed = self.client.run(async move {
            let listed = target.store.list_with_delimiter(Some(&target.path)).await;
            listed.map_err(|error| failed(&target.url, "list it", &error))
        })?;
        let objects = match listed {
            Ok(listed) => listed.objects,
            Err(ObjectError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        if objects.len() > self.objects_max {
            return Err(ObjectError::TooManyObjects {
                pattern: self.url().to_owned(),
                objects_max: self.objects_max,
            });
        }
        let found = objects.into_iter().filter_map(|meta| {
            let name = meta.location.filename()?.to_owned();
            Some(FolderEntry { name, meta })
        });
        Ok(found.collect())
    }

    /// Whether there is an object of that name, asked for by name.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        match self.client.head(self.object(name)) {
            Ok(_) => Ok(true),
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A whole object of at most `bytes_max` bytes.
    pub(crate) fn read(&self, name: &str, bytes_max: u64) -> Result<Bytes> {
        let target = self.object(name);
        let bytes_max = bytes_max.min(self.read_bytes_max);
        self.client.run(async move {
            let fail = |error| failed(&target.url, "read it", &error);
            let found = target.store.get(&target.path).await.map_err(fail)?;
            let bytes = found.meta.size;
            if bytes > bytes_max {
                let url = target.url.clone();
                return Err(ObjectError::TooLarge { url, bytes, bytes_max });
            }
            found.bytes().await.map_err(fail)
        })?
    }

    /// Writes a new object, whole or not at all. One that could not be [read](Self::read) is an error now, and not when
    /// it is needed.
    pub(crate) fn create(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.put(name, bytes, PutMode::Create)
    }

    /// Writes an object, whole or not at all, over whatever is there.
    pub(crate) fn replace(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.put(name, bytes, PutMode::Overwrite)
    }

    fn put(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<()> {
        let (target, length, bytes_max) = (self.object(name), bytes.len() as u64, self.read_bytes_max);
        if length > bytes_max {
            let (url, bytes) = (target.url, length);
            return Err(ObjectError::TooLargeToKeep { url, bytes, bytes_max });
        }
        self.client.put(target, bytes, mode)
    }

    /// Removes an object, if it is there.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        self.client.remove(self.object(name))
    }

    /// Removes what writers that were killed have left in a local folder: `object_store` fills files named `object#1`
    /// and renames them, and shows them to nobody. Others may be writing to the folder, objects of the same names too,
    /// so only what was last changed a day or more before the object `name` is taken for left. Only of objects whose
    /// names begin as `written` ones do: other files are others'. On HDFS such files have hidden names.
    pub(crate) fn remove_unfinished(&self, name: &str, written: &[&str]) -> Result<()> {
        let Some(folder) = &self.folder else {
            let writes_beside = self.url().starts_with("hdfs://");
            return if writes_beside {
                self.remove_hidden(name)
            } else {
                Ok(())
            };
        };
        let changed = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
        let sweep = || -> io::Result<()> {
            let newest = changed(&folder.join(name))?;
            let is_left = |changed: SystemTime| newest.duration_since(changed).is_ok_and(|since| since >= LEFT_AFTER);
            for entry in folder.read_dir()? {
                let path = entry?.path();
                if is_unfinished(&path, written) && changed(&path).is_ok_and(is_left) {
                    match std::fs::remove_file(path) {
                        // Another writer has removed it.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        removed => removed?,
                    }
                }
            }
            Ok(())
        };
        sweep().map_err(|error| local::failed(folder, "remove unfinished files from it", &error))
    }

    /// Removes files with names of [`unfinished`](super::pattern::unfinished) ones that were last changed a day or more
    /// before the object `name`.
    fn remove_hidden(&self, name: &str) -> Result<()> {
        let listed = self.list()?;
        let Some(newest) = listed.iter().find(|found| found.name == name) else {
            return Ok(());
        };
        let is_left = |found: &&FolderEntry| names_unfinished(&found.name) && found.is_left_behind(newest);
        listed
            .iter()
            .filter(is_left)
            .try_for_each(|found| self.remove(&found.name))
    }

    fn object(&self, name: &str) -> Target {
        Target {
            url: self.url_of(name),
            store: Arc::clone(&self.target.store),
            path: self.target.path.clone().join(name),
        }
    }
}

/// The full path without `..`, which `object_store` refuses. What is there may be a link, so that its parent is another
/// one than its name says.
fn without_parents(path: &Path) -> io::Result<PathBuf> {
    let mut plain = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::ParentDir => {
                plain = match plain.canonicalize() {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => plain,
                    real => real?,
                };
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    Ok(plain)
}

fn is_unfinished(path: &Path, written: &[&str]) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some((object, count)) = name.rsplit_once('#') else {
        return false;
    };
    let is_number = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    is_number && written.iter().any(|prefix| object.starts_with(prefix)) && path.is_file()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::remote::pattern::{draw_name, unfinished};

    /// In a local folder, where the time of a change can be set.
    #[test]
    fn hidden_files_that_nobody_has_finished_for_a_day_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = Stores::new().folder(folder.path().to_str().unwrap()).unwrap();
        place.create("newest", Bytes::new()).unwrap();
        let now = SystemTime::now();
        let names = [
            unfinished(&draw_name()),
            unfinished(&draw_name()),
            ".distdl-unfinished".into(),
            "old".into(),
        ];
        for (age, name) in [2 * LEFT_AFTER, LEFT_AFTER / 2, 2 * LEFT_AFTER, 2 * LEFT_AFTER]
            .iter()
            .zip(&names)
        {
            let file = std::fs::File::create(folder.path().join(name)).unwrap();
            file.set_modified(now - *age).unwrap();
        }
        place.remove_hidden("not there").unwrap();
        assert_eq!(place.list().unwrap().len(), 5);
        place.remove_hidden("newest").unwrap();
        let is_there = |name: &String| folder.path().join(name).exists();
        assert_eq!(names.each_ref().map(is_there), [false, true, true, true]);
    }
}
