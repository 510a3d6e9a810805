//! One connection that a case has an opinion on, and what the three say of it.

use std::fmt;

use serde::Serialize;
use sluice_netns::Outcome;
use sluice_oracle::cases::Whence;

use super::wire::Proof;

/// An allowed connection is open, a denied one times out; anything else is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Allow,
    Deny,
    /// A refusal, or a probe that could not be made.
    Neither,
}

/// A probe with its answers.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// Counted from 1.
    pub step: usize,
    #[serde(serialize_with = "as_text")]
    pub whence: Whence,
    pub from: String,
    pub to: String,
    /// `TCP/80`, as the case writes it.
    pub pp: String,
    /// With the addresses.
    pub flow: String,
    /// What the file wants, where it says so.
    pub want: Option<Verdict>,
    /// Nothing where the file says that the oracle isn't to be asked.
    pub oracle: Option<Verdict>,
    pub explain: Verdict,
    pub sockets: Verdict,
    /// What the sockets saw, in words.
    pub seen: String,
    pub proof: Proof,
}

/// Something that was not run, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    pub what: String,
    pub reason: String,
}

impl Verdict {
    pub const fn of(allowed: bool) -> Self {
        if allowed { Self::Allow } else { Self::Deny }
    }

    pub const fn seen(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Open => Self::Allow,
            Outcome::TimedOut => Self::Deny,
            Outcome::Refused | Outcome::Unreachable(_) | Outcome::Failed(_) => Self::Neither,
        }
    }

    /// As in a grid of the file.
    pub const fn mark(self) -> char {
        match self {
            Self::Allow => '.',
            Self::Deny => 'X',
            Self::Neither => '?',
        }
    }
}

impl Cell {
    /// The verdict that all must give: the file's, or, where it leaves it open, what the oracle reads in the texts.
    #[must_use]
    pub fn expected(&self) -> Verdict {
        self.want.or(self.oracle).unwrap_or(self.explain)
    }

    #[must_use]
    pub fn oracle_agrees(&self) -> bool {
        self.oracle.is_none_or(|verdict| verdict == self.expected())
    }

    #[must_use]
    pub fn explain_agrees(&self) -> bool {
        self.explain == self.expected()
    }

    #[must_use]
    pub fn sockets_agree(&self) -> bool {
        self.sockets == self.expected()
    }

    #[must_use]
    pub fn agrees(&self) -> bool {
        self.oracle_agrees() && self.explain_agrees() && self.sockets_agree()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Neither => "neither",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |verdict: Option<Verdict>| verdict.map_or("nothing".to_owned(), |v| v.to_string());
        write!(
            f,
            "step {} {}: {} -> {} {} ({}): the file says {}, oracle {}, explain {}, sockets: {}",
            self.step,
            self.whence,
            self.from,
            self.to,
            self.pp,
            self.flow,
            said(self.want),
            said(self.oracle),
            self.explain,
            self.seen
        )
    }
}

fn as_text<T: fmt::Display, S: serde::Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
