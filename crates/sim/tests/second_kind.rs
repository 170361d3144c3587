//! A second kind of tunnel in the simulator, which knows none by name.

use std::time::Duration;

use overlay::kind::Kind;
use sim::come_to_rest;
use sim::plan::{Fault, PathMtu, Plan, Setting};
use sim::world::{World, mac};

/// Too narrow for the second kind, which does not search for less.
const NARROW: PathMtu = PathMtu {
    bytes: 1000,
    truthful: false,
};
/// Longer than it goes without a heartbeat before it is on hold.
const HOLD: Duration = Duration::from_secs(75);
/// Longer than between two of its heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(11);

/// Two sites with these kinds, come to rest.
fn pair(tunnels: [&[Kind]; 2]) -> World {
    let mut plan = Plan::undisturbed(2);
    for (site, tunnels) in plan.sites.iter_mut().zip(tunnels) {
        site.tunnels = tunnels.to_vec();
    }
    let setting = Setting {
        seed: 1,
        peers: None,
        events: None,
        hostile: false,
    };
    let mut world = World::new(&plan, setting, None);
    come_to_rest(&mut world, &plan).expect("two sites find each other");
    world
}

/// What carries traffic at each site, and why.
fn tunnels(world: &World) -> Vec<(&'static str, String)> {
    let nodes = world.hosts.iter().filter_map(|host| host.node.as_ref());
    let statuses = nodes.map(|node| node.status(world.instant()));
    let all = statuses.flat_map(|status| status.tunnels);
    all.map(|tunnel| (tunnel.name, tunnel.reason.to_string()))
        .collect()
}

fn both(name: &'static str, reason: &str) -> Vec<(&'static str, String)> {
    vec![(name, reason.to_owned()); 2]
}

/// Sends a frame each way and sees them arrive once.
fn exchange_frames(world: &mut World) {
    world.delivered.clear();
    for site in 0..2 {
        world.send_frame(site, mac(1 - site), site as u64);
    }
    let soon = world.now() + Duration::from_secs(1);
    world.run_until(soon).expect("no rule is broken");
    let arrived = world.delivered.iter().map(|(key, count)| (*key, *count));
    let arrived: Vec<_> = arrived.collect();
    assert_eq!(arrived, [((0, 1), 1), ((1, 0), 1)]);
}

fn run_for(world: &mut World, duration: Duration) {
    let end = world.now() + duration;
    world.run_until(end).expect("no rule is broken");
}

#[test]
fn a_second_kind_that_both_sites_have_carries_their_frames() {
    let kinds: &[Kind] = &[Kind::Trial, Kind::Sleeve];
    let mut world = pair([kinds, kinds]);
    assert_eq!(tunnels(&world), both("trial", "preferred"));
    exchange_frames(&mut world);
}

#[test]
fn a_path_too_narrow_for_it_puts_it_on_hold_until_the_path_is_wide_again() {
    let kinds: &[Kind] = &[Kind::Trial, Kind::Sleeve];
    let mut world = pair([kinds, kinds]);
    world.befall(&Fault::ShrinkPath(0, 1, NARROW)).unwrap();
    run_for(&mut world, HOLD);
    assert_eq!(tunnels(&world), both("sleeve", "trial-on-hold"));
    exchange_frames(&mut world);
    // However long it takes.
    run_for(&mut world, Duration::from_secs(24 * 3600));
    assert_eq!(tunnels(&world), both("sleeve", "trial-on-hold"));
    world
        .befall(&Fault::ShrinkPath(0, 1, PathMtu::FULL))
        .unwrap();
    run_for(&mut world, HEARTBEAT);
    assert_eq!(tunnels(&world), both("trial", "preferred"));
    exchange_frames(&mut world);
}

#[test]
fn a_site_without_it_is_reached_by_what_both_have() {
    let mut world = pair([&[Kind::Trial, Kind::Sleeve], &[Kind::Sleeve]]);
    assert_eq!(tunnels(&world), both("sleeve", "only-common"));
    exchange_frames(&mut world);
}
