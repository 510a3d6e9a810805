//! SCTP's checksum where the ports change: a CRC32c over the whole packet (RFC 9260 section 6.8), which is linear, so
//! that the difference of the first four bytes and the length are enough.

/// The reversed polynomial (RFC 3309 section 2).
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0 and x^8: bits stand in reversed order.
const ONE: u32 = 1 << 31;
const X8: u32 = 1 << 23;
/// Bits of the length of an IP packet.
const LENGTH_BITS: u32 = 16;

/// a * b modulo the polynomial. Without branches: the verifier would follow each.
#[inline(never)]
fn multiply(a: u32, b: u32) -> u32 {
    let (mut b, mut product, mut bit) = (b, 0, 0);
    while bit < 32 {
        product ^= b & (a >> (31 - bit) & 1).wrapping_neg();
        b = b >> 1 ^ POLYNOMIAL & (b & 1).wrapping_neg();
        bit += 1;
    }
    product
}

/// What the checksum field changes by, as it lies in memory, when the first four bytes of a packet of `length` bytes
/// change by `ports`, as they lie in memory.
#[inline(always)]
pub(crate) fn difference(ports: u32, length: u32) -> u32 {
    let (mut power, mut square, mut bit) = (ONE, X8, 0);
    while bit < LENGTH_BITS {
        let factor = if length >> bit & 1 == 1 { square } else { ONE };
        power = multiply(factor, power);
        square = multiply(square, square);
        bit += 1;
    }
    multiply(power, u32::from_le(ports)).to_le()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc32c(bytes: &[u8]) -> u32 {
        let step =
            |crc: u32, byte: &u8| {
                (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                    if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 }
                })
            };
        !bytes.iter().fold(u32::MAX, step)
    }

    #[test]
    fn the_difference_is_that_of_the_whole() {
        // RFC 3720 appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        for length in [12, 16, 32, 1452, 9000, 65_515] {
            let mut packet: [u8; 65_515] = core::array::from_fn(|n| u8::try_from(n % 251).unwrap());
            let packet = &mut packet[..length];
            let before = crc32c(packet);
            let new = [0x1f, 0x90, 0xab, 0xcd];
            let old = [packet[0], packet[1], packet[2], packet[3]];
            packet[..4].copy_from_slice(&new);
            let ports = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
            let changed = difference(ports, u32::try_from(length).unwrap());
            assert_eq!(crc32c(packet) ^ before, u32::from_le(changed), "{length}");
        }
    }
}
