//! `config print`, `config check` and the generated pages.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use policy_agent::config::{Effective, RunOptions, read_file, reference};
use policy_agent::metrics;

use super::output::{Output, print_json, table};

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show the value that `run` would take for each option, and where it comes from.
    Print(Box<PrintArgs>),
    /// Say everything that is wrong with a file of options, with line and column.
    Check {
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct PrintArgs {
    #[command(flatten)]
    _options: RunOptions,
    #[arg(long, short, value_enum, default_value_t, help_heading = "Output")]
    output: Output,
}

/// Pages of the documentation that are made from the code.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Page {
    Configuration,
    Metrics,
}

pub(super) fn run(args: &ConfigArgs, effective: Option<&Effective>) -> anyhow::Result<ExitCode> {
    match &args.command {
        ConfigCommand::Print(args) => {
            let effective = effective.ok_or_else(|| anyhow::anyhow!("the options were not looked up"))?;
            print(effective, args.output)
        }
        ConfigCommand::Check { file } => Ok(match read_file(file) {
            Ok(values) => {
                anstream::println!("{}: {} options, nothing wrong", file.display(), values.len());
                ExitCode::SUCCESS
            }
            Err(problems) => {
                for problem in problems {
                    anstream::eprintln!("{problem}");
                }
                ExitCode::FAILURE
            }
        }),
    }
}

fn print(effective: &Effective, output: Output) -> anyhow::Result<ExitCode> {
    if output == Output::Json {
        print_json(effective)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = table(&["OPTION", "VALUE", "FROM"]);
    for option in &effective.options {
        let value = option.value.as_deref().unwrap_or("-");
        rows.add_row([option.name.clone(), value.to_owned(), option.origin.to_string()]);
    }
    anstream::println!("{rows}");
    Ok(ExitCode::SUCCESS)
}

pub(super) fn print_page(page: Page) -> ExitCode {
    match page {
        Page::Configuration => anstream::print!("{}", reference()),
        Page::Metrics => anstream::print!("{}", metrics::reference()),
    }
    ExitCode::SUCCESS
}
