//! Errors as the CNI specification wants them: an object on standard output.

use serde::Serialize;

use super::version::Version;

/// The specification's codes, of which those from 100 on are the plugin's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    IncompatibleVersion,
    InvalidEnvironment,
    Io,
    Decode,
    InvalidConfig,
    TryAgain,
    /// STATUS: no pod can be added now. What is enforced stays enforced, so it is never 51 (limited connectivity).
    NotAvailable,
    /// CHECK: the pod's policy is not in force on its interface.
    NotEnforced,
}

impl Code {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgain => 11,
            Self::NotAvailable => 50,
            Self::NotEnforced => 100,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CniError {
    pub(super) code: Code,
    pub(super) message: String,
    pub(super) details: String,
}

impl CniError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub(super) fn details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// The object, in the version of the configuration where that is known.
    pub(super) fn to_json(&self, version: Option<Version>) -> String {
        #[derive(Serialize)]
        struct Object<'a> {
            #[serde(rename = "cniVersion")]
            version: &'static str,
            code: u32,
            msg: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            details: &'a str,
        }
        let object = Object {
            version: version.unwrap_or(Version::NEWEST).name(),
            code: self.code.number(),
            msg: &self.message,
            details: &self.details,
        };
        serde_json::to_string(&object).unwrap_or_else(|error| error.to_string())
    }
}
