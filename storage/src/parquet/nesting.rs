//! How deep the columns of a file lie within each other. The decoder calls itself for each level and makes room for as many
//! fields as a group claims, without a limit: what would be too much for it is refused before.
//!
//! Only the schema is looked at, in Thrift's [compact protocol], in which footers are written.
//!
//! [compact protocol]: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md

/// Most groups that may lie within each other.
const DEPTH_MAX: usize = 100;
/// Most structures within each other of which a description of one column consists. Those of today have 3.
const PARTS_DEPTH_MAX: usize = 16;
/// The field of a footer that holds the schema: a list with a structure for each group and column, each group before what is
/// in it.
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

/// Says what is wrong if the decoder cannot be given this footer.
pub(super) fn check(footer: &[u8]) -> Result<(), String> {
    let mut rest = Rest(footer);
    let mut elements = rest.schema()?;
    // Fields that each group around the next element still lacks, and how many that is in all.
    let (mut groups, mut wanted) = (Vec::new(), 1_u64);
    while wanted > 0 && elements > 0 {
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
                kind::STOP => return Err("it has no schema".to_owned()),
                other if field == SCHEMA => return Err(format!("a schema of type {other}")),
                other => self.skip(other, 0)?,
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
                other => self.skip(other, 0)?,
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

    fn skip(&mut self, kind: u8, depth: usize) -> Result<(), String> {
        if depth > PARTS_DEPTH_MAX {
            return Err("more structures than a column needs lie within each other".to_owned());
        }
        match kind {
            kind::TRUE | kind::FALSE => {}
            kind::BYTE => drop(self.take(1)?),
            kind::I16 | kind::I32 | kind::I64 => drop(self.number()?),
            kind::DOUBLE => drop(self.take(8)?),
            kind::BINARY => {
                let bytes = self.number()?;
                self.take(bytes)?;
            }
            kind::STRUCT => {
                let mut field = 0;
                loop {
                    match self.field(&mut field)? {
                        kind::STOP => break,
                        other => self.skip(other, depth + 1)?,
                    }
                }
            }
            kind::LIST => {
                let (of, values) = self.list()?;
                if matches!(of, kind::STOP | kind::TRUE | kind::FALSE) && values > 0 {
                    return Err("a list of what no schema has lists of".to_owned());
                }
                for _ in 0..values {
                    self.skip(of, depth + 1)?;
                }
            }
            other => return Err(format!("a value of type {other}, which no schema has")),
        }
        Ok(())
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

fn cut() -> String {
    "it ends within its schema".to_owned()
}
