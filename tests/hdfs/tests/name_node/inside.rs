//! What the child processes do. In a process that is none, nothing.
use bytes::Bytes;
use distdl_storage::remote::{ObjectError, Stores};

use super::{object_error, only};

/// The variable that makes a child.
pub(crate) const IS_CHILD: &str = "DISTDL_TEST_CHILD";

fn stores() -> Option<Stores> {
    std::env::var(IS_CHILD).ok()?;
    Some(Stores::new())
}

#[test]
fn read_by_service() {
    let Some(stores) = stores() else { return };
    for url in ["hdfs://service/own/x", "hdfs:///own/x"] {
        let object = only(&stores, url);
        assert_eq!((object.url.as_str(), object.bytes), (url, 6));
        assert_eq!(stores.read(&object).unwrap(), "theirs");
    }
    let unknown = object_error(stores.list("hdfs://nobody/own/x"));
    assert!(
        matches!(&unknown, ObjectError::InvalidName { reason, .. } if reason.contains("HADOOP_CONF_DIR")),
        "{unknown}"
    );
}

#[test]
fn be_refused() {
    let Some(stores) = stores() else { return };
    for refused in [
        stores.write("hdfs://service/own/x", Bytes::new()),
        stores.write("hdfs://service/own/y", Bytes::new()),
        stores
            .create_folder("hdfs://service/own/z")
            .and_then(|folder| folder.write_part("part-0", Bytes::new())),
    ] {
        let error = object_error(refused);
        assert!(matches!(error, ObjectError::NoPermission { .. }), "{error}");
    }
}
