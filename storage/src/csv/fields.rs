//! Lines become records.

use csv::StringRecord;
use csv_core::ReadRecordResult;

use super::CsvOptions;
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::text::{LineReader, TextSplit, read_lines_with};

/// The records of a split as fields, each with the byte at which it starts.
pub(super) struct FieldReader {
    object: Object,
    lines: LineReader,
    parser: Parser,
    quoted_newlines: bool,
    trims: bool,
    record_bytes_max: usize,
    /// The line being read, with its end, where it starts, and how much of it is used.
    line: Vec<u8>,
    line_offset: u64,
    used: usize,
}

impl FieldReader {
    pub(super) fn open(stores: &Stores, split: &TextSplit, options: &CsvOptions) -> Result<Self> {
        let mut parser = Parser::new(options);
        if split.range.start > 0 {
            // A byte order mark counts at the start of a file only; a blank line ends the parser's look-out for it.
            parser.feed(b"\n");
        }
        Ok(Self {
            object: split.object.clone(),
            lines: read_lines_with(stores, split, options.text())?,
            parser,
            quoted_newlines: options.quoted_newlines,
            trims: options.trim,
            record_bytes_max: options.text().line_bytes_max,
            line: Vec::new(),
            line_offset: 0,
            used: 0,
        })
    }

    /// Reads the next record into `record`, and says at which byte it starts. Blank lines are none.
    pub(super) fn next(&mut self, record: &mut StringRecord) -> Result<Option<u64>> {
        let mut start = self.line_offset + self.used as u64;
        let mut bytes = 0;
        loop {
            if self.used == self.line.len() {
                let begun = self.parser.begun();
                if !self.next_line()? {
                    return match begun {
                        true => Err(self.unclosed(start).into()),
                        false => Ok(None),
                    };
                }
                if !begun {
                    (start, bytes) = (self.line_offset, 0);
                }
                bytes += self.line.len();
                // The end of a line is none of its bytes.
                if bytes > self.record_bytes_max.saturating_add(2) {
                    return Err(self.too_long(start).into());
                }
            }
            let (used, complete) = self.parser.feed(&self.line[self.used..]);
            self.used += used;
            if complete {
                self.parser
                    .take(record)
                    .map_err(|problem| self.malformed(start, problem, "convert the file to UTF-8"))?;
                if self.trims {
                    record.trim();
                }
                return Ok(Some(start));
            }
            if self.parser.begun() && !self.quoted_newlines {
                let problem = "a quoted field goes on in the next line";
                let remedy = "set `CsvOptions::quoted_newlines` if that is meant, else close the quote";
                return Err(self.malformed(start, problem, remedy).into());
            }
        }
    }

    fn next_line(&mut self) -> Result<bool> {
        let Some((offset, line)) = self.lines.next_whole_line()? else {
            return Ok(false);
        };
        self.line.clear();
        self.line.extend_from_slice(line.as_bytes());
        if !line.ends_with('\n') {
            self.line.push(b'\n');
        }
        (self.line_offset, self.used) = (offset, 0);
        Ok(true)
    }

    pub(super) fn malformed(
        &self,
        start: u64,
        problem: impl std::fmt::Display,
        remedy: impl std::fmt::Display,
    ) -> ObjectError {
        ObjectError::malformed(&self.object.url, format!("the record at byte {start}"), problem, remedy)
    }

    fn unclosed(&self, start: u64) -> ObjectError {
        let problem = "the file ends within a quoted field";
        self.malformed(start, problem, "fetch the file again, or close the quote")
    }

    fn too_long(&self, start: u64) -> ObjectError {
        ObjectError::LineTooLong {
            url: self.object.url.clone(),
            offset: start,
            bytes_max: self.record_bytes_max,
        }
    }
}

/// The state machine of `csv-core`, and room for what it takes out of a record.
struct Parser {
    core: csv_core::Reader,
    text: Vec<u8>,
    text_bytes: usize,
    ends: Vec<usize>,
    fields: usize,
}

impl Parser {
    fn new(options: &CsvOptions) -> Self {
        let core = csv_core::ReaderBuilder::new()
            .delimiter(options.delimiter)
            .quoting(options.quote.is_some())
            .quote(options.quote.unwrap_or_default())
            .build();
        Self {
            core,
            text: vec![0; 1 << 10],
            text_bytes: 0,
            ends: vec![0; 16],
            fields: 0,
        }
    }

    /// Whether part of a record has been read.
    fn begun(&self) -> bool {
        self.text_bytes > 0 || self.fields > 0
    }

    /// How many bytes of `input` were used, and whether they end a record. Otherwise all were.
    fn feed(&mut self, input: &[u8]) -> (usize, bool) {
        let mut used = 0;
        while used < input.len() {
            let text = &mut self.text[self.text_bytes..];
            let (result, read, text, fields) =
                self.core
                    .read_record(&input[used..], text, &mut self.ends[self.fields..]);
            used += read;
            self.text_bytes += text;
            self.fields += fields;
            match result {
                ReadRecordResult::Record => return (used, true),
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::InputEmpty | ReadRecordResult::End => break,
            }
        }
        (used, false)
    }

    /// Moves a whole record out.
    fn take(&mut self, record: &mut StringRecord) -> std::result::Result<(), std::str::Utf8Error> {
        record.clear();
        let mut start = 0;
        for &end in &self.ends[..self.fields] {
            record.push_field(std::str::from_utf8(&self.text[start..end])?);
            start = end;
        }
        (self.text_bytes, self.fields) = (0, 0);
        Ok(())
    }
}
