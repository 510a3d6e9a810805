//! Which distribution this is, from /etc/os-release.

use std::fs;

/// The fields of os-release(5) that setup decides by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    id: String,
    id_like: Vec<String>,
    pretty_name: String,
    codename: String,
}

impl OsRelease {
    /// Reads the machine's own; a machine without one is an unknown distribution.
    pub(crate) fn of_this_machine() -> Self {
        let text =
            fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut release = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.trim().split_once('=')) {
            let value = unquote(value);
            match key {
                "ID" => release.id = value,
                "ID_LIKE" => release.id_like = value.split_whitespace().map(str::to_owned).collect(),
                "PRETTY_NAME" => release.pretty_name = value,
                "VERSION_CODENAME" => release.codename = value,
                _ => {}
            }
        }
        release
    }

    /// Whether Debian's package names can be expected here.
    pub(crate) fn is_debian_like(&self) -> bool {
        let family = |id: &str| matches!(id, "debian" | "ubuntu");
        family(&self.id) || self.id_like.iter().any(|id| family(id))
    }

    /// The release's name in the archive.
    pub(crate) fn codename(&self) -> Option<&str> {
        Some(self.codename.as_str()).filter(|name| !name.is_empty())
    }

    /// The name a person knows it by.
    pub(crate) fn name(&self) -> &str {
        match (self.pretty_name.as_str(), self.id.as_str()) {
            ("", "") => "an unknown distribution",
            ("", id) => id,
            (name, _) => name,
        }
    }
}

/// Values may be bare, or in single or double quotes with shell escapes.
fn unquote(value: &str) -> String {
    let value = value.trim();
    for quote in ['"', '\''] {
        if let Some(inner) = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner.replace("\\\"", "\"").replace("\\$", "$").replace("\\\\", "\\");
        }
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_take_apt() {
        let debian = OsRelease::parse(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\nVERSION_CODENAME=bookworm\n",
        );
        assert!(debian.is_debian_like());
        assert_eq!(debian.codename(), Some("bookworm"));
        assert_eq!(debian.name(), "Debian GNU/Linux 12 (bookworm)");
        assert!(OsRelease::parse("ID=ubuntu\nID_LIKE=debian").is_debian_like());
        assert!(OsRelease::parse("ID=linuxmint\nID_LIKE=\"ubuntu debian\"").is_debian_like());
        assert!(OsRelease::parse("ID='pop'\nID_LIKE='ubuntu'").is_debian_like());
    }

    #[test]
    fn others_do_not() {
        assert!(!OsRelease::parse("ID=fedora\nID_LIKE=\"rhel centos\"").is_debian_like());
        assert!(!OsRelease::parse("ID=alpine").is_debian_like());
        assert!(!OsRelease::parse("").is_debian_like());
        assert_eq!(OsRelease::parse("").name(), "an unknown distribution");
        assert_eq!(OsRelease::parse("").codename(), None);
        assert_eq!(OsRelease::parse("ID=alpine").name(), "alpine");
    }

    #[test]
    fn comments_and_escapes() {
        let release =
            OsRelease::parse("# ID=debian\n\nID=\"arch\"\nPRETTY_NAME=\"A \\\"quoted\\\" name\"\nnonsense");
        assert!(!release.is_debian_like());
        assert_eq!(release.name(), "A \"quoted\" name");
    }
}
