//! How the story looks. anstream leaves the colours out where the output is no terminal.

use anstream::{print, println};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Attribute, Cell, Color, Table};
use sluice_netns::{Explanation, Side};

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[1;31m";
const CYAN: &str = "\x1b[36m";
const PLAIN: &str = "\x1b[0m";
const WIDTH: usize = 96;

/// A step's headline and what it is about.
pub(crate) fn headline(title: &str, words: &str) {
    println!("\n{BOLD}{title}{PLAIN}");
    for line in wrap(words) {
        println!("{line}");
    }
}

/// A manifest, under the name of its file.
pub(crate) fn manifest(file: &str, text: &str) {
    println!("\n  {CYAN}{file}{PLAIN}");
    for line in text.lines() {
        println!("  {DIM}│{PLAIN} {line}");
    }
}

/// Another change of the folder.
pub(crate) fn change(line: &str) {
    println!("\n  {CYAN}{line}{PLAIN}");
}

/// A line about what was done.
pub(crate) fn note(line: &str) {
    println!("  {DIM}{line}{PLAIN}");
}

/// A command that was run at `place`.
pub(crate) fn command(place: &str, command: &str) {
    println!("\n  {BOLD}{place}{PLAIN} $ {command}");
}

/// What should have come of it, and what came.
pub(crate) fn result(expected: &str, seen: &str, right: bool) {
    println!("      expected  {expected}");
    let mark = if right { format!("{GREEN}✓{PLAIN}") } else { format!("{RED}✗ not as expected{PLAIN}") };
    println!("      seen      {seen}  {mark}");
}

/// What decided it.
pub(crate) fn decided(explanation: &Explanation, right: bool) {
    let sides = [("egress", &explanation.egress), ("ingress", &explanation.ingress)];
    for (label, (direction, side)) in ["decided", "", ""].into_iter().zip(sides) {
        println!("      {label:<8}  {direction:<7} {}", side_words(side));
    }
    if !right {
        println!("      {RED}✗ explain says {}{PLAIN}", explanation.verdict);
    }
}

fn side_words(side: &Side) -> String {
    let colour = if side.verdict == "allow" { GREEN } else { RED };
    let mut words = format!("{colour}{}{PLAIN}", side.verdict);
    let parts = [&side.policy, &side.rule, &side.reason];
    for (index, part) in parts.into_iter().flatten().enumerate() {
        words += if index == 0 { ": " } else { ", " };
        words += part;
    }
    words
}

/// A plain table.
pub(crate) fn table(header: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.to_vec()).add_rows(rows);
    show(&table);
}

/// One cell of the connectivity table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach {
    pub(crate) open: bool,
    pub(crate) right: bool,
}

/// Who reaches whom: a row for each origin, a column for each destination.
pub(crate) fn connectivity(names: &[String], rows: &[(String, Vec<Reach>)]) {
    let mut table = Table::new();
    // Colours always: anstream takes them out again where they don't belong.
    table.load_style(UTF8_FULL_CONDENSED).enforce_styling();
    let mut header = vec![Cell::new("from \\ to")];
    header.extend(names.iter().map(|name| Cell::new(name.replace('/', "/\n"))));
    table.set_header(header);
    for (name, cells) in rows {
        let mut row = vec![Cell::new(name)];
        row.extend(cells.iter().map(|reach| {
            let (text, colour) = if reach.open { (".", Color::Green) } else { ("X", Color::Red) };
            if reach.right {
                Cell::new(text).fg(colour)
            } else {
                Cell::new(format!("{text} wrong")).fg(Color::Yellow).add_attribute(Attribute::Bold)
            }
        }));
        table.add_row(row);
    }
    show(&table);
}

fn show(table: &Table) {
    for line in table.lines() {
        println!("  {line}");
    }
}

/// The last line.
pub(crate) fn summary(line: &str, right: bool) {
    let colour = if right { GREEN } else { RED };
    println!("\n{colour}{line}{PLAIN}");
}

/// Text of a program, as it is.
pub(crate) fn verbatim(title: &str, text: &str) {
    println!("\n  {title}");
    print!("{text}");
}

fn wrap(words: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in words.split_whitespace() {
        if !line.is_empty() && line.len() + 1 + word.len() > WIDTH {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}
