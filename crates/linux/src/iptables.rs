//! Rules in firewall tables that are not ours, through `iptables`; as few as possible.
//!
//! Docker and some distributions let the `FORWARD` chain drop what nobody accepts, and where bridged
//! frames pass `iptables` that includes traffic between containers on our bridge. A table of our own
//! cannot overrule that. So where, and only where, forwarding is closed, a few rules marked with
//! the comment `weft` open it for the bridge. The other job here is removing what the original left.

use std::io;
use std::process::Output;

use crate::addr::Cidr;
use crate::nft::program;

/// Why foreign tables could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// The program could not be run.
    #[error("{program}: {source}")]
    Io {
        /// Which of the two programs.
        program: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program refused.
    #[error("{program} {arguments}: {message}")]
    Refused {
        /// Which of the two programs.
        program: &'static str,
        /// What it was asked.
        arguments: String,
        /// What it said.
        message: String,
    },
}

/// Opens the `FORWARD` chain for the bridge where it is closed; `true` if it had to be opened.
///
/// `exposed` are the subnets that other hosts may reach through this one. Without `iptables` there is
/// nothing to open. Removes rules of an earlier call that no longer apply.
pub fn ensure_forwarding(bridge: &str, exposed: &[Cidr]) -> Result<bool, IptablesError> {
    let mut opened = false;
    for program in programs() {
        let Some(listing) = list(program, "filter", Some("FORWARD"))? else {
            continue;
        };
        let wanted = if is_closed(&listing) {
            forward_rules(bridge, exposed)
        } else {
            Vec::new()
        };
        let present = marked(&listing);
        opened |= !wanted.is_empty();
        if present == wanted {
            continue;
        }
        for rule in &present {
            call(program, "filter", "-D", &["FORWARD"], rule)?;
        }
        for rule in wanted.iter().rev() {
            call(program, "filter", "-I", &["FORWARD", "1"], rule)?;
        }
    }
    Ok(opened)
}

/// Removes the rules [`ensure_forwarding`] made.
pub fn remove_forwarding() -> Result<(), IptablesError> {
    for program in programs() {
        let Some(listing) = list(program, "filter", Some("FORWARD"))? else {
            continue;
        };
        for rule in marked(&listing) {
            call(program, "filter", "-D", &["FORWARD"], &rule)?;
        }
    }
    Ok(())
}

/// Removes chains and rules the original made (`spec/cli-api.md` section 9).
pub fn remove_original(bridge: &str) -> Result<(), IptablesError> {
    for program in programs() {
        for table in ["filter", "nat", "mangle"] {
            let Some(listing) = list(program, table, None)? else {
                continue;
            };
            for (chain, rule) in original_rules(&listing, bridge) {
                call(program, table, "-D", &[chain.as_str()], &rule)?;
            }
            // Chains may jump to each other: empty all before deleting any.
            let chains = original_chains(&listing);
            for flag in ["-F", "-X"] {
                for chain in &chains {
                    call(program, table, flag, &[chain.as_str()], &[])?;
                }
            }
        }
    }
    Ok(())
}

type Rule = Vec<String>;

fn forward_rules(bridge: &str, exposed: &[Cidr]) -> Vec<Rule> {
    let mut subnets: Vec<_> = exposed
        .iter()
        .map(Cidr::network)
        .filter(|s| s.addr().is_ipv4())
        .collect();
    subnets.sort();
    subnets.dedup();
    let mut rules = vec![format!("-i {bridge} -o {bridge} {MARK} -j ACCEPT")];
    rules.extend(
        subnets
            .iter()
            .map(|s| format!("-d {s} -o {bridge} {MARK} -j ACCEPT")),
    );
    rules.push(format!("-i {bridge} ! -o {bridge} {MARK} -j ACCEPT"));
    let answers = "-m conntrack --ctstate RELATED,ESTABLISHED";
    rules.push(format!("-o {bridge} {answers} {MARK} -j ACCEPT"));
    rules.iter().map(|r| words(r)).collect()
}

/// Whether what no rule accepts is dropped, by policy or by a last rule for everything.
fn is_closed(listing: &str) -> bool {
    listing.lines().any(|line| {
        line == "-P FORWARD DROP"
            || line.starts_with("-A FORWARD -j REJECT")
            || line == "-A FORWARD -j DROP"
    })
}

fn marked(listing: &str) -> Vec<Rule> {
    let rules = listing.lines().filter_map(rule_of).filter(|(chain, rule)| {
        chain == "FORWARD" && rule.windows(2).any(|w| w == ["--comment", "weft"])
    });
    rules.map(|(_, rule)| rule).collect()
}

/// The original's rules in chains that are not its own: jumps to its chains, and the exact forms of
/// the others, so that a rule a user wrote for the same bridge stays.
fn original_rules(listing: &str, bridge: &str) -> Vec<(String, Rule)> {
    let exact = [
        format!("-i docker0 -o {bridge} -j DROP"),
        format!("-i {bridge} -o {bridge} -j ACCEPT"),
        format!("-i {bridge} ! -o {bridge} -j ACCEPT"),
        format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        format!("-o {bridge} -j DROP"),
        "-i docker0 -p udp -m udp --dport 53 -j ACCEPT".to_owned(),
        "-i docker0 -p tcp -m tcp --dport 53 -j ACCEPT".to_owned(),
    ];
    let is_original = |rule: &Rule| {
        let says = |flag: &str, value: &str| rule.windows(2).any(|w| w == [flag, value]);
        let jumps = |w: &[String]| w[0] == "-j" && w[1].starts_with("WEAVE");
        let closes_port = says("-i", "docker0")
            && (says("--dport", "6783") || says("--dport", "6784"))
            && says("-j", "DROP");
        rule.windows(2).any(jumps)
            || exact.contains(&rule.join(" "))
            || says(
                "--comment",
                "Block non-local access to Weave Net control port",
            )
            || closes_port
    };
    let rules = listing.lines().filter_map(rule_of);
    rules
        .filter(|(chain, rule)| !chain.starts_with("WEAVE") && is_original(rule))
        .collect()
}

fn original_chains(listing: &str) -> Vec<String> {
    let named = |l: &str| {
        l.strip_prefix("-N ")
            .filter(|c| c.starts_with("WEAVE"))
            .map(str::to_owned)
    };
    listing.lines().filter_map(named).collect()
}

fn rule_of(line: &str) -> Option<(String, Rule)> {
    let mut words = words(line.strip_prefix("-A ")?);
    (words.len() > 1).then(|| (words.remove(0), words))
}

/// Splits a line as a shell would, as far as `iptables -S` quotes: double quotes and backslashes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut characters = line.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => (quoted, begun) = (!quoted, true),
            '\\' if quoted => word.extend(characters.next()),
            ' ' if !quoted => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            c => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// `iptables`, and its older form where that has tables in use; asking it otherwise makes some.
fn programs() -> Vec<&'static str> {
    let legacy = std::fs::read_to_string("/proc/thread-self/net/ip_tables_names");
    let has_legacy = legacy.is_ok_and(|names| names.lines().any(|n| n == "filter"));
    if has_legacy {
        vec!["iptables", "iptables-legacy"]
    } else {
        vec!["iptables"]
    }
}

/// The rules of a table or chain; `None` without the program.
fn list(
    program: &'static str,
    table: &str,
    chain: Option<&str>,
) -> Result<Option<String>, IptablesError> {
    let mut arguments = vec!["-w", "5", "-t", table, "-S"];
    arguments.extend(chain);
    match run(program, &arguments) {
        Ok(output) => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(IptablesError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn call(
    program: &'static str,
    table: &str,
    flag: &str,
    place: &[&str],
    rule: &[String],
) -> Result<(), IptablesError> {
    let mut arguments = vec!["-w", "5", "-t", table, flag];
    arguments.extend(place);
    arguments.extend(rule.iter().map(String::as_str));
    run(program, &arguments).map(drop)
}

fn run(name: &'static str, arguments: &[&str]) -> Result<Output, IptablesError> {
    let output = program(name).args(arguments).output();
    let output = output.map_err(|source| IptablesError::Io {
        program: name,
        source,
    })?;
    if output.status.success() {
        return Ok(output);
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let message = text.lines().next().unwrap_or("refused").trim().to_owned();
    Err(IptablesError::Refused {
        program: name,
        arguments: arguments.join(" "),
        message,
    })
}

const MARK: &str = "-m comment --comment weft";

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER: &str = "-P FORWARD DROP\n-A FORWARD -j DOCKER-USER\n";

    #[test]
    fn an_open_chain_is_told_from_a_closed_one() {
        assert!(is_closed(DOCKER));
        assert!(is_closed(
            "-P FORWARD ACCEPT\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited"
        ));
        assert!(!is_closed(
            "-P FORWARD ACCEPT\n-A FORWARD -i docker0 -o weave -j DROP\n"
        ));
    }

    #[test]
    fn our_own_rules_are_recognised_as_listed() {
        let rules = forward_rules("weave", &["10.2.1.7/24".parse().unwrap()]);
        let lines: Vec<_> = rules
            .iter()
            .map(|r| format!("-A FORWARD {}\n", r.join(" ")))
            .collect();
        let listing = format!("{DOCKER}{}", lines.concat().replace(" weft ", " \"weft\" "));
        assert_eq!(marked(&listing), rules);
        assert_eq!(rules.len(), 4);
    }

    #[test]
    fn words_are_split_as_the_listing_quotes_them() {
        assert_eq!(
            words(r#"-A X --comment "a \"b\" c" -j Y"#),
            ["-A", "X", "--comment", "a \"b\" c", "-j", "Y"]
        );
        assert_eq!(words(r#"  "" a  "#), ["", "a"]);
    }

    #[test]
    fn the_originals_rules_are_found_and_others_left() {
        let listing = include_str!("../testdata/original_filter.txt");
        let rules = original_rules(listing, "weave");
        assert_eq!(rules.len(), 8, "{rules:?}");
        assert!(
            rules
                .iter()
                .all(|(_, rule)| !rule.join(" ").contains("keep"))
        );
        assert_eq!(original_chains(listing), ["WEAVE-CANARY", "WEAVE-EXPOSE"]);
    }
}
