//! Which kernels the matrix has: one long-term kernel for each Debian release that still gets them, and what comes next.

use std::fmt;

/// A kernel of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Release {
    /// Debian 11: the oldest that Sluice supports
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13
    #[value(name = "6.12")]
    V6_12,
    /// Debian unstable: the newest
    #[value(name = "7.x")]
    V7,
}

impl Release {
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7];
    /// What always runs: whatever both ends of the range take, what is between them took so far.
    pub(crate) const ENDS: [Self; 2] = [Self::V5_10, Self::V7];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7 => "7.x",
        }
    }

    /// The Debian suite that has it.
    pub(crate) const fn suite(self) -> &'static str {
        match self {
            // Debian 11 itself gets no kernels any more.
            Self::V5_10 => "bullseye-security",
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::V7 => "sid",
        }
    }

    /// How a repository that has the suite labels itself.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::V5_10 => "Debian-Security",
            Self::V6_1 | Self::V6_12 | Self::V7 => "Debian",
        }
    }

    /// Whether a kernel's own name for itself, as `6.12.94+deb13-cloud-amd64`, is of this kind.
    pub(crate) fn is(self, release: &str) -> bool {
        let major_minor = match self {
            Self::V7 => "7.",
            Self::V5_10 => "5.10.",
            Self::V6_1 => "6.1.",
            Self::V6_12 => "6.12.",
        };
        release.starts_with(major_minor)
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_of_one_kind() {
        for (text, want) in [
            ("5.10.0-46-cloud-amd64", Some(Release::V5_10)),
            ("6.1.0-50-cloud-amd64", Some(Release::V6_1)),
            ("6.12.117+deb13-cloud-amd64", Some(Release::V6_12)),
            ("7.2.13+deb14-cloud-amd64", Some(Release::V7)),
            ("6.18.1", None),
        ] {
            let kinds: Vec<_> = Release::ALL.into_iter().filter(|kind| kind.is(text)).collect();
            assert_eq!(kinds, want.into_iter().collect::<Vec<_>>(), "{text}");
        }
    }
}
