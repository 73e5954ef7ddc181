//! What the footer says of a file.

use std::sync::Arc;

use arrow_ipc::convert::try_fb_to_schema;
use arrow_ipc::{Block, MetadataVersion, root_as_footer};
use arrow_schema::{ArrowError, SchemaRef};

use super::ArrowOptions;
use super::blocks::CheckedBlock;
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;
use crate::table::{FETCH, columns, end, footer, guarded};

/// Length of the footer's length and the magic number behind it.
const TRAILER_BYTES: u64 = 10;
/// The magic number at the start, padded, and those at the end.
const LEAST_BYTES: u64 = 8 + TRAILER_BYTES;

#[derive(Debug)]
pub(super) struct Footer {
    pub(super) schema: SchemaRef,
    pub(super) version: MetadataVersion,
    pub(super) dictionaries: Vec<CheckedBlock>,
    pub(super) batches: Vec<CheckedBlock>,
    /// The columns that are wanted.
    pub(super) columns: Vec<usize>,
}

impl Footer {
    pub(super) fn read(stores: &Stores, object: &Object, options: &ArrowOptions) -> Result<Self> {
        let end = end(stores, object, LEAST_BYTES)?;
        let length = match &end[end.len() - TRAILER_BYTES as usize..] {
            [a, b, c, d, magic @ ..] if magic == b"ARROW1" => u32::from_le_bytes([*a, *b, *c, *d]),
            _ => {
                let problem = "it does not end as an Arrow file does; streams cannot be read";
                return Err(ObjectError::malformed(&object.url, "its end", problem, FETCH).into());
            }
        };
        let bytes = footer(
            stores,
            object,
            &end,
            length.into(),
            TRAILER_BYTES,
            options.footer_bytes_max,
        )?;
        // A copy of its own is aligned as the parser wants it.
        let bytes = bytes.to_vec();
        let (schema, version, dictionaries, batches) = guarded(&object.url, "its footer", || parse(&bytes))?;
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let columns = columns(&object.url, &names, options.columns.as_deref())?;
        let check = |blocks: Vec<Block>| -> Result<Vec<CheckedBlock>, ObjectError> {
            let check = |block| CheckedBlock::new(object, block, options.batch_bytes_max);
            blocks.into_iter().map(check).collect()
        };
        Ok(Self {
            schema,
            version,
            dictionaries: check(dictionaries)?,
            batches: check(batches)?,
            columns,
        })
    }
}

type Parsed = (SchemaRef, MetadataVersion, Vec<Block>, Vec<Block>);

fn parse(bytes: &[u8]) -> Result<Parsed, ArrowError> {
    let footer = root_as_footer(bytes).map_err(|error| ArrowError::ParseError(error.to_string()))?;
    let schema = footer
        .schema()
        .ok_or_else(|| ArrowError::ParseError("there is no schema".into()))?;
    if !schema.endianness().equals_to_target_endianness() {
        let problem = "its numbers have their bytes in the other order than this machine's";
        return Err(ArrowError::NotYetImplemented(problem.into()));
    }
    Ok((
        Arc::new(try_fb_to_schema(schema)?),
        footer.version(),
        footer.dictionaries().iter().flatten().copied().collect(),
        footer.recordBatches().iter().flatten().copied().collect(),
    ))
}
