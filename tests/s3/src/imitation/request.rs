//! A request of HTTP, as far as `object_store` makes them.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Of bucket and object, without the first `/`.
    pub(super) path: String,
    query: BTreeMap<String, String>,
    /// By their names in small letters.
    headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// `None` if the client has asked for nothing.
    pub(super) async fn read(stream: &mut TcpStream) -> std::io::Result<Option<Self>> {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(Error::new(ErrorKind::InvalidData, line));
        };
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            stream.read_line(&mut line).await?;
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").and_then(|length| length.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        Ok(Some(Self {
            method,
            path: decoded(path).trim_start_matches('/').trim_end_matches('/').to_owned(),
            query: pairs
                .map(|(name, value)| (decoded(name), decoded(&value.replace('+', " "))))
                .collect(),
            headers,
            body,
        }))
    }

    /// The name of the object in its bucket; empty if the bucket itself is meant.
    pub(super) fn name(&self) -> &str {
        self.path.split_once('/').map_or("", |(_, name)| name)
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn query(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// Text of a URL without its `%`.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8(bytes).unwrap()
}
