//! Whole objects in gzip format.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::GzDecoder;

/// What a member begins with.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Of what is no member an error shows so much, in bytes.
const BYTES_SHOWN: usize = 16;

/// All members of a gzip file, one after the other. Zeros may follow them, as tapes and blocks of fixed length have
/// them; `flate2` would take those, and all else, for the header of a member.
#[derive(Debug)]
pub(crate) struct GzipDecoder<R> {
    member: GzDecoder<Counted<R>>,
    finished: bool,
}

impl<R: Read> GzipDecoder<R> {
    pub(super) fn new(source: R) -> Self {
        let inner = Some(BufReader::new(source));
        Self {
            member: GzDecoder::new(Counted { inner, read: 0 }),
            finished: false,
        }
    }

    /// What is decompressed.
    pub(super) fn source(&mut self) -> Option<&mut R> {
        self.member.get_mut().inner.as_mut().map(BufReader::get_mut)
    }

    /// Begins the next member, if there is one.
    fn next_member(&mut self) -> io::Result<()> {
        let source = self.member.get_mut();
        let end = source.read;
        source.skip_zeros()?;
        let (at, rest) = (source.read, source.fill_buf()?);
        if rest.is_empty() {
            self.finished = true;
            return Ok(());
        }
        let is_member = at == end && MAGIC.starts_with(&rest[..rest.len().min(MAGIC.len())]);
        if !is_member {
            let shown = rest[..rest.len().min(BYTES_SHOWN)].escape_ascii();
            let problem = format!("at byte {at}, behind its last member, is `{shown}` where only zeros may be");
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        self.member = GzDecoder::new(std::mem::take(source));
        Ok(())
    }
}

impl<R: Read> Read for GzipDecoder<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        while !target.is_empty() && !self.finished {
            let read = self.member.read(target)?;
            if read > 0 {
                return Ok(read);
            }
            self.next_member()?;
        }
        Ok(0)
    }
}

/// Counts what is used, so that an error can say where it is.
#[derive(Debug)]
struct Counted<R> {
    /// `None` only where it is being moved to the next member.
    inner: Option<BufReader<R>>,
    read: u64,
}

impl<R> Default for Counted<R> {
    fn default() -> Self {
        Self { inner: None, read: 0 }
    }
}

impl<R: Read> Counted<R> {
    fn skip_zeros(&mut self) -> io::Result<()> {
        loop {
            let bytes = self.fill_buf()?;
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            if zeros == 0 {
                return Ok(());
            }
            self.consume(zeros);
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(target)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, bytes: usize) {
        self.read += bytes as u64;
        if let Some(inner) = &mut self.inner {
            inner.consume(bytes);
        }
    }
}
