//! Reading a warm block copies nothing.
use super::*;

const LEN: usize = 1 << 20;

/// A store with one block of `LEN` numbers.
fn warm(level: Level) -> (BlockStore, *const f32) {
    let store = BlockStore::new(StoreOptions::default()).unwrap();
    let records: Vec<f32> = (0..LEN).map(|at| at as f32).collect();
    let address = records.as_ptr();
    store.put(id(1), &Block::new(records), level).unwrap();
    (store, address)
}

fn read(store: &BlockStore) -> crate::Records<f32> {
    let block = store.get(id(1), Codec::of::<f32>()).unwrap().unwrap();
    block.records().unwrap()
}

#[test]
fn a_block_in_memory_is_read_where_it_was_put() {
    let (store, address) = warm(Level::MemoryAndDisk);
    let readers: Vec<_> = (0..3).map(|_| read(&store)).collect();
    assert!(
        readers
            .iter()
            .all(|records| records.as_ptr() == address && records.len() == LEN)
    );
    assert_eq!(store.statistics().memory_bytes_read, 3 * 4 * LEN as u64);
}

/// The mapping that holds an address, as the system describes it.
#[cfg(target_os = "linux")]
fn mapping_of(address: *const f32) -> String {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let holds = |line: &&str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let number = |digits| usize::from_str_radix(digits, 16).unwrap();
        (number(start)..number(end)).contains(&(address as usize))
    };
    maps.lines().find(holds).unwrap().to_owned()
}

#[cfg(target_os = "linux")]
#[test]
fn a_block_on_disk_is_read_in_the_pages_of_its_file() {
    let (store, _) = warm(Level::Disk);
    let records = read(&store);
    assert!(records.iter().enumerate().all(|(at, record)| *record == at as f32));
    // The last page too: the vector that is written before the first record copies one page and no more.
    for address in [records.as_ptr(), &raw const records[LEN - 1]] {
        let mapping = mapping_of(address);
        assert!(mapping.ends_with(&id(1).file_name()), "{mapping}");
    }
    assert!(store.statistics().disk_bytes_read > 4 * LEN as u64);
}
