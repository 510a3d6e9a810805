//! Where a field stands in one of the running kernel's structures, by its BTF (Documentation/bpf/btf.rst).
//!
//! Crates for this keep every type: 60 MiB for a hundred thousand types, of which two are asked for here, more than the
//! agent itself uses.

/// `btf_header.magic`.
const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Bytes of a `btf_type` and of a `btf_member`.
const TYPE: usize = 12;
const MEMBER: usize = 12;

pub(super) struct Btf<'a> {
    strings: &'a [u8],
    types: &'a [u8],
    /// Where each type begins, from number 1 on.
    places: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    members: u32,
    /// Some members are bit fields: the upper byte of their offsets is a size.
    has_sizes: bool,
    /// Where its members begin.
    at: usize,
}

impl<'a> Btf<'a> {
    /// `None` where it is no BTF, or has kinds of types that are newer than this.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        if u16::from_ne_bytes(*data.first_chunk()?) != MAGIC {
            return None;
        }
        let section = |at: usize| {
            let start = (number(data, 4)? as usize).checked_add(number(data, at)? as usize)?;
            data.get(start..start.checked_add(number(data, at + 4)? as usize)?)
        };
        let (types, strings) = (section(8)?, section(16)?);
        let mut btf = Self { strings, types, places: Vec::new() };
        let mut at = 0;
        while at < types.len() {
            btf.places.push(u32::try_from(at).ok()?);
            let found = btf.type_at(at)?;
            at = found.at.checked_add(trailer(found.kind, found.members as usize)?)?;
        }
        Some(btf)
    }

    /// In bytes from the begin of a structure, also where the field is in an unnamed part of it.
    pub(super) fn offset_of(&self, structure: &str, field: &str) -> Option<u32> {
        let named = |place: &u32| {
            let found = self.type_at(*place as usize)?;
            (found.kind == STRUCT && self.is_named(found.name, structure)).then_some(found)
        };
        let found = self.places.iter().find_map(named)?;
        let bits = self.bits_to(found, field, 0)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    fn bits_to(&self, inside: Type, field: &str, depth: u8) -> Option<u32> {
        /// No structure of the kernel is nested half as deep; broken BTF may be without end.
        const DEEPEST: u8 = 16;
        (0..inside.members as usize).find_map(|member| {
            let at = inside.at + member * MEMBER;
            let offset = number(self.types, at + 8)?;
            let offset = if inside.has_sizes { offset & 0xff_ffff } else { offset };
            let name = number(self.types, at)?;
            if self.is_named(name, field) {
                return Some(offset);
            }
            if !self.is_named(name, "") || depth == DEEPEST {
                return None;
            }
            let of = number(self.types, at + 4)?.checked_sub(1)?;
            let part = self.type_at(*self.places.get(of as usize)? as usize)?;
            let part = matches!(part.kind, STRUCT | UNION).then_some(part)?;
            self.bits_to(part, field, depth + 1)?.checked_add(offset)
        })
    }

    fn type_at(&self, at: usize) -> Option<Type> {
        let info = number(self.types, at + 4)?;
        Some(Type {
            name: number(self.types, at)?,
            kind: info >> 24 & 0x1f,
            members: info & 0xffff,
            has_sizes: info >> 31 == 1,
            at: at + TYPE,
        })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let rest = self.strings.get(name as usize..).and_then(|rest| rest.strip_prefix(wanted.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Bytes behind a `btf_type` of this kind.
const fn trailer(kind: u32, members: usize) -> Option<usize> {
    Some(match kind {
        // Pointers, forward declarations, typedefs and qualifiers, functions, floats, type tags
        2 | 7..=12 | 16 | 18 => 0,
        // Integers, variables, declaration tags
        1 | 14 | 17 => 4,
        // Arrays
        3 => 12,
        // Structures, unions, sections, enumerations of 64 bits
        STRUCT | UNION | 15 | 19 => 12 * members,
        // Enumerations, prototypes
        6 | 13 => 8 * members,
        _ => return None,
    })
}

fn number(data: &[u8], at: usize) -> Option<u32> {
    data.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { struct { int c : 3; int d; }; int e; }; }`, behind an integer and an enumeration.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0c\0d\0e\0";
        let types: [&[u32]; 5] = [
            &[1, 1 << 24, 4, 0x0100_0020],
            &[0, 6 << 24 | 1, 4, 11, 7],
            &[0, STRUCT << 24 | 1 << 31 | 2, 8, 13, 1, 3 << 24, 15, 1, 32],
            &[0, UNION << 24 | 2, 8, 0, 3, 0, 17, 1, 0],
            &[5, STRUCT << 24 | 2, 12, 11, 1, 0, 0, 4, 32],
        ];
        let types: Vec<u8> = types.concat().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let lengths = [24, 0, types.len(), types.len(), strings.len()];
        let mut data = [MAGIC.to_ne_bytes(), [1, 0]].concat();
        data.extend(lengths.iter().flat_map(|number| u32::try_from(*number).unwrap().to_ne_bytes()));
        [data, types, strings.to_vec()].concat()
    }

    #[test]
    fn fields_are_found_in_unnamed_parts_too() {
        let data = example();
        let btf = Btf::parse(&data).unwrap();
        let found = ["a", "c", "d", "e", "f", ""].map(|field| btf.offset_of("outer", field));
        assert_eq!(found, [Some(0), Some(4), Some(8), Some(4), None, Some(4)]);
        assert_eq!(btf.offset_of("int", "a"), None);
        assert_eq!(btf.offset_of("oute", "a"), None);
    }

    #[test]
    fn what_is_cut_off_or_spoilt_gives_nothing_and_no_panic() {
        let data = example();
        for length in 0..data.len() {
            if let Some(btf) = Btf::parse(&data[..length]) {
                assert_eq!(btf.offset_of("outer", "d"), None, "{length}");
            }
        }
        for at in 0..data.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut data = data.clone();
                data[at] = value;
                if let Some(btf) = Btf::parse(&data) {
                    let _ = btf.offset_of("outer", "d");
                }
            }
        }
    }

    #[test]
    fn a_structure_in_itself_has_an_end() {
        let mut data = example();
        // The union's unnamed member becomes the union.
        let at = 24 + 16 + 20 + 36 + 12 + 4;
        data[at..at + 4].copy_from_slice(&4_u32.to_ne_bytes());
        assert_eq!(Btf::parse(&data).unwrap().offset_of("outer", "d"), None);
    }
}
