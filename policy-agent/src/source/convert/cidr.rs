//! CIDRs as the API server reads them: sloppily, since old objects keep old spellings (SEMANTICS row 30).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

const NOT_A_CIDR: &str = "must be a CIDR, such as 10.0.0.0/8 or 2001:db8::/32";

/// The network, truncated to its prefix. Leading zeros are decimal, as in Go's old parser; IPv4 within IPv6 is IPv4.
pub fn parse_cidr(text: &str) -> Result<IpNet, String> {
    let (address, prefix) = text.split_once('/').ok_or_else(|| missing_prefix(text))?;
    let address = sloppy_address(address).ok_or(NOT_A_CIDR)?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let wrong_prefix = || format!("prefix length must be 0 to {longest}");
    let prefix = sloppy_number(prefix).filter(|p| *p <= longest).ok_or_else(wrong_prefix)?;
    let (address, prefix) = match (address, prefix.checked_sub(96)) {
        (IpAddr::V6(v6), Some(within)) => match v6.to_ipv4_mapped() {
            Some(v4) => (IpAddr::V4(v4), within),
            None => (address, prefix),
        },
        _ => (address, prefix),
    };
    IpNet::new(address, prefix).map(|net| net.trunc()).map_err(|_| wrong_prefix())
}

fn missing_prefix(text: &str) -> String {
    match sloppy_address(text) {
        Some(IpAddr::V4(_)) => format!("must be a CIDR: {text}/32 for this address alone"),
        Some(IpAddr::V6(_)) => format!("must be a CIDR: {text}/128 for this address alone"),
        None => NOT_A_CIDR.to_owned(),
    }
}

fn sloppy_address(text: &str) -> Option<IpAddr> {
    if !text.contains(':') {
        return sloppy_v4(text).map(IpAddr::V4);
    }
    let (head, tail) = text.rsplit_once(':')?;
    let v6: Ipv6Addr = match sloppy_v4(tail) {
        Some(v4) => format!("{head}:{v4}").parse().ok()?,
        None => text.parse().ok()?,
    };
    Some(IpAddr::V6(v6))
}

fn sloppy_v4(text: &str) -> Option<Ipv4Addr> {
    let mut parts = text.split('.').map(sloppy_number);
    let mut next = || parts.next().flatten();
    let octets = [next()?, next()?, next()?, next()?];
    parts.next().is_none().then(|| Ipv4Addr::from(octets))
}

fn sloppy_number(text: &str) -> Option<u8> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    match text.trim_start_matches('0') {
        "" => Some(0),
        digits => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_in_every_spelling() {
        let table = [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("010.001.000.008/08", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("192.0.2.1/32", "192.0.2.1/32"),
            ("::/0", "::/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("2001:DB8:0:0::/64", "2001:db8::/64"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:010.1.2.3/128", "10.1.2.3/32"),
            ("::ffff:a01:203/96", "0.0.0.0/0"),
            ("::ffff:10.1.2.3/95", "::fffe:0:0/95"),
            ("64:ff9b::192.0.2.1/96", "64:ff9b::/96"),
        ];
        for (text, net) in table {
            assert_eq!(parse_cidr(text).map(|n| n.to_string()), Ok(net.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_cidr() {
        let table = [
            ("", NOT_A_CIDR),
            ("10.0.0.0", "must be a CIDR: 10.0.0.0/32 for this address alone"),
            ("::1", "must be a CIDR: ::1/128 for this address alone"),
            ("10.0.0.0/33", "prefix length must be 0 to 32"),
            ("10.0.0.0/256", "prefix length must be 0 to 32"),
            ("10.0.0.0/-1", "prefix length must be 0 to 32"),
            ("10.0.0.0/", "prefix length must be 0 to 32"),
            ("10.0.0.0/+8", "prefix length must be 0 to 32"),
            ("10.0.0.0/8/8", "prefix length must be 0 to 32"),
            ("10.0.0.0/255.0.0.0", "prefix length must be 0 to 32"),
            ("::/129", "prefix length must be 0 to 128"),
            ("10.0.0/8", NOT_A_CIDR),
            ("10.0.0.0.0/8", NOT_A_CIDR),
            ("10.0.0.256/8", NOT_A_CIDR),
            ("0x0a.0.0.0/8", NOT_A_CIDR),
            (" 10.0.0.0/8", NOT_A_CIDR),
            ("fe80::1%eth0/64", NOT_A_CIDR),
            ("example.com/8", NOT_A_CIDR),
            ("1.2.3.4:5/8", NOT_A_CIDR),
        ];
        for (text, message) in table {
            assert_eq!(parse_cidr(text), Err(message.to_owned()), "{text}");
        }
    }
}
