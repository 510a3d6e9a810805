//! docs/configuration.md, from the definitions.

use std::fmt::Write as _;

use clap::Arg;

use super::definitions;

const HEAD: &str = "\
# Configuration

<!-- Generated: `policy-agent reference configuration > docs/configuration.md`. A test compares. -->

Every option of `policy-agent run` can be given in four ways; one higher in this list goes before those below it:

1. as a flag: `--health-address :9879`,
2. as an environment variable: `SLUICE_HEALTH_ADDRESS=:9879`,
3. in a YAML file that `--config` or `SLUICE_CONFIG` names, by the flag's name: `health-address: ':9879'`,
4. by its default.

A time is a number with `ms`, `s` or `m`; a bare number counts seconds. What the file says wrongly stops the agent, and a key
that it does not know does too.

    policy-agent config print [OPTIONS OF run] [--output json]   # every value, and where it came from
    policy-agent config check FILE                               # everything that is wrong with a file, with line and column
";

/// The page.
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    let definitions = definitions();
    let mut heading = "";
    for argument in definitions.get_arguments() {
        let group = argument.get_help_heading().unwrap_or_default();
        if group != heading {
            heading = group;
            let _ =
                write!(page, "\n## {group}\n\n| Flag, key | Environment | Default | |\n|---|---|---|---|\n");
        }
        row(&mut page, argument);
    }
    page
}

fn row(page: &mut String, argument: &Arg) {
    let name = argument.get_long().unwrap_or_default();
    let value =
        argument.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default();
    let variable = argument.get_env().unwrap_or_default().to_string_lossy();
    let default: Vec<_> = argument.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    let default = if default.is_empty() { "none".to_owned() } else { format!("`{}`", default.join(",")) };
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    if !help.ends_with('.') {
        help.push('.');
    }
    for choice in argument.get_possible_values().iter().filter(|choice| !choice.is_hide_set()) {
        let _ = write!(help, "<br>`{}`", choice.get_name());
        if let Some(meaning) = choice.get_help() {
            let _ = write!(help, ": {meaning}");
        }
    }
    let cell = |text: &str| text.replace('|', "\\|");
    let _ = writeln!(
        page,
        "| `--{name}` {} | `{variable}` | {} | {} |",
        cell(&value),
        cell(&default),
        cell(&help)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_this_one() {
        let committed = include_str!("../../../docs/configuration.md");
        assert!(
            committed == reference(),
            "docs/configuration.md is stale: cargo run -p policy-agent -- reference configuration > docs/configuration.md"
        );
    }

    /// The bounds in the descriptions are written by hand.
    #[test]
    fn bounds_are_those_that_are_told() {
        let definitions = definitions();
        let mut told = 0;
        for argument in definitions.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            let Some((least, most)) = help
                .split_once('(')
                .and_then(|(_, rest)| rest.split_once(')'))
                .and_then(|(bounds, _)| bounds.split_once(" to "))
            else {
                continue;
            };
            told += 1;
            let name = argument.get_long().unwrap();
            let accepts = |value: &str| {
                clap::Command::new("x")
                    .no_binary_name(true)
                    .arg(argument.clone())
                    .try_get_matches_from([format!("--{name}={value}")])
                    .is_ok()
            };
            assert!(accepts(least) && accepts(most), "--{name}: {least} to {most}");
            let beyond = |bound: &str, by: f64| {
                let split = bound.find(|c: char| !c.is_ascii_digit()).unwrap_or(bound.len());
                let (number, unit) = bound.split_at(split);
                format!("{}{unit}", number.parse::<f64>().unwrap() + by)
            };
            assert!(
                !accepts(&beyond(least, -1.0)) && !accepts(&beyond(most, 1.0)),
                "--{name}: {least} to {most}"
            );
        }
        assert_eq!(told, 12, "ten sizes and two times have bounds");
    }
}
