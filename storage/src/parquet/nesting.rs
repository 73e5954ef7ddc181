//! How deep the columns of a file lie within each other. The decoder calls itself for each level and makes room for as
//! many fields as a group claims, without a limit: what would be too much for it is refused before.
//!
//! Only the schema is looked at, in Thrift's [compact protocol], in which footers are written. The decoder reads fields
//! that it knows without looking at their types. So other types than theirs are refused: what this took for one value,
//! the decoder could take for the beginning of another schema.
//!
//! [compact protocol]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

/// Most groups that may lie within each other.
const DEPTH_MAX: usize = 100;
/// Most structures within each other of which a description of one column consists. Those of today have 3.
const PARTS_DEPTH_MAX: usize = 16;
/// The field of a footer that says which version it is of.
const VERSION: i16 = 1;
/// The field behind it that holds the schema: a list with a structure for each group and column, each group before what
/// is in it.
const SCHEMA: i16 = 2;
/// The field of such a structure that says how many fields a group has.
const CHILDREN: i16 = 5;

/// Types of values, as they stand in the lower half of the byte before them.
mod kind {
    pub(super) const STOP: u8 = 0;
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I32: u8 = 5;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const STRUCT: u8 = 12;
}

/// What the decoder reads a field as.
#[derive(Clone, Copy)]
enum Shape {
    Bool,
    Byte,
    Number,
    Text,
    /// With these fields, and others that are left out by their types.
    Struct(&'static [(i16, Shape)]),
}

const EMPTY: Shape = Shape::Struct(&[]);
const UNIT: Shape = Shape::Struct(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]);
const TIME: Shape = Shape::Struct(&[(1, Shape::Bool), (2, UNIT)]);

/// The logical types, of which a column has one.
const LOGICAL: Shape = Shape::Struct(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Shape::Struct(&[(1, Shape::Number), (2, Shape::Number)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Shape::Struct(&[(1, Shape::Byte), (2, Shape::Bool)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Shape::Struct(&[(1, Shape::Byte)])),
    (17, Shape::Struct(&[(1, Shape::Text)])),
    (18, Shape::Struct(&[(1, Shape::Text), (2, Shape::Number)])),
]);

/// A group or column, but for [`CHILDREN`].
const ELEMENT: &[(i16, Shape)] = &[
    (1, Shape::Number),
    (2, Shape::Number),
    (3, Shape::Number),
    (4, Shape::Text),
    (6, Shape::Number),
    (7, Shape::Number),
    (8, Shape::Number),
    (9, Shape::Number),
    (10, LOGICAL),
];

/// Says what is wrong if the decoder cannot be given this footer.
pub(super) fn check(footer: &[u8]) -> Result<(), String> {
    let mut rest = Rest(footer);
    let mut elements = rest.schema()?;
    // Fields that each group around the next element still lacks, and how many that is in all.
    let (mut groups, mut wanted) = (Vec::new(), 1_u64);
    while elements > 0 {
        if wanted == 0 {
            // The decoder would read them first, and then find that out.
            return Err(format!("{elements} descriptions of columns that no group has"));
        }
        (elements, wanted) = (elements - 1, wanted - 1);
        if let Some(lacking) = groups.last_mut() {
            *lacking -= 1;
        }
        let children = rest.children()?;
        wanted += children;
        if wanted > elements {
            return Err(format!(
                "its groups have {wanted} more fields, where {elements} are described"
            ));
        }
        groups.push(children);
        while groups.last() == Some(&0) {
            groups.pop();
        }
        if groups.len() > DEPTH_MAX {
            return Err(format!("more than {DEPTH_MAX} groups of columns lie within each other"));
        }
    }
    Ok(())
}

/// What is not read yet of a footer.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Goes to the schema and gives the number of its elements.
    fn schema(&mut self) -> Result<u64, String> {
        let mut field = 0;
        loop {
            match self.field(&mut field)? {
                kind::LIST if field == SCHEMA => {
                    return match self.list()? {
                        (kind::STRUCT, elements) => Ok(elements),
                        (other, elements) => Err(format!("a schema of {elements} values of type {other}")),
                    };
                }
                kind::I32 if field == VERSION => drop(self.number()?),
                kind::STOP => return Err("it has no schema".to_owned()),
                other => {
                    return Err(format!(
                        "field {field} of type {other}, where its version or its schema should be"
                    ));
                }
            }
        }
    }

    /// Reads an element of the schema and gives the number of its fields, 0 for a column.
    fn children(&mut self) -> Result<u64, String> {
        let (mut field, mut children) = (0, 0);
        loop {
            match self.field(&mut field)? {
                kind::STOP => return Ok(children),
                kind::I32 if field == CHILDREN => {
                    let read = self.number()?;
                    // Zigzag: odd ones are negative.
                    if read % 2 == 1 {
                        return Err("a group has less than no fields".to_owned());
                    }
                    children = read / 2;
                }
                other if field == CHILDREN => return Err(format!("a number of fields of type {other}")),
                other => self.skip(other, shape(ELEMENT, field), 0)?,
            }
        }
    }

    /// Reads what stands before a value: its type, and its field in the place of the one before.
    fn field(&mut self, field: &mut i16) -> Result<u8, String> {
        let [head] = *self.take(1)? else { return Err(cut()) };
        if head & 0xf == kind::STOP {
            return Ok(kind::STOP);
        }
        *field = match head >> 4 {
            0 => {
                let read = self.number()?;
                i16::try_from((read >> 1) as i64 ^ -((read & 1) as i64)).map_err(|_| "a field beyond all".to_owned())?
            }
            further => field.checked_add(further.into()).ok_or("a field beyond all")?,
        };
        Ok(head & 0xf)
    }

    /// Reads the type and number of the values of a list.
    fn list(&mut self) -> Result<(u8, u64), String> {
        let [head] = *self.take(1)? else { return Err(cut()) };
        let values = match head >> 4 {
            15 => self.number()?,
            few => few.into(),
        };
        Ok((head & 0xf, values))
    }

    /// Goes behind a value that is said to be of a type, and is read as `shape` if the decoder knows it.
    fn skip(&mut self, kind: u8, shape: Option<Shape>, depth: usize) -> Result<(), String> {
        if depth > PARTS_DEPTH_MAX {
            return Err("more structures than a column needs lie within each other".to_owned());
        }
        match (kind, shape) {
            (kind::TRUE | kind::FALSE, None | Some(Shape::Bool)) => {}
            (kind::BYTE, None | Some(Shape::Byte)) => drop(self.take(1)?),
            (kind::I32, None | Some(Shape::Number)) | (kind::I16 | kind::I64, None) => drop(self.number()?),
            (kind::DOUBLE, None) => drop(self.take(8)?),
            (kind::BINARY, None | Some(Shape::Text)) => {
                let bytes = self.number()?;
                self.take(bytes)?;
            }
            (kind::STRUCT, None) => self.skip_fields(&[], depth)?,
            (kind::STRUCT, Some(Shape::Struct(fields))) => self.skip_fields(fields, depth)?,
            (kind::LIST, None) => {
                let (of, values) = self.list()?;
                if matches!(of, kind::STOP | kind::TRUE | kind::FALSE) && values > 0 {
                    return Err("a list of what no schema has lists of".to_owned());
                }
                for _ in 0..values {
                    self.skip(of, None, depth + 1)?;
                }
            }
            (other, _) => return Err(format!("a value of type {other} in its schema, which has none there")),
        }
        Ok(())
    }

    fn skip_fields(&mut self, fields: &[(i16, Shape)], depth: usize) -> Result<(), String> {
        let mut field = 0;
        loop {
            match self.field(&mut field)? {
                kind::STOP => return Ok(()),
                other => self.skip(other, shape(fields, field), depth + 1)?,
            }
        }
    }

    /// Reads a number of up to ten bytes, seven bits in each.
    fn number(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.take(1)? else { return Err(cut()) };
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number that does not end".to_owned())
    }

    fn take(&mut self, bytes: u64) -> Result<&[u8], String> {
        let bytes = usize::try_from(bytes).ok();
        let (taken, rest) = bytes.and_then(|bytes| self.0.split_at_checked(bytes)).ok_or_else(cut)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn shape(fields: &[(i16, Shape)], field: i16) -> Option<Shape> {
    let known = fields.iter().find(|(known, _)| *known == field);
    known.map(|(_, shape)| *shape)
}

fn cut() -> String {
    "it ends within its schema".to_owned()
}
