//! What `cargo xtask test --kernel` and the first process of its virtual machines say to each other: a plan goes in with the
//! initramfs, events come out of the second serial port, one JSON object in each line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Where the plan is in the guest.
pub const PLAN: &str = "/plan.json";
/// Where the guest writes its events. The console is the first port: the kernel's own words never cut through an event.
pub const PORT: &str = "/dev/ttyS1";

/// What the guest has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Modules as files of the guest, those that others need first.
    pub modules: Vec<String>,
    /// Run one after the other, also after one failed.
    pub suites: Vec<Suite>,
}

/// A test program and how it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suite {
    /// As the report calls it.
    pub name: String,
    /// Its file in the guest.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment, beside PATH and HOME.
    pub environment: BTreeMap<String, String>,
    /// It is killed after so many seconds.
    pub seconds: u64,
}

/// What the guest tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// Everything is mounted and loaded.
    Booted {
        /// As `uname -r` says it.
        release: String,
        /// Since the kernel began.
        milliseconds: u64,
    },
    /// A suite has ended.
    Suite {
        /// [`Suite::name`].
        name: String,
        /// How it ended.
        outcome: Outcome,
        /// How long it took.
        milliseconds: u64,
        /// The end of what it printed.
        output: String,
    },
    /// What the kernel complained of: a warning or worse, with the lines after it.
    Complaint {
        /// As in its log.
        text: String,
    },
    /// The guest can't go on.
    Broken {
        /// Why.
        reason: String,
    },
    /// All suites have run.
    End,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// With this status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
    /// It took longer than it may.
    TimedOut,
    /// It could not be started.
    NotStarted(String),
}

/// The events in what came out of the port. A line that is none ends them with an error: nothing else writes there, so the
/// machine has ended in the middle of one.
pub fn events(port: &str) -> (Vec<Event>, Option<serde_json::Error>) {
    let mut events = Vec::new();
    for line in port.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match serde_json::from_str(line) {
            Ok(event) => events.push(event),
            Err(error) => return (events, Some(error)),
        }
    }
    (events, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_the_port() {
        let all = [
            Event::Booted { release: "5.10.0".to_owned(), milliseconds: 3000 },
            Event::Suite {
                name: "kernel".to_owned(),
                outcome: Outcome::Exited(101),
                milliseconds: 12,
                output: "line\r\n\"another\"\u{1b}[1m".to_owned(),
            },
            Event::End,
        ];
        // The terminal behind the port ends lines so.
        let port: String = all.iter().map(|event| serde_json::to_string(event).unwrap() + "\r\n").collect();
        let (read, error) = events(&port);
        assert!(error.is_none(), "{error:?}");
        assert_eq!(read, all);
    }

    #[test]
    fn a_cut_line_is_an_error_after_the_whole_ones() {
        let (read, error) = events("{\"event\":\"end\"}\n{\"event\":\"bro");
        assert_eq!(read, [Event::End]);
        assert!(error.is_some());
    }
}
