//! How long servers may be silent, and how long one is called that has never answered.
//!
//! The client below counts as silence all the time from the beginning of a request to that of its answer, so sending
//! much over a slow line would seem to be silence. Requests that send bytes go through a client that does not count it,
//! with a limit that grows with what they send.
//!
//! What is known by the date of its last change, and was changed in the very second in which a server answers, may be
//! changed again in it. Only the answer itself tells, so that is marked here.
//!
//! Servers that are restarted are called again for minutes. Behind a name that is mistyped there is nobody, which is to
//! be said sooner.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use tokio::time::timeout;

use super::client::JustChanged;

/// The slowest line that bytes are sent over, in bytes a second.
const RATE_MIN: u64 = 16 << 10;

const NOT_IMPLEMENTED: u16 = 501;
const METHOD_NOT_ALLOWED: u16 = 405;

/// Connects to servers that may be silent for so long.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) silence_timeout: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let connector = ReqwestConnector::default();
        Ok(HttpClient::new(Connection {
            others: connector.connect(options)?,
            uploads: connector.connect(&options.clone().with_read_timeout_disabled())?,
            silence_timeout: self.silence_timeout,
            called: OnceLock::new(),
            has_answered: AtomicBool::new(false),
        }))
    }
}

#[derive(Debug)]
struct Connection {
    others: HttpClient,
    uploads: HttpClient,
    silence_timeout: Duration,
    /// When it was first called.
    called: OnceLock<Instant>,
    has_answered: AtomicBool,
}

impl Connection {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let bytes = request.body().content_length() as u64;
        if bytes == 0 {
            return self.others.execute(request).await;
        }
        let limit = self.silence_timeout + Duration::from_secs(bytes / RATE_MIN);
        match timeout(limit, self.uploads.execute(request)).await {
            Ok(answered) => answered,
            Err(elapsed) => Err(HttpError::new(HttpErrorKind::Timeout, elapsed)),
        }
    }
}

#[async_trait]
impl HttpService for Connection {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let called = *self.called.get_or_init(Instant::now);
        let mut answered = self.send(request).await;
        if let Ok(response) = &mut answered {
            self.has_answered.store(true, Ordering::Relaxed);
            // A server that does not know the method will not learn it. The library asks again after all answers from
            // 500 on.
            if response.status() == NOT_IMPLEMENTED
                && let Ok(status) = METHOD_NOT_ALLOWED.try_into()
            {
                *response.status_mut() = status;
            }
            if is_just_changed(response) {
                response.extensions_mut().insert(JustChanged);
            }
        }
        let is_patient = self.has_answered.load(Ordering::Relaxed) || called.elapsed() < self.silence_timeout;
        answered.map_err(|error| match error.kind() {
            // Of a kind that is not tried again.
            HttpErrorKind::Connect | HttpErrorKind::Timeout if !is_patient => {
                HttpError::new(HttpErrorKind::Unknown, error)
            }
            _ => error,
        })
    }
}

/// By the server's clock, of which every answer tells the second; if not, nobody knows.
fn is_just_changed(response: &HttpResponse) -> bool {
    let [tag, changed, now] = ["etag", "last-modified", "date"].map(|name| response.headers().get(name));
    tag.is_none() && changed.is_some() && (now.is_none() || now == changed)
}
