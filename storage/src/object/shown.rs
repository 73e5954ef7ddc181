//! Names as they are shown: an address of http may hold a password, and the signature in its query is one.

/// A path, pattern or URL for people to see. Of an address of http(s) the user and what follows `?` are left out, as
/// they may let others in.
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_http(scheme)) else {
        return url.to_owned();
    };
    let (place, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], "?..."),
        None => (rest, ""),
    };
    let (server, path) = place.split_at(place.find('/').unwrap_or(place.len()));
    let host = server.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}{query}")
}

fn is_http(scheme: &str) -> bool {
    ["http", "https"].iter().any(|http| scheme.eq_ignore_ascii_case(http))
}

/// The same for all addresses in a text of others. What ends one there is no part of any: brackets and apostrophes may
/// be.
pub(crate) fn all_shown(text: &str) -> String {
    let ends = |letter: char| letter.is_whitespace() || "\"`<>".contains(letter);
    let pieces = text.split_inclusive(ends).map(|piece| {
        let word = piece.trim_end_matches(ends);
        let lower = word.to_ascii_lowercase();
        let starts = ["http://", "https://"].iter().filter_map(|start| lower.find(start));
        let (before, address) = word.split_at(starts.min().unwrap_or(word.len()));
        format!("{before}{}{}", shown(address), &piece[word.len()..])
    });
    pieces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_queries_are_not_shown() {
        for (url, expected) in [
            ("https://h:8/a/b?sig=secret", "https://h:8/a/b?..."),
            ("http://user:secret@h/a@b", "http://h/a@b"),
            ("HTTPS://user:se@cret@h?secret#secret", "HTTPS://h?..."),
            ("https://h#secret", "https://h?..."),
            ("s3://b/a?.txt", "s3://b/a?.txt"),
            ("logs/a?@b", "logs/a?@b"),
        ] {
            assert_eq!(shown(url), expected);
        }
        let text = "GET http://u:secret@h/a?secret (of \"https://h/?secret\") failed: why? http";
        let expected = "GET http://h/a?... (of \"https://h/?...\") failed: why? http";
        assert_eq!(all_shown(text), expected);
        let text = "cannot GET (HTTPS://u:secret@h/it's(1).csv?secret) there";
        assert_eq!(all_shown(text), "cannot GET (HTTPS://h/it's(1).csv?... there");
    }
}
