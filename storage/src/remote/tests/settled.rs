//! A time of change is a version once no other change can share it.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

#[test]
fn a_file_is_listed_when_another_change_would_show() {
    let (guard, stores, places) = places();
    for seconds in [None, Some(2)] {
        stores
            .write(&format!("{}/x", places[0]), Bytes::from_static(b"one"))
            .unwrap();
        let file = fs::File::open(guard.path().join("x")).unwrap();
        let mut changed = file.metadata().unwrap().modified().unwrap();
        let mut tick = Duration::from_millis(10);
        if let Some(seconds) = seconds {
            // As on a file system that counts in them.
            let since = changed.duration_since(UNIX_EPOCH).unwrap();
            changed = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            tick = Duration::from_secs(seconds);
            file.set_modified(changed).unwrap();
        }
        for pattern in ["", "/x", "/*"] {
            assert_eq!(stores.list(&format!("{}{pattern}", places[0])).unwrap().len(), 1);
            assert!(SystemTime::now().duration_since(changed).unwrap() >= tick, "{pattern}");
        }
    }
}
