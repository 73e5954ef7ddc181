#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn framed(kind: Kind, generation: u64, action: u64, round: u32) -> Header {
    Header {
        generation,
        action,
        round,
        ..Header::new(kind, [0; 6])
    }
}

const LIMITS: Limits = Limits {
    payload_bytes_max: 1 << 20,
};

const KIND_MAX: u8 = Kind::Piece as u8;

fn any_header() -> impl Strategy<Value = Header> {
    let words = any::<[u64; 6]>();
    let tallies = any::<[u64; 4]>().prop_map(|bits| bits.map(f64::from_bits));
    (1..=KIND_MAX, any::<(u64, u64, u32)>(), words, tallies).prop_map(
        |(kind, (generation, action, round), words, tallies)| Header {
            words,
            tallies,
            ..framed(Kind::try_from(kind).unwrap(), generation, action, round)
        },
    )
}

fn frame(mut header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, &mut header, &[payload]).unwrap();
    bytes
}

fn read(mut bytes: &[u8]) -> Result<Option<(Header, Vec<u8>)>, WireError> {
    let Some(header) = read_header(&mut bytes, LIMITS)? else {
        return Ok(None);
    };
    let payload = read_bytes(&mut bytes, &header, LIMITS)?;
    Ok(Some((header, payload)))
}

/// A header with correct checksum, whatever its bytes are.
fn sealed(mut bytes: [u8; HEADER_BYTES]) -> [u8; HEADER_BYTES] {
    let checksum = xxh3_64(&bytes[..CHECKED_BYTES]);
    put(&mut bytes, CHECKED_BYTES, checksum);
    bytes
}

/// A reader and a writer that move a few bytes at a time, with interruptions.
struct Halting<T> {
    inner: T,
    step: usize,
    halt: bool,
}

impl<T> Halting<T> {
    fn new(inner: T, step: usize) -> Self {
        Self {
            inner,
            step,
            halt: false,
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        self.halt = !self.halt;
        if self.halt {
            Err(io::ErrorKind::Interrupted.into())
        } else {
            Ok(())
        }
    }
}

impl<T: Read> Read for Halting<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.turn()?;
        let count = buffer.len().min(self.step);
        self.inner.read(&mut buffer[..count])
    }
}

impl Write for Halting<Vec<u8>> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.turn()?;
        self.inner.write(&bytes[..bytes.len().min(self.step)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Zeros for ever; counts how much of them was asked for at once.
struct Endless {
    largest: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.largest = self.largest.max(buffer.len());
        buffer.fill(0);
        Ok(buffer.len())
    }
}

proptest! {
    #[test]
    fn frames_arrive_as_they_were_sent(header in any_header(), pieces in vec(vec(any::<u8>(), 0..50), 0..6), step in 1_usize..40) {
        let payload: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let mut header = header;
        let mut writer = Halting::new(Vec::new(), step);
        write_frame(&mut writer, &mut header, &payload).unwrap();
        let sent = writer.inner;
        prop_assert_eq!(sent.len(), HEADER_BYTES + pieces.concat().len());
        let mut reader = Halting::new(&sent[..], step);
        let received = read_header(&mut reader, LIMITS).unwrap().unwrap();
        prop_assert_eq!(received.encode(), header.encode());
        prop_assert_eq!(read_bytes(&mut reader, &received, LIMITS).unwrap(), pieces.concat());
        prop_assert!(read_header(&mut reader, LIMITS).unwrap().is_none());
    }

    #[test]
    fn floats_arrive_with_all_their_bits(header in any_header(), bits in vec(any::<u32>(), 0..300), step in 1_usize..64) {
        let floats: Vec<f32> = bits.iter().copied().map(f32::from_bits).collect();
        let sent = frame(header, bytemuck::cast_slice(&floats));
        let mut reader = Halting::new(&sent[..], step);
        let header = read_header(&mut reader, LIMITS).unwrap().unwrap();
        let mut place = vec![0.0; floats.len()];
        read_floats_into(&mut reader, &header, &mut place).unwrap();
        prop_assert_eq!(place.iter().map(|float| float.to_bits()).collect::<Vec<_>>(), bits);
        let mut larger = vec![0.0; floats.len() + 1];
        let refused = read_floats_into(&mut reader, &header, &mut larger);
        let is_length = matches!(refused, Err(WireError::Length { .. }));
        prop_assert!(is_length);
    }

    #[test]
    fn arbitrary_bytes_are_no_frame(bytes in vec(any::<u8>(), 0..400)) {
        let read = read(&bytes);
        assert!(if bytes.is_empty() { matches!(read, Ok(None)) } else { read.is_err() });
    }

    #[test]
    fn a_header_decodes_only_from_what_it_encodes_to(bytes in vec(any::<u8>(), HEADER_BYTES), kind in 0..KIND_MAX + 3) {
        let mut bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
        prop_assert!(Header::decode(&bytes, LIMITS).is_err());
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = kind;
        // Arbitrary where zeros belong.
        assert!(Header::decode(&sealed(bytes), Limits { payload_bytes_max: u64::MAX }).is_err());
        bytes[5..8].fill(0);
        bytes[28..32].fill(0);
        let decoded = Header::decode(&sealed(bytes), Limits { payload_bytes_max: u64::MAX });
        prop_assert_eq!(decoded.is_ok(), (1..=KIND_MAX).contains(&kind));
        if let Ok(header) = decoded {
            prop_assert_eq!(header.encode(), sealed(bytes));
        }
    }

    #[test]
    fn a_frame_that_is_cut_short_is_found(header in any_header(), payload in vec(any::<u8>(), 0..100), cut in any::<prop::sample::Index>()) {
        let sent = frame(header, &payload);
        let length = cut.index(sent.len());
        let read = read(&sent[..length]);
        assert!(if length == 0 { matches!(read, Ok(None)) } else { matches!(read, Err(WireError::Ended)) });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_flipped_bit_is_found(header in any_header(), bits in vec(any::<u32>(), 1..64)) {
        let floats: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        let mut sent = frame(header, bytemuck::cast_slice(&floats));
        let mut place = vec![0.0; floats.len()];
        for bit in 0..8 * sent.len() {
            sent[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&sent).is_err(), "bit {bit} of {} bytes", sent.len());
            let (start, mut payload) = sent.split_at(HEADER_BYTES);
            let taken = Header::decode(start.try_into().unwrap(), LIMITS)
                .and_then(|header| read_floats_into(&mut payload, &header, &mut place));
            prop_assert!(taken.is_err());
            sent[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert!(read(&sent).is_ok());
    }
}

#[test]
fn an_announced_length_reserves_nothing() {
    let mut header = framed(Kind::Block, 1, 2, 3);
    header.payload_bytes = u64::MAX;
    let refused = Header::decode(&header.encode(), LIMITS).unwrap_err();
    assert!(
        matches!(
            refused,
            WireError::TooLong {
                bytes: u64::MAX,
                bytes_max: 1_048_576
            }
        ),
        "{refused}"
    );
    assert!(matches!(
        read_bytes(&[][..], &header, LIMITS),
        Err(WireError::TooLong { .. })
    ));

    let unlimited = Limits {
        payload_bytes_max: u64::MAX,
    };
    assert_eq!(Header::decode(&header.encode(), unlimited).unwrap(), header);
    assert!(matches!(
        read_bytes(&[7; 1000][..], &header, unlimited),
        Err(WireError::Ended)
    ));
}

#[test]
fn a_buffer_grows_with_what_arrives() {
    let mut reader = Endless { largest: 0 };
    let bytes = read_growing(&mut reader, 5 << 20).unwrap();
    assert_eq!((bytes.len(), bytes.capacity()), (5 << 20, 5 << 20));
    assert_eq!(reader.largest, 2 << 20, "1, 1, 2 and 1 MiB");
}

#[test]
fn a_writer_that_takes_nothing_is_an_error() {
    let refused = write_frame(&mut [0; HEADER_BYTES - 1][..], &mut framed(Kind::Sum, 1, 0, 0), &[&[1]]);
    assert!(matches!(refused, Err(WireError::Io(error)) if error.kind() == io::ErrorKind::WriteZero));
}

#[test]
fn the_layout_stays() {
    let mut header = framed(Kind::Update, 2, 3, 4);
    header.words = [10, 11, 12, 13, 14, 15];
    header.tallies = [1.0, 2.0, 3.0, 4.0];
    let sent = frame(header, b"abc");
    assert_eq!(&sent[..8], b"DDLf\x06\0\0\0");
    assert_eq!(
        (sent[8], sent[16], sent[24], sent[32], sent[72], sent[112]),
        (2, 3, 4, 10, 15, 3)
    );
    assert_eq!(sent[104..112], 4.0_f64.to_le_bytes());
    assert_eq!(sent[120..128], xxh3_64(b"abc").to_le_bytes());
    assert_eq!(&sent[136..], b"abc");
}

#[test]
fn a_small_frame_is_one_write_on_a_socket() {
    let (here, there) = crate::cluster::socket::pair().unwrap();
    let mut header = framed(Kind::Sum, 1, 0, 0);
    write_frame(&here, &mut header, &[b"ab", b"", b"cd"]).unwrap();
    let mut buffer = [0; 1000];
    assert_eq!((&there).read(&mut buffer).unwrap(), HEADER_BYTES + 4);
    assert_eq!(
        read(&buffer[..HEADER_BYTES + 4]).unwrap().unwrap(),
        (header, b"abcd".to_vec())
    );
}
