#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::records::Record;

fn frame<T: Record>(records: Vec<T>) -> Vec<u8> {
    Codec::of::<T>().encode(&Block::new(records)).unwrap()
}

fn decode<T: Record>(frame: Vec<u8>) -> Result<Vec<T>> {
    Ok(Codec::of::<T>().decode(frame.into())?.into_records()?.into_vec())
}

/// Puts the right length and checksum into a frame that was tampered with.
fn reseal(frame: &mut [u8]) {
    let payload_bytes = (frame.len() - PAYLOAD_START) as u64;
    frame[88..96].copy_from_slice(&payload_bytes.to_le_bytes());
    let right = checksum(frame);
    frame[CHECKSUM_START..HEADER_END].copy_from_slice(&right);
}

fn every_damage_is_found<T: Record>(records: Vec<T>) {
    let intact = frame(records);
    for index in 0..intact.len() {
        for bit in 0..8 {
            let mut bytes = intact.clone();
            bytes[index] ^= 1 << bit;
            assert!(decode::<T>(bytes).is_err(), "bit {bit} of byte {index}");
        }
        assert!(decode::<T>(intact[..index].to_vec()).is_err(), "cut at {index}");
    }
    assert!(decode::<T>([&intact[..], &[0]].concat()).is_err(), "one byte more");
    assert!(decode::<T>(intact).is_ok());
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    every_damage_is_found(vec![1_u64, 2, 3]);
    every_damage_is_found(vec!["one".to_owned(), String::new()]);
    every_damage_is_found(Vec::<f32>::new());
    every_damage_is_found(vec![(); 3]);
}

#[test]
fn a_count_is_not_believed_though_the_checksum_is_right() {
    fn with_count<T: Record>(records: Vec<T>, count: u64) -> Result<Vec<T>> {
        let mut bytes = frame(records);
        bytes[80..88].copy_from_slice(&count.to_le_bytes());
        reseal(&mut bytes);
        decode(bytes)
    }
    // 2^61 + 2 records of 8 bytes make 16 bytes if the product wraps.
    for count in [0, 1, 3, (1 << 61) + 2, 1 << 61, u64::MAX] {
        assert!(with_count(vec![1_u64, 2], count).is_err(), "{count} numbers");
        assert!(
            with_count(vec!["a".to_owned(), "b".to_owned()], count).is_err(),
            "{count} strings"
        );
        assert!(with_count(vec![(), ()], count).is_err(), "{count} times nothing");
    }
    assert_eq!(with_count(vec![1_u64, 2], 2).unwrap(), [1, 2]);
}

#[test]
fn a_frame_of_another_program_is_refused() {
    let mut bytes = frame(vec![1_u64]);
    bytes[48] ^= 1;
    reseal(&mut bytes);
    let error = decode::<u64>(bytes).expect_err("another program");
    assert!(error.to_string().contains("another build"), "{error}");
}

#[test]
fn a_payload_is_not_believed_though_the_checksum_is_right() {
    let mut bytes = frame(vec!["ab".to_owned()]);
    // The string claims to be far longer than the frame.
    bytes.truncate(PAYLOAD_START);
    bytes.extend([0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
    reseal(&mut bytes);
    assert!(matches!(decode::<String>(bytes), Err(StorageError::Decode { .. })));
}

#[test]
fn frames_of_other_types_are_refused() {
    let error = decode::<i64>(frame(vec![1_u64])).expect_err("another type");
    assert!(matches!(error, StorageError::WrongType { .. }), "{error}");
    assert!(matches!(
        decode::<String>(frame(vec![1_u64])),
        Err(StorageError::WrongType { .. })
    ));
    let error = Codec::of::<i64>()
        .encode(&Block::new(vec![1_u64]))
        .expect_err("another type");
    assert!(error.to_string().contains("u64"), "{error}");
}

#[test]
fn plain_numbers_are_memory_images_and_the_rest_is_serialised() {
    let plain = [
        Codec::of::<u8>(),
        Codec::of::<usize>(),
        Codec::of::<f32>(),
        Codec::of::<(u64, f64)>(),
        Codec::of::<(u32, f32)>(),
        Codec::of::<(f64, f64, f64)>(),
        Codec::of::<[f32; 16]>(),
    ];
    assert!(
        plain.iter().all(|codec| codec.kind() == CodecKind::Abomonation),
        "{plain:?}"
    );
    let serialised = [
        Codec::of::<bool>(),
        Codec::of::<char>(),
        Codec::of::<u128>(),
        Codec::of::<(u32, u64)>(),
        Codec::of::<(u8, u16)>(),
        Codec::of::<Option<u64>>(),
        Codec::of::<Vec<f32>>(),
        Codec::of::<(String, usize)>(),
    ];
    assert!(
        serialised.iter().all(|codec| codec.kind() == CodecKind::Postcard),
        "{serialised:?}"
    );
}

#[test]
fn a_memory_image_holds_no_address_and_is_the_same_each_time() {
    let records = vec![(7_u64, 1.5_f64); 3];
    let bytes = frame(records.clone());
    assert_eq!(bytes, frame(records));
    assert!(bytes[HEADER_END..PAYLOAD_START].iter().all(|byte| *byte == 0));
}

#[test]
fn portable_frames_name_no_program_and_give_the_same_block() {
    let codec = Codec::of::<u64>().portable();
    let bytes = codec.encode(&Block::new(vec![1_u64, 2])).unwrap();
    assert_eq!(bytes[48..80], [0; 32]);
    let block = codec.decode(bytes.clone().into()).unwrap();
    assert_eq!(block.codec(), Codec::of::<u64>());
    assert_eq!(*block.records::<u64>().unwrap(), [1, 2]);
    assert!(
        decode::<u64>(bytes).is_err(),
        "the store's own codec takes only memory images"
    );
}

#[derive(Debug, Clone)]
struct Refuses;

impl Serialize for Refuses {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("no"))
    }
}

impl<'de> Deserialize<'de> for Refuses {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        Err(serde::de::Error::custom("no"))
    }
}

#[test]
fn a_record_that_refuses_to_be_serialised_is_an_error_that_names_its_type() {
    let error = Codec::of::<Refuses>()
        .encode(&Block::new(vec![Refuses]))
        .expect_err("it refuses");
    assert!(error.to_string().contains("Refuses"), "{error}");
}

proptest! {
    #[test]
    fn records_come_back(numbers: Vec<(u64, f64)>, texts: Vec<(String, Option<i32>)>) {
        let bits = |records: &[(u64, f64)]| records.iter().map(|(a, b)| (*a, b.to_bits())).collect::<Vec<_>>();
        prop_assert_eq!(bits(&decode(frame(numbers.clone())).unwrap()), bits(&numbers));
        prop_assert_eq!(decode::<(String, Option<i32>)>(frame(texts.clone())).unwrap(), texts);
    }

    #[test]
    fn random_bytes_are_an_error(bytes: Vec<u8>) {
        prop_assert!(decode::<u64>(bytes.clone()).is_err());
        prop_assert!(decode::<String>(bytes).is_err());
    }

    #[test]
    fn random_payloads_with_a_right_checksum_never_panic(payload: Vec<u8>, count in 0..40_u64) {
        fn resealed<T: Record>(payload: &[u8], count: u64) -> Vec<u8> {
            let mut bytes = frame(Vec::<T>::new());
            bytes.extend(payload);
            bytes[80..88].copy_from_slice(&count.to_le_bytes());
            reseal(&mut bytes);
            bytes
        }
        type Mixed = Vec<(String, Option<Vec<u16>>, char)>;
        let numbers = decode::<[u8; 3]>(resealed::<[u8; 3]>(&payload, count));
        prop_assert_eq!(numbers.is_ok(), payload.len() as u64 == 3 * count);
        let _ = decode::<Mixed>(resealed::<Mixed>(&payload, count));
    }
}

#[test]
fn a_record_that_leaves_a_field_out_is_refused() {
    #[derive(Clone, Serialize, Deserialize)]
    struct Sparse {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first: Option<u8>,
        second: u8,
    }
    let encode = |first| {
        let sparse = Sparse { first, second: 7 };
        Codec::of::<Vec<Sparse>>().encode(&Block::new(vec![vec![sparse]]))
    };
    assert!(encode(Some(1)).is_ok());
    let error = encode(None).unwrap_err().to_string();
    assert!(error.contains("skip_serializing_if"), "{error}");
}

/// What becomes of one record behind another of its type.
fn written_and_read<T: Record + PartialEq + std::fmt::Debug>(record: T) -> Result<()> {
    let records = vec![record; 2];
    let bytes = Codec::of::<T>().encode(&Block::new(records.clone()))?;
    assert_eq!(decode::<T>(bytes)?, records);
    Ok(())
}

#[test]
fn attributes_of_serde_work_or_are_an_error_that_names_them() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Inner {
        #[serde(rename = "y")]
        x: u8,
        #[serde(skip)]
        skipped: u8,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(transparent)]
    struct Wrapped {
        inner: Inner,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        inner: Inner,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Some { x: u8 },
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind", content = "of")]
    enum Beside {
        Some(u8),
    }
    let inner = Inner { x: 7, skipped: 0 };
    written_and_read(Wrapped { inner: inner.clone() }).unwrap();

    let written = written_and_read(Flat { inner }).unwrap_err();
    assert!(matches!(written, StorageError::Encode { .. }), "{written}");
    let read = [
        written_and_read(Untagged::Number(1)).unwrap_err(),
        written_and_read(Tagged::Some { x: 1 }).unwrap_err(),
        written_and_read(Beside::Some(1)).unwrap_err(),
        written_and_read(serde_json::json!(1)).unwrap_err(),
    ];
    assert!(read.iter().all(|error| matches!(error, StorageError::Decode { .. })));
    let [untagged, tagged, beside, json] = read.map(|error| error.to_string());
    for (error, words) in [
        (written.to_string(), ["Flat", "record 0", "flatten"]),
        (untagged, ["Untagged", "record 0", "untagged"]),
        (tagged, ["Tagged", "record 0", "tag = "]),
        (beside, ["Beside", "record 0", "tag = "]),
        (json, ["Value", "record 0", "serde_json"]),
    ] {
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
    }
}

#[test]
fn a_record_that_cannot_be_read_is_named_with_its_place() {
    let mut bytes = frame(vec!["ab".to_owned(), "cd".to_owned(), "ef".to_owned()]);
    // The last string claims a byte more than there is.
    bytes[PAYLOAD_START + 6] = 3;
    reseal(&mut bytes);
    let error = decode::<String>(bytes).unwrap_err().to_string();
    for words in [
        "alloc::string::String",
        "record 2, which begins at byte 6",
        "end before",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn fingerprints_tell_types_of_one_name_and_size_apart() {
    macro_rules! fingerprint {
        ($record:item) => {{
            #[derive(Clone, Serialize, Deserialize)]
            #[allow(dead_code)]
            $record(std::any::type_name::<Record>(), Codec::of::<Record>().fingerprint())
        }};
    }
    let (before, after) = (
        fingerprint!(
            struct Record(i32);
        ),
        fingerprint!(
            struct Record(u32);
        ),
    );
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
    let (before, after) = (
        fingerprint!(
            enum Record {
                Spam,
                Ham,
            }
        ),
        fingerprint!(
            enum Record {
                Ham,
                Spam,
            }
        ),
    );
    assert_eq!(before.0, after.0);
    assert_ne!(before.1, after.1);
    assert_eq!(
        after.1,
        fingerprint!(
            enum Record {
                Ham,
                Spam,
            }
        )
        .1,
        "another that is the same"
    );
}

/// Says in a process of its own, which a loader has started, what the program is.
#[cfg(target_os = "linux")]
#[test]
fn a_program_that_a_loader_runs_is_not_taken_for_the_loader() {
    const SAY: &str = "DISTDL_SAY_FINGERPRINT";
    let shown = |fingerprint: &Digest| blake3::Hash::from_bytes(*fingerprint).to_hex().to_string();
    if std::env::var_os(SAY).is_some() {
        println!("fingerprint {}.", shown(&program_fingerprint()));
        return;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    let Some(loader) = files.find(|file| file.rsplit('/').next().is_some_and(|name| name.starts_with("ld-"))) else {
        return; // linked into one file
    };
    let name = "frame::tests::a_program_that_a_loader_runs_is_not_taken_for_the_loader";
    let mut program = std::process::Command::new(loader);
    program
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"]);
    let output = program.env(SAY, "yes").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.contains("fingerprint "),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let loader = *blake3::hash(&std::fs::read(loader).unwrap()).as_bytes();
    assert!(!said.contains(&shown(&loader)), "this is the loader");
    let program = *blake3::hash(&std::fs::read(std::env::current_exe().unwrap()).unwrap()).as_bytes();
    assert_eq!(
        program_fingerprint(),
        program,
        "the program's file alone where nothing else has loaded it"
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_is_found_by_an_address_in_it() {
    let maps = b"1000-2000 r--p 00000000 08:01 12   /lib/one\n2000-3000 r-xp 00001000 08:01 13   /a b/two (deleted)\n\
                 3000-4000 rw-p 00000000 00:00 0 \n5000-6000 rw-p 00000000 00:00 0   [heap]\n";
    let found = |address| file_at(maps, address).map(|name| str::from_utf8(name).unwrap());
    assert_eq!(found(0x1fff), Some("/lib/one"));
    assert_eq!(found(0x2000), Some("/a b/two (deleted)"));
    assert_eq!([found(0x3000), found(0x5000), found(0x4000), found(0)], [None; 4]);
}
