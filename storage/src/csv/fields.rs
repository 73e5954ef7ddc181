//! Lines become records.

use csv::StringRecord;
use csv_core::ReadRecordResult;

use super::CsvOptions;
use crate::bad_record::Unread;
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::text::TextSplit;
use crate::text::blocks::too_long;
use crate::text::raw_lines::{AfterBad, RawLineReader};

/// The records of a split as fields, each with the byte at which it starts.
pub(super) struct FieldReader {
    object: Object,
    lines: RawLineReader,
    parser: Parser,
    quoted_newlines: bool,
    trims: bool,
    record_bytes_max: usize,
    /// The lines that the record has begun in, with their ends, and where they start.
    lines_read: Vec<u8>,
    lines_offset: u64,
    /// Where in them the record starts, and how much of them is used.
    record_start: usize,
    used: usize,
}

impl FieldReader {
    pub(super) fn open(stores: &Stores, split: &TextSplit, options: &CsvOptions, after_bad: AfterBad) -> Result<Self> {
        let mut parser = Parser::new(options);
        if split.range.start > 0 {
            parser.expects_no_mark();
        }
        Ok(Self {
            object: split.object.clone(),
            lines: RawLineReader::open(stores, split, options.text(), after_bad)?,
            parser,
            quoted_newlines: options.quoted_newlines,
            trims: options.trim,
            record_bytes_max: options.text().line_bytes_max,
            lines_read: Vec::new(),
            lines_offset: 0,
            record_start: 0,
            used: 0,
        })
    }

    /// Reads the next record into `record`, and says at which byte it starts. Blank lines are none. A bad record ends
    /// with its line, or where its fields may hold line ends with the line in which it shows.
    pub(super) fn next(&mut self, record: &mut StringRecord) -> Result<Option<u64>, Unread> {
        self.record_start = self.used;
        let mut bytes = 0;
        loop {
            if self.used == self.lines_read.len() {
                let begun = self.parser.begun();
                if !self.next_line(begun)? {
                    return match begun {
                        true => Err(self.give_up(self.unclosed())),
                        false => Ok(None),
                    };
                }
                if !begun {
                    bytes = 0;
                }
                bytes += self.lines_read.len() - self.used;
                // The end of a line is none of its bytes.
                if bytes > self.record_bytes_max.saturating_add(2) {
                    return Err(self.give_up(self.too_long()));
                }
            }
            let (used, complete) = self.parser.feed(&self.lines_read[self.used..]);
            self.used += used;
            if complete {
                if !self.parser.take(record) {
                    return Err(self.give_up(self.not_text()));
                }
                if self.trims {
                    record.trim();
                }
                return Ok(Some(self.start()));
            }
            if self.parser.begun() && !self.quoted_newlines {
                let problem = "a quoted field goes on in the next line";
                let remedy = "set `CsvOptions::quoted_newlines` if that is meant, else close the quote";
                return Err(self.give_up(self.malformed(problem, remedy)));
            }
        }
    }

    /// Whether there is another line, with which the record begins or goes on.
    fn next_line(&mut self, begun: bool) -> Result<bool, Unread> {
        let Some(line) = self.lines.next()? else {
            return Ok(false);
        };
        if !begun {
            self.lines_read.clear();
            (self.lines_offset, self.record_start, self.used) = (line.start, 0, 0);
        }
        self.lines_read.extend_from_slice(line.bytes);
        if let Some(bytes_max) = line.bytes_max {
            let error = too_long(&self.object.url, line.start, bytes_max);
            return Err(self.give_up(error));
        }
        if !line.bytes.ends_with(b"\n") {
            self.lines_read.push(b'\n');
        }
        Ok(true)
    }

    /// Where the record starts that has been read last.
    fn start(&self) -> u64 {
        self.lines_offset + self.record_start as u64
    }

    fn text(&self) -> &[u8] {
        &self.lines_read[self.record_start..self.used]
    }

    /// An error of the record that has been read last.
    pub(super) fn unread(&self, error: ObjectError) -> Unread {
        Unread::record(&self.object.url, self.start(), self.text(), error)
    }

    /// The error of a record, behind which the next one begins on a new line unless this one has ended.
    fn give_up(&mut self, error: ObjectError) -> Unread {
        if self.parser.begun() || matches!(error, ObjectError::LineTooLong { .. }) {
            self.parser.restart();
            self.used = self.lines_read.len();
        }
        self.unread(error)
    }

    pub(super) fn url(&self) -> &str {
        &self.object.url
    }

    pub(super) fn malformed(&self, problem: impl std::fmt::Display, remedy: impl std::fmt::Display) -> ObjectError {
        ObjectError::malformed(&self.object.url, record_at(self.start()), problem, remedy)
    }

    fn unclosed(&self) -> ObjectError {
        let problem = "the file ends within a quoted field";
        self.malformed(problem, "fetch the file again, or close the quote")
    }

    fn too_long(&self) -> ObjectError {
        too_long(&self.object.url, self.start(), self.record_bytes_max)
    }

    fn not_text(&self) -> ObjectError {
        let text = std::str::from_utf8(self.text());
        ObjectError::NotUtf8 {
            url: self.object.url.clone(),
            offset: self.start() + text.map_or_else(|error| error.valid_up_to(), str::len) as u64,
        }
    }
}

/// The place of a record, for errors.
pub(super) fn record_at(offset: u64) -> String {
    format!("the record at byte {offset}")
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

    /// Moves a whole record out, unless it is no text.
    fn take(&mut self, record: &mut StringRecord) -> bool {
        record.clear();
        let (mut start, mut is_text) = (0, true);
        for &end in &self.ends[..self.fields] {
            match std::str::from_utf8(&self.text[start..end]) {
                Ok(field) => record.push_field(field),
                Err(_) => is_text = false,
            }
            start = end;
        }
        (self.text_bytes, self.fields) = (0, 0);
        is_text
    }

    /// Forgets what it has read of a record.
    fn restart(&mut self) {
        self.core.reset();
        (self.text_bytes, self.fields) = (0, 0);
        self.expects_no_mark();
    }

    /// A byte order mark counts at the start of a file only; a blank line ends the look-out for it.
    fn expects_no_mark(&mut self) {
        self.feed(b"\n");
    }
}
