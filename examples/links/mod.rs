//! Links of a graph from a text file, for the examples that read one.

use distdl::prelude::*;

/// The links in a text file: `from to` in whole numbers a line; lines that are empty or begin with `#` are passed over.
///
/// # Errors
/// If the file cannot be read, or has a line that is no link.
pub(crate) fn read(context: &Context, file: &str, partitions: usize) -> Result<Dataset<(u32, u32)>, Failure> {
    let lines = context.text_file(file, partitions)?.zip_with_index();
    let parsed = lines
        .filter(|(line, _)| !matches!(line.trim_start().chars().next(), None | Some('#')))
        .map(|(line, index)| parse(&line).ok_or((line, index + 1)))
        .cache();
    if let Some(Err((line, number))) = parsed.filter(Result::is_err).take(1)?.pop() {
        return Err(format!("{file}, line {number}: `{line}` is no link; write two whole numbers, `from to`").into());
    }
    Ok(parsed.flat_map(Result::ok))
}

fn parse(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.split_whitespace().map(|number| number.parse().ok());
    let link = (numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(link)
}
