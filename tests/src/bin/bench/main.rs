//! `cargo xtask bench`: what Sluice costs. [`packets`] measures its programs alone, in nanoseconds per packet; [`path`] measures
//! whole connections between pods, beside others who do the same job; [`scale`] measures the agent, with clusters of up to
//! 100,000 pods.
//!
//! Everything is a median of several rounds, and everything is compared within a round, because machines are shared.

mod docs;
mod machine;
mod packets;
mod path;
mod scale;
mod services;
mod svg;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::docs::Section;
use crate::machine::Machine;

/// Measures what Sluice costs; `cargo xtask bench` knows how
#[derive(Debug, Parser)]
#[command(name = "sluice-bench")]
struct Cli {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Nanoseconds per packet under BPF_PROG_TEST_RUN
    Packets {
        /// The BPF object with the bench's programs
        object: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Memory and time of the agent, with clusters of up to 100,000 pods
    Scale {
        /// The BPF object
        object: PathBuf,
        /// Draw the result here, as SVG
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        options: Options,
    },
    /// One round with one cluster
    #[command(hide = true)]
    ScaleOne { pods: u32, object: PathBuf },
    /// Connections between pods by Services, and the agent with 10,000 Services
    Services {
        /// The BPF object
        object: PathBuf,
        #[command(flatten)]
        options: Options,
    },
    /// Throughput, packets and connections per second between pods
    Path {
        /// Draw the result here, as SVG
        #[arg(long, value_name = "FILE")]
        plot: Option<PathBuf>,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Rounds whose median counts
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
    /// Write the tables into this page, between its markers
    #[arg(long, value_name = "FILE")]
    docs: Option<PathBuf>,
}

/// What a part of the bench leaves.
struct Report {
    json: serde_json::Value,
    sections: Vec<Section>,
    /// The last word, for the terminal.
    verdict: String,
}

fn main() -> anyhow::Result<()> {
    let machine = Machine::look()?;
    let (options, report) = match Cli::parse().part {
        Part::Packets { object, options } => {
            let report = packets::run(&object, options.rounds, machine)?;
            (options, report)
        }
        Part::Scale { object, plot, options } => {
            let report = scale::run(&object, options.rounds, machine, plot.as_deref())?;
            (options, report)
        }
        Part::ScaleOne { pods, object } => return scale::run_one(&object, pods),
        Part::Services { object, options } => {
            let report = services::run(&object, options.rounds, machine)?;
            (options, report)
        }
        Part::Path { plot, options } => {
            let report = path::run(options.rounds, machine, plot.as_deref())?;
            (options, report)
        }
    };
    if let Some(page) = &options.docs {
        docs::write(page, &report.sections)?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.json)?);
    } else {
        for section in &report.sections {
            println!("{}\n", section.text);
        }
        println!("{}", report.verdict);
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
