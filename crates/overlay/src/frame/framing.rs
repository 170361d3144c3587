//! The seam between batching and one kind of tunnel: what stands around frames in a datagram, and
//! what seals it. Everything else in this room is the same for all kinds.
//!
//! ```text
//! datagram   head | frame head | frame | frame head | frame | … | tail
//! ```

use std::fmt;
use std::ops::Range;

use crate::frame::ways::{Class, Envelope, NextHop, Ways};

/// How the datagrams of one tunnel are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of a datagram in front of the first frame's head.
    pub head_bytes: usize,
    /// Bytes in front of each frame.
    pub frame_head_bytes: usize,
    /// Frames in one datagram at most.
    pub frames_max: usize,
}

/// One frame of an opened datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Who it is from and for.
    pub envelope: Envelope,
    /// Where it is.
    pub frame: Range<usize>,
    /// Where the next one starts.
    pub next: usize,
}

/// What one kind of tunnel puts around frames. The value knows what names a snapshot's frame heads
/// may say; what lasts as long as a tunnel is in the tunnel.
pub trait Framing: Clone {
    /// What the datagrams of one tunnel share, in both directions and on all threads: keys, numbers
    /// handed out once, replay windows.
    type Tunnel;
    /// What a datagram says about who sent it.
    type Sender: Copy + PartialEq;
    /// What the ends of a tunnel say to each other in frames.
    type Special;
    /// What is wrong with a datagram.
    type Error: fmt::Display;

    /// How datagrams of this tunnel are laid out.
    fn layout(tunnel: &Self::Tunnel) -> Layout;

    /// Bytes behind so many bytes of frames and their heads: padding, authenticator.
    fn tail_bytes(tunnel: &Self::Tunnel, body_bytes: usize) -> usize;

    /// Writes what stands in front of a frame that is in its place already.
    fn write_frame_head(
        &self,
        tunnel: &Self::Tunnel,
        envelope: Envelope,
        head: &mut [u8],
        frame: &[u8],
    );

    /// Completes a datagram whose frames are in place: takes a number, of its own space if there is
    /// one for DF datagrams, writes head and tail, and seals. False: no number is left.
    fn seal(&self, tunnel: &Self::Tunnel, is_df: bool, datagram: &mut [u8]) -> bool;

    /// Who a datagram says it is from. `None`: too short to say.
    fn sender(datagram: &[u8]) -> Option<Self::Sender>;

    /// The neighbour that says it is this sender.
    fn hop(&self, ways: &Ways, sender: Self::Sender) -> Option<NextHop>;

    /// Opens a datagram in place; where its frames are then. `Ok(None)`: authentic, but received
    /// before.
    fn open(
        tunnel: &Self::Tunnel,
        datagram: &mut [u8],
    ) -> Result<Option<Range<usize>>, Self::Error>;

    /// The first frame of what is left of an opened datagram.
    fn first_frame(&self, body: &[u8]) -> Option<Result<Part, Self::Error>>;

    /// What a frame out of a datagram is.
    fn classify(frame: &[u8]) -> Class<Self::Special>;
}
