//! Listings of stores of objects: what is wanted is chosen and counted as the names come, so that the limit is one of
//! objects that match, and no more than those are held.

use std::collections::BTreeSet;
use std::future::ready;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ListResult, ObjectMeta, ObjectStore, ObjectStoreExt};

use super::client::{Target, failed, object};
use super::key_folder::output_above;
use super::pages::Pages;
use super::pattern::UNFINISHED;
use crate::object::{Object, ObjectError};

type Result<T> = std::result::Result<T, ObjectError>;

/// Requests about listed objects that a listing makes at a time.
const HEADS_MAX: usize = 16;

/// A folder of a store, to be listed.
#[derive(Debug)]
pub(super) struct Listing {
    /// What was asked for, for people.
    pub(super) pattern: String,
    pub(super) folder: Target,
    pub(super) pages: Option<Pages>,
    /// What comes before names in URLs.
    pub(super) root: String,
    pub(super) objects_max: usize,
}

impl Listing {
    /// The objects right in the folder that are `wanted`, by their names in the store, and do not lie in an unfinished
    /// folder; and whether there is anything in it.
    pub(super) async fn direct(self, wanted: impl Fn(&str) -> bool + Send + Sync) -> Result<(BTreeSet<Object>, bool)> {
        let has_any = Arc::new(AtomicBool::new(false));
        let (folder, found) = (self.folder.path.clone(), Arc::clone(&has_any));
        let objects_of = move |page: ListResult| {
            let has_objects = page.objects.iter().any(|meta| meta.location.prefix_matches(&folder));
            found.fetch_or(has_objects || !page.common_prefixes.is_empty(), Ordering::Relaxed);
            stream::iter(page.objects.into_iter().map(Ok))
        };
        let objects = self.pages().map_ok(objects_of).try_flatten().boxed();
        let chosen = self.chosen(objects, wanted).await?;
        Ok((chosen, has_any.load(Ordering::Relaxed)))
    }

    /// What lies right in the folder. A store without pages is asked for all of it.
    fn pages(&self) -> BoxStream<'static, object_store::Result<ListResult>> {
        let Target { store, path, .. } = self.folder.clone();
        match &self.pages {
            Some(pages) => pages.of(&path),
            None => stream::once(async move { store.list_with_delimiter(Some(&path)).await }).boxed(),
        }
    }

    /// The same for those in the folder and in all folders in it.
    pub(super) async fn below(self, wanted: impl Fn(&str) -> bool + Send + Sync) -> Result<BTreeSet<Object>> {
        let listed = self.folder.store.list(Some(&self.folder.path));
        self.chosen(listed, wanted).await
    }

    /// The `wanted` names of all that is below the folder, hidden and unfinished ones too; if there are more than the
    /// limit, one more.
    pub(super) async fn names(self, wanted: impl Fn(&str) -> bool + Send + Sync) -> Result<Vec<String>> {
        let listed = self.folder.store.list(Some(&self.folder.path));
        let wanted = |meta: &ObjectMeta| self.is_within(meta) && wanted(meta.location.as_ref());
        let names = listed
            .try_filter(|meta| ready(wanted(meta)))
            .map_ok(|meta| meta.location.to_string());
        let names: object_store::Result<Vec<String>> =
            names.take(self.objects_max.saturating_add(1)).try_collect().await;
        names.map_err(|error| failed(&self.folder.url, "list it", &error))
    }

    async fn chosen(
        &self,
        listed: BoxStream<'static, object_store::Result<ObjectMeta>>,
        wanted: impl Fn(&str) -> bool + Send,
    ) -> Result<BTreeSet<Object>> {
        let wanted = |name: &str| is_marker(name) || wanted(name);
        let described = listed
            .try_filter(|meta| ready(self.is_within(meta) && wanted(meta.location.as_ref())))
            .map_err(|error| failed(&self.folder.url, "list it", &error))
            .map_ok(|meta| {
                described(
                    Arc::clone(&self.folder.store),
                    format!("{}{}", self.root, meta.location),
                    meta,
                )
            })
            .try_buffered(HEADS_MAX)
            .try_filter_map(|object| ready(Ok(object)));
        let mut described = pin!(described);
        let (mut chosen, mut unfinished) = (BTreeSet::new(), BTreeSet::new());
        while let Some(object) = described.try_next().await? {
            match is_marker(&object.url) {
                true => drop(unfinished.insert(folder_of(&object.url).to_owned())),
                false => drop(chosen.insert(object)),
            }
            if chosen.len() > self.objects_max {
                // What came before the marker of its folder does not count.
                chosen.retain(|object| !is_hidden(&object.url, &unfinished));
            }
            if chosen.len().max(unfinished.len()) > self.objects_max {
                return Err(ObjectError::TooManyObjects {
                    pattern: self.pattern.clone(),
                    objects_max: self.objects_max,
                });
            }
        }
        chosen.retain(|object| !is_hidden(&object.url, &unfinished));
        Ok(chosen)
    }

    /// Some servers take a prefix for the beginning of a name, not for a folder.
    fn is_within(&self, meta: &ObjectMeta) -> bool {
        meta.location.prefix_matches(&self.folder.path)
    }
}

/// A listed object as reading will find it: a store that lists no entity tag is asked about it, and so is any store
/// about an empty object, since a name that ends with `/`, which consoles and Hadoop write to mark a folder, comes
/// without its `/`. `None` if it is such a marker, or has gone since it was listed.
async fn described(store: Arc<dyn ObjectStore>, url: String, meta: ObjectMeta) -> Result<Option<Object>> {
    if meta.e_tag.is_some() && meta.size > 0 {
        return Ok(Some(object(&url, &meta)));
    }
    match store.head(&meta.location).await {
        Ok(meta) => Ok(Some(object(&url, &meta))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(failed(&url, "read it", &error)),
    }
}

/// Whether an object is a part of one of those folders.
fn is_hidden(url: &str, unfinished: &BTreeSet<String>) -> bool {
    let folder = folder_of(url);
    unfinished.contains(folder) || output_above(folder).is_some_and(|output| unfinished.contains(output))
}

fn is_marker(name: &str) -> bool {
    name.rsplit('/').next() == Some(UNFINISHED)
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}
