//! The values that options take, each with the words that stand for it on the command line and in the file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

/// What happens where nothing is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fallback {
    /// Nothing passes.
    Closed,
    /// Everything passes.
    Open,
}

/// YAML tools of the older kind write `true` where `on` was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    #[value(alias = "true")]
    On,
    #[value(alias = "false")]
    Off,
}

impl Switch {
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    Off,
    /// `:PORT`: every address of the node, of both families.
    Everywhere(u16),
    At(SocketAddr),
}

impl Listen {
    /// What to bind, in the order of preference.
    pub fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::Off => Vec::new(),
            Self::At(address) => vec![address],
            // A socket of IPv6 takes IPv4 as well; a node may have been booted without IPv6.
            Self::Everywhere(port) => vec![
                (IpAddr::from(Ipv6Addr::UNSPECIFIED), port).into(),
                (IpAddr::from(Ipv4Addr::UNSPECIFIED), port).into(),
            ],
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if matches!(text, "off" | "false") {
            return Ok(Self::Off);
        }
        match text.strip_prefix(':') {
            Some(port) => port.parse().ok().map(Self::Everywhere),
            None => text.parse().ok().map(Self::At),
        }
        .ok_or_else(|| {
            "must be ADDRESS:PORT, :PORT (all addresses) or off; IPv6 is [ADDRESS]:PORT".to_owned()
        })
    }
}

/// The files that say how to reach the cluster, in kubectl's form: several are merged, the first says most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeconfigFiles(pub Vec<PathBuf>);

impl FromStr for KubeconfigFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let files: Vec<PathBuf> =
            std::env::split_paths(text).filter(|path| *path != PathBuf::new()).collect();
        if files.is_empty() {
            return Err("must name a file".to_owned());
        }
        Ok(Self(files))
    }
}

/// A time of at least `least` and at most `most`: `10s`, `250ms`, `5m`; a bare number counts seconds.
pub(super) fn duration_within(
    least: Duration,
    most: Duration,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let duration = parse_duration(text)?;
        if (least..=most).contains(&duration) {
            return Ok(duration);
        }
        Err(format!("must be from {least:?} to {most:?}"))
    }
}

/// A time such as `10s`, `250ms` or `5m`; a bare number counts seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 =
        number.parse().map_err(|_| "must be a number with ms, s or m, such as 10s".to_owned())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" | "" => number,
        "m" => number * 60.0,
        _ => return Err(format!("unknown unit {unit:?}: ms, s or m")),
    };
    Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())
}

/// A value that follows from the node unless it is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auto<T> {
    Auto,
    Set(T),
}

impl<T: Copy> Auto<T> {
    pub const fn set(self) -> Option<T> {
        match self {
            Self::Auto => None,
            Self::Set(value) => Some(value),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Auto<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Set(value) => value.fmt(f),
        }
    }
}

/// A value, or `auto`.
pub(super) fn auto<T>(
    value: impl Fn(&str) -> Result<T, String> + Clone,
) -> impl Fn(&str) -> Result<Auto<T>, String> + Clone {
    move |text| match text {
        "auto" => Ok(Auto::Auto),
        _ => value(text).map(Auto::Set).map_err(|error| format!("{error}, or auto")),
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// The units of Kubernetes' quantities that memory has.
const UNITS: [(&str, u64); 6] =
    [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("k", 1000), ("M", 1_000_000), ("G", 1_000_000_000)];

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        match UNITS[..3].iter().rev().find(|(_, unit)| *bytes >= *unit && bytes.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", bytes / unit),
            None => bytes.fmt(f),
        }
    }
}

/// An amount of memory from `least` to `most`: a number with Ki, Mi, Gi, k, M or G, or of bytes.
pub(super) fn bytes(least: u64, most: u64) -> impl Fn(&str) -> Result<Bytes, String> + Clone {
    move |text| {
        let unit = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (number, unit) = unit.unwrap_or((text, 1));
        match number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
            Some(bytes) if (least..=most).contains(&bytes) => Ok(Bytes(bytes)),
            _ => Err(format!("must be from {} to {}, such as 512Mi", Bytes(least), Bytes(most))),
        }
    }
}

/// A number of entries from `least` to `most`.
pub(super) fn entries(least: u32, most: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from {least} to {most}")),
    }
}

/// The same, for tables whose index is cut out of a hash.
pub(super) fn power_of_two(least: u32, most: u32) -> impl Fn(&str) -> Result<u32, String> + Clone {
    let within = entries(least, most);
    move |text| match within(text) {
        Ok(number) if !number.is_power_of_two() => {
            Err(format!("must be a power of two, such as {}", number.next_power_of_two()))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2"), Ok(Duration::from_secs(2)));
        assert_eq!(parse_duration("1.5m"), Ok(Duration::from_secs(90)));
        for bad in ["", "s", "10h", "-1s", "nan", "inf", "1e400", "1e300m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        let within = duration_within(Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(within("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(within("999ms"), Err("must be from 1s to 60s".to_owned()));
        assert!(within("61s").is_err());
    }

    #[test]
    fn where_servers_listen() {
        assert_eq!("off".parse(), Ok(Listen::Off));
        assert_eq!(":9878".parse(), Ok(Listen::Everywhere(9878)));
        assert_eq!("127.0.0.1:1".parse(), Ok(Listen::At(([127, 0, 0, 1], 1).into())));
        assert_eq!("[::1]:1".parse(), Ok(Listen::At((Ipv6Addr::LOCALHOST, 1).into())));
        for bad in ["", "on", "9878", ":", ":65536", "localhost:80", "127.0.0.1", "::1:80", "10.0.0.1:-1"] {
            let error = bad.parse::<Listen>().unwrap_err();
            assert!(error.contains("off"), "{bad}: {error}");
        }
    }

    #[test]
    fn files_of_a_kubeconfig() {
        let files = |text: &str| text.parse::<KubeconfigFiles>().map(|files| files.0);
        assert_eq!(files("/a"), Ok(vec!["/a".into()]));
        assert_eq!(files("/a::/b"), Ok(vec!["/a".into(), "/b".into()]));
        assert!(files("").is_err() && files(":").is_err());
    }

    #[test]
    fn numbers_of_entries() {
        assert_eq!(entries(64, 128)("64"), Ok(64));
        for bad in ["63", "129", "-1", "x", "1e2", "", "64.0"] {
            assert_eq!(entries(64, 128)(bad), Err("must be a number from 64 to 128".to_owned()), "{bad}");
        }
        assert_eq!(power_of_two(64, 1024)("512"), Ok(512));
        assert_eq!(power_of_two(64, 1024)("500"), Err("must be a power of two, such as 512".to_owned()));
    }

    #[test]
    fn amounts_of_memory_and_what_follows_from_the_node() {
        let parse = auto(bytes(32 << 20, 1 << 40));
        assert_eq!(parse("auto"), Ok(Auto::Auto));
        for (text, expected) in
            [("32Mi", 32 << 20), ("64M", 64_000_000), ("1024Gi", 1 << 40), ("40000000", 40_000_000)]
        {
            assert_eq!(parse(text), Ok(Auto::Set(Bytes(expected))), "{text}");
        }
        for bad in ["", "Mi", "31Mi", "1025Gi", "-1Mi", "1.5Gi", "10%", "99999999999999999999Gi", "1 Gi"] {
            let told = "must be from 32Mi to 1024Gi, such as 512Mi, or auto".to_owned();
            assert_eq!(parse(bad), Err(told), "{bad}");
        }
        assert_eq!(Auto::Set(Bytes(1 << 29)).to_string(), "512Mi");
        assert_eq!(Bytes(1000).to_string(), "1000");
        assert_eq!(auto(entries(64, 128))("auto"), Ok(Auto::Auto));
        assert_eq!(auto(entries(64, 128))("5"), Err("must be a number from 64 to 128, or auto".to_owned()));
    }
}
