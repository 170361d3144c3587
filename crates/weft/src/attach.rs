//! Verbs about this host's containers and addresses: attach, detach, claim, expose, hide, ps.

use api::v1::{
    Addresses, AttachRequest, Attachment, ClaimRequest, DetachRequest, ExposeRequest, HideRequest,
    Target,
};

use crate::args::{
    AttachArgs, ClaimArgs, DetachArgs, ExposeArgs, HideArgs, JsonFlag, PsArgs, TargetFlags,
};
use crate::client::Client;
use crate::failure::{Failure, Outcome};
use crate::mistake::Mistake;
use crate::output::{print, print_json};

pub(crate) fn attach(client: &Client, args: AttachArgs) -> Outcome {
    if args.names.rewrite_hosts || !args.names.add_host.is_empty() {
        let program = client.program;
        let message = format!("{program}: rewriting hosts files is not enabled");
        return Err(Failure::exit(1, message));
    }
    let (target, addresses) = target_and_addresses(&args.target, args.words)?;
    let request = AttachRequest {
        target,
        addresses,
        multicast: !args.no_multicast_route,
        wait: args.wait.wait,
    };
    finish(&args.json, &client.post_json("/v1/attach", &request)?)
}

pub(crate) fn detach(client: &Client, args: DetachArgs) -> Outcome {
    let (target, addresses) = target_and_addresses(&args.target, args.words)?;
    let request = DetachRequest { target, addresses };
    finish(&args.json, &client.post_json("/v1/detach", &request)?)
}

pub(crate) fn claim(client: &Client, args: ClaimArgs) -> Outcome {
    let (target, addresses) = target_and_addresses(&args.target, args.words)?;
    if addresses.is_empty() {
        return Err(Mistake::Missing("address".to_owned()).into());
    }
    let request = ClaimRequest {
        target,
        addresses,
        wait: args.wait.wait,
    };
    finish(&args.json, &client.post_json("/v1/claim", &request)?)
}

pub(crate) fn expose(client: &Client, args: ExposeArgs) -> Outcome {
    if args.hostname.is_some() {
        let message = format!("{}: names are not enabled", client.program);
        return Err(Failure::exit(1, message));
    }
    let request = ExposeRequest {
        addresses: args.addresses,
        masquerade: !args.without_masquerade,
        wait: args.wait.wait,
    };
    finish(&args.json, &client.post_json("/v1/expose", &request)?)
}

pub(crate) fn hide(client: &Client, args: HideArgs) -> Outcome {
    let request = HideRequest {
        addresses: args.addresses,
    };
    finish(&args.json, &client.post_json("/v1/hide", &request)?)
}

pub(crate) fn ps(client: &Client, args: &PsArgs) -> Outcome {
    let containers = args
        .containers
        .iter()
        .map(|text| ("container", text.clone()));
    let namespaces = args.netns.iter().map(|text| ("netns", absolute(text)));
    let processes = args.pid.iter().map(|pid| ("pid", pid.to_string()));
    let wanted: Vec<(&str, String)> = containers.chain(namespaces).chain(processes).collect();
    let query = api::client::encode_form(wanted.iter().map(|(kind, text)| (*kind, text.as_str())));
    let listed: Vec<Attachment> = client.get_json(&format!("/v1/ps?{query}"))?;
    if args.json.json {
        return print_json(&listed);
    }
    print(&listed.iter().map(line).collect::<String>())
}

/// `id mac address…`; an empty line for what is not attached.
fn line(attachment: &Attachment) -> String {
    if attachment.mac.is_empty() {
        return "\n".to_owned();
    }
    let mut words = vec![attachment.id.clone(), attachment.mac.clone()];
    words.extend(attachment.addresses.iter().cloned());
    words.join(" ") + "\n"
}

/// Without `--netns` or `--pid` the last word is a container.
fn target_and_addresses(
    flags: &TargetFlags,
    mut words: Vec<String>,
) -> Result<(Target, Vec<String>), Mistake> {
    let target = match (&flags.netns, flags.pid) {
        (Some(text), _) => Target::Netns(absolute(text)),
        (None, Some(pid)) => Target::Pid(pid),
        (None, None) => match words.pop() {
            Some(last) if !is_address(&last) => Target::Container(last),
            _ => return Err(Mistake::Missing("container".to_owned())),
        },
    };
    Ok((target, words))
}

fn is_address(text: &str) -> bool {
    text.contains('/') || text.starts_with("net:") || text.starts_with("ip:")
}

/// Names stay names; paths become absolute, since the daemon has its own working directory.
fn absolute(text: &str) -> String {
    if !text.contains('/') {
        return text.to_owned();
    }
    match std::path::absolute(text) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => text.to_owned(),
    }
}

/// Prints the addresses without their prefix lengths, as the original does.
fn finish(form: &JsonFlag, answer: &Addresses) -> Outcome {
    for warning in &answer.warnings {
        eprintln!("WARNING: {warning}");
    }
    if form.json {
        return print_json(answer);
    }
    let bare: Vec<&str> = answer
        .addresses
        .iter()
        .map(|text| text.split('/').next().unwrap_or(text))
        .collect();
    print(&format!("{}\n", bare.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Verb;
    use crate::args::parse::{Invocation, parse};
    use crate::program::Program;

    fn split(line: &[&str]) -> Result<(Target, Vec<String>), Mistake> {
        let line = [&["detach"], line].concat();
        let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        match parse(Program::Weft, &line, &|_| None) {
            Ok(Invocation {
                verb: Verb::Detach(args),
                ..
            }) => target_and_addresses(&args.target, args.words),
            Ok(_) => panic!("another verb"),
            Err(wrong) => Err(wrong.mistake),
        }
    }

    #[test]
    fn the_last_word_is_the_container() {
        let (target, addresses) = split(&["10.2.1.1/24", "web"]).expect("valid");
        assert_eq!(target, Target::Container("web".into()));
        assert_eq!(addresses, ["10.2.1.1/24"]);
        for words in [&["10.2.1.1/24"][..], &[]] {
            let mistake = split(words).expect_err("no container");
            assert_eq!(mistake, Mistake::Missing("container".into()));
        }
    }

    #[test]
    fn namespaces_and_processes_leave_all_words_to_addresses() {
        let (target, addresses) = split(&["--netns", "c1", "10.2.1.1/24"]).expect("valid");
        assert_eq!(target, Target::Netns("c1".into()));
        assert_eq!(addresses, ["10.2.1.1/24"]);
        let (target, _) = split(&["10.2.1.1/24", "--pid", "7"]).expect("valid");
        assert_eq!(target, Target::Pid(7));
        let mistake = split(&["--pid", "x"]).expect_err("no number");
        assert!(matches!(mistake, Mistake::Number { .. }), "{mistake:?}");
        let mistake = split(&["--pid", "7", "--netns", "c1"]).expect_err("two");
        assert!(matches!(mistake, Mistake::Conflict(_)), "{mistake:?}");
    }

    #[test]
    fn lines_of_ps_are_id_mac_and_addresses() {
        let mut attachment = Attachment {
            id: "abc".into(),
            name: None,
            mac: "02:00:00:00:00:01".into(),
            addresses: vec!["10.2.1.1/24".into(), "10.2.2.1/24".into()],
        };
        assert_eq!(
            line(&attachment),
            "abc 02:00:00:00:00:01 10.2.1.1/24 10.2.2.1/24\n"
        );
        attachment.mac.clear();
        assert_eq!(line(&attachment), "\n");
    }
}
