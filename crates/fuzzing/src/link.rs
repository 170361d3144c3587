//! One link, both roles, both versions, in clear and sealed: a stranger's bytes cut anywhere, and
//! what an introduced peer says.

use std::time::Duration;

use wire::PeerName;

use crate::remote::{Manner, Remote, features};
use crate::shell::{Setting, Shell};

/// The other end.
const THEM: PeerName = PeerName::from_u64(0x0200_0000_0b02);
/// Its address.
const THEIR_ADDRESS: u8 = 2;

/// First byte: how the link is made. Second: how bytes are cut. Then, on a raw link, what the
/// stranger says; else records of a length byte and a message, or with bit 7 set raw bytes.
pub fn run(bytes: &[u8]) {
    let [flags, cut, rest @ ..] = bytes else {
        return;
    };
    let has = |bit: u8| flags & 1 << bit != 0;
    let setting = Setting {
        trusts: has(4),
        is_compatible: has(5),
        ..Setting::new(has(0))
    };
    let mut shell = Shell::new(setting);
    let link = if has(1) {
        shell.accept(THEIR_ADDRESS)
    } else {
        shell
            .connect(THEIR_ADDRESS)
            .expect("the operator's peers are dialled")
    };
    if has(3) {
        for piece in pieces(rest, *cut) {
            if !shell.links.contains_key(&link) {
                break;
            }
            shell.bytes(link, piece);
        }
    } else {
        let manner = Manner {
            version: if has(2) { 1 } else { 2 },
            has_password: has(0),
            dialled: has(1),
        };
        let remote = shell.introduce(link, manner, features(THEM));
        let mut remote = remote.expect("whoever knows the password is let in");
        converse(&mut shell, link, &mut remote, rest, *cut);
    }
    shell.check();
    shell.pass(Duration::from_secs(75));
    assert!(shell.links.is_empty(), "a silent link ends");
    shell.check();
    let status = shell.node.status(shell.now);
    assert_eq!(
        status.mesh.peers.len(),
        1,
        "nobody is kept whom nobody is connected to"
    );
}

fn converse(shell: &mut Shell, link: wire::LinkId, remote: &mut Remote, mut rest: &[u8], cut: u8) {
    while let Some((&length, tail)) = rest.split_first() {
        let count = usize::from(length & 0x7f).min(tail.len());
        // The last record is all that is left, so that messages may be long.
        let count = if length == 0x7f { tail.len() } else { count };
        let (content, tail) = tail.split_at(count);
        rest = tail;
        let said = if length & 0x80 != 0 {
            content.to_vec()
        } else {
            remote.seal(content)
        };
        for piece in pieces(&said, cut) {
            if !shell.links.contains_key(&link) {
                return;
            }
            shell.bytes(link, piece);
        }
        if !shell.links.contains_key(&link) {
            return;
        }
        shell.deliver(link, remote);
        remote.take_messages();
    }
}

/// Cuts bytes into pieces of varying length; 0 leaves them whole.
fn pieces(bytes: &[u8], cut: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    let mut state = u32::from(cut);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state = state
            .wrapping_mul(1_103_515_245)
            .wrapping_add(u32::from(cut));
        let length = 1 + (state >> 16) as usize % usize::from(cut).max(1);
        let length = if cut == 0 { rest.len() } else { length };
        let (piece, tail) = rest.split_at(length.min(rest.len()));
        rest = tail;
        Some(piece)
    })
}
