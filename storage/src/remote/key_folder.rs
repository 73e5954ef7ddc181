//! Folders of one key each, `column=key`, as Hive names them and Spark, Polars, DuckDB and Arrow read them.

use crate::error::Result;
use crate::object::ObjectError;

/// What Hive writes for a key without text, and reads as no value.
const WITHOUT_TEXT: &str = "__HIVE_DEFAULT_PARTITION__";

/// Longest name of a folder, in bytes: that of most file systems.
const NAME_BYTES_MAX: usize = 255;

/// Whether Hive writes a character of a name as `%` and the two hexadecimal digits of its byte.
fn is_escaped(character: char) -> bool {
    character.is_ascii_control()
        || matches!(
            character,
            '"' | '#' | '%' | '\'' | '*' | '/' | ':' | '=' | '?' | '\\' | '{' | '[' | ']' | '^'
        )
}

/// Whether folders of keys can be called `column=key`.
///
/// # Errors
/// The name is empty, begins with `.` or `_`, as what is hidden does, or has a character that Hive escapes.
pub fn check_column(column: &str) -> Result<()> {
    if column.is_empty() || column.starts_with(['.', '_']) || column.contains(is_escaped) {
        let reason = "a column that names folders is not empty, does not begin with `.` or `_`, and has neither `/`, `=` nor \
                      other letters with a meaning in names; choose another";
        return Err(ObjectError::invalid_name(column, reason).into());
    }
    Ok(())
}

/// The name of the folder of a key, `column=key`, another one for each other key. ASCII control characters and
/// ``" # % ' * / : = ? \ { [ ] ^`` become `%` and two hexadecimal digits, and no text at all becomes
/// `__HIVE_DEFAULT_PARTITION__`; all as Hive has it, but that a key of that very text has its first letter escaped.
///
/// # Errors
/// As [`check_column`], or the name is longer than the 255 bytes of file systems.
pub fn key_folder(column: &str, key: &str) -> Result<String> {
    check_column(column)?;
    let mut name = format!("{column}=");
    match key {
        "" => name.push_str(WITHOUT_TEXT),
        WITHOUT_TEXT => name.push_str(&WITHOUT_TEXT.replacen('_', "%5F", 1)),
        _ => key.chars().for_each(|character| match is_escaped(character) {
            true => name.push_str(&format!("%{:02X}", u32::from(character))),
            false => name.push(character),
        }),
    }
    if name.len() > NAME_BYTES_MAX {
        let reason = format!("a folder's name has at most {NAME_BYTES_MAX} bytes; make the key shorter");
        return Err(ObjectError::invalid_name(&name, reason).into());
    }
    Ok(name)
}

/// The key that the name of a file says, a path or URL with a folder `column=key` on its way: what
/// [`key_folder`] has made a name of, or Hive and those who write as it does. `None` if there is no such folder.
///
/// ```
/// use distdl_storage::remote::key_of_name;
///
/// assert_eq!(key_of_name("out/day=2024-01-01/part-00000", "day").as_deref(), Some("2024-01-01"));
/// assert_eq!(key_of_name("out/path=a%2Fb/part-00000", "path").as_deref(), Some("a/b"));
/// assert_eq!(key_of_name("out/part-00000", "day"), None);
/// ```
pub fn key_of_name(name: &str, column: &str) -> Option<String> {
    let (folders, _) = name.rsplit_once('/')?;
    let key = |folder: &str| Some(folder.strip_prefix(column)?.strip_prefix('=')?.to_owned());
    let key = folders.rsplit('/').find_map(key)?;
    match key.as_str() {
        WITHOUT_TEXT => Some(String::new()),
        escaped => unescaped(escaped),
    }
}

/// A `%` without two digits stands for itself. `None` if the bytes are no UTF-8.
fn unescaped(escaped: &str) -> Option<String> {
    let mut parts = escaped.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part
            .get(..2)
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8(bytes).ok()
}

/// A part's name within an output: the folder of its key, if it lies in one, and the file.
pub(super) fn split_part(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((folder, file)) if is_key_folder(folder) => (Some(folder), file),
        _ => (None, name),
    }
}

/// Whether a folder's name is that of a key.
pub(super) fn is_key_folder(name: &str) -> bool {
    name.contains('=')
}

/// The output that a folder belongs to by its name, if that is one of a key: the folder above it.
pub(super) fn output_above(folder: &str) -> Option<&str> {
    let (above, name) = folder.rsplit_once('/')?;
    is_key_folder(name).then_some(above)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn folders_are_called_as_hive_calls_them() {
        for (key, expected) in [
            ("2024-01-01", "k=2024-01-01"),
            ("", "k=__HIVE_DEFAULT_PARTITION__"),
            ("__HIVE_DEFAULT_PARTITION__", "k=%5F_HIVE_DEFAULT_PARTITION__"),
            ("..", "k=.."),
            ("a/b\\c", "k=a%2Fb%5Cc"),
            ("10:30%\n\0\u{7f}", "k=10%3A30%25%0A%00%7F"),
            ("a=b, ä", "k=a%3Db, ä"),
        ] {
            assert_eq!(key_folder("k", key).unwrap(), expected);
            assert_eq!(key_of_name(&format!("a/{expected}/part-0"), "k").unwrap(), key);
        }
        assert!(key_folder("k", &"a".repeat(253)).is_ok());
        let error = key_folder("k", &"/".repeat(85)).unwrap_err().to_string();
        assert!(error.contains("at most 255 bytes"), "{error}");
        for column in ["", ".a", "_a", "a/b", "a=b", "a\n"] {
            assert!(key_folder(column, "a").is_err(), "{column:?}");
        }
    }

    #[test]
    fn a_key_is_read_from_what_others_have_written_too() {
        for (name, expected) in [
            ("s3://b/k=1/day=2/x", Some("1")),
            ("k=1/k=2/x", Some("2")),
            ("k=100%/x", Some("100%")),
            ("k=%zz%c3%a4%4/x", Some("%zzä%4")),
            ("k=%ff/x", None),
            ("a/k=1", None),
            ("kk=1/x", None),
        ] {
            assert_eq!(key_of_name(name, "k").as_deref(), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn two_keys_have_two_folders_and_each_is_read_again(keys in prop::collection::btree_set("[_%/=.a\\\\\\x00é\n]{0,6}", 0..40)) {
            let names: BTreeSet<String> = keys.iter().map(|key| key_folder("k", key).unwrap()).collect();
            prop_assert_eq!(names.len(), keys.len());
            let read = names.iter().map(|name| key_of_name(&format!("/{name}/x"), "k").unwrap());
            prop_assert_eq!(read.collect::<BTreeSet<String>>(), keys);
        }
    }
}
