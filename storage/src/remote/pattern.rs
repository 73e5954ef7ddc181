//! Which names a pattern with wildcards stands for, and names that none does.

use std::hash::{BuildHasher, RandomState};

use glob::MatchOptions;

/// Marks a folder of which some parts may be missing. It begins with a dot, as no part does.
pub(super) const UNFINISHED: &str = ".distdl-unfinished";

/// Wildcards stop at `/`, and none but `**` below a dot matches a hidden name.
pub(super) const MATCHING: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Whether a name is to be matched with others.
pub(super) fn has_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?', '['])
}

/// Whether a part of `name` that `pattern` does not spell out begins with `.` or `_`.
pub(super) fn hidden(name: &str, pattern: &str) -> bool {
    let spelled = |part: &str| {
        let mut spelled = pattern.split('/');
        spelled.any(|spelled| spelled == part || has_wildcard(spelled) && spelled.starts_with(&part[..1]))
    };
    let parts = name.split('/').filter(|part| !matches!(*part, "." | ".."));
    parts
        .into_iter()
        .any(|part| part.starts_with(['.', '_']) && !spelled(part))
}

/// A name that nobody else draws.
pub(super) fn draw_name() -> String {
    // Two keys that the system drew.
    [RandomState::new(), RandomState::new()]
        .map(|state| format!("{:016x}", state.hash_one(0)))
        .concat()
}

/// A hidden name for what is not finished.
pub(super) fn unfinished(name: &str) -> String {
    format!(".distdl-{name}.unfinished")
}

/// Whether a name is one of those.
pub(super) fn names_unfinished(name: &str) -> bool {
    let drawn = name
        .strip_prefix(".distdl-")
        .and_then(|name| name.strip_suffix(".unfinished"));
    drawn.is_some_and(|drawn| !drawn.is_empty())
}
