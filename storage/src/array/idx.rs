//! The IDX format: a magic number, the length of each side, then the elements, all big-endian (Yann LeCun's page of
//! MNIST describes it).

use super::element::ElementKind;
use super::header::{ArrayHeader, FETCH};
use crate::object::ObjectError;

/// Reads the header at the start of `bytes`.
pub(super) fn header(url: &str, bytes: &[u8]) -> Result<ArrayHeader, ObjectError> {
    let cut = |expected: usize| {
        let problem = format!("the header is cut: {} bytes, expected at least {expected}", bytes.len());
        ObjectError::malformed(url, "offset 4 (sides)", problem, FETCH)
    };
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else {
        return Err(cut(4));
    };
    let kind = match magic {
        [0, 0, 0x08, _] => ElementKind::U8,
        [0, 0, 0x09, _] => ElementKind::I8,
        [0, 0, 0x0b, _] => ElementKind::I16,
        [0, 0, 0x0c, _] => ElementKind::I32,
        [0, 0, 0x0d, _] => ElementKind::F32,
        [0, 0, 0x0e, _] => ElementKind::F64,
        _ => return Err(not_idx(url, *magic)),
    };
    let sides = usize::from(magic[3]);
    if sides == 0 {
        return Err(not_idx(url, *magic));
    }
    let (words, _) = rest.as_chunks::<4>();
    let Some(words) = words.get(..sides) else {
        return Err(cut(4 + 4 * sides));
    };
    let shape = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).collect();
    ArrayHeader::checked(url, "offset 4 (sides)", kind, true, shape, 4 + 4 * sides as u64)
}

fn not_idx(url: &str, magic: [u8; 4]) -> ObjectError {
    let got = u32::from_be_bytes(magic);
    let problem = format!("magic number {got:#010x}, expected 0x00000801 to 0x00000eff (a type and at least one side)");
    ObjectError::malformed(url, "offset 0 (magic number)", problem, FETCH)
}
