//! The way to rest: once nothing is lost any more and everybody sees everybody, everything that was
//! asked is answered, nothing stays contested, all rings agree, and everybody can be given another
//! address while there is one.

use std::rc::Rc;

use super::check::{check, held_count};
use super::scene::{HOSTS, PEERS, Scene, Wish};
use super::world::{Action, Fate, World};

/// Rounds of timers after which rest must have come. A claim is refused after six of them.
const ROUNDS: usize = 12;
/// Messages one round of timers may cause.
const MESSAGES_MAX: usize = 2000;

/// Tries it twice: what is in flight arrives, or all of it is lost.
pub fn heal(world: &World, scene: &Scene) -> Result<(), String> {
    for is_lost in [false, true] {
        let mut world = world.clone();
        if is_lost {
            world.queue.clear();
        }
        let how = if is_lost { "lost" } else { "arrived" };
        rest(&mut world, scene).map_err(|what| format!("after all in flight {how}: {what}"))?;
    }
    Ok(())
}

fn rest(world: &mut World, scene: &Scene) -> Result<(), String> {
    if let Some((a, b)) = world.cut {
        world.act(scene, &Action::Join(a, b), 0)?;
    }
    calm(world, scene)?;
    take_over(world, scene)?;
    check(world, scene)?;
    for (wish, fate) in world.fates.iter().enumerate() {
        if *fate == Fate::Waits {
            let peer = scene.wishes[wish].peer(scene);
            return Err(format!(
                "wish {wish} waits forever: {}",
                summary(world, peer)
            ));
        }
    }
    agree(world)?;
    probe(world, scene)
}

/// What a peer that is gone for good had is taken over, as an operator would.
fn take_over(world: &mut World, scene: &Scene) -> Result<(), String> {
    for wish in 0..scene.wishes.len() {
        if matches!(scene.wishes[wish], Wish::TakeOver { .. }) && world.can_ask(scene, wish) {
            world.act(scene, &Action::Ask(wish), 0)?;
            calm(world, scene)?;
        }
    }
    Ok(())
}

/// Everything arrives, timers fire, and that again.
pub fn calm(world: &mut World, scene: &Scene) -> Result<(), String> {
    deliver_all(world, scene)?;
    for round in 0..ROUNDS {
        let before = world.digest();
        for peer in 0..PEERS {
            if !world.peers[peer].is_gone() {
                world.act(scene, &Action::Timer(peer), u8::from(round % 2 == 1))?;
            }
        }
        deliver_all(world, scene)?;
        if world.digest() == before {
            break;
        }
    }
    Ok(())
}

fn deliver_all(world: &mut World, scene: &Scene) -> Result<(), String> {
    for _ in 0..MESSAGES_MAX {
        let Some(message) = world.queue.first() else {
            return Ok(());
        };
        let message = Rc::clone(message);
        if world.sees(message.from, message.to) {
            world.act(scene, &Action::Deliver(message), 0)?;
        } else {
            world.queue.remove(0);
        }
    }
    Err("messages never end".to_owned())
}

/// All rings tell the same owners and nothing is disputed.
fn agree(world: &World) -> Result<(), String> {
    let mut first = None;
    for peer in &world.peers {
        let Some(ipam) = &peer.ipam else { continue };
        let status = ipam.status();
        if !status.contested.is_empty() || !status.unconfirmed.is_empty() {
            let (contested, unconfirmed) = (status.contested, status.unconfirmed);
            return Err(format!(
                "still disputed at {}: {contested:?}, unconfirmed {unconfirmed:?}",
                peer.number
            ));
        }
        let entries = status.entries.unwrap_or_default();
        let owners: Vec<_> = entries
            .iter()
            .map(|entry| (entry.token, entry.peer))
            .collect();
        let first = first.get_or_insert_with(|| owners.clone());
        if *first != owners {
            return Err(format!(
                "rings differ: {first:?} and, at {}, {owners:?}",
                peer.number
            ));
        }
    }
    Ok(())
}

/// Everybody who stays is given one more address, if there is one.
fn probe(world: &mut World, scene: &Scene) -> Result<(), String> {
    for at in 0..PEERS {
        if world.peers[at].is_gone() || world.has_left(scene, at) || held_count(world)? >= HOSTS {
            continue;
        }
        let before = held_count(world)?;
        world.with(scene, at, 0, |peer, sent| peer.probe(sent))?;
        calm(world, scene)?;
        check(world, scene)?;
        if held_count(world)? == before {
            return Err(format!(
                "peer {at} is given nothing: {}",
                summary(world, at)
            ));
        }
    }
    Ok(())
}

fn summary(world: &World, peer: usize) -> String {
    let ipam = world.peers[peer].ipam.as_ref();
    ipam.map_or_else(|| "gone".to_owned(), |ipam| ipam.status().phase.to_string())
}
