//! Configuration: a flag goes before the environment, the environment before the file, the file before the default.
//!
//! clap parses everything: what the file says becomes the default of its option before the command line is parsed for
//! good, so that each option has one parser and one order of precedence. `config print` tells where each value came from.

mod effective;
mod file;
mod memory;
mod options;
mod reference;
mod values;

use clap::{Args as _, Command};

pub use effective::{ConfigError, Effective, EffectiveOption, Origin, Parsed, parse};
pub use file::{FileProblem, read_file};
pub use options::{
    BpffsOption, CniOptions, EnforcementOptions, LogOptions, OperationOptions, RunOptions, SocketOption,
    SourceOptions, TableOptions,
};
pub use reference::reference;
pub use values::{Fallback, KubeconfigFiles, Listen, Switch, parse_duration};

/// All options of `run`, as the only arguments of a command: what file, reference and `config print` go through.
fn definitions() -> Command {
    LogOptions::augment_args(RunOptions::augment_args(Command::new("run")))
}
