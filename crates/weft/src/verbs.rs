//! Verbs that only ask the daemon: connect, forget, prime, rmpeer, status, report, version.

use crate::args::{ConnectArgs, PeersArgs, ReportArgs, Section, StatusArgs, VersionArgs};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::mistake::Mistake;
use crate::output::{print, print_json};

/// What a daemon answers that is about to end; nothing is worth waiting for then.
const STOPPING: &str = "the daemon is stopping";

pub(crate) fn connect(client: &Client, args: &ConnectArgs) -> Outcome {
    if args.peers.is_empty() && !args.replace {
        return Err(Mistake::Missing("peer".to_owned()).into());
    }
    let mut fields = peer_fields(&args.peers);
    if args.replace {
        fields.push(("replace", "true"));
    }
    print(&client.post_form("/connect", &fields)?)
}

pub(crate) fn forget(client: &Client, args: &PeersArgs) -> Outcome {
    print(&client.post_form("/forget", &peer_fields(&args.peers))?)
}

fn peer_fields(peers: &[String]) -> Vec<(&str, &str)> {
    peers.iter().map(|peer| ("peer", peer.as_str())).collect()
}

/// Waits until there is a ring, and tells on the standard error what it waits for.
pub(crate) fn prime(client: &Client) -> Outcome {
    let mut told = String::new();
    loop {
        // The daemon answers within five seconds.
        let answer = client.exchange("GET", "/ring", None, None)?;
        match answer.status {
            200..=299 => return Ok(()),
            404 => return Err(client.not_found()),
            503 if answer.body.contains(STOPPING) => return Err(Failure::exit(1, answer.body)),
            503 => {
                let reason = answer.body.trim_end();
                if reason != told {
                    eprintln!("waiting: {reason}");
                    reason.clone_into(&mut told);
                }
            }
            _ => return Err(Failure::exit(1, answer.body)),
        }
    }
}

/// Takes over the ranges of peers that are gone, one after the other; fails if one failed.
pub(crate) fn rmpeer(client: &Client, args: &PeersArgs) -> Outcome {
    let mut outcome = Ok(());
    for peer in &args.peers {
        let path = format!("/peer/{}", api::client::encode_segment(peer));
        match client.call("DELETE", &path, None, None) {
            Ok(taken) => print(&taken)?,
            // Nobody else will answer either.
            Err(Failure::Exit { code, message }) if code == client.codes.unreachable => {
                return Err(Failure::exit(code, message));
            }
            Err(failure) => {
                let message = failure.to_string();
                if !message.is_empty() {
                    eprintln!("{}", message.trim_end());
                }
                outcome = Err(Failure::exit(1, ""));
            }
        }
    }
    outcome
}

pub(crate) fn status(client: &Client, args: &StatusArgs) -> Outcome {
    let path = match args.section {
        None => "/status",
        Some(Section::Targets) => "/status/targets",
        Some(Section::Connections) => "/status/connections",
        Some(Section::Peers) => "/status/peers",
        Some(Section::Ipam) => "/status/ipam",
        Some(Section::Dns) => {
            return Err(Failure::exit(
                client.codes.not_found,
                "names are not enabled",
            ));
        }
    };
    if args.json.json {
        return status_json(client, args.section);
    }
    let text = client.get(path)?;
    match args.section {
        None => print(&format!("\n{text}\n")),
        Some(_) => print(&text),
    }
}

fn status_json(client: &Client, section: Option<Section>) -> Outcome {
    let status: api::v1::Status = client.get_json("/v1/status")?;
    match (section, &status.ipam) {
        (None, _) => print_json(&status),
        (Some(Section::Targets), _) => print_json(&status.targets),
        (Some(Section::Connections), _) => print_json(&status.connections),
        (Some(Section::Peers), _) => print_json(&status.peers),
        (Some(Section::Ipam), Some(ipam)) => print_json(ipam),
        (Some(Section::Ipam | Section::Dns), _) => Err(client.not_found()),
    }
}

pub(crate) fn report(client: &Client, args: &ReportArgs) -> Outcome {
    let text = match &args.format {
        Some(template) => {
            let query = api::client::encode_form([("format", template.as_str())]);
            client.get(&format!("/report?{query}"))?
        }
        None => client.call("GET", "/report", Some("application/json"), None)?,
    };
    print(&text)
}

/// The version of the daemon, or of this program when none runs.
pub(crate) fn version(client: &Client, args: &VersionArgs) -> Outcome {
    let program = client.program;
    let own = env!("CARGO_PKG_VERSION");
    let running = client.get("/report?format=%7B%7B.Version%7D%7D").ok();
    if args.json.json {
        let value = serde_json::json!({ "program": own, "daemon": running });
        return print_json(&value);
    }
    match running {
        Some(version) if version != own => print(&format!(
            "{program} command line {own}\n{program} {version}\n"
        )),
        _ => print(&format!("{program} {own}\n")),
    }
}
