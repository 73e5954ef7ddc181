//! NumPy's npy format, versions 1 to 3: a magic number, and a dictionary as Python writes it, of which the type of the
//! elements, their order and the shape are known (NumPy Enhancement Proposal 1).

use super::element::ElementKind;
use super::header::{ArrayHeader, FETCH, HEADER_BYTES_MAX};
use crate::object::ObjectError;

pub(super) const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// Most sides that an array has in NumPy.
const SIDES_MAX: usize = 64;
const PLACE: &str = "its header";

/// Reads the header at the start of `bytes`.
pub(super) fn header(url: &str, bytes: &[u8]) -> Result<ArrayHeader, ObjectError> {
    let (start, text) = text(bytes).map_err(|problem| ObjectError::malformed(url, PLACE, problem, FETCH))?;
    let Some(found) = Literal(text).dictionary() else {
        let shown: String = text.chars().take(100).collect();
        let problem = format!("`{shown}` is not a dictionary of descr, fortran_order and shape");
        let remedy = "write a plain array of numbers with `numpy.save`; fields of several types go into Parquet";
        return Err(ObjectError::malformed(url, PLACE, problem, remedy));
    };
    let Some((kind, big_endian)) = element(found.descr) else {
        let problem = format!("elements of type `{}` cannot be read", found.descr);
        let remedy = "convert them with `.astype` to integers of 1 to 8 bytes (u1 to i8) or to f4 or f8";
        return Err(ObjectError::malformed(url, PLACE, problem, remedy));
    };
    if found.fortran_order && found.shape.len() > 1 {
        let problem = "the array is in Fortran order, so its rows do not lie together";
        let remedy = "save `numpy.ascontiguousarray(array)` instead";
        return Err(ObjectError::malformed(url, PLACE, problem, remedy));
    }
    ArrayHeader::checked(url, PLACE, kind, big_endian, found.shape, (start + text.len()) as u64)
}

/// Where the dictionary starts, and its text.
fn text(bytes: &[u8]) -> Result<(usize, &str), String> {
    let cut = |expected: usize| format!("the header is cut: {} bytes, expected at least {expected}", bytes.len());
    let Some(version) = bytes.strip_prefix(&MAGIC) else {
        return Err(match bytes.len() < MAGIC.len() {
            true => cut(MAGIC.len()),
            false => "it does not begin as an npy file does".to_owned(),
        });
    };
    let (start, length) = match *version {
        [1, _, low, high, ..] => (10, usize::from(u16::from_le_bytes([low, high]))),
        [2 | 3, _, a, b, c, d, ..] => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        [] | [1..=3, ..] => return Err(cut(12)),
        [version, ..] => return Err(format!("version {version} of the format is not known, only 1 to 3 are")),
    };
    if length > HEADER_BYTES_MAX - 12 {
        return Err(format!("a header of {length} bytes is longer than {HEADER_BYTES_MAX}"));
    }
    let text = bytes.get(start..start + length).ok_or_else(|| cut(start + length))?;
    let text = std::str::from_utf8(text).map_err(|_| "the header is not text".to_owned())?;
    Ok((start, text))
}

fn element(descr: &str) -> Option<(ElementKind, bool)> {
    let (order, code) = descr.split_at_checked(1)?;
    let kind = ElementKind::ALL.into_iter().find(|kind| self::code(*kind) == code)?;
    match order {
        "<" => Some((kind, false)),
        ">" => Some((kind, true)),
        "|" if kind.bytes() == 1 => Some((kind, false)),
        _ => None,
    }
}

/// NumPy's name of a type.
pub(super) fn code(kind: ElementKind) -> &'static str {
    match kind {
        ElementKind::U8 => "u1",
        ElementKind::I8 => "i1",
        ElementKind::U16 => "u2",
        ElementKind::I16 => "i2",
        ElementKind::U32 => "u4",
        ElementKind::I32 => "i4",
        ElementKind::U64 => "u8",
        ElementKind::I64 => "i8",
        ElementKind::F32 => "f4",
        ElementKind::F64 => "f8",
    }
}

struct Dictionary<'a> {
    descr: &'a str,
    fortran_order: bool,
    shape: Vec<u64>,
}

/// What is left of a Python literal.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn dictionary(mut self) -> Option<Dictionary<'a>> {
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.eat("{").then_some(())?;
        while !self.eat("}") {
            let key = self.string()?;
            self.eat(":").then_some(())?;
            match key {
                "descr" => descr = Some(self.string()?),
                "fortran_order" => fortran_order = Some(self.truth()?),
                "shape" => shape = Some(self.sides()?),
                _ => return None,
            }
            if !self.eat(",") {
                self.eat("}").then_some(())?;
                break;
            }
        }
        self.0.trim().is_empty().then_some(())?;
        Some(Dictionary {
            descr: descr?,
            fortran_order: fortran_order?,
            shape: shape?,
        })
    }

    fn eat(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start().strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn string(&mut self) -> Option<&'a str> {
        let text = self.0.trim_start();
        let quote = text.chars().next().filter(|quote| "'\"".contains(*quote))?;
        let (string, rest) = text[1..].split_once(quote)?;
        self.0 = rest;
        Some(string)
    }

    fn truth(&mut self) -> Option<bool> {
        match self.eat("True") {
            true => Some(true),
            false => self.eat("False").then_some(false),
        }
    }

    fn sides(&mut self) -> Option<Vec<u64>> {
        let mut sides = Vec::new();
        self.eat("(").then_some(())?;
        while !self.eat(")") {
            sides.push(self.number()?);
            (sides.len() <= SIDES_MAX).then_some(())?;
            if !self.eat(",") {
                self.eat(")").then_some(())?;
                break;
            }
        }
        Some(sides)
    }

    fn number(&mut self) -> Option<u64> {
        let text = self.0.trim_start();
        let length = text.bytes().take_while(u8::is_ascii_digit).count();
        let number = text[..length].parse().ok()?;
        // Python 2 wrote an L behind long numbers.
        self.0 = text[length..].strip_prefix('L').unwrap_or(&text[length..]);
        Some(number)
    }
}
