//! Updates as bytes, in less room than they take as numbers.

use crate::cluster::link::Body;
use crate::cluster::wire::WireError;
use crate::updates::UpdateFormat;

/// What stands in a frame's header for how its update is written; for one that lies in shared memory 1.
pub(super) const FULL: u64 = 0;
pub(super) const IN_PLACE: u64 = 1;
const BF16: u64 = 2;
const SPARSE: u64 = 3;

/// Bytes of a value that is not 0: its place and itself.
const ENTRY_BYTES: usize = 8;

/// An update as a format has it, with its number; none if it is to be sent as it is.
pub(super) fn pack(format: UpdateFormat, values: &[&[f32]]) -> Option<(u64, Vec<u8>)> {
    match format {
        UpdateFormat::Full => None,
        UpdateFormat::Bf16 => {
            let halves = values.iter().flat_map(|values| values.iter());
            let halves = halves.flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes());
            Some((BF16, halves.collect()))
        }
        UpdateFormat::Sparse => pack_sparse(values).map(|bytes| (SPARSE, bytes)),
    }
}

fn pack_sparse(values: &[&[f32]]) -> Option<Vec<u8>> {
    let length: usize = values.iter().map(|values| values.len()).sum();
    let most = length * size_of::<f32>() / ENTRY_BYTES;
    // Places are counted in 32 bits.
    u32::try_from(length).ok()?;
    let all = values.iter().flat_map(|values| values.iter());
    let mut bytes = Vec::new();
    for (place, value) in all.enumerate().filter(|(_, value)| value.to_bits() != 0) {
        if bytes.len() >= most * ENTRY_BYTES {
            return None;
        }
        bytes.extend_from_slice(&(place as u32).to_le_bytes());
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    Some(bytes)
}

/// Reads an update, packed or not, over all of `values`.
pub(super) fn read(number: u64, body: &mut Body<'_>, values: &mut [f32]) -> Result<(), WireError> {
    match number {
        FULL => body.take_floats(values),
        _ => unpack(number, &body.take_bytes()?, values),
    }
}

/// Writes a packed update over all of `values`.
pub(super) fn unpack(number: u64, bytes: &[u8], values: &mut [f32]) -> Result<(), WireError> {
    match number {
        BF16 => unpack_bf16(bytes, values),
        SPARSE => unpack_sparse(bytes, values),
        _ => Err(WireError::NoFrame),
    }
}

fn unpack_bf16(bytes: &[u8], values: &mut [f32]) -> Result<(), WireError> {
    let (halves, rest) = bytes.as_chunks::<2>();
    if halves.len() != values.len() || !rest.is_empty() {
        return Err(WireError::Length {
            bytes: bytes.len() as u64,
            expected: 2 * values.len() as u64,
        });
    }
    for (value, half) in values.iter_mut().zip(halves) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(*half)) << 16);
    }
    Ok(())
}

fn unpack_sparse(bytes: &[u8], values: &mut [f32]) -> Result<(), WireError> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    if !rest.is_empty() {
        return Err(WireError::NoFrame);
    }
    values.fill(0.0);
    for [a, b, c, d, value @ ..] in entries {
        let place = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        *values.get_mut(place).ok_or(WireError::NoFrame)? = f32::from_le_bytes(*value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn values() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![3 => Just(0.0), 1 => any::<f32>().prop_filter("a number", |value| !value.is_nan())];
        prop::collection::vec(value, 0..60)
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_again(mut values in values(), cut in 0..60usize, format in prop::sample::select(vec![UpdateFormat::Bf16, UpdateFormat::Sparse])) {
            format.round(&mut values);
            let (left, right) = values.split_at(cut.min(values.len()));
            if let Some((number, bytes)) = pack(format, &[left, right]) {
                prop_assert!(bytes.len() <= values.len() * 4);
                let mut out = vec![7.0; values.len()];
                unpack(number, &bytes, &mut out).unwrap();
                prop_assert_eq!(out, values);
            } else {
                prop_assert!(values.iter().filter(|value| value.to_bits() != 0).count() * 8 > values.len() * 4);
            }
        }

        #[test]
        fn no_bytes_do_harm(number in 0..5u64, bytes in prop::collection::vec(any::<u8>(), 0..80), length in 0..20usize) {
            let _ = unpack(number, &bytes, &mut vec![0.0; length]);
        }
    }
}
