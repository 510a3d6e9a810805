//! The log: lines of text or JSON on standard error, with a filter that can be changed while the agent runs.

use std::str::FromStr as _;

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, Registry, reload};

use crate::source::Problem;

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One object a line: `timestamp`, `level`, `target`, `message`, and what the event is about.
    Json,
}

/// Changes what a running agent logs.
#[derive(Clone, Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log filter {0:?}: {1}")]
    Filter(String, String),
    /// Somebody else has set up logging in this process, or has ended it.
    #[error("the log: {0}")]
    Subscriber(String),
}

impl LogFilter {
    /// The filter in force, in its own words.
    pub fn current(&self) -> Result<String, LogError> {
        self.0.with_current(ToString::to_string).map_err(subscriber)
    }

    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let filter = parse(filter)?;
        tracing::info!(filter = %filter, "what is logged changes");
        self.0.reload(filter).map_err(subscriber)
    }
}

/// Begins to log. To be called once in a process.
pub fn start(filter: &str, format: Format) -> Result<LogFilter, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        Format::Text => lines.with_target(false).with_ansi(coloured()).boxed(),
        Format::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    // The watches tell themselves what failed, and why, once.
    let twice = filter_fn(|of| !(*of.level() == Level::ERROR && of.target().starts_with("kube_client")));
    let lines = lines.with_filter(twice);
    tracing_subscriber::registry().with(filter).with(lines).try_init().map_err(subscriber)?;
    Ok(LogFilter(handle))
}

/// A terminal that can do it, and a user who did not say no (NO_COLOR, CLICOLOR).
fn coloured() -> bool {
    anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    // `EnvFilter` takes an empty text for "errors only", which nobody means.
    if filter.trim().is_empty() {
        return Err(LogError::Filter(filter.to_owned(), "it is empty".to_owned()));
    }
    // It also takes any word for a target, of which everything is to be logged: a misspelt level would be silence.
    for word in filter.split(',').map(str::trim) {
        let level = word.parse::<tracing::level_filters::LevelFilter>().is_ok();
        if !level && !word.contains(['=', '[', ':']) {
            let cause = format!("{word:?} is no level: error, warn, info, debug, trace or off");
            return Err(LogError::Filter(filter.to_owned(), cause));
        }
    }
    EnvFilter::from_str(filter).map_err(|error| LogError::Filter(filter.to_owned(), error.to_string()))
}

/// A filter's text, if it is one.
pub fn check_filter(filter: &str) -> Result<String, String> {
    parse(filter).map(|_| filter.to_owned()).map_err(|error| error.to_string())
}

fn subscriber(error: impl std::error::Error) -> LogError {
    LogError::Subscriber(error.to_string())
}

/// Logs what is wrong with an input, each part in a field of its own: `source`, `object`, `field`, `value`.
pub fn problem(problem: &Problem) {
    let Problem { source, object, field, value, message } = problem;
    let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    tracing::warn!(
        source = part(source),
        object = part(object),
        field = part(field),
        value = part(value),
        "{message}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for good in ["info", "warn,policy_agent=debug", "policy_agent::agent=trace", "off", "kube=warn,debug"]
        {
            assert_eq!(check_filter(good), Ok(good.to_owned()));
        }
        for bad in ["", " ", "loud", "policy_agent=loud", "info,=", "[", "a=b=c"] {
            let error = check_filter(bad).unwrap_err();
            assert!(error.starts_with("log filter "), "{bad}: {error}");
        }
    }

    #[test]
    fn the_filter_changes_while_it_is_in_use() {
        let (filter, handle) = reload::Layer::new(parse("info").unwrap());
        let handle = LogFilter(handle);
        let subscriber = tracing_subscriber::registry().with(filter);
        tracing::subscriber::with_default(subscriber, || {
            assert!(!tracing::enabled!(Level::DEBUG));
            handle.set("debug").unwrap();
            assert!(tracing::enabled!(Level::DEBUG));
            assert!(handle.set("loud").is_err());
            assert_eq!(handle.current().unwrap(), "debug", "a bad filter changes nothing");
        });
    }
}
