//! What `{a,b}` in a pattern stands for: several patterns, as for Hadoop and shells.

use crate::object::ObjectError;

/// Most patterns that one may stand for.
const ALTERNATIVES_MAX: usize = 1000;

/// The patterns without braces that `pattern` stands for, in order. Braces may be within braces; in `[..]` they are
/// letters.
pub(super) fn alternatives(pattern: &str) -> Result<Vec<String>, ObjectError> {
    let invalid = |reason: String| ObjectError::invalid_name(pattern, reason);
    let (mut done, mut pending) = (Vec::new(), vec![pattern.to_owned()]);
    while let Some(next) = pending.pop() {
        match split_first(&next) {
            Ok(Some(split)) => pending.extend(split.into_iter().rev()),
            Ok(None) => done.push(next),
            Err(Unclosed) => {
                return Err(invalid(
                    "a `{` has no `}`; write `[{]` for the letter itself".to_owned(),
                ));
            }
        }
        if done.len() + pending.len() > ALTERNATIVES_MAX {
            return Err(invalid(format!(
                "its braces stand for more than {ALTERNATIVES_MAX} patterns; use wildcards"
            )));
        }
    }
    Ok(done)
}

/// A brace that is not closed.
struct Unclosed;

/// What `pattern` stands for if its first braces are written out; `None` if it has none.
fn split_first(pattern: &str) -> Result<Option<Vec<String>>, Unclosed> {
    let mut letters = Outside(pattern, 0);
    let Some((open, _)) = letters.find(|(_, letter)| *letter == '{') else {
        return Ok(None);
    };
    // The first alternative begins behind the brace, each other behind a comma.
    let (mut depth, mut starts) = (1, vec![open + 1]);
    for (at, letter) in letters {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts.push(at + 1),
            _ => {}
        }
        if depth == 0 {
            let ends = starts[1..].iter().map(|start| start - 1).chain([at]);
            let parts = starts.iter().zip(ends).map(|(start, end)| &pattern[*start..end]);
            let (before, behind) = (&pattern[..open], &pattern[at + 1..]);
            return Ok(Some(parts.map(|part| [before, part, behind].concat()).collect()));
        }
    }
    Err(Unclosed)
}

/// The letters of a pattern that are not in `[..]`, each with its place.
struct Outside<'a>(&'a str, usize);

impl Iterator for Outside<'_> {
    type Item = (usize, char);

    fn next(&mut self) -> Option<(usize, char)> {
        let at = self.1;
        let letter = self.0[at..].chars().next()?;
        self.1 += letter.len_utf8();
        if letter == '['
            && let Some(bytes) = class_bytes(&self.0[self.1..])
        {
            self.1 += bytes;
        }
        Some((at, letter))
    }
}

/// How long the rest of a class is that begins before `rest`, if it ends. A `]` at its start, or behind `!`, is one of
/// its letters.
fn class_bytes(rest: &str) -> Option<usize> {
    let negated = usize::from(rest.starts_with('!'));
    let first = rest[negated..].chars().next()?;
    let from = negated + first.len_utf8();
    rest[from..].find(']').map(|end| from + end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn braces_stand_for_each_of_what_is_between_commas() {
        for (pattern, expected) in [
            ("a,b}", &["a,b}"][..]),
            ("{2023,2024}/*.csv", &["2023/*.csv", "2024/*.csv"]),
            ("a{b}", &["ab"]),
            ("{,x}{1,é}", &["1", "é", "x1", "xé"]),
            ("a{b,c{d,e/f}g}h", &["abh", "acdgh", "ace/fgh"]),
            ("[{]a[}],b", &["[{]a[}],b"]),
            ("{[,],[!]}],[x}", &["[,]", "[!]}]", "[x"]),
        ] {
            assert_eq!(alternatives(pattern).unwrap(), expected, "{pattern}");
        }
        for pattern in ["{", "a{b,{c}", "{[}]"] {
            let error = alternatives(pattern).unwrap_err().to_string();
            assert!(error.contains("write `[{]`"), "{error}");
        }
    }

    #[test]
    fn there_is_a_limit_of_patterns() {
        assert_eq!(alternatives(&"{0,1,2,3,4,5,6,7,8,9}".repeat(3)).unwrap().len(), 1000);
        for pattern in [
            "{a,b}".repeat(10),
            "{a,b}".repeat(10_000),
            format!("{{{}}}", ",".repeat(1000)),
        ] {
            let error = alternatives(&pattern).unwrap_err().to_string();
            assert!(error.contains("more than 1000 patterns"), "{error}");
        }
    }
}
