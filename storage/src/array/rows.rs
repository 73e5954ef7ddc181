//! Rows of arrays: who reads which, and the readers.

use std::marker::PhantomData;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::element::Element;
use super::extent::ArrayExtent;
use super::format::ArrayFormat;
use super::header::ArrayHeader;
use crate::error::Result;
use crate::object::{Object, ObjectError, shown};
use crate::remote::Stores;
use crate::split::{Extent, deal};
use crate::text::{RecordReader, RecordSplit, read_records};

/// Successive rows of an array.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ArraySplit {
    /// Where the array is.
    pub object: Object,
    /// Where in it.
    pub extent: ArrayExtent,
    /// What its header says.
    pub header: ArrayHeader,
    /// The rows, by 0-based index; all of them if the array is compressed.
    pub rows: Range<u64>,
}

impl ArraySplit {
    /// The bytes of the object that hold its rows; all of the array, if it is compressed.
    pub fn range(&self) -> Range<u64> {
        let ArrayExtent { range, compression } = &self.extent;
        let position = |row: u64| range.start + self.header.header_bytes + row * self.header.row_bytes();
        match compression {
            Some(_) => range.clone(),
            None => position(self.rows.start)..position(self.rows.end),
        }
    }
}

/// Cuts the rows of the arrays in `objects`, in their order, into `partitions` groups of equal numbers of rows. Each
/// object's header is read; all must have elements of `T` and rows of one shape.
///
/// # Errors
/// A header cannot be read or is wrong, or the arrays differ.
pub fn split_arrays<T: Element>(
    stores: &Stores,
    objects: &[Object],
    format: &ArrayFormat,
    partitions: usize,
) -> Result<Vec<Vec<ArraySplit>>> {
    let mut found: Vec<(ArrayExtent, ArrayHeader)> = Vec::with_capacity(objects.len());
    for object in objects {
        let (extent, header) = format.find(stores, object)?;
        check_kind::<T>(&object.url, &header)?;
        let first = found.first().map(|(_, header)| header);
        if let Some(first) = first.filter(|first| first.row_shape() != header.row_shape()) {
            let (shape, other) = (header.row_shape(), first.row_shape());
            let problem = format!("rows of shape {shape:?}, but {other:?} in {}", shown(&objects[0].url));
            return Err(ObjectError::malformed(&object.url, "its header", problem, "name files of one shape").into());
        }
        found.push((extent, header));
    }
    let in_units = |(extent, header): &(ArrayExtent, ArrayHeader)| match extent.compression {
        // At least one, so that what lies behind a header without rows is found out.
        Some(_) => Extent {
            units: header.rows().max(1),
            whole: true,
        },
        None => Extent {
            units: header.rows(),
            whole: false,
        },
    };
    let extents: Vec<Extent> = found.iter().map(in_units).collect();
    let split = |(index, rows): (usize, Range<u64>)| ArraySplit {
        object: objects[index].clone(),
        extent: found[index].0.clone(),
        rows: rows.start..rows.end.min(found[index].1.rows()),
        header: found[index].1.clone(),
    };
    let groups = deal(&extents, partitions).into_iter();
    Ok(groups.map(|group| group.into_iter().map(split).collect()).collect())
}

fn check_kind<T: Element>(url: &str, header: &ArrayHeader) -> Result<(), ObjectError> {
    if header.kind == T::KIND {
        return Ok(());
    }
    let (found, asked) = (header.kind.name(), T::KIND.name());
    let problem = format!("the elements are {found}, but {asked} are asked for");
    let remedy = format!("ask for {found}, or convert the file");
    Err(ObjectError::malformed(url, "its header", problem, remedy))
}

/// The rows of a split. After an error there are none.
#[derive(Debug)]
#[must_use = "rows are read as they are asked for"]
pub struct RowReader<T> {
    split: ArraySplit,
    records: RecordReader,
    /// Rows given so far.
    given: u64,
    finished: bool,
    element: PhantomData<fn() -> T>,
}

/// The rows of `split`, each with its elements in row-major order.
///
/// # Errors
/// A split of other elements; reading itself starts with the first row.
pub fn read_rows<T: Element>(stores: &Stores, split: &ArraySplit) -> Result<RowReader<T>> {
    let ArraySplit {
        object, extent, header, ..
    } = split;
    check_kind::<T>(&object.url, header)?;
    let records = RecordSplit {
        object: object.clone(),
        range: split.range(),
        // Where there are no rows, whatever follows the header is too much.
        record_bytes: header.row_bytes().max(1),
        header_bytes: header.header_bytes,
        compression: extent.compression,
    };
    Ok(RowReader {
        records: read_records(stores, &records)?,
        split: split.clone(),
        given: 0,
        finished: false,
        element: PhantomData,
    })
}

impl<T: Element> RowReader<T> {
    /// Appends the elements of the next row; `false` if there is none.
    fn read_into(&mut self, target: &mut Vec<T>) -> Result<bool> {
        let ArraySplit {
            object, header, rows, ..
        } = &self.split;
        let due = rows.end - rows.start;
        match self.records.next().transpose()? {
            Some(row) if self.given < due => {
                T::decode(&row, header.big_endian, target);
                self.given += 1;
                Ok(true)
            }
            None if self.given == due => Ok(false),
            row => {
                let more = row.map_or(0, |row| row.len() as u64);
                header.check_elements(&object.url, self.given * header.row_bytes() + more)?;
                Ok(false)
            }
        }
    }
}

impl<T: Element> Iterator for RowReader<T> {
    type Item = Result<Vec<T>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finished {
            return None;
        }
        // Room is made once the bytes are there.
        let mut row = Vec::new();
        let read = self.read_into(&mut row);
        self.finished = !matches!(read, Ok(true));
        read.map(|more| more.then_some(row)).transpose()
    }
}

impl<T: Element> std::iter::FusedIterator for RowReader<T> {}

/// A whole array.
#[derive(Debug, Clone, PartialEq)]
pub struct Array<T> {
    /// Length of each side, outermost first.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub elements: Vec<T>,
}

/// Reads all of an array of at most `bytes_max` bytes.
///
/// # Errors
/// The object cannot be read, is not what its header says, has other elements, or is larger.
pub fn read_array<T: Element>(
    stores: &Stores,
    object: &Object,
    format: &ArrayFormat,
    bytes_max: u64,
) -> Result<Array<T>> {
    let (extent, header) = format.find(stores, object)?;
    if header.elements_bytes() > bytes_max {
        let bytes = header.elements_bytes();
        let problem = format!("{bytes} bytes of elements, above the limit of {bytes_max}");
        let remedy = "take a smaller file, or raise the limit";
        return Err(ObjectError::malformed(&object.url, "its header", problem, remedy).into());
    }
    let side = |side: &u64| usize::try_from(*side);
    let Ok(shape) = header.shape.iter().map(side).collect::<Result<Vec<usize>, _>>() else {
        return Err(ObjectError::unsupported(&object.url, "the array is longer than memory can hold").into());
    };
    let mut elements = Vec::new();
    if extent.compression.is_none() {
        // The object's length has been compared with the sides.
        elements.reserve_exact((header.elements_bytes() / T::KIND.bytes()) as usize);
    }
    let split = ArraySplit {
        object: object.clone(),
        extent,
        rows: 0..header.rows(),
        header,
    };
    let mut rows = read_rows(stores, &split)?;
    while rows.read_into(&mut elements)? {}
    Ok(Array { shape, elements })
}
