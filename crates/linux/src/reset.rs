//! Removing everything: what Weft made, and what the original left.
//!
//! `spec/cli-api.md` sections 9 and 10. Runs to the end whatever fails, and again as often as wanted.

use crate::attach::unguard_multicast;
use crate::attachments::find_attachments;
use crate::iptables::{self, IptablesError};
use crate::netlink::{LinkError, Netlink};
use crate::netns::run_in;
use crate::nft::{self, NftError};

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum ResetError {
    /// A link, or the list of links.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Our own firewall table.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// Rules in foreign tables.
    #[error(transparent)]
    Iptables(#[from] IptablesError),
}

/// Removes bridge, container interfaces and firewall rules of the namespace of the calling thread.
///
/// `own_links` are further links of ours, such as the TAP. Returns what could not be removed; an
/// empty list means that nothing is left.
pub fn reset(bridge: &str, own_links: &[&str]) -> Vec<ResetError> {
    let mut errors = Vec::new();
    let mut note = |error: ResetError| errors.push(error);
    // Interfaces inside containers go with their host ends; the rules beside them do not.
    for attachment in find_attachments(bridge).unwrap_or_default() {
        let inside = run_in(&attachment.netns, || {
            unguard_multicast(&attachment.interface)
        });
        if let Err(error) = inside {
            tracing::debug!(%error, "container gone before its rules were removed");
        }
    }
    match remove_links(bridge, own_links) {
        Ok(failed) => failed.into_iter().map(ResetError::Link).for_each(&mut note),
        Err(error) => note(error.into()),
    }
    match nft::remove() {
        Ok(()) => {}
        // Where the program never was, no table of ours can be.
        Err(NftError::Missing) => {}
        Err(error) => note(error.into()),
    }
    for done in [
        iptables::remove_forwarding(),
        iptables::remove_original(bridge),
    ] {
        if let Err(error) = done {
            note(error.into());
        }
    }
    errors
}

fn remove_links(bridge: &str, own_links: &[&str]) -> Result<Vec<LinkError>, LinkError> {
    let mut netlink = Netlink::open()?;
    let mut failed = Vec::new();
    for link in netlink.links()? {
        let name = link.name.as_str();
        let is_ours = name == bridge || own_links.contains(&name) || is_of_original(name);
        if is_ours && let Err(error) = netlink.delete_link(&link) {
            failed.push(error);
        }
    }
    Ok(failed)
}

/// Names only Weft and the original give (`spec/cli-api.md` section 10); veth pairs of both included.
fn is_of_original(name: &str) -> bool {
    const EXACT: [&str; 2] = ["datapath", "vxlan-6784"];
    const PREFIXES: [&str; 3] = ["vethwe", "vethwl", "vethwg"];
    EXACT.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_and_of_the_original_are_removed() {
        for name in [
            "vethwepl1234",
            "vethwe-bridge",
            "vethwl123",
            "vethwebl1",
            "datapath",
        ] {
            assert!(is_of_original(name), "{name}");
        }
        for name in ["veth0", "eth0", "docker0", "vxlan0", "vethabc", "weave1"] {
            assert!(!is_of_original(name), "{name}");
        }
    }
}
