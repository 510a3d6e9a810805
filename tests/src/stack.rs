//! How deep the stack of the programs is: read off the object, because the kernel tells it only where it is too deep. The
//! verifier counts the same: the lowest address below the frame pointer that a function uses, and the sum along a chain of calls.

use std::collections::BTreeMap;

use anyhow::Context as _;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex, SymbolKind,
};

/// Bytes of an instruction, and those of its fields that matter (include/uapi/linux/bpf.h): operation, the two registers
/// (destination in the lower half), offset, immediate.
const INSTRUCTION: usize = 8;
const CALL: u8 = 0x85;
const PSEUDO_CALL: u8 = 1;
const FRAME_POINTER: u8 = 10;
/// `r = r10` and `r += immediate`.
const MOVE_64: u8 = 0xbf;
const ADD_64: u8 = 0x07;
const CLASS: u8 = 0x07;
const CLASS_LDX: u8 = 0x01;
const CLASS_ST: u8 = 0x02;
const CLASS_STX: u8 = 0x03;

/// Where a function lies: section and offset.
type Place = (usize, u64);

#[derive(Debug)]
struct Function {
    frame: u32,
    calls: Vec<Place>,
}

/// The stack frames of an object's functions.
#[derive(Debug)]
pub struct Frames {
    functions: BTreeMap<Place, Function>,
    names: BTreeMap<String, Place>,
}

/// The stack of one program, in bytes.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Depth {
    pub own: u32,
    /// With the deepest chain of calls.
    pub deepest: u32,
}

impl Frames {
    pub fn read(object: &[u8]) -> anyhow::Result<Self> {
        let file = object::File::parse(object)?;
        let (mut functions, mut names) = (BTreeMap::new(), BTreeMap::new());
        for symbol in file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.size() > 0) {
            let section = symbol.section_index().context("a function without a section")?;
            let place = (section.0, symbol.address());
            names.insert(symbol.name()?.to_owned(), place);
            functions.insert(place, function(&file, section, symbol.address(), symbol.size())?);
        }
        Ok(Self { functions, names })
    }

    pub fn depth(&self, program: &str) -> anyhow::Result<Depth> {
        let place = self.names.get(program).with_context(|| format!("the object has no {program}"))?;
        let own = self.functions.get(place).map_or(0, |function| function.frame);
        Ok(Depth { own, deepest: self.deepest(*place)? })
    }

    fn deepest(&self, place: Place) -> anyhow::Result<u32> {
        let function = self.functions.get(&place).context("a call that leads to no function")?;
        let mut below = 0;
        // The kernel allows no recursion: this ends.
        for call in &function.calls {
            below = below.max(self.deepest(*call)?);
        }
        Ok(function.frame + below)
    }
}

fn function(
    file: &object::File<'_>,
    section: SectionIndex,
    start: u64,
    size: u64,
) -> anyhow::Result<Function> {
    let part = file.section_by_index(section)?;
    let code = part.data_range(start, size)?.context("a function beyond its section")?;
    let relocations: BTreeMap<u64, object::Relocation> = part.relocations().collect();
    let mut result = Function { frame: 0, calls: Vec::new() };
    // Registers that hold the frame pointer, until they are moved below it.
    let mut copies = 0_u16;
    for (at, bytes) in (start..).step_by(INSTRUCTION).zip(code.chunks_exact(INSTRUCTION)) {
        let &[operation, registers, o0, o1, i0, i1, i2, i3] = bytes else { continue };
        let (destination, source) = (registers & 0xf, registers >> 4);
        let (offset, immediate) = (i16::from_le_bytes([o0, o1]), i32::from_le_bytes([i0, i1, i2, i3]));
        let base = match operation & CLASS {
            CLASS_LDX => Some(source),
            CLASS_ST | CLASS_STX => Some(destination),
            _ => None,
        };
        let below = match operation {
            ADD_64 if copies >> destination & 1 == 1 => immediate,
            _ if base == Some(FRAME_POINTER) => offset.into(),
            _ => 0,
        };
        result.frame = result.frame.max(below.min(0).unsigned_abs());
        if operation == MOVE_64 && source == FRAME_POINTER {
            copies |= 1 << destination;
        } else if base.is_none() {
            copies &= !(1 << destination);
        }
        if operation == CALL && source == PSEUDO_CALL {
            result.calls.push(match relocations.get(&at).map(object::Relocation::target) {
                Some(RelocationTarget::Symbol(index)) => called(file, index, immediate)?,
                Some(target) => anyhow::bail!("a call to {target:?}"),
                // Within the section: in instructions from the next one.
                None => (section.0, at.wrapping_add_signed((i64::from(immediate) + 1) * INSTRUCTION as i64)),
            });
        }
    }
    Ok(result)
}

/// A symbol, or a place in a section that is named by the section's own symbol.
fn called(file: &object::File<'_>, index: object::SymbolIndex, immediate: i32) -> anyhow::Result<Place> {
    let symbol = file.symbol_by_index(index)?;
    let section = symbol.section_index().context("a call to what is not here")?;
    let within = if symbol.kind() == SymbolKind::Section {
        (i64::from(immediate) + 1) * INSTRUCTION as i64
    } else {
        0
    };
    Ok((section.0, symbol.address().wrapping_add_signed(within)))
}
