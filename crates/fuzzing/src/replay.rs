//! The replay window against the set it stands for.

use std::collections::BTreeSet;

use arbitrary::{Result, Unstructured};
use overlay::frame::replay::{HALF_WINDOW, ReplayWindow};

/// Numbers of one input.
const NUMBERS_MAX: usize = 400;
/// Top bit of the counter field: which of two sequence spaces.
const DF_BIT: u64 = 1 << 63;

/// A number is taken the first time it comes, unless it is older than the half-window below the
/// newest.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut window = ReplayWindow::new();
    let mut models = [Model::default(), Model::default()];
    let mut last = 0;
    for _ in 0..NUMBERS_MAX {
        let Ok(field) = next(&mut input, last) else {
            return;
        };
        last = field & !DF_BIT;
        let model = &mut models[usize::from(field & DF_BIT != 0)];
        assert_eq!(window.accept(field), model.accept(last), "{field:#x}");
    }
}

/// Mostly near the one before, sometimes half-windows away or anywhere.
fn next(input: &mut Unstructured<'_>, last: u64) -> Result<u64> {
    if input.is_empty() {
        return Err(arbitrary::Error::NotEnoughData);
    }
    let kind: u8 = input.arbitrary()?;
    let space = u64::from(kind & 1) << 63;
    let number = match kind >> 1 & 7 {
        0 => input.arbitrary()?,
        1 => last.wrapping_add(HALF_WINDOW),
        2 => last.wrapping_sub(HALF_WINDOW),
        3 => last.wrapping_add(input.arbitrary::<u32>()?.into()),
        4 => last.wrapping_sub(input.arbitrary::<u32>()?.into()),
        5 => last.wrapping_add(input.arbitrary::<u8>()?.into()),
        6 => last.wrapping_sub(input.arbitrary::<u8>()?.into()),
        _ => last,
    };
    Ok(space | number & !DF_BIT)
}

/// One sequence space as the specification describes it (spec/sleeve.md 3.1).
#[derive(Default)]
struct Model {
    seen: BTreeSet<u64>,
    newest: u64,
}

impl Model {
    fn accept(&mut self, number: u64) -> bool {
        self.newest = self.newest.max(number);
        let window = self.newest / HALF_WINDOW;
        let is_too_old = number / HALF_WINDOW + 1 < window;
        !is_too_old && self.seen.insert(number)
    }
}
