//! The page that shows the figures: each table stands between two markers, and only what is between them is written.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use comfy_table::{Table, presets};

/// A table, or what else goes between two markers.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub name: &'static str,
    pub text: String,
}

/// An empty table, as Markdown.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.iter().copied());
    table
}

/// Puts the sections into the page; fails where it has no place for one.
pub(crate) fn write(page: &Path, sections: &[Section]) -> anyhow::Result<()> {
    let mut text = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    for section in sections {
        text = replace(&text, section).with_context(|| page.display().to_string())?;
    }
    fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

fn replace(page: &str, Section { name, text }: &Section) -> anyhow::Result<String> {
    let (begin, end) = (format!("<!-- bench: {name} -->\n"), format!("<!-- end: {name} -->"));
    let missing = || format!("no markers for {name}: `{}` and `{end}`", begin.trim());
    let (before, rest) = page.split_once(&begin).with_context(missing)?;
    let (_, after) = rest.split_once(&end).with_context(missing)?;
    Ok(format!("{before}{begin}\n{text}\n\n{end}{after}"))
}
