//! What the mesh wants done, in the order in which it came up.

use std::collections::VecDeque;

use wire::LinkId;

use crate::MeshOutput;

/// Sends to one link queued behind each other are joined up to about this many bytes.
const JOINED_BYTES: usize = 64 << 10;

/// Outputs the shell has not taken.
#[derive(Default)]
pub(super) struct Outputs {
    queue: VecDeque<MeshOutput>,
}

impl Outputs {
    pub(super) fn push(&mut self, output: MeshOutput) {
        self.queue.push_back(output);
    }

    /// Bytes for a link, together with those right before them.
    pub(super) fn push_bytes(&mut self, link: LinkId, bytes: Vec<u8>) {
        if let Some(MeshOutput::Send {
            link: last,
            bytes: queued,
        }) = self.queue.back_mut()
            && *last == link
            && queued.len() < JOINED_BYTES
        {
            queued.extend(bytes);
        } else {
            self.push(MeshOutput::Send { link, bytes });
        }
    }

    pub(super) fn pop(&mut self) -> Option<MeshOutput> {
        self.queue.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_one_link_right_behind_each_other_are_joined_up_to_a_bound() {
        let [a, b] = [LinkId::inbound(1), LinkId::inbound(2)];
        let mut outputs = Outputs::default();
        outputs.push_bytes(a, vec![1]);
        outputs.push_bytes(a, vec![2]);
        outputs.push_bytes(b, vec![3]);
        outputs.push_bytes(a, vec![0; JOINED_BYTES]);
        outputs.push_bytes(a, vec![4]);
        outputs.push(MeshOutput::Close { link: b });
        outputs.push_bytes(a, vec![5]);
        let mut sizes = Vec::new();
        while let Some(output) = outputs.pop() {
            if let MeshOutput::Send { link, bytes } = output {
                sizes.push((link, bytes.len()));
            }
        }
        assert_eq!(sizes, [(a, 2), (b, 1), (a, JOINED_BYTES), (a, 1), (a, 1)]);
    }
}
