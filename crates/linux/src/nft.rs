//! Firewall text and the one way to load it.
//!
//! Everything Weft filters or translates is in tables of its own, each replaced as a whole by one
//! transaction of `nft -f -`. Rendering is pure and tested by its text; `nft(8)` gives the language.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Output, Stdio};

use crate::addr::Cidr;

/// Everything the host's own table should contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRules {
    /// Name of the bridge.
    pub bridge: String,
    /// TCP port of the control API on 127.0.0.1, protected against routed packets.
    pub control_port: u16,
    /// Docker's own bridge, if there is one: its containers must not reach the router's ports or the
    /// container network through the host.
    pub docker: Option<DockerBridge>,
    /// The subnets the host is exposed to.
    pub exposed: Vec<Exposed>,
}

/// The bridge Docker made, as seen by the firewall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerBridge {
    /// Interface name.
    pub name: String,
    /// The host's address on it.
    pub address: Ipv4Addr,
    /// The router port; UDP of the next one is closed as well.
    pub router_port: u16,
}

/// An address of the host on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Exposed {
    /// The host's address and its subnet.
    pub cidr: Cidr,
    /// Whether traffic between the subnet and elsewhere takes the host's address.
    pub masquerade: bool,
}

/// Why firewall text could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The `nft` program is not installed.
    #[error("nft is not installed; install the nftables package")]
    Missing,
    /// The program could not be run.
    #[error("nft: {0}")]
    Io(#[source] io::Error),
    /// The program refused the text.
    #[error("nft: {0}")]
    Refused(String),
}

impl HostRules {
    /// The transaction that makes the host's table contain exactly these rules.
    pub fn render(&self) -> String {
        let mut text = replacing(HOST_TABLE);
        self.render_input(&mut text);
        self.render_forward(&mut text);
        self.render_postrouting(&mut text);
        text.push_str("}\n");
        text
    }

    fn render_input(&self, text: &mut String) {
        open_chain(
            text,
            "input",
            "type filter hook input priority 0; policy accept;",
        );
        rule(
            text,
            format_args!(
                // Not `ct state`: any use of it would have the kernel track every packet of this
                // host, tunnels and bridged frames included.
                "ip daddr 127.0.0.1 tcp dport {} fib saddr type != local \
                 tcp flags & (syn | ack) == syn drop \
                 comment \"block non-local access to the control port\"",
                self.control_port
            ),
        );
        if let Some(DockerBridge {
            name,
            address,
            router_port,
        }) = &self.docker
        {
            let from = format!("iifname \"{name}\" ip daddr {address}");
            rule(text, format_args!("{from} tcp dport {router_port} drop"));
            let next = router_port.saturating_add(1);
            rule(
                text,
                format_args!("{from} udp dport {{ {router_port}, {next} }} drop"),
            );
        }
        close_chain(text);
    }

    fn render_forward(&self, text: &mut String) {
        let Some(docker) = &self.docker else { return };
        open_chain(
            text,
            "forward",
            "type filter hook forward priority 0; policy accept;",
        );
        let (from, to) = (&docker.name, &self.bridge);
        rule(
            text,
            format_args!("iifname \"{from}\" oifname \"{to}\" drop"),
        );
        close_chain(text);
    }

    /// Addresses of one subnet share its rules: they stay until the last address is hidden.
    fn render_postrouting(&self, text: &mut String) {
        let mut subnets = BTreeMap::new();
        for exposed in &self.exposed {
            *subnets.entry(exposed.cidr.network()).or_insert(false) |= exposed.masquerade;
        }
        subnets.retain(|_, masquerade| *masquerade);
        if subnets.is_empty() {
            return;
        }
        open_chain(
            text,
            "postrouting",
            "type nat hook postrouting priority 100; policy accept;",
        );
        for subnet in subnets.into_keys() {
            let (family, multicast) = match subnet.addr() {
                IpAddr::V4(_) => ("ip", "224.0.0.0/4"),
                IpAddr::V6(_) => ("ip6", "ff00::/8"),
            };
            rule(
                text,
                format_args!("{family} saddr {subnet} {family} daddr {multicast} return"),
            );
            rule(
                text,
                format_args!("{family} daddr {subnet} {family} saddr != {subnet} masquerade"),
            );
            rule(
                text,
                format_args!("{family} saddr {subnet} {family} daddr != {subnet} masquerade"),
            );
        }
        close_chain(text);
    }
}

/// Loads the host's rules and returns the kernel's listing of them, for [`is_intact`].
pub fn apply(rules: &HostRules) -> Result<String, NftError> {
    load(&rules.render())?;
    list()
}

/// Whether the host's table still is what [`apply`] returned.
///
/// Someone who flushes all rules removes it; the caller then applies the rules again.
pub fn is_intact(listing: &str) -> Result<bool, NftError> {
    match list() {
        Ok(current) => Ok(current == listing),
        Err(NftError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the host's table; not an error if it is gone.
pub fn remove() -> Result<(), NftError> {
    load(&removing(HOST_TABLE))
}

fn list() -> Result<String, NftError> {
    let args = ["list", "table", "inet", "weft"];
    let output = run(&args, "")?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(refused(&output))
    }
}

/// Rules of a container's namespace: multicast is accepted from its own subnets only, so that
/// subnets stay isolated on the shared switch.
pub(crate) fn render_multicast_guard(interface: &str, subnets: &BTreeSet<Cidr>) -> String {
    let mut text = replacing(&guard_table(interface));
    open_chain(
        &mut text,
        "input",
        "type filter hook input priority 0; policy accept;",
    );
    for subnet in subnets.iter().filter(|s| s.addr().is_ipv4()) {
        rule(
            &mut text,
            format_args!("iifname \"{interface}\" ip saddr {subnet} ip daddr 224.0.0.0/4 accept"),
        );
    }
    rule(
        &mut text,
        format_args!("iifname \"{interface}\" ip daddr 224.0.0.0/4 drop"),
    );
    close_chain(&mut text);
    text.push_str("}\n");
    text
}

/// The transaction that removes what [`render_multicast_guard`] made.
pub(crate) fn remove_multicast_guard(interface: &str) -> String {
    removing(&guard_table(interface))
}

/// Table names are identifiers; an interface name may hold any byte, so others are written in hex.
fn guard_table(interface: &str) -> String {
    let mut name = "ip weft_".to_owned();
    for byte in interface.bytes() {
        if byte.is_ascii_alphanumeric() {
            name.push(char::from(byte));
        } else {
            write!(name, "_{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    name
}

/// Runs one transaction in the network namespace of the calling thread.
pub(crate) fn load(script: &str) -> Result<(), NftError> {
    let output = run(&["-f", "-"], script)?;
    if output.status.success() {
        Ok(())
    } else {
        Err(refused(&output))
    }
}

fn run(args: &[&str], input: &str) -> Result<Output, NftError> {
    let started = program("nft").args(args).stdin(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            NftError::Missing
        } else {
            NftError::Io(error)
        }
    })?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(NftError::Io)?;
    // A program that stopped reading says why; that is the better error.
    if output.status.success() {
        written.map_err(NftError::Io)?;
    }
    Ok(output)
}

fn refused(output: &Output) -> NftError {
    let text = String::from_utf8_lossy(&output.stderr);
    NftError::Refused(
        text.lines()
            .next()
            .unwrap_or("refused the rules")
            .trim()
            .to_owned(),
    )
}

/// A firewall program with a clean environment: what we were started with may hold a passphrase.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(name);
    let own = std::env::var("PATH").unwrap_or_default();
    let path = if own.is_empty() {
        PROGRAM_PATH.to_owned()
    } else {
        format!("{own}:{PROGRAM_PATH}")
    };
    command.env_clear().env("PATH", path).env("LC_ALL", "C");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Adding before deleting makes the deletion succeed whether or not the table exists.
fn removing(table: &str) -> String {
    format!("add table {table}\ndelete table {table}\n")
}

fn replacing(table: &str) -> String {
    format!("{}table {table} {{\n", removing(table))
}

fn open_chain(text: &mut String, name: &str, head: &str) {
    writeln!(text, "\tchain {name} {{\n\t\t{head}").expect("writing to a string cannot fail");
}

fn rule(text: &mut String, rule: std::fmt::Arguments<'_>) {
    writeln!(text, "\t\t{rule}").expect("writing to a string cannot fail");
}

fn close_chain(text: &mut String) {
    text.push_str("\t}\n");
}

const HOST_TABLE: &str = "inet weft";
/// Where firewall programs are, for a daemon that was started with a shorter path.
const PROGRAM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    fn exposed(cidr: &str, masquerade: bool) -> Exposed {
        Exposed {
            cidr: cidr.parse().unwrap(),
            masquerade,
        }
    }

    fn rules(docker: Option<DockerBridge>, exposed: Vec<Exposed>) -> HostRules {
        HostRules {
            bridge: "weave".to_owned(),
            control_port: 6784,
            docker,
            exposed,
        }
    }

    #[test]
    fn host_rules_render_to_the_golden_text() {
        let docker = DockerBridge {
            name: "docker0".to_owned(),
            address: [172, 17, 0, 1].into(),
            router_port: 6783,
        };
        let subnets = vec![
            exposed("10.2.1.5/24", true),
            exposed("10.2.1.6/24", false),
            exposed("10.2.2.5/24", false),
            exposed("fd00::1/64", true),
        ];
        let text = rules(Some(docker), subnets).render();
        assert_eq!(text, include_str!("../testdata/host_rules.nft"));
    }

    #[test]
    fn without_docker_or_exposure_only_the_control_port_is_guarded() {
        let text = rules(None, vec![exposed("10.2.1.5/24", false)]).render();
        assert_eq!(text.matches("chain").count(), 1, "{text}");
        assert!(text.contains("tcp dport 6784"));
    }

    #[test]
    fn a_multicast_guard_renders_to_the_golden_text() {
        let subnets = ["10.2.2.0/24", "10.2.1.0/24", "fd00::/64"].map(|s| s.parse().unwrap());
        let text = render_multicast_guard("ethwe", &BTreeSet::from(subnets));
        assert_eq!(text, include_str!("../testdata/multicast_guard.nft"));
    }

    #[test]
    fn odd_interface_names_make_valid_table_names() {
        assert_eq!(guard_table("ethwe0"), "ip weft_ethwe0");
        assert_eq!(guard_table("a-b.c"), "ip weft_a_2db_2ec");
    }
}
