//! Folders of buckets, page by page. What the library puts together of a folder's pages would be all that is in it
//! before anybody can look at the limit.

use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as ObjectPath;
use object_store::{ListResult, Result};

/// A bucket as one who lists it sees it.
#[derive(Clone)]
pub(super) struct Pages(Arc<dyn PaginatedListStore>);

impl fmt::Debug for Pages {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Pages")
    }
}

impl Pages {
    #[cfg_attr(
        not(any(test, feature = "s3", feature = "gs", feature = "az")),
        expect(dead_code, reason = "only buckets have pages")
    )]
    pub(super) fn new(bucket: impl PaginatedListStore) -> Self {
        Self(Arc::new(bucket))
    }

    /// What lies right in a folder: a page is asked for when those before it are used up.
    pub(super) fn of(&self, folder: &ObjectPath) -> BoxStream<'static, Result<ListResult>> {
        let prefix = (!folder.as_ref().is_empty()).then(|| format!("{folder}/"));
        let bucket = Arc::clone(&self.0);
        let next = move |place: Option<Option<String>>| {
            let (bucket, prefix) = (Arc::clone(&bucket), prefix.clone());
            async move {
                let Some(page_token) = place else { return Ok(None) };
                let options = PaginatedListOptions {
                    delimiter: Some("/".into()),
                    page_token,
                    ..PaginatedListOptions::default()
                };
                let page = bucket.list_paginated(prefix.as_deref(), options).await?;
                // Azure ends with an empty one.
                let token = page.page_token.filter(|token| !token.is_empty());
                Ok(Some((page.result, token.map(Some))))
            }
        };
        stream::try_unfold(Some(None), next).boxed()
    }
}
