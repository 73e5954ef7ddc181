//! Servers on loopback that speak S3, or as Google's and Azure's stores of objects do, for tests of the programs and of
//! the storage layer. A crate of its own, so that an ordinary test of the workspace does not compile them.
#![cfg(feature = "s3")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod imitation;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3ServiceBuilder, SharedS3Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use self::imitation::Imitation;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// From `s3s-fs`.
    S3,
    /// From an imitation of what `object_store` asks of Google Cloud Storage.
    Gs,
    /// The same for Azure Blob Storage.
    Az,
}

/// A server with a bucket, and before it a proxy that counts what it sends.
#[derive(Debug)]
pub struct Server {
    protocol: Protocol,
    folder: tempfile::TempDir,
    address: SocketAddr,
    sent_bytes: Arc<AtomicU64>,
    _runtime: Runtime,
}

impl Server {
    /// Starts one that speaks S3, with the folder `data/` in the bucket `bucket`.
    pub fn start() -> Self {
        Self::speaking(Protocol::S3)
    }

    /// The same in another protocol.
    pub fn speaking(protocol: Protocol) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let objects = folder.path().join("objects");
        std::fs::create_dir_all(objects.join("bucket/data")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let sent_bytes = Arc::new(AtomicU64::new(0));
        let (inner, outer) = runtime.block_on(async {
            let bind = || TcpListener::bind("127.0.0.1:0");
            (bind().await.unwrap(), bind().await.unwrap())
        });
        let address = outer.local_addr().unwrap();
        runtime.spawn(proxy(outer, inner.local_addr().unwrap(), Arc::clone(&sent_bytes)));
        match protocol {
            Protocol::S3 => {
                let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(objects).unwrap());
                service.set_auth(SimpleAuth::from_single("key", "secret"));
                runtime.spawn(serve(inner, service.build().into_shared()));
            }
            other => drop(runtime.spawn(Imitation::new(other, objects).serve(inner))),
        }
        Self {
            protocol,
            folder,
            address,
            sent_bytes,
            _runtime: runtime,
        }
    }

    /// A folder that lasts as long as the server, for what is not on it.
    pub fn beside(&self) -> &Path {
        self.folder.path()
    }

    /// The URL of its bucket.
    pub fn root(&self) -> &'static str {
        match self.protocol {
            Protocol::S3 => "s3://bucket",
            Protocol::Gs => "gs://bucket",
            Protocol::Az => "az://bucket",
        }
    }

    /// The file behind `data/<name>` in its bucket.
    pub fn object(&self, name: &str) -> PathBuf {
        self.folder.path().join("objects/bucket/data").join(name)
    }

    /// Bytes that it has sent so far.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::SeqCst)
    }

    /// What a process needs in its environment to use it. The right secret is "secret"; in Azure's protocol, where the
    /// imitation checks no signature, it is the name of the account.
    pub fn variables(&self, secret: &str) -> Vec<(&'static str, String)> {
        let (address, secret) = (format!("http://{}", self.address), secret.to_owned());
        match self.protocol {
            Protocol::S3 => vec![
                ("AWS_ACCESS_KEY_ID", "key".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", secret),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ENDPOINT", address),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
            ],
            Protocol::Gs => vec![
                ("GOOGLE_BEARER_TOKEN", secret),
                ("GOOGLE_BASE_URL", address),
                ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
            ],
            Protocol::Az => vec![
                ("AZURE_STORAGE_ACCOUNT_NAME", secret),
                ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5".to_owned()),
                ("AZURE_ENDPOINT", address),
                ("AZURE_ALLOW_HTTP", "true".to_owned()),
            ],
        }
    }
}

async fn proxy(listener: TcpListener, server: SocketAddr, sent_bytes: Arc<AtomicU64>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let sent_bytes = Arc::clone(&sent_bytes);
        tokio::spawn(async move {
            let mut server = TcpStream::connect(server).await.unwrap();
            let (mut asking, mut asked) = client.split();
            let (mut answers, mut questions) = server.split();
            let ask = async {
                let _ = tokio::io::copy(&mut asking, &mut questions).await;
                let _ = questions.shutdown().await;
            };
            let answer = async {
                let mut piece = vec![0; 1 << 16];
                while let Ok(length @ 1..) = answers.read(&mut piece).await {
                    // Counted before it is passed on, so before whoever waits for it may look.
                    sent_bytes.fetch_add(length as u64, Ordering::SeqCst);
                    if asked.write_all(&piece[..length]).await.is_err() {
                        break;
                    }
                }
                let _ = asked.shutdown().await;
            };
            tokio::join!(ask, answer);
        });
    }
}

async fn serve(listener: TcpListener, service: SharedS3Service) {
    while let Ok((stream, _)) = listener.accept().await {
        let service = service.clone();
        tokio::spawn(async move {
            // An end by the client is no matter.
            let _ = Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
