//! Servers that are read over http(s), one store a server and query, built on the first use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::options::StoresOptions;
use crate::object::ObjectError;

/// Signed addresses differ in their query, so the table could grow without end; past this many it starts anew.
const SERVERS_MAX: usize = 64;

/// Connections to the servers seen so far.
#[derive(Debug, Default)]
pub(super) struct Servers(Mutex<HashMap<String, Arc<dyn ObjectStore>>>);

impl Servers {
    pub(super) fn open(&self, server: &str, options: &StoresOptions) -> Result<Arc<dyn ObjectStore>, ObjectError> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = servers.get(server) {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(connect(server, options)?) as Arc<dyn ObjectStore>;
        if servers.len() >= SERVERS_MAX {
            servers.clear();
        }
        servers.insert(server.to_owned(), Arc::clone(&store));
        Ok(store)
    }
}

fn connect(server: &str, options: &StoresOptions) -> Result<object_store::http::HttpStore, ObjectError> {
    let client = ClientOptions::new()
        .with_allow_http(true)
        .with_connect_timeout(options.silence_timeout)
        .with_read_timeout(options.silence_timeout)
        .with_timeout(options.request_timeout);
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: options.retries,
        retry_timeout: options.request_timeout,
    };
    let store = HttpBuilder::new()
        .with_url(server)
        .with_client_options(client)
        .with_retry(retry)
        .build();
    store.map_err(|error| ObjectError::invalid_name(server, error))
}
