//! The bytes of one Ethernet frame.

use crate::masquerade::Known;
use crate::parse::Ip;
use crate::rewrite::{Correction, PacketMut, corrected};

/// One frame as a hook sees it.
pub trait Packet {
    /// Length of the whole frame in bytes, whatever part of it is linear.
    fn len(&self) -> u32;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The EtherType behind an out-of-band VLAN tag, host byte order.
    fn ethertype(&self) -> u16;

    /// Whether the frame carries an out-of-band VLAN tag (the kernel strips the outer one before tc).
    fn vlan(&self) -> bool;

    /// `N` bytes from `offset`; `None` where the frame ends before.
    fn load<const N: usize>(&self, offset: u32) -> Option<Aligned<N>>;

    /// Fills `known` with what the node's connection tracking knows of a packet in its connection's original direction,
    /// where the source is another than the one that the connection began with. Frames in memory belong to none.
    fn is_masqueraded(&self, _ip: &Ip, _known: &mut Known) -> bool {
        false
    }
}

/// Bytes on a word boundary, whole words of them: BPF reads a word of an unaligned buffer byte by byte.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4))]
pub struct Aligned<const N: usize>(pub [u8; N]);

impl<const N: usize> Aligned<N> {
    #[inline(always)]
    pub fn byte(&self, at: usize) -> u8 {
        self.0[at]
    }

    #[inline(always)]
    pub fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Four bytes as they lie in memory; `at` is a multiple of four.
    #[inline(always)]
    pub fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    #[inline(always)]
    pub fn set_word(&mut self, at: usize, word: u32) {
        let bytes = word.to_ne_bytes();
        self.0[at] = bytes[0];
        self.0[at + 1] = bytes[1];
        self.0[at + 2] = bytes[2];
        self.0[at + 3] = bytes[3];
    }
}

/// A frame in memory: for tests, fuzzing and `explain`.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a>(pub &'a [u8]);

impl Packet for Slice<'_> {
    fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    fn ethertype(&self) -> u16 {
        match self.0.get(12..14) {
            Some([a, b]) => u16::from_be_bytes([*a, *b]),
            _ => 0,
        }
    }

    fn vlan(&self) -> bool {
        false
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<Aligned<N>> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.0.get(start..start.checked_add(N)?)?;
        bytes.try_into().ok().map(Aligned)
    }
}

/// A frame in memory that can be written. Nothing of its checksums is left to a network card.
#[derive(Debug)]
pub struct SliceMut<'a>(pub &'a mut [u8]);

impl Packet for SliceMut<'_> {
    fn len(&self) -> u32 {
        Slice(self.0).len()
    }

    fn ethertype(&self) -> u16 {
        Slice(self.0).ethertype()
    }

    fn vlan(&self) -> bool {
        false
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<Aligned<N>> {
        Slice(self.0).load(offset)
    }
}

impl SliceMut<'_> {
    fn field(&mut self, offset: u32) -> Option<&mut [u8; 2]> {
        self.0.get_mut(offset as usize..)?.first_chunk_mut()
    }
}

impl PacketMut for SliceMut<'_> {
    fn store<const N: usize>(&mut self, offset: u32, bytes: &Aligned<N>) -> bool {
        let place = self.0.get_mut(offset as usize..).and_then(|rest| rest.first_chunk_mut());
        place.map(|place| *place = bytes.0).is_some()
    }

    fn correct_header(&mut self, offset: u32, difference: u32) -> bool {
        let field = self.field(offset);
        field.map(|field| *field = corrected(u16::from_ne_bytes(*field), difference).to_ne_bytes()).is_some()
    }

    fn correct(&mut self, offset: u32, difference: u32, how: Correction) -> bool {
        let Some(field) = self.field(offset) else { return false };
        if how.optional && *field == [0; 2] {
            return true;
        }
        let new = corrected(u16::from_ne_bytes(*field), difference);
        *field = if how.optional && new == 0 { u16::MAX } else { new }.to_ne_bytes();
        true
    }
}
