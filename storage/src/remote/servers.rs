//! Servers and buckets, one store each, opened at the first use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
use std::time::Duration;

use object_store::ObjectStore;
use object_store::limit::LimitStore;
#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
use object_store::list::PaginatedListStore;
#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
use object_store::{BackoffConfig, ClientOptions, RetryConfig};

#[cfg(feature = "hdfs")]
use tokio::runtime::Handle;

use super::client::Server;
#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
use super::connection::Connector;
#[cfg(feature = "hdfs")]
use super::hdfs::Hdfs;
use super::options::StoresOptions;
use super::pages::Pages;
#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
use crate::object::Cloud;
use crate::object::ObjectError;
use crate::unpoisoned::Unpoisoned;

type Result<T> = std::result::Result<T, ObjectError>;

/// Signed addresses differ in their query, so the table could grow without end; past this many it starts anew.
const SERVERS_MAX: usize = 64;

/// The longest pause before a request is tried again, in first ones.
#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
const LONGEST_PAUSE: u32 = 40;

/// Servers opened so far.
#[derive(Debug, Default)]
pub(super) struct Servers(Mutex<HashMap<String, Server>>);

impl Servers {
    /// A server of http(s), by its address.
    #[cfg(feature = "http")]
    pub(super) fn http(&self, server: &str, options: &StoresOptions) -> Result<Server> {
        self.open(server, options, || {
            object_store::http::HttpBuilder::new()
                .with_url(server)
                .with_client_options(client(options).with_allow_http(true))
                .with_http_connector(connector(options))
                .with_retry(retry(options))
                .build()
                .map(|store| (store, None))
        })
    }

    /// A bucket or container.
    #[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
    pub(super) fn bucket(&self, cloud: Cloud, bucket: &str, options: &StoresOptions) -> Result<Server> {
        let url = format!("{}://{bucket}", cloud.scheme());
        match cloud {
            #[cfg(feature = "s3")]
            Cloud::S3 => self.open(&url, options, || {
                use object_store::aws::AmazonS3Builder;
                let builder = AmazonS3Builder::new()
                    .with_client_options(client(options))
                    .with_http_connector(connector(options));
                let builder = configured(builder, "AWS_", AmazonS3Builder::with_config);
                builder
                    .with_bucket_name(bucket)
                    .with_retry(retry(options))
                    .build()
                    .map(paged)
            }),
            #[cfg(feature = "gs")]
            Cloud::Gs => self.open(&url, options, || {
                use object_store::gcp::GoogleCloudStorageBuilder;
                let builder = GoogleCloudStorageBuilder::new()
                    .with_client_options(client(options))
                    .with_http_connector(connector(options));
                let builder = configured(builder, "GOOGLE_", GoogleCloudStorageBuilder::with_config);
                builder
                    .with_bucket_name(bucket)
                    .with_retry(retry(options))
                    .build()
                    .map(paged)
            }),
            #[cfg(feature = "az")]
            Cloud::Az => self.open(&url, options, || {
                use object_store::azure::MicrosoftAzureBuilder;
                let builder = MicrosoftAzureBuilder::new()
                    .with_client_options(client(options))
                    .with_http_connector(connector(options));
                let builder = configured(builder, "AZURE_", MicrosoftAzureBuilder::with_config);
                builder
                    .with_container_name(bucket)
                    .with_retry(retry(options))
                    .build()
                    .map(paged)
            }),
            #[cfg(not(all(feature = "s3", feature = "gs", feature = "az")))]
            _ => Err(super::not_built_in(&url, cloud.scheme())),
        }
    }

    /// A file system of Hadoop.
    #[cfg(feature = "hdfs")]
    pub(super) fn hdfs(&self, name_node: &str, options: &StoresOptions, runtime: Handle) -> Result<Server> {
        let url = format!("hdfs://{name_node}/");
        self.open(&url, options, || Ok((Hdfs::new(&url, options, runtime)?, None)))
    }

    fn open<S: ObjectStore>(
        &self,
        url: &str,
        options: &StoresOptions,
        connect: impl FnOnce() -> object_store::Result<(S, Option<Pages>)>,
    ) -> Result<Server> {
        let mut servers = self.0.lock().unpoisoned();
        if let Some(server) = servers.get(url) {
            return Ok(server.clone());
        }
        let (store, pages) = connect().map_err(|error| ObjectError::invalid_name(url, error))?;
        let requests = options.requests();
        let server = Server::new(Arc::new(LimitStore::new(store, requests)), pages, requests);
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert(url.to_owned(), server.clone());
        Ok(server)
    }
}

#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
fn paged<S: PaginatedListStore + Clone>(bucket: S) -> (S, Option<Pages>) {
    let pages = Pages::new(bucket.clone());
    (bucket, Some(pages))
}

/// The builder with what the environment variables of that beginning say, over what it has: as the builders' own
/// `from_env`, which would forget our time limits where it allows plain http.
#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
fn configured<B, K: std::str::FromStr>(builder: B, prefix: &str, with: impl Fn(B, K, String) -> B) -> B {
    std::env::vars_os().fold(builder, |builder, (name, value)| {
        let name = name.to_str().filter(|name| name.starts_with(prefix));
        let key = name.and_then(|name| name.to_ascii_lowercase().parse().ok());
        match (key, value.into_string()) {
            (Some(key), Ok(value)) => with(builder, key, value),
            _ => builder,
        }
    })
}

#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
fn client(options: &StoresOptions) -> ClientOptions {
    ClientOptions::new()
        .with_connect_timeout(options.silence_timeout)
        .with_read_timeout(options.silence_timeout)
        .with_timeout(options.request_timeout)
}

#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
fn connector(options: &StoresOptions) -> Connector {
    Connector {
        silence_timeout: options.silence_timeout,
    }
}

#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
fn retry(options: &StoresOptions) -> RetryConfig {
    // The library would draw from an empty range if there were no pause.
    let pause = options.retry_pause.max(Duration::from_millis(1));
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: pause,
            max_backoff: pause * LONGEST_PAUSE,
            base: 3.,
        },
        max_retries: options.retries,
        retry_timeout: options.request_timeout,
    }
}
