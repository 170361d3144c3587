//! `status ipam`: who owns how much of the ring (spec/ipam.md 12), and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt::Write;

use api::report::{Ipam, Report};

/// One line per owner, our own first, others by name. Behind them, in Weft only, what nobody may use
/// at the moment and why. Empty while there is no ring.
pub fn ipam(report: &Report) -> String {
    let Some(ipam) = &report.ipam else {
        return String::new();
    };
    let mut text = String::new();
    for owner in owners(ipam, &report.router.name) {
        let is_us = owner.name == report.router.name;
        let remark = match (is_us, owner.is_known) {
            (true, _) => format!("({} active)", ipam.active_ips),
            (false, false) => "- unreachable!".to_owned(),
            (false, true) => String::new(),
        };
        let label = format!("{}({})", owner.name, owner.nickname);
        let percent = owner.addresses as f64 * 100.0 / ipam.range_num_ips as f64;
        let _ = writeln!(
            text,
            "{label:<37} {:>8} IPs ({percent:04.1}% of total) {remark}",
            owner.addresses
        );
    }
    troubles(&mut text, ipam);
    text
}

/// What one peer owns.
struct Owner<'a> {
    name: &'a str,
    nickname: &'a str,
    addresses: u64,
    is_known: bool,
}

/// The ring by owner: `us` first, then by name.
fn owners<'a>(ipam: &'a Ipam, us: &str) -> Vec<Owner<'a>> {
    let mut owners: BTreeMap<(bool, &str), Owner<'_>> = BTreeMap::new();
    for entry in ipam.entries.iter().flatten() {
        let name = entry.peer.as_str();
        let owner = owners.entry((name != us, name)).or_insert(Owner {
            name,
            nickname: &entry.nickname,
            addresses: 0,
            is_known: entry.is_known_peer,
        });
        owner.addresses += u64::from(entry.size);
    }
    owners.into_values().collect()
}

fn troubles(text: &mut String, ipam: &Ipam) {
    if let Some(clone) = &ipam.clone {
        let _ = writeln!(text, "{clone}");
    }
    for contest in &ipam.contested {
        let _ = writeln!(
            text,
            "contested: {}: ours says {}, {} says {}; not used until they agree",
            contest.range, contest.ours, contest.teller, contest.theirs
        );
    }
    for range in &ipam.unconfirmed {
        let _ = writeln!(
            text,
            "unconfirmed: {range}: not used until its former owner agrees or is gone"
        );
    }
    for displaced in &ipam.displaced {
        let (address, ident) = (&displaced.address, &displaced.ident);
        let _ = match &displaced.clash {
            Some(clash) => writeln!(text, "clash: {address} of {ident}: {clash}"),
            None => writeln!(text, "displaced: {address} of {ident}: its owner is asked"),
        };
    }
}
