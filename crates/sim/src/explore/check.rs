//! Rules that hold in every state: no address has two holders or two owners, and none that was
//! given out is lost.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipam::address::Range;

use super::peer::{Peer, ident};
use super::scene::{PEERS, Scene, Wish, name, universe};
use super::world::{Fate, World};

/// Checks them.
pub fn check(world: &World, scene: &Scene) -> Result<(), String> {
    one_holder(world)?;
    one_owner(world)?;
    nothing_lost(world, scene)
}

fn one_holder(world: &World) -> Result<(), String> {
    let mut holders: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
    for peer in &world.peers {
        for address in peer.held()?.into_keys() {
            if let Some(other) = holders.insert(address, peer.number) {
                return Err(format!(
                    "{address} is held at {other} and at {}",
                    peer.number
                ));
            }
        }
    }
    Ok(())
}

/// What a peer may give out of: what is its own by its ring and neither contested nor unconfirmed.
fn usable(peer: &Peer) -> Vec<u32> {
    let Some(ipam) = &peer.ipam else {
        return Vec::new();
    };
    let status = ipam.status();
    let blocked = status.contested.iter().map(|contest| contest.range);
    let blocked: Vec<Range> = blocked.chain(status.unconfirmed).collect();
    let entries = status.entries.unwrap_or_default();
    let ours = entries
        .iter()
        .filter(|entry| entry.peer == name(peer.number));
    let ours = ours.flat_map(|entry| entry.token..entry.token + entry.size);
    ours.filter(|&address| !blocked.iter().any(|range| range.contains(address)))
        .collect()
}

fn one_owner(world: &World) -> Result<(), String> {
    let mut owners: BTreeMap<u32, usize> = BTreeMap::new();
    for peer in &world.peers {
        for address in usable(peer) {
            if let Some(other) = owners.insert(address, peer.number) {
                let address = Ipv4Addr::from_bits(address);
                return Err(format!(
                    "{address} belongs to {other} and to {}",
                    peer.number
                ));
            }
        }
    }
    Ok(())
}

/// What was granted and not given back is still held, by whom it was granted to.
fn nothing_lost(world: &World, scene: &Scene) -> Result<(), String> {
    for (wish, fate) in world.fates.iter().enumerate() {
        let Fate::Granted(cidr) = fate else { continue };
        let cidr = match scene.wishes[wish] {
            Wish::Allocate { .. } => *cidr,
            Wish::Claim { host, .. } => Some(universe().cidr(universe().base() + host)),
            Wish::Free { .. }
            | Wish::Leave { .. }
            | Wish::TakeOver { .. }
            | Wish::Perish { .. } => {
                continue;
            }
        };
        let peer = scene.wishes[wish].peer(scene);
        if was_given_up(world, scene, wish, peer) {
            continue;
        }
        let address = cidr
            .ok_or_else(|| format!("wish {wish} was granted nothing"))?
            .address;
        let holder = world.peers[peer].held()?.remove(&address);
        let told = format!("\"{}\"", ident(wish));
        if !holder.as_ref().is_some_and(|row| row.contains(&told)) {
            return Err(format!(
                "{address} of wish {wish} is lost: {holder:?} holds it"
            ));
        }
    }
    Ok(())
}

/// Whether somebody asked for it to be given back, or its peer to go.
fn was_given_up(world: &World, scene: &Scene, wish: usize, peer: usize) -> bool {
    scene.wishes.iter().enumerate().any(|(other, wished)| {
        let is_meant = match *wished {
            Wish::Free { wish: of } => of == wish,
            Wish::Leave { peer: of } | Wish::Perish { peer: of } => of == peer,
            Wish::Allocate { .. } | Wish::Claim { .. } | Wish::TakeOver { .. } => false,
        };
        is_meant && world.fates[other] != Fate::Open
    })
}

/// Addresses held anywhere.
pub fn held_count(world: &World) -> Result<usize, String> {
    (0..PEERS)
        .map(|peer| Ok(world.peers[peer].held()?.len()))
        .sum()
}
