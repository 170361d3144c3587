//! What a mesh wants done or known, in the order it comes out.

use std::net::SocketAddr;
use std::sync::Arc;

use wire::handshake::Features;
use wire::message::{Delivery, OverlayControl};
use wire::{LinkId, PeerName};

/// What the overlay needs to know about a connection (spec/mesh.md 3.5 step 6).
#[derive(Clone)]
pub struct Connection {
    /// The link that controls it.
    pub link: LinkId,
    /// The other end.
    pub remote: PeerName,
    /// For log lines: the other end's nickname.
    pub remote_nickname: String,
    /// TCP addresses.
    pub local_address: SocketAddr,
    /// TCP addresses.
    pub remote_address: SocketAddr,
    /// XOR of both connection ids.
    pub uid: u64,
    /// Key for the data plane; `None` without a password or when mutually trusted.
    pub data_key: Option<Arc<nacl::SessionKey>>,
    /// Whether the TCP link itself is encrypted.
    pub link_encrypted: bool,
    /// What the other end announced.
    pub features: Features,
}

/// What the shell (through `Node`) must do or know, in this order.
pub enum MeshOutput {
    /// Open a TCP connection; answer with `handle_link_connected` or `handle_dial_failed`.
    Dial {
        /// Number of the new link.
        link: LinkId,
        /// Where to.
        remote: SocketAddr,
    },
    /// Write bytes to a link; answer with `handle_link_flushed` once all queued bytes are written.
    Send {
        /// The link.
        link: LinkId,
        /// Bytes in wire form.
        bytes: Vec<u8>,
    },
    /// Close a link at once (linger 0), discarding what is queued. No further input may name it.
    Close {
        /// The link.
        link: LinkId,
    },
    /// A connection was added to our peer entry: prepare and confirm its overlay.
    ConnectionAdded(Box<Connection>),
    /// A connection was removed; drop its overlay.
    ConnectionRemoved {
        /// Its link.
        link: LinkId,
    },
    /// A control message for the overlay of a connection.
    OverlayControl {
        /// Its link.
        link: LinkId,
        /// The message.
        control: OverlayControl,
    },
    /// Gossip for a registered channel other than `topology`.
    Gossip {
        /// The link it came by; name it in `connection_failed` if the payload is malformed.
        link: LinkId,
        /// Channel name.
        channel: String,
        /// How it came.
        delivery: Delivery,
        /// Payload.
        payload: Vec<u8>,
    },
    /// The complete state of a registered channel is to be sent: answer with
    /// `provide_channel_state`.
    ChannelStateWanted {
        /// Channel name.
        channel: String,
    },
    /// Routes were recalculated; read `unicast_established` and
    /// `broadcast_established`.
    RoutesChanged,
    /// A short id got another owner, its first or none; read `short_ids`.
    ShortIdsChanged,
    /// Peers were garbage collected.
    PeersRemoved(Vec<PeerName>),
    /// The direct peers changed; persist them.
    DirectPeersChanged(Vec<String>),
}
