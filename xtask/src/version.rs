//! Version numbers, as compilers and Debian packages write them.

use std::fmt;
use std::str::FromStr;

/// Major, minor and patch; what follows them (a channel, a packaging revision) doesn't take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

impl FromStr for Version {
    type Err = String;

    /// Reads `1.96.0`, `1.97.0-nightly`, `22.1`, `1:22.1.8-1~deb12u1` and `1.96.0+dfsg1-1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let without_epoch = text.split_once(':').map_or(text, |(_, rest)| rest);
        let end =
            without_epoch.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(without_epoch.len());
        let mut numbers =
            without_epoch[..end].split('.').filter(|part| !part.is_empty()).map(str::parse::<u32>);
        let mut next = || match numbers.next() {
            Some(number) => number.map(Some).map_err(|error| format!("`{text}` is no version: {error}")),
            None => Ok(None),
        };
        let major = next()?.ok_or_else(|| format!("`{text}` is no version"))?;
        Ok(Self { major, minor: next()?.unwrap_or(0), patch: next()?.unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_compiler_and_package_versions() {
        for (text, expected) in [
            ("1.96.0", "1.96.0"),
            ("1.97.0-nightly", "1.97.0"),
            ("22.1", "22.1.0"),
            ("1:22.1.8-1~deb12u1", "22.1.8"),
            ("1.96.0+dfsg1-1~deb12u2", "1.96.0"),
            ("1.63.0+dfsg1-2", "1.63.0"),
        ] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), expected);
        }
        for text in ["", "(none)", "x1.2", ":", "99999999999.0"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
    }

    #[test]
    fn compares_by_number_not_by_text() {
        let parse = |text: &str| text.parse::<Version>().unwrap();
        assert!(parse("1.100.0") > parse("1.96.0"));
        assert!(parse("1.89") <= parse("1.89.0"));
    }
}
