//! Who to hand things to on their way to others (spec/mesh.md 12).
//!
//! Two graphs over the peer table, each with a unicast table and broadcast trees computed from it:
//! the established and symmetric one for the data plane, the one over all connections for gossip.

use std::collections::BTreeMap;

use wire::PeerName;

use crate::peers::{Peer, PeerTable};

/// Which connections count as edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edges {
    /// P lists Q, in any state: gossip.
    All,
    /// P lists Q as established and Q lists P as established: the data plane.
    EstablishedSymmetric,
}

/// Routes over one kind of edges, as the topology was when they were calculated.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Ascending, so that an index orders like a name.
    names: Vec<PeerName>,
    us: usize,
    /// Neighbours of each peer, ascending.
    neighbours: Vec<Vec<usize>>,
    unicast: BTreeMap<PeerName, PeerName>,
}

impl Routes {
    /// Calculates routes.
    pub(crate) fn calculate(peers: &PeerTable, edges: Edges) -> Self {
        let names: Vec<PeerName> = peers.names().collect();
        let neighbours = peers
            .iter()
            .map(|(name, peer)| neighbours(peers, &names, name, peer, edges))
            .collect();
        let us = names
            .binary_search(&peers.us())
            .expect("we are in our own table");
        let mut routes = Self {
            names,
            us,
            neighbours,
            unicast: BTreeMap::new(),
        };
        routes.unicast = routes.find_unicast();
        routes
    }

    /// Destination to next hop; ourselves map to the unknown name.
    pub(crate) fn unicast(&self) -> &BTreeMap<PeerName, PeerName> {
        &self.unicast
    }

    /// The neighbours that get a copy of what `origin` broadcasts.
    pub(crate) fn broadcast(&self, origin: PeerName) -> Vec<PeerName> {
        let Ok(origin) = self.names.binary_search(&origin) else {
            return Vec::new();
        };
        let Some(found) = self.found_before_us(origin) else {
            return Vec::new();
        };
        let ours = self.neighbours[self.us].iter();
        ours.filter(|neighbour| !found[**neighbour])
            .map(|n| self.names[*n])
            .collect()
    }

    /// Breadth first from ourselves: level by level, ascending within a level, first finder wins.
    fn find_unicast(&self) -> BTreeMap<PeerName, PeerName> {
        let mut next_hops: Vec<Option<PeerName>> = vec![None; self.names.len()];
        next_hops[self.us] = Some(PeerName::UNKNOWN);
        let mut level = vec![self.us];
        while !level.is_empty() {
            let mut next_level = Vec::new();
            for peer in level {
                for neighbour in self.neighbours[peer].iter().copied() {
                    if next_hops[neighbour].is_none() {
                        let is_our_neighbour = peer == self.us;
                        next_hops[neighbour] = if is_our_neighbour {
                            Some(self.names[neighbour])
                        } else {
                            next_hops[peer]
                        };
                        next_level.push(neighbour);
                    }
                }
            }
            next_level.sort_unstable();
            level = next_level;
        }
        let found = self.names.iter().zip(next_hops);
        found
            .filter_map(|(name, hop)| Some((*name, hop?)))
            .collect()
    }

    /// The same search from `origin`, stopped just before it gets to us: who had been found by then.
    /// `None` if it never gets to us.
    fn found_before_us(&self, origin: usize) -> Option<Vec<bool>> {
        let mut found = vec![false; self.names.len()];
        found[origin] = true;
        let mut level = vec![origin];
        while !level.is_empty() {
            let mut next_level = Vec::new();
            for peer in level {
                if peer == self.us {
                    return Some(found);
                }
                for neighbour in self.neighbours[peer].iter().copied() {
                    if !std::mem::replace(&mut found[neighbour], true) {
                        next_level.push(neighbour);
                    }
                }
            }
            next_level.sort_unstable();
            level = next_level;
        }
        None
    }
}

fn neighbours(
    peers: &PeerTable,
    names: &[PeerName],
    name: PeerName,
    peer: &Peer,
    edges: Edges,
) -> Vec<usize> {
    let counts = |remote: PeerName, established: bool| match edges {
        Edges::All => true,
        Edges::EstablishedSymmetric => {
            let back = peers
                .get(remote)
                .and_then(|remote| remote.adjacencies.get(&name));
            established && back.is_some_and(|back| back.established)
        }
    };
    peer.adjacencies
        .iter()
        .filter(|(remote, adjacency)| counts(**remote, adjacency.established))
        .filter_map(|(remote, _)| names.binary_search(remote).ok())
        .collect()
}

#[cfg(test)]
mod tests;
