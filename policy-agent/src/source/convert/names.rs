//! The syntax of names, labels and port names, as the API server has it.

const DNS_LABEL: &str =
    "must be at most 63 characters of a-z, 0-9 and '-', beginning and ending with a letter or digit";
const DNS_SUBDOMAIN: &str = "must be at most 253 characters of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit";
const LABEL_KEY: &str = "must be a label key: a name of at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', beginning \
                         and ending with a letter or digit, optionally after a DNS prefix and '/'";
const LABEL_VALUE: &str = "must be a label value: at most 63 characters of A-Z, a-z, 0-9, '-', '_' and '.', beginning and \
                           ending with a letter or digit, or empty";

pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

/// Names of pods, nodes and policies; they may have dots (SEMANTICS row 60).
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    is_bounded(text, alphanumeric) && text.bytes().all(|b| alphanumeric(b) || b == b'-')
}

fn is_bounded(text: &str, allowed: impl Fn(u8) -> bool) -> bool {
    let ends = (text.bytes().next(), text.bytes().next_back());
    matches!(ends, (Some(first), Some(last)) if allowed(first) && allowed(last))
}

fn is_qualified(text: &str) -> bool {
    text.len() <= 63
        && is_bounded(text, |b| b.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

pub(super) fn dns_label(text: &str) -> Result<(), &'static str> {
    if is_dns_label(text) { Ok(()) } else { Err(DNS_LABEL) }
}

pub(super) fn dns_subdomain(text: &str) -> Result<(), &'static str> {
    if is_dns_subdomain(text) { Ok(()) } else { Err(DNS_SUBDOMAIN) }
}

pub(super) fn label_key(text: &str) -> Result<(), &'static str> {
    let valid = match text.split_once('/') {
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_qualified(name),
        None => is_qualified(text),
    };
    if valid { Ok(()) } else { Err(LABEL_KEY) }
}

pub(super) fn label_value(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || is_qualified(text) { Ok(()) } else { Err(LABEL_VALUE) }
}

/// IANA_SVC_NAME.
pub(super) fn port_name(text: &str) -> Result<(), &'static str> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("is text: a port number must not be in quotes");
    }
    let lowercase = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let valid = (1..=15).contains(&text.len())
        && text.bytes().all(|b| lowercase(b) || b == b'-')
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && is_bounded(text, lowercase)
        && !text.contains("--");
    if valid {
        Ok(())
    } else {
        Err(
            "must be a port name: 1 to 15 characters of a-z, 0-9 and single inner '-', with at least one letter",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_the_api_server_takes_them() {
        let long = |n: usize| "a".repeat(n);
        let table: [(Check, &str, &[&str], &[&str]); 5] = [
            (
                dns_label,
                "label",
                &["a", "0", "a-b", &long(63)],
                &["", "-a", "a-", "A", "a.b", "a_b", "ä", &long(64)],
            ),
            (
                dns_subdomain,
                "subdomain",
                &["a", "a.b", "1.2-3", &long(253)],
                &["", ".", "a.", ".a", "a..b", "a.-b", "A", &long(254)],
            ),
            (
                label_key,
                "key",
                &["a", "A_b.c", "kubernetes.io/name", "a/B", &long(63)],
                &["", "/a", "a/", "a/b/c", "A/b", "-a", "a-", "a b", &long(64), "a/é"],
            ),
            (label_value, "value", &["", "a", "A_b.c", "1"], &["-", "a-", "a b", "a/b", &long(64), "é"]),
            (
                port_name,
                "port",
                &["http", "a", "a-b", "8080-tcp", "p12345678901234"],
                &["", "80", "-a", "a-", "a--b", "HTTP", "a_b", "p123456789012345", "1-2"],
            ),
        ];
        for (check, name, good, bad) in table {
            for text in good {
                assert!(check(text).is_ok(), "{name} {text:?}");
            }
            for text in bad {
                assert!(check(text).is_err(), "{name} {text:?}");
            }
        }
    }

    type Check = fn(&str) -> Result<(), &'static str>;
}
