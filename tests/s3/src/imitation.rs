//! What `object_store` asks of Google Cloud Storage (its XML interface) and of Azure Blob Storage, answered from a
//! folder as the documentation of those says. Nothing of it was compared with the real ones.

mod request;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Barrier;

use self::request::Request;
use crate::Protocol;

/// Names that one page of a listing holds: few, so that there are many pages.
const PAGE: usize = 2;
/// When everything was written: no test looks at it.
const DATE: &str = "Wed, 01 Jan 2025 00:00:00 GMT";
const ISO_DATE: &str = "2025-01-01T00:00:00.000Z";
/// Creations of such names wait until two have come.
const RACE: &str = "race/manifest-";

#[derive(Debug)]
pub(crate) struct Imitation {
    protocol: Protocol,
    /// With a folder for each bucket.
    objects: PathBuf,
    /// One request at a time reads or writes.
    turn: Mutex<()>,
    race: Barrier,
}

struct Answer {
    status: &'static str,
    headers: String,
    body: Vec<u8>,
}

impl Answer {
    fn of(status: &'static str) -> Self {
        let (headers, body) = (String::new(), Vec::new());
        Self { status, headers, body }
    }
}

impl Imitation {
    pub(crate) fn new(protocol: Protocol, objects: PathBuf) -> Self {
        Self {
            protocol,
            objects,
            turn: Mutex::default(),
            race: Barrier::new(2),
        }
    }

    pub(crate) async fn serve(self, listener: TcpListener) {
        let this = Arc::new(self);
        while let Ok((stream, _)) = listener.accept().await {
            let this = Arc::clone(&this);
            tokio::spawn(async move {
                // An end by the client is no matter.
                let _ = this.answer_one(stream).await;
            });
        }
    }

    /// One request on each connection.
    async fn answer_one(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let Some(request) = Request::read(&mut stream).await? else {
            return Ok(());
        };
        if request.method == "PUT" && request.name().starts_with(RACE) {
            self.race.wait().await;
        }
        let Answer { status, headers, body } = self.answer(&request);
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await?;
        if request.method != "HEAD" {
            stream.write_all(&body).await?;
        }
        stream.shutdown().await
    }

    fn answer(&self, request: &Request) -> Answer {
        let _turn = self.turn.lock().unwrap();
        let authorization = request.header("authorization");
        let (is_allowed, refused) = match self.protocol {
            Protocol::Az => (authorization.starts_with("SharedKey secret:"), "403 Forbidden"),
            _ => (authorization == "Bearer secret", "401 Unauthorized"),
        };
        if !is_allowed {
            return Answer::of(refused);
        }
        match &*request.method {
            "GET" if request.name().is_empty() => self.list(request),
            "GET" | "HEAD" => self.get(request),
            "PUT" => self.put(request),
            "DELETE" => Answer::of(self.delete(&request.path)),
            "POST" if request.query("comp") == "batch" => self.batch(request),
            _ => Answer::of("405 Method Not Allowed"),
        }
    }

    fn get(&self, request: &Request) -> Answer {
        let Ok(whole) = std::fs::read(self.objects.join(&request.path)) else {
            return Answer::of("404 Not Found");
        };
        let headers = described(&whole);
        let range = request.header("range").strip_prefix("bytes=").and_then(|range| {
            let (start, end) = range.split_once('-')?;
            Some(start.parse::<usize>().ok()?..(end.parse::<usize>().ok()? + 1).min(whole.len()))
        });
        let Some(range) = range else {
            let status = "200 OK";
            return Answer {
                status,
                headers,
                body: whole,
            };
        };
        let Some(body) = whole.get(range.clone()) else {
            return Answer::of("416 Range Not Satisfiable");
        };
        let place = format!(
            "Content-Range: bytes {}-{}/{}\r\n",
            range.start,
            range.end - 1,
            whole.len()
        );
        Answer {
            status: "206 Partial Content",
            headers: headers + &place,
            body: body.to_vec(),
        }
    }

    fn put(&self, request: &Request) -> Answer {
        let path = self.objects.join(&request.path);
        let (creates, refused) = match self.protocol {
            Protocol::Az if request.header("x-ms-blob-type") != "BlockBlob" => return Answer::of("400 Bad Request"),
            Protocol::Az => (request.header("if-none-match") == "*", "409 Conflict"),
            _ => (
                request.header("x-goog-if-generation-match") == "0",
                "412 Precondition Failed",
            ),
        };
        if creates && path.exists() {
            return Answer::of(refused);
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &request.body).unwrap();
        Answer {
            headers: described(&request.body),
            ..Answer::of(match self.protocol {
                Protocol::Az => "201 Created",
                _ => "200 OK",
            })
        }
    }

    fn delete(&self, path: &str) -> &'static str {
        match (std::fs::remove_file(self.objects.join(path)), self.protocol) {
            (Err(_), _) => "404 Not Found",
            (Ok(()), Protocol::Az) => "202 Accepted",
            (Ok(()), _) => "204 No Content",
        }
    }

    /// What Azure takes many deletions in.
    fn batch(&self, request: &Request) -> Answer {
        let text = String::from_utf8_lossy(&request.body);
        let deletions = text.lines().filter_map(|line| line.strip_prefix("DELETE /"));
        let answers = deletions.enumerate().map(|(index, rest)| {
            let path = request::decoded(rest.split([' ', '?']).next().unwrap());
            let status = self.delete(&path);
            format!("--answers\r\nContent-Type: application/http\r\nContent-ID: {index}\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n")
        });
        Answer {
            headers: "Content-Type: multipart/mixed; boundary=answers\r\n".to_owned(),
            body: (answers.collect::<String>() + "--answers--\r\n").into_bytes(),
            ..Answer::of("202 Accepted")
        }
    }

    fn list(&self, request: &Request) -> Answer {
        let bucket = self.objects.join(&request.path);
        let (prefix, delimiter) = (request.query("prefix"), request.query("delimiter"));
        let shown = |name: String| {
            let rest = name.strip_prefix(prefix)?;
            match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
                Some(end) => Some(name[..prefix.len() + end + delimiter.len()].to_owned()),
                None => Some(name),
            }
        };
        let shown: BTreeSet<String> = names(&bucket, "").into_iter().filter_map(shown).collect();
        let after = match self.protocol {
            Protocol::Az => request.query("marker"),
            _ => request.query("continuation-token"),
        };
        let mut left = shown.into_iter().filter(|name| name.as_str() > after);
        let page: Vec<String> = left.by_ref().take(PAGE).collect();
        let next = left
            .next()
            .and(page.last())
            .map(|name| escaped(name))
            .unwrap_or_default();
        let (folders, objects): (Vec<_>, Vec<_>) = page.iter().partition(|name| name.ends_with('/'));
        let body = match self.protocol {
            Protocol::Az => azure_page(&bucket, &objects, &folders, &next),
            _ => google_page(&bucket, &objects, &folders, &next),
        };
        Answer {
            headers: "Content-Type: application/xml\r\n".to_owned(),
            body: body.into_bytes(),
            ..Answer::of("200 OK")
        }
    }
}

fn google_page(bucket: &Path, objects: &[&String], folders: &[&String], next: &str) -> String {
    let mut text = "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult>".to_owned();
    for name in objects {
        let bytes = std::fs::read(bucket.join(name)).unwrap();
        text += &format!(
            "<Contents><Key>{}</Key><LastModified>{ISO_DATE}</LastModified><ETag>{}</ETag><Size>{}</Size></Contents>",
            escaped(name),
            tag(&bytes),
            bytes.len()
        );
    }
    for name in folders {
        text += &format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", escaped(name));
    }
    if !next.is_empty() {
        text += &format!("<NextContinuationToken>{next}</NextContinuationToken>");
    }
    text + "</ListBucketResult>"
}

fn azure_page(bucket: &Path, objects: &[&String], folders: &[&String], next: &str) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Blobs>".to_owned();
    for name in objects {
        let bytes = std::fs::read(bucket.join(name)).unwrap();
        // Azure leaves the quotes of tags out here.
        text += &format!(
            "<Blob><Name>{}</Name><Properties><Last-Modified>{DATE}</Last-Modified><Etag>{}</Etag>\
             <Content-Length>{}</Content-Length><Content-Type>application/octet-stream</Content-Type></Properties></Blob>",
            escaped(name),
            tag(&bytes).trim_matches('"'),
            bytes.len()
        );
    }
    for name in folders {
        text += &format!("<BlobPrefix><Name>{}</Name></BlobPrefix>", escaped(name));
    }
    format!("{text}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>")
}

/// The names of all files below a folder.
fn names(folder: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(names(&entry.path(), &format!("{name}/"))),
            false => found.push(name),
        }
    }
    found
}

fn described(bytes: &[u8]) -> String {
    format!("ETag: {}\r\nLast-Modified: {DATE}\r\n", tag(bytes))
}

fn tag(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
