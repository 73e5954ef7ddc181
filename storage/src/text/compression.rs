//! Whole objects in gzip or zstd format.

use std::io::{self, Read};

use flate2::CrcReader;
use flate2::read::DeflateDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use serde::{Deserialize, Serialize};

use super::gzip::GzipDecoder;

/// Largest window of a zstd file, in bytes: what the decoder keeps of what it has already given. Files of `zstd
/// --ultra` and all lower levels ask for 128 MiB at most.
const WINDOW_BYTES_MAX: u64 = 128 << 20;

/// How an object is compressed. One that is cannot be cut, and is read from its start by one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Compression {
    /// One or more gzip members, RFC 1952; zeros behind them are skipped.
    Gzip,
    /// One or more Zstandard frames, RFC 8878; skippable frames are skipped, dictionaries are not known.
    Zstd,
    /// One DEFLATE stream, RFC 1951, as archives hold it; no name says so.
    Deflate {
        /// CRC-32 of what is compressed.
        crc32: u32,
    },
}

impl Compression {
    /// How an object is compressed by its name: `.gz` or `.zst`, in any case.
    pub fn of_name(url: &str) -> Option<Self> {
        let address = url.starts_with("http://") || url.starts_with("https://");
        let path = url.split(['?', '#']).next().filter(|_| address).unwrap_or(url);
        let (stem, ending) = path.rsplit_once('.')?;
        match ending {
            _ if stem.is_empty() => None,
            _ if ending.eq_ignore_ascii_case("gz") => Some(Self::Gzip),
            _ if ending.eq_ignore_ascii_case("zst") => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Deflate { .. } => "DEFLATE",
        }
    }
}

/// What `R` holds, decompressed.
#[derive(Debug)]
pub(crate) enum Decoder<R> {
    Gzip(Box<GzipDecoder<R>>),
    Zstd(Box<ZstdDecoder<R>>),
    Deflate(Box<Checked<DeflateDecoder<R>>>),
}

/// What is read is compared with its checksum at its end.
#[derive(Debug)]
pub(crate) struct Checked<R> {
    inner: CrcReader<R>,
    crc32: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(target)?;
        if read == 0 && !target.is_empty() && self.inner.crc().sum() != self.crc32 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "its checksum is another one",
            ));
        }
        Ok(read)
    }
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(compression: Compression, source: R) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip(Box::new(GzipDecoder::new(source))),
            Compression::Zstd => Self::Zstd(Box::new(ZstdDecoder::new(source))),
            Compression::Deflate { crc32 } => Self::Deflate(Box::new(Checked {
                inner: CrcReader::new(DeflateDecoder::new(source)),
                crc32,
            })),
        }
    }

    /// What is decompressed.
    pub(super) fn source(&mut self) -> Option<&mut R> {
        match self {
            Self::Gzip(decoder) => decoder.source(),
            Self::Zstd(decoder) => Some(&mut decoder.source.inner),
            Self::Deflate(decoder) => Some(decoder.inner.get_mut().get_mut()),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(decoder) => decoder.read(target),
            Self::Zstd(decoder) => decoder.read(target),
            Self::Deflate(decoder) => decoder.read(target),
        }
    }
}

/// All frames of a zstd file, one after the other. `ruzstd` decodes single ones and leaves their checksums to us.
pub(crate) struct ZstdDecoder<R> {
    source: Counted<R>,
    decoder: FrameDecoder,
    in_frame: bool,
    /// Bytes that the frame has given.
    given: u64,
}

impl<R> std::fmt::Debug for ZstdDecoder<R> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ZstdDecoder")
            .field("in_frame", &self.in_frame)
            .finish()
    }
}

impl<R: Read> ZstdDecoder<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self {
            source: Counted { inner: source, read: 0 },
            decoder,
            in_frame: false,
            given: 0,
        }
    }

    /// Begins the next frame that holds data; `false` at the end of a file of at least one frame.
    fn begin_frame(&mut self) -> io::Result<bool> {
        let before = self.source.read;
        match self.decoder.reset(&mut self.source) {
            Ok(()) => {
                (self.in_frame, self.given) = (true, 0);
                Ok(true)
            }
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let skipped = io::copy(&mut (&mut self.source).take(length.into()), &mut io::sink())?;
                match skipped == u64::from(length) {
                    true => Ok(true),
                    false => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            // Nothing at all where a frame might begin is the end of the file.
            Err(_) if self.source.read == before && before > 0 => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn end_frame(&mut self) -> io::Result<()> {
        self.in_frame = false;
        let stored = self.decoder.get_checksum_from_data();
        if stored.is_some() && stored != self.decoder.get_calculated_checksum() {
            return Err(io::Error::other("a checksum is wrong"));
        }
        let promised = self.decoder.content_size();
        match promised > 0 && promised != self.given {
            true => Err(io::Error::other(format!(
                "a frame holds {} bytes where its header says {promised}",
                self.given
            ))),
            false => Ok(()),
        }
    }
}

impl<R: Read> Read for ZstdDecoder<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while !target.is_empty() {
            if !self.in_frame {
                match self.begin_frame()? {
                    true => continue,
                    false => break,
                }
            }
            if self.decoder.can_collect() > 0 {
                let read = self.decoder.read(target)?;
                self.given += read as u64;
                return Ok(read);
            }
            if self.decoder.is_finished() {
                self.end_frame()?;
                continue;
            }
            let one = BlockDecodingStrategy::UptoBlocks(1);
            self.decoder
                .decode_blocks(&mut self.source, one)
                .map_err(io::Error::other)?;
        }
        Ok(0)
    }
}

/// Counts what is read, so that the end of a file is told from the middle of a frame.
struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(target)?;
        self.read += read as u64;
        Ok(read)
    }
}
