//! What buckets do otherwise than memory does: names that stand for folders, tags in two spellings, refused questions.
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::channel;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::limit::LimitStore;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};

use super::client::{Client, Server};
use super::pages::Pages;
use super::prefix::Prefix;
use super::{Bytes, InMemory, ObjectError, ObjectStore, Stores, StoresOptions, names, object_error};
use crate::testing::WAIT_MAX;

/// Answers to a question about one object.
type Refusal = fn() -> Error;

/// Objects in memory. Tags are quoted where an object is asked for, and not where it is listed, as in Azure.
#[derive(Debug, Default)]
struct Bucket {
    inner: InMemory,
    /// Names of empty objects that end with `/`, without it: listings show them so, and nothing else finds them.
    folders: Vec<&'static str>,
    /// A name that the library cannot take, which ends each listing.
    unusable: Option<&'static str>,
    /// The object about which nobody is told.
    refused: Option<(&'static str, Refusal)>,
}

impl Bucket {
    fn stores(self, list_objects_max: usize) -> Stores {
        let options = StoresOptions {
            list_objects_max,
            ..StoresOptions::default()
        };
        Stores::over(Arc::new(self), options)
    }

    /// The markers of folders below `prefix` or of it.
    fn markers(&self, prefix: Option<&ObjectPath>) -> Vec<ObjectMeta> {
        let prefix = prefix.cloned().unwrap_or_default();
        let paths = self.folders.iter().map(|name| ObjectPath::from(*name));
        let within = paths.filter(|path| path.prefix_matches(&prefix));
        let marker = |location| ObjectMeta {
            location,
            last_modified: Default::default(),
            size: 0,
            e_tag: Some("marker".to_owned()),
            version: None,
        };
        within.map(marker).collect()
    }

    fn check_usable(&self) -> Result<()> {
        self.unusable
            .map_or(Ok(()), |name| Ok(ObjectPath::parse(name).map(drop)?))
    }
}

fn with_bare_tag(meta: ObjectMeta) -> ObjectMeta {
    let tag = meta.e_tag.unwrap();
    assert!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "{tag}");
    ObjectMeta {
        e_tag: Some(tag.trim_matches('"').to_owned()),
        ..meta
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        if let Some((_, refusal)) = self.refused.filter(|(name, _)| location.as_ref() == *name) {
            return Err(refusal());
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let markers = self.markers(prefix).into_iter().map(Ok);
        let listed = self.inner.list(prefix).map_ok(with_bare_tag);
        let listed = stream::iter(markers).chain(listed);
        let listed = listed.chain(stream::iter(self.check_usable().err().map(Err)));
        // Others have their turn between two pages.
        let paused = listed.then(|found| async {
            tokio::task::yield_now().await;
            found
        });
        paused.boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects = listed.objects.into_iter().map(with_bare_tag).collect();
        self.check_usable()?;
        for marker in self.markers(prefix) {
            match prefix == Some(&marker.location) {
                true => listed.objects.push(marker),
                false => listed.common_prefixes.push(marker.location),
            }
        }
        Ok(listed)
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[test]
fn what_was_listed_is_read_whether_its_tag_is_quoted_or_not() {
    let stores = Bucket::default().stores(10);
    stores.write("memory://a/x", Bytes::from_static(b"0123")).unwrap();
    let exact = stores.list("memory://a/x").unwrap();
    for pattern in ["memory://a", "memory://a/*", "memory://**/*"] {
        let listed = stores.list(pattern).unwrap();
        assert_eq!(listed, exact, "{pattern}");
        assert_eq!(stores.read(&listed[0]).unwrap(), "0123", "{pattern}");
    }
    stores.write("memory://a/x", Bytes::from_static(b"4567")).unwrap();
    assert!(matches!(
        object_error(stores.read(&exact[0])),
        ObjectError::Changed { .. }
    ));
}

#[test]
fn markers_of_folders_are_no_input() {
    let bucket = Bucket {
        folders: vec!["table", "table/sub", "table/none", "lonely"],
        ..Bucket::default()
    };
    let stores = bucket.stores(3);
    stores.write("memory://table/x", Bytes::from_static(b"x")).unwrap();
    stores.write("memory://table/empty", Bytes::new()).unwrap();
    stores.write("memory://table/sub/y", Bytes::from_static(b"y")).unwrap();
    for (pattern, expected) in [
        ("memory://table", &["empty", "x"][..]),
        ("memory://table/", &["empty", "x"]),
        ("memory://table/*", &["empty", "y", "x"]),
        ("memory://table/s*", &["y"]),
        ("memory://table/**/*", &["empty", "y", "x"]),
        ("memory://**/*", &["empty", "y", "x"]),
    ] {
        assert_eq!(names(&stores, pattern), expected, "{pattern}");
    }
    for pattern in ["memory://lonely", "memory://lonely/*", "memory://table/n*"] {
        let error = object_error(stores.list(pattern));
        assert!(matches!(error, ObjectError::NothingFound { .. }), "{pattern}: {error}");
    }
}

#[test]
fn a_name_that_cannot_be_used_is_named_with_what_to_do() {
    for unusable in ["a//x", "a/../x", "a/./x"] {
        let bucket = Bucket {
            unusable: Some(unusable),
            ..Bucket::default()
        };
        let stores = bucket.stores(10);
        stores.write("memory://a/y", Bytes::from_static(b"y")).unwrap();
        for pattern in ["memory://a", "memory://a/*", "memory://**/*"] {
            let error = object_error(stores.list(pattern));
            assert!(matches!(error, ObjectError::InvalidName { .. }), "{pattern}: {error}");
            let error = error.to_string();
            assert!(
                error.contains(unusable) && error.contains("rename it"),
                "{pattern}: {error}"
            );
        }
    }
}

/// Empty objects are asked about as they are listed.
#[test]
fn listings_at_a_time_leave_a_request_for_what_they_ask() {
    let options = StoresOptions {
        requests_max: 2,
        ..StoresOptions::default()
    };
    let bucket = LimitStore::new(Bucket::default(), options.requests_max);
    let stores = Stores::over(Arc::new(bucket), options);
    for name in 0..100 {
        stores.write(&format!("memory://a/{name}"), Bytes::new()).unwrap();
    }
    let (listed, answers) = channel();
    for _ in 0..8 {
        let (stores, listed) = (stores.clone(), listed.clone());
        std::thread::spawn(move || listed.send(stores.list("memory://a/*").map(|found| found.len())));
    }
    for _ in 0..8 {
        let count = answers.recv_timeout(WAIT_MAX);
        assert_eq!(count.expect("a listing waits for ever").unwrap(), 100);
    }
}

#[test]
fn a_server_that_is_slow_to_list_holds_up_no_other() {
    let client = Client::default();
    let [slow, quick] = [(); 2].map(|()| Server::new(Arc::new(InMemory::new()), None, 2));
    let (begun, has_begun) = channel();
    let (go_on, may_go_on) = futures::channel::oneshot::channel::<()>();
    let (listed, has_listed) = channel();
    std::thread::scope(|scope| {
        let client = &client;
        scope.spawn(move || {
            let work = async move {
                begun.send(()).unwrap();
                let _ = may_go_on.await;
            };
            client.run_listing(&slow, work).unwrap();
        });
        has_begun.recv_timeout(WAIT_MAX).expect("the slow listing begins");
        scope.spawn(move || listed.send(client.run_listing(&quick, async { "listed" }).unwrap()));
        let answer = has_listed.recv_timeout(WAIT_MAX);
        drop(go_on);
        assert_eq!(answer, Ok("listed"), "it waits for the other server");
    });
}

#[test]
fn an_object_is_not_taken_for_whole_where_nobody_says_so() {
    let refusals: [Refusal; 2] = [
        || Error::Generic {
            store: "a bucket",
            source: "no answer in time".into(),
        },
        || Error::PermissionDenied {
            path: String::new(),
            source: "403".into(),
        },
    ];
    let listed = refusals.map(|refusal| {
        let bucket = Bucket {
            refused: Some(("out/.distdl-unfinished", refusal)),
            ..Bucket::default()
        };
        let stores = bucket.stores(10);
        stores.write("memory://out/part-0", Bytes::from_static(b"0")).unwrap();
        stores.list("memory://out/part-0")
    });
    let [silent, forbidden] = listed;
    let error = object_error(silent);
    assert!(matches!(&error, ObjectError::Remote { url, .. } if url.ends_with(".distdl-unfinished")));
    // Where a store may not be listed, it says of what is not there that it is forbidden.
    assert_eq!(forbidden.unwrap().len(), 1);
}

/// A folder without end, of which each page is the next number.
#[derive(Debug, Clone, Default)]
struct Endless(Arc<AtomicUsize>);

#[async_trait]
impl PaginatedListStore for Endless {
    async fn list_paginated(&self, prefix: Option<&str>, options: PaginatedListOptions) -> Result<PaginatedListResult> {
        assert_eq!((prefix, options.delimiter.as_deref()), (Some("a/"), Some("/")));
        self.0.fetch_add(1, SeqCst);
        let number: usize = options.page_token.map_or(0, |token| token.parse().unwrap());
        let meta = |name: &str| ObjectMeta {
            location: format!("a/{number}{name}").into(),
            last_modified: Default::default(),
            size: 1,
            e_tag: Some(number.to_string()),
            version: None,
        };
        Ok(PaginatedListResult {
            result: ListResult {
                common_prefixes: Vec::new(),
                objects: vec![meta(""), meta(".txt")],
                extensions: Default::default(),
            },
            page_token: Some((number + 1).to_string()),
        })
    }
}

#[test]
fn no_page_of_a_folder_is_asked_for_beyond_the_limit() {
    let endless = Endless::default();
    let prefix = Prefix {
        client: Arc::default(),
        server: Server::new(Arc::new(InMemory::new()), Some(Pages::new(endless.clone())), 2),
        root: "memory://".to_owned(),
        name: "a".to_owned(),
        names_folder: true,
        objects_max: 100,
    };
    let error = prefix.list().unwrap_err();
    assert!(
        matches!(error, ObjectError::TooManyObjects { objects_max: 100, .. }),
        "{error}"
    );
    // What is described at a time is asked for ahead.
    assert!(
        (50..100).contains(&endless.0.load(SeqCst)),
        "{}",
        endless.0.load(SeqCst)
    );
}
