//! Names in a store of objects that can be listed and written: a bucket, or the memory of a `Stores` value.

use std::sync::Arc;

use bytes::Bytes;
use object_store::PutMode;
use object_store::path::Path as ObjectPath;

use super::client::{Client, Server, Target};
use super::key_folder::{is_key_folder, output_above};
use super::listing::Listing;
use super::pattern::{MATCHING, UNFINISHED, has_wildcard, hidden};
use crate::object::{Object, ObjectError};

type Result<T> = std::result::Result<T, ObjectError>;

/// The file that says to other programs that a folder of parts is whole, as Hadoop writes it.
pub const SUCCESS: &str = "_SUCCESS";

/// A name, perhaps a pattern or of a folder, in a store.
#[derive(Debug, Clone)]
pub(super) struct Prefix {
    pub(super) client: Arc<Client>,
    pub(super) server: Server,
    /// What comes before names in URLs: `memory://`, `s3://bucket/`.
    pub(super) root: String,
    pub(super) name: String,
    /// Whether the user has ended it with `/`, so that it is not an object.
    pub(super) names_folder: bool,
    pub(super) objects_max: usize,
}

impl Prefix {
    pub(super) fn url(&self) -> String {
        format!("{}{}", self.root, self.name)
    }

    pub(super) fn target(&self) -> Result<Target> {
        self.target_of(&self.name)
    }

    fn target_of(&self, name: &str) -> Result<Target> {
        let url = format!("{}{name}", self.root);
        let path = ObjectPath::parse(name).map_err(|error| ObjectError::invalid_name(&url, error))?;
        let store = Arc::clone(&self.server.store);
        Ok(Target { url, store, path })
    }

    /// An object in this folder.
    pub(super) fn part(&self, name: &str) -> Result<Target> {
        self.target_of(&format!("{}/{name}", self.name))
    }

    /// Another folder beside this one.
    pub(super) fn sibling(&self, name: &str) -> Self {
        let folder = self.name.rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
        let name = folder.unwrap_or_default() + name;
        Self { name, ..self.clone() }
    }

    /// The objects that it names: an object, a folder's objects, or what its wildcards match.
    pub(super) fn list(&self) -> Result<Vec<Object>> {
        self.output_must_be_finished()?;
        let found = self.list_found()?;
        // It may have been begun since.
        self.output_must_be_finished()?;
        Ok(found)
    }

    /// An error if this names what is in one folder of a key, and the output above it is not finished: the marker is
    /// above the listing.
    fn output_must_be_finished(&self) -> Result<()> {
        match output_above(self.fixed_folder()) {
            Some(output) if self.is_unfinished(output)? => Err(self.unfinished(output)),
            _ => Ok(()),
        }
    }

    /// The deepest folder that all it names lies in.
    fn fixed_folder(&self) -> &str {
        match self.name.find(['*', '?', '[']) {
            Some(wildcard) => self.name[..wildcard].rsplit_once('/').map_or("", |(folder, _)| folder),
            None => &self.name,
        }
    }

    fn list_found(&self) -> Result<Vec<Object>> {
        let exact = match self.names_folder || self.name.is_empty() {
            true => Err(ObjectError::NotFound { url: self.url() }),
            false => self.client.head(self.target()?),
        };
        match exact {
            Ok(object) => {
                let folder = self.name.rsplit_once('/').map(|(folder, _)| folder);
                for folder in folder.into_iter().chain(folder.and_then(output_above)) {
                    if self.is_unfinished(folder)? {
                        return Err(self.unfinished(folder));
                    }
                }
                Ok(vec![object])
            }
            Err(ObjectError::NotFound { .. }) => self.list_many(),
            // Who may not look at an object may still be allowed to list a folder; if not, this says why.
            Err(error @ ObjectError::NoPermission { .. }) => self.list_many().map_err(|_| error),
            Err(error) => Err(error),
        }
    }

    fn list_many(&self) -> Result<Vec<Object>> {
        match has_wildcard(&self.name) {
            true => self.matching(),
            false => self.folder(),
        }
    }

    /// A listing of a folder of its store, which looks for it.
    pub(super) fn listing(&self, folder: Target) -> Listing {
        Listing {
            pattern: self.url(),
            folder,
            pages: self.server.pages.clone(),
            root: self.root.clone(),
            objects_max: self.objects_max,
        }
    }

    fn folder(&self) -> Result<Vec<Object>> {
        let name = self.name.clone();
        let wanted = move |found: &str| {
            let within = within(&name, found);
            // What has the folder's own name marks it.
            !within.is_empty() && !within.contains('/') && !hidden(found, &name)
        };
        let (found, has_any) = self
            .client
            .run_listing(&self.server, self.listing(self.target()?).direct(wanted))??;
        if !has_any && !self.name.is_empty() {
            return Err(ObjectError::NotFound { url: self.url() });
        }
        if found.is_empty() && !self.name.is_empty() && self.is_unfinished(&self.name)? {
            return Err(self.unfinished(&self.name));
        }
        Ok(found.into_iter().collect())
    }

    fn matching(&self) -> Result<Vec<Object>> {
        let name = self.name.clone();
        let pattern = glob::Pattern::new(&name).map_err(|error| ObjectError::invalid_name(&self.url(), error))?;
        let folder = self.target_of(self.fixed_folder())?;
        let wanted = move |found: &str| {
            let matches = |found: &str| pattern.matches_with(found, MATCHING);
            let folder_matches = || found.rsplit_once('/').is_some_and(|(folder, _)| matches(folder));
            (matches(found) || folder_matches()) && !hidden(found, &name)
        };
        let listing = self.listing(folder.clone()).below(wanted);
        let found = self.client.run_listing(&self.server, listing)??;
        if found.is_empty()
            && let Some(folder) = self.unfinished_match(folder)
        {
            return Err(self.unfinished(&folder));
        }
        Ok(found.into_iter().collect())
    }

    /// A folder in `within` that is not finished and whose objects this pattern names, if one is found.
    fn unfinished_match(&self, within: Target) -> Option<String> {
        let above = |name: &str| name.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
        let parent = above(&self.name);
        // Of an output by keys the marker is above the folders with parts.
        let folder_of_key = parent.rsplit('/').next().unwrap_or_default();
        let output = (is_key_folder(folder_of_key) || has_wildcard(folder_of_key)).then(|| above(&parent));
        let patterns = [Some(&self.name), Some(&parent), output.as_ref()];
        let patterns = patterns.map(|name| glob::Pattern::new(name?).ok());
        let is_marker = move |found: &str| {
            let folder = found
                .strip_suffix(UNFINISHED)
                .map(|folder| folder.trim_end_matches('/'));
            folder.is_some_and(|folder| {
                patterns
                    .iter()
                    .flatten()
                    .any(|pattern| pattern.matches_with(folder, MATCHING))
            })
        };
        let markers = self.client.run(self.listing(within).names(is_marker)).ok()?.ok()?;
        let (folder, _) = markers.first()?.rsplit_once('/')?;
        Some(folder.to_owned())
    }

    fn unfinished(&self, folder: &str) -> ObjectError {
        ObjectError::Unfinished {
            url: format!("{}{folder}", self.root),
        }
    }

    /// Whether objects right in a folder are parts of one that is not finished.
    fn is_unfinished(&self, folder: &str) -> Result<bool> {
        match self.client.head(self.target_of(&format!("{folder}/{UNFINISHED}"))?) {
            Ok(_) => Ok(true),
            // S3 forbids to look at what is not there to those who may read a folder's objects and not list them.
            Err(ObjectError::NotFound { .. } | ObjectError::NoPermission { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names right in this folder or below it that are `wanted`, hidden and unfinished ones too.
    pub(super) fn names(&self, wanted: impl Fn(&str) -> bool + Send + Sync + 'static) -> Result<Vec<String>> {
        let folder = self.name.clone();
        let wanted = move |found: &str| wanted(within(&folder, found));
        let below = self.client.run(self.listing(self.target()?).names(wanted))??;
        Ok(below.iter().map(|name| within(&self.name, name).to_owned()).collect())
    }

    pub(super) fn must_be_absent(&self) -> Result<()> {
        let there = || Err(ObjectError::AlreadyExists { url: self.url() });
        match self.client.head(self.target()?) {
            Ok(_) => return there(),
            Err(ObjectError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.names(|_| true)?.is_empty() {
            true => Ok(()),
            false if self.is_unfinished(&self.name)? => Err(self.unfinished(&self.name)),
            false => there(),
        }
    }

    /// Whether an object is in this folder and holds this.
    pub(super) fn holds(&self, name: &str, bytes: &Bytes) -> Result<bool> {
        let at = self.part(name)?;
        match self.client.head(at.clone()) {
            Err(ObjectError::NotFound { .. }) => Ok(false),
            Ok(there) if there.bytes != bytes.len() as u64 => Ok(false),
            Ok(there) => match self.client.get(at, there, None) {
                Err(ObjectError::NotFound { .. }) => Ok(false),
                found => Ok(found? == *bytes),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) fn write(&self, bytes: Bytes) -> Result<()> {
        self.client.put(self.target()?, bytes, PutMode::Overwrite)
    }
}

/// A name in the store as one within a folder.
fn within<'a>(folder: &str, found: &'a str) -> &'a str {
    found[folder.len()..].trim_start_matches('/')
}
