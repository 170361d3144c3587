//! Budgets in virtual time: how soon an undisturbed mesh is complete, and what it costs to keep.

use std::time::Duration;

use sim::check::Observer;
use sim::come_to_rest;
use sim::plan::{Plan, Setting};
use sim::world::World;

const PEERS: usize = 12;
/// Every pair connected, tunnels verified, topology agreed upon. One announcement takes a second,
/// and a heartbeat that comes too early half a second.
const REST_MAX: Duration = Duration::from_secs(5);
/// Bytes a quiet peer may send on its links, per second.
const QUIET_BYTES_MAX: u64 = 2_000;
/// Ten rounds of periodic gossip.
const QUIET: Duration = Duration::from_secs(300);

fn undisturbed() -> (World, Plan) {
    let plan = Plan::undisturbed(PEERS);
    let setting = Setting {
        seed: 1,
        peers: None,
        events: None,
        hostile: false,
    };
    (World::new(&plan, setting, None), plan)
}

#[test]
fn twelve_peers_are_a_full_mesh_within_seconds() {
    let (mut world, plan) = undisturbed();
    come_to_rest(&mut world, &plan).unwrap();
    assert!(world.now() <= REST_MAX, "{:?}", world.now());
    let links = Observer::new(&world, &plan).links().len();
    assert_eq!(links, PEERS * (PEERS - 1));
}

#[test]
fn a_quiet_mesh_sends_little() {
    let (mut world, plan) = undisturbed();
    come_to_rest(&mut world, &plan).unwrap();
    let before = world.link_bytes;
    world.run_until(world.now() + QUIET).unwrap();
    let rate = (world.link_bytes - before) / QUIET.as_secs() / PEERS as u64;
    assert!(rate <= QUIET_BYTES_MAX, "{rate} bytes per peer and second");
}
