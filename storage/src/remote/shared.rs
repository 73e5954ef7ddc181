//! A folder of part files that several processes write.

use bytes::Bytes;

use super::existing::Existing;
use super::folder::{must_be_part, must_be_plain};
use super::marked::SharedObjects;
use super::pattern::draw_name;
use super::prefix::Prefix;
use super::renamed::SharedRenamed;
use super::shared_files::SharedFiles;
use crate::error::Result;

/// A folder of parts that several processes write, any of which may die, and that appears whole or not at all.
///
/// Its copies in all processes have one name for what is unfinished. One process makes the place for it, all write
/// parts; one process publishes those that count; one removes what is left. Each step may be taken again, by the same
/// process or another. On a file system each try has a file of its own, and those that are published count. In a store
/// of objects, and on HDFS, whoever writes a part last counts: what is written again must be the same.
#[derive(Debug, Clone)]
pub struct SharedFolder(Place);

#[derive(Debug, Clone)]
enum Place {
    Files(SharedFiles),
    Objects(SharedObjects),
    Renamed(SharedRenamed),
}

impl SharedFolder {
    /// Draws a name for what is unfinished that no other folder has.
    pub fn draw_name() -> String {
        draw_name()
    }

    pub(super) fn of_files(path: &str, name: &str, existing: Existing) -> Result<Self> {
        Ok(Self(Place::Files(SharedFiles::new(path, name, existing)?)))
    }

    pub(super) fn of_objects(folder: Prefix, name: &str) -> Result<Self> {
        must_be_plain(name)?;
        Ok(Self(Place::Objects(SharedObjects::new(folder, name))))
    }

    /// In a store that renames a folder at once.
    pub(super) fn renamed(folder: Prefix, name: &str) -> Result<Self> {
        must_be_plain(name)?;
        Ok(Self(Place::Renamed(SharedRenamed::new(folder, name))))
    }

    /// Makes the place for parts.
    ///
    /// # Errors
    /// The folder exists already and is not to be replaced, or cannot be, or the file system or the store refuses, or
    /// has no hard links.
    pub fn begin(&self) -> Result<()> {
        match &self.0 {
            Place::Files(files) => files.begin(),
            Place::Objects(objects) => Ok(objects.begin()?),
            Place::Renamed(folder) => Ok(folder.begin()?),
        }
    }

    /// Writes a part durably that is to be called `name`, for which see [`write_part`](super::FolderWriter::write_part),
    /// and returns the name that this try has given it.
    ///
    /// # Errors
    /// A name that is no plain file name, and whatever the file system or the store refuses.
    pub fn write_part(&self, name: &str, bytes: Bytes) -> Result<String> {
        must_be_part(name)?;
        match &self.0 {
            Place::Files(files) => return files.write_part(&bytes),
            Place::Objects(objects) => objects.write_part(name, bytes)?,
            Place::Renamed(folder) => folder.write_part(name, bytes)?,
        }
        Ok(name.to_owned())
    }

    /// Gives parts their names in the folder and the folder its own, so that all of it appears at once. `parts` are
    /// (name in the folder, what [`SharedFolder::write_part`] returned). Parts that are not among them stay out.
    ///
    /// # Errors
    /// The name has been taken meanwhile, by another than an earlier try of this; a part is not to be seen from here;
    /// or the file system or the store refuses.
    pub fn publish(&self, parts: &[(String, String)]) -> Result<()> {
        let names = || parts.iter().map(|(name, _)| name.clone()).collect();
        match &self.0 {
            Place::Files(files) => files.publish(parts),
            Place::Objects(objects) => Ok(objects.publish(&names())?),
            Place::Renamed(folder) => Ok(folder.publish(&names())?),
        }
    }

    /// Removes all that was written and not published.
    ///
    /// # Errors
    /// If the file system or the store refuses.
    pub fn remove_unfinished(&self) -> Result<()> {
        match &self.0 {
            Place::Files(files) => files.remove_unfinished(),
            Place::Objects(objects) => Ok(objects.remove_unfinished()?),
            Place::Renamed(folder) => Ok(folder.remove_unfinished()?),
        }
    }
}
