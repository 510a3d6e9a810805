//! The IPv4 index: exact addresses and prefixes as cells of three levels of arrays, beside the hash and the trie.
//!
//! A hash lookup costs 28 to 190 ns and a trie of 100,000 prefixes over 100 ns; the index answers in one to three array
//! reads. Each cell that a change concerns is written once, so that each address flips once. Where no block is left, a
//! cell says so and the program asks the hash and the trie as if there were no index.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use policy_common::maps::{CELL_ASK, CELL_BLOCK, CLASS_NONE, INDEX_BLOCK, INDEX_TOP};

/// Longer than any prefix: an exact address wins over a /32.
const EXACT: i16 = 33;
/// Shorter than any prefix: nothing is known.
const NOTHING: i16 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// The class, and the length of the prefix that gave it.
    Leaf {
        class: u32,
        length: i16,
    },
    Block(u32),
    Ask,
}

impl Content {
    const fn encoded(self) -> u32 {
        match self {
            Self::Leaf { class, .. } => class,
            Self::Block(number) => CELL_BLOCK | number,
            Self::Ask => CELL_ASK,
        }
    }
}

/// A cell to write: index and value.
pub(super) type Write = (u32, u32);

#[derive(Debug)]
pub(super) struct Index4 {
    /// Those of the first level, and of the blocks that were ever used: all would be 20 MiB.
    cells: Vec<Content>,
    next_block: u32,
    blocks: u32,
    /// Emptied blocks; a packet in flight may still be on its way to one until the next barrier.
    emptied: Vec<u32>,
    free: Vec<u32>,
    prefixes: BTreeMap<Ipv4Net, u32>,
    exact: BTreeMap<Ipv4Addr, u32>,
}

impl Index4 {
    pub(super) fn new(blocks: u32) -> Self {
        Self {
            cells: vec![Content::Leaf { class: CLASS_NONE, length: NOTHING }; INDEX_TOP as usize],
            next_block: 0,
            blocks,
            emptied: Vec::new(),
            free: Vec::new(),
            prefixes: BTreeMap::new(),
            exact: BTreeMap::new(),
        }
    }

    pub(super) fn set_exact(&mut self, address: Ipv4Addr, class: Option<u32>) -> Vec<Write> {
        match class {
            Some(class) => self.exact.insert(address, class),
            None => self.exact.remove(&address),
        };
        let leaf = match class {
            Some(class) => Content::Leaf { class, length: EXACT },
            None => self.longest(address, 32),
        };
        self.change(address.to_bits(), 32, EXACT, leaf)
    }

    pub(super) fn set_prefix(&mut self, net: Ipv4Net, class: Option<u32>) -> Vec<Write> {
        let net = net.trunc();
        match class {
            Some(class) => self.prefixes.insert(net, class),
            None => self.prefixes.remove(&net),
        };
        let length = i16::from(net.prefix_len());
        let leaf = match (class, net.prefix_len().checked_sub(1)) {
            (Some(class), _) => Content::Leaf { class, length },
            (None, Some(shorter)) => self.longest(net.network(), shorter),
            (None, None) => Content::Leaf { class: CLASS_NONE, length: NOTHING },
        };
        self.change(net.network().to_bits(), net.prefix_len(), length, leaf)
    }

    /// Those that some cell leads to; emptied ones only wait for a barrier.
    pub(super) const fn blocks_in_use(&self) -> u64 {
        (self.next_block as u64).saturating_sub((self.free.len() + self.emptied.len()) as u64)
    }

    /// A change may need a block where none is left but those that only a barrier frees.
    pub(super) const fn wants_barrier(&self) -> bool {
        // One change descends two levels.
        let left = self.free.len() + (self.blocks - self.next_block) as usize;
        left < 2 && !self.emptied.is_empty()
    }

    /// A barrier has passed: nobody reads what was emptied before it.
    pub(super) fn barrier(&mut self) {
        self.free.append(&mut self.emptied);
    }

    /// What prefixes of up to `most` bits say of an address.
    fn longest(&self, address: Ipv4Addr, most: u8) -> Content {
        (0..=most)
            .rev()
            .filter_map(|length| Ipv4Net::new(address, length).ok())
            .find_map(|net| self.prefixes.get_key_value(&net.trunc()))
            .map_or(Content::Leaf { class: CLASS_NONE, length: NOTHING }, |(net, class)| Content::Leaf {
                class: *class,
                length: i16::from(net.prefix_len()),
            })
    }

    /// Puts `leaf` where what stands there came from a prefix of at most `length` bits.
    fn change(&mut self, first: u32, prefix: u8, length: i16, leaf: Content) -> Vec<Write> {
        let mut writes = Vec::new();
        let top = first >> 16;
        if prefix <= 16 {
            for cell in top..top + (1 << (16 - prefix)) {
                self.put(cell, length, leaf, &mut writes);
            }
            return writes;
        }
        if self.settles(top, length, leaf) {
            return writes;
        }
        let Some(middle) = self.descend(top, &mut writes) else { return writes };
        let cell = middle + (first >> 8 & 0xff);
        if prefix <= 24 {
            for cell in cell..cell + (1 << (24 - prefix)) {
                self.put(cell, length, leaf, &mut writes);
            }
        } else if self.settles(cell, length, leaf) {
            return writes;
        } else if let Some(low) = self.descend(cell, &mut writes) {
            let start = low + (first & 0xff);
            for cell in start..start + (1 << (32 - prefix)) {
                self.put(cell, length, leaf, &mut writes);
            }
            self.collapse(cell, low, &mut writes);
        }
        if prefix > 16 {
            self.collapse(top, middle, &mut writes);
        }
        writes
    }

    /// Whether a change below this cell would change nothing: a block for it would only be emptied again.
    fn settles(&self, cell: u32, length: i16, leaf: Content) -> bool {
        let content = self.content(cell);
        content == leaf || matches!(content, Content::Leaf { length: present, .. } if present > length)
    }

    /// Everything below a cell that is not more specific takes the leaf.
    fn put(&mut self, cell: u32, length: i16, leaf: Content, writes: &mut Vec<Write>) {
        match self.content(cell) {
            Content::Leaf { length: present, .. } if present <= length => self.write(cell, leaf, writes),
            Content::Leaf { .. } | Content::Ask => {}
            Content::Block(number) => {
                let first = first_cell(number);
                for child in first..first + INDEX_BLOCK {
                    self.put(child, length, leaf, writes);
                }
            }
        }
    }

    /// The first cell of the block below; a leaf becomes a block of leaves like it. `None`: there is no room.
    fn descend(&mut self, cell: u32, writes: &mut Vec<Write>) -> Option<u32> {
        let leaf = match self.content(cell) {
            Content::Block(number) => return Some(first_cell(number)),
            Content::Ask => return None,
            leaf @ Content::Leaf { .. } => leaf,
        };
        let Some(number) = self.allocate() else {
            self.write(cell, Content::Ask, writes);
            return None;
        };
        let first = first_cell(number);
        for child in first..first + INDEX_BLOCK {
            self.write(child, leaf, writes);
        }
        // Only when its cells are written does anybody come to it.
        self.write(cell, Content::Block(number), writes);
        Some(first)
    }

    /// A block whose cells are all one leaf again is given back.
    fn collapse(&mut self, cell: u32, first: u32, writes: &mut Vec<Write>) {
        let leaf = self.content(first);
        let uniform = matches!(leaf, Content::Leaf { .. })
            && (first..first + INDEX_BLOCK).all(|child| self.content(child) == leaf);
        if uniform && let Content::Block(number) = self.content(cell) {
            self.write(cell, leaf, writes);
            self.emptied.push(number);
        }
    }

    fn allocate(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        let number = self.next_block;
        (number < self.blocks).then(|| {
            self.next_block += 1;
            let empty = Content::Leaf { class: CLASS_NONE, length: NOTHING };
            self.cells.resize(first_cell(self.next_block) as usize, empty);
            number
        })
    }

    fn content(&self, cell: u32) -> Content {
        self.cells.get(cell as usize).copied().unwrap_or(Content::Ask)
    }

    fn write(&mut self, cell: u32, content: Content, writes: &mut Vec<Write>) {
        if let Some(place) = self.cells.get_mut(cell as usize) {
            let (before, after) = (place.encoded(), content.encoded());
            *place = content;
            if before != after {
                writes.push((cell, after));
            }
        }
    }
}

const fn first_cell(block: u32) -> u32 {
    INDEX_TOP + block * INDEX_BLOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The lookup as the program does it; `None` where it would ask the hash and the trie.
    fn look_up(cells: &[u32], address: Ipv4Addr) -> Option<u32> {
        let bits = address.to_bits();
        let mut cell = cells[(bits >> 16) as usize];
        for shift in [8, 0] {
            if cell & CELL_BLOCK != 0 {
                let at = INDEX_TOP + (cell & !CELL_BLOCK) * INDEX_BLOCK + (bits >> shift & 0xff);
                cell = cells[at as usize];
            }
        }
        (cell & CELL_ASK == 0).then_some(cell)
    }

    /// Addresses and prefixes that meet: few first bytes, all lengths.
    fn change() -> impl Strategy<Value = (Ipv4Addr, Option<u8>, Option<u32>)> {
        let address =
            (0..3_u8, 0..3_u8, 0..4_u8, 0..6_u8).prop_map(|(a, b, c, d)| Ipv4Addr::new(10 + a, b, c, d * 51));
        (address, proptest::option::of(0..=32_u8), proptest::option::weighted(0.7, 1..9_u32))
    }

    proptest! {
        // Each case fills an index of 65,536 cells and more.
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn the_index_says_what_longest_prefix_match_says(
            changes in proptest::collection::vec(change(), 1..60),
            blocks in prop_oneof![Just(2_u32), Just(64)],
            barriers in any::<u64>(),
        ) {
            let mut index = Index4::new(blocks);
            let mut cells = vec![0_u32; (INDEX_TOP + blocks * INDEX_BLOCK) as usize];
            for (n, (address, prefix, class)) in changes.iter().enumerate() {
                let before = cells.clone();
                let known = index.exact.contains_key(address);
                let writes = match prefix {
                    None if class.is_none() && !known => continue,
                    None => index.set_exact(*address, *class),
                    Some(length) => {
                        let net = Ipv4Net::new(*address, *length).unwrap().trunc();
                        if class.is_none() && !index.prefixes.contains_key(&net) {
                            continue;
                        }
                        index.set_prefix(net, *class)
                    }
                };
                let probes: Vec<Ipv4Addr> = changes.iter().map(|(a, ..)| *a).collect();
                let want = |address: &Ipv4Addr| {
                    index.exact.get(address).copied().unwrap_or_else(|| match index.longest(*address, 32) {
                        Content::Leaf { class, .. } => class,
                        _ => unreachable!(),
                    })
                };
                for (cell, value) in writes {
                    cells[cell as usize] = value;
                    for probe in &probes {
                        if let (Some(seen), Some(old)) = (look_up(&cells, *probe), look_up(&before, *probe)) {
                            prop_assert!(seen == old || seen == want(probe), "{} between writes: {}", probe, seen);
                        }
                    }
                }
                for probe in &probes {
                    if let Some(seen) = look_up(&cells, *probe) {
                        prop_assert_eq!(seen, want(probe), "{} after change {}", probe, n);
                    } else {
                        prop_assert!(blocks == 2, "{} is not answered though there is room", probe);
                    }
                }
                if barriers >> (n % 64) & 1 == 1 {
                    index.barrier();
                }
            }
        }
    }
}
