//! What the mesh keeps, counted, and how much it may be: nothing a stranger or a peer does goes
//! beyond.

use super::Mesh;
use super::duplicates::SUPERSEDED_MAX;
use super::links::{FAREWELLS_MAX, INBOUND_HANDSHAKES_MAX};
use crate::gossip::{
    ALL_REMEMBERED_BYTES_MAX, REMEMBERED_BYTES_MAX, REMEMBERED_MAX, SURROGATES_MAX,
};
use crate::link::CONGESTED_BYTES;
use crate::link::outbox::{BYTES_MAX, ITEMS_MAX};
use crate::maker::{ATTEMPTS_MAX, DISCOVERED_MAX};
use crate::peers::{ADJACENCIES_MAX, PEERS_MAX};
use crate::status::Footprint;
use wire::handshake::FEATURES_BYTES_MAX;
use wire::message::{FRAME_BYTES_MAX, FRAME_PREFIX_BYTES};

/// Bytes the shell reads from a link at once, at most.
const READ_BYTES_MAX: usize = 256 << 10;

impl Mesh {
    /// Counts what is kept.
    pub fn footprint(&self) -> Footprint {
        let peers = &self.topology.peers;
        let mut footprint = Footprint {
            dials: self.dials.len(),
            discovered_targets: self.dials.maker.discovered_count(),
            peers: peers.len(),
            adjacencies: peers.adjacency_count(),
            doubts: peers.doubt_count(),
            superseded: self.superseded.len(),
            outputs: self.outputs.len(),
            ..Footprint::default()
        };
        let channels = self.gossip.channels.footprint();
        (
            footprint.surrogates,
            footprint.remembered_payloads,
            footprint.remembered_bytes,
        ) = channels;
        self.table.count(&mut footprint);
        footprint
    }

    /// The most each count may be. Held entries of connected peers come on top of the tables, up to
    /// one for each link.
    pub fn footprint_limits(&self) -> Footprint {
        let connections = match self.config.conn_limit {
            0 => usize::MAX,
            limit => limit,
        };
        // An outbound link is an attempt until its introduction is over.
        let handshakes = INBOUND_HANDSHAKES_MAX + ATTEMPTS_MAX;
        let peers = PEERS_MAX.saturating_add(connections);
        Footprint {
            links: (handshakes + FAREWELLS_MAX).saturating_add(connections),
            inbound_handshakes: INBOUND_HANDSHAKES_MAX,
            outbound_handshakes: ATTEMPTS_MAX,
            connections,
            dials: ATTEMPTS_MAX,
            // The attempts and connections of targets that are no longer wanted are kept.
            discovered_targets: (DISCOVERED_MAX + ATTEMPTS_MAX).saturating_add(connections),
            peers,
            adjacencies: ADJACENCIES_MAX.saturating_add(connections),
            doubts: peers.saturating_mul(3),
            superseded: SUPERSEDED_MAX,
            surrogates: SURROGATES_MAX,
            remembered_payloads: SURROGATES_MAX * REMEMBERED_MAX,
            remembered_bytes: ALL_REMEMBERED_BYTES_MAX + REMEMBERED_BYTES_MAX,
            handshake_bytes_max: FEATURES_BYTES_MAX + READ_BYTES_MAX,
            receive_bytes_max: FRAME_PREFIX_BYTES + FRAME_BYTES_MAX + READ_BYTES_MAX,
            outbox_items_max: ITEMS_MAX,
            outbox_bytes_max: BYTES_MAX,
            // What is relayed stops at the congestion mark; then comes one round of everything
            // that waited, and the complete topology with it.
            unflushed_bytes_max: CONGESTED_BYTES + FRAME_BYTES_MAX + 2 * BYTES_MAX,
            outputs: 0,
        }
    }
}
