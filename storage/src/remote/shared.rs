//! A folder of part files that several processes write.

use bytes::Bytes;

use super::existing::Existing;
use super::folder::{must_be_part, must_be_plain};
use super::pattern::draw_name;
use super::prefix::{Prefix, SUCCESS};
use super::shared_files::SharedFiles;
use super::shared_objects::SharedObjects;
use crate::error::Result;

/// A folder of parts that several processes write, any of which may die, and that appears whole or not at all.
///
/// Its copies in all processes have one name for what is unfinished. One process makes the place for it, all write
/// parts; one process publishes those that count; one removes what is left. Each step may be taken again, by the same
/// process or another. On a file system each try has a file of its own, and those that are published count. In a store
/// of objects whoever writes a part last counts: what is written again must be the same.
#[derive(Debug, Clone)]
pub struct SharedFolder(Place);

#[derive(Debug, Clone)]
enum Place {
    Files(SharedFiles),
    Objects(SharedObjects),
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

    /// Makes the place for parts.
    ///
    /// # Errors
    /// The folder exists already and is not to be replaced, or cannot be, or the file system or the store refuses, or
    /// has no hard links.
    pub fn begin(&self) -> Result<()> {
        match &self.0 {
            Place::Files(files) => files.begin(),
            Place::Objects(objects) => Ok(objects.begin()?),
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
            // Publishing writes it.
            Place::Objects(_) if name == SUCCESS => {}
            Place::Objects(objects) => objects.write_part(name, bytes)?,
        }
        Ok(name.to_owned())
    }

    /// Gives parts their names in the folder and the folder its own, so that all of it appears at once. `parts` are
    /// (name in the folder, what [`SharedFolder::write_part`] returned). Parts that are not among them stay out.
    ///
    /// # Errors
    /// The name has been taken meanwhile, by another than an earlier try of this; a part is not to be seen from here;
    /// or the file system or the store refuses. Where a store does not answer the last steps, the mark of success and
    /// the end of the marker, the parts may be decided, and [`SharedFolder::remove_unfinished`] then shows them.
    pub fn publish(&self, parts: &[(String, String)]) -> Result<()> {
        let names = parts.iter().map(|(name, _)| name.clone());
        match &self.0 {
            Place::Files(files) => files.publish(parts),
            Place::Objects(objects) => Ok(objects.publish(&names.filter(|name| name != SUCCESS).collect())?),
        }
    }

    /// Whether what is written again must be the same.
    pub fn has_one_try(&self) -> bool {
        matches!(self.0, Place::Objects(_))
    }

    /// Where [`SharedFolder::begin`] has failed: removes what that may have left.
    ///
    /// # Errors
    /// If the file system or the store refuses.
    pub fn abandon(&self) -> Result<()> {
        match &self.0 {
            Place::Files(files) => files.remove_unfinished(),
            Place::Objects(objects) => Ok(objects.abandon()?),
        }
    }

    /// Removes all parts that were written and not published, unless another has written a whole folder there
    /// meanwhile.
    ///
    /// # Errors
    /// If the file system or the store refuses.
    pub fn remove_unfinished(&self) -> Result<()> {
        match &self.0 {
            Place::Files(files) => files.remove_unfinished(),
            Place::Objects(objects) => Ok(objects.remove_unfinished()?),
        }
    }
}
