//! Verbs about this host's containers and addresses: attach, detach, claim, expose, hide, ps.

use api::v1::{
    Addresses, AttachRequest, Attachment, ClaimRequest, DetachRequest, ExposeRequest, HideRequest,
    Target,
};

use crate::client::{get_json, post_json};
use crate::flags::{self, Flag, Parsed, switch, value};
use crate::verbs::{print, print_json};
use crate::{Failure, Outcome};

/// Flags that name a namespace instead of a container.
pub(crate) const TARGET_FLAGS: &[Flag] = &[
    value(
        "netns",
        "NAME|PATH",
        "a network namespace instead of a container",
    ),
    value(
        "pid",
        "N",
        "the namespace of a process instead of a container",
    ),
    switch("json", "print JSON"),
];
/// Waits as long as it takes.
const WAIT: Flag = switch(
    "wait",
    "wait for an address as long as it takes, instead of 5 seconds",
);
/// Further flags of `claim`.
pub(crate) const CLAIM_FLAGS: &[Flag] = &[WAIT];
/// Further flags of `attach`.
pub(crate) const ATTACH_FLAGS: &[Flag] = &[
    WAIT,
    switch(
        "no-multicast-route",
        "do not route multicast into the network",
    ),
    switch("without-dns", ""),
    switch("rewrite-hosts", ""),
    value("add-host", "NAME:ADDRESS", ""),
];
/// Flags of `expose`.
pub(crate) const EXPOSE_FLAGS: &[Flag] = &[
    WAIT,
    switch(
        "without-masquerade",
        "keep addresses of containers that talk to the outside",
    ),
    switch("json", "print JSON"),
    value("h", "NAME", ""),
];
/// Flags of `hide`.
pub(crate) const HIDE_FLAGS: &[Flag] = &[switch("json", "print JSON")];

pub(crate) fn attach(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, &[TARGET_FLAGS, ATTACH_FLAGS].concat())?;
    if parsed.is_on("rewrite-hosts") || parsed.last("add-host").is_some() {
        return Err(Failure::exit(
            1,
            format!("{program}: rewriting hosts files is not enabled"),
        ));
    }
    let (target, addresses) = target_and_addresses(&parsed)?;
    let multicast = !parsed.is_on("no-multicast-route");
    let request = AttachRequest {
        target,
        addresses,
        multicast,
        wait: parsed.is_on("wait"),
    };
    finish(&parsed, &post_json(program, "/v1/attach", &request)?)
}

pub(crate) fn detach(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, TARGET_FLAGS)?;
    let (target, addresses) = target_and_addresses(&parsed)?;
    finish(
        &parsed,
        &post_json(program, "/v1/detach", &DetachRequest { target, addresses })?,
    )
}

pub(crate) fn claim(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, &[TARGET_FLAGS, CLAIM_FLAGS].concat())?;
    let (target, addresses) = target_and_addresses(&parsed)?;
    if addresses.is_empty() {
        return Err(Failure::Usage("no address given".to_owned()));
    }
    let request = ClaimRequest {
        target,
        addresses,
        wait: parsed.is_on("wait"),
    };
    finish(&parsed, &post_json(program, "/v1/claim", &request)?)
}

pub(crate) fn expose(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, EXPOSE_FLAGS)?;
    if parsed.last("h").is_some() {
        return Err(Failure::exit(
            1,
            format!("{program}: names are not enabled"),
        ));
    }
    let masquerade = !parsed.is_on("without-masquerade");
    let request = ExposeRequest {
        addresses: parsed.words.clone(),
        masquerade,
        wait: parsed.is_on("wait"),
    };
    finish(&parsed, &post_json(program, "/v1/expose", &request)?)
}

pub(crate) fn hide(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, HIDE_FLAGS)?;
    let request = HideRequest {
        addresses: parsed.words.clone(),
    };
    finish(&parsed, &post_json(program, "/v1/hide", &request)?)
}

pub(crate) fn ps(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, TARGET_FLAGS)?;
    let containers = parsed.words.iter().map(|text| ("container", text.clone()));
    let namespaces = parsed
        .all("netns")
        .into_iter()
        .map(|text| ("netns", absolute(&text)));
    let processes = parsed.all("pid").into_iter().map(|text| ("pid", text));
    let wanted: Vec<(&str, String)> = containers.chain(namespaces).chain(processes).collect();
    let query = api::client::encode_form(wanted.iter().map(|(kind, text)| (*kind, text.as_str())));
    let listed: Vec<Attachment> = get_json(program, &format!("/v1/ps?{query}"))?;
    if parsed.is_on("json") {
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
fn target_and_addresses(parsed: &Parsed) -> Result<(Target, Vec<String>), Failure> {
    let mut addresses = parsed.words.clone();
    let target = match (parsed.last("netns"), parsed.last("pid")) {
        (Some(_), Some(_)) => {
            return Err(Failure::Usage(
                "--netns and --pid exclude each other".to_owned(),
            ));
        }
        (Some(text), None) => Target::Netns(absolute(text)),
        (None, Some(text)) => Target::Pid(
            text.parse()
                .map_err(|_| Failure::Usage(format!("invalid process id {text:?}")))?,
        ),
        (None, None) => match addresses.pop() {
            Some(last) if !is_address(&last) => Target::Container(last),
            _ => return Err(Failure::Usage("no container given".to_owned())),
        },
    };
    Ok((target, addresses))
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
fn finish(parsed: &Parsed, answer: &Addresses) -> Outcome {
    for warning in &answer.warnings {
        eprintln!("WARNING: {warning}");
    }
    if parsed.is_on("json") {
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

    fn split(words: &[&str]) -> Result<(Target, Vec<String>), Failure> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        target_and_addresses(&flags::parse(&words, TARGET_FLAGS).expect("valid flags"))
    }

    #[test]
    fn the_last_word_is_the_container() {
        let (target, addresses) = split(&["10.2.1.1/24", "web"]).expect("valid");
        assert_eq!(target, Target::Container("web".into()));
        assert_eq!(addresses, ["10.2.1.1/24"]);
        assert!(split(&["10.2.1.1/24"]).is_err());
        assert!(split(&[]).is_err());
    }

    #[test]
    fn namespaces_and_processes_leave_all_words_to_addresses() {
        let (target, addresses) = split(&["--netns", "c1", "10.2.1.1/24"]).expect("valid");
        assert_eq!(target, Target::Netns("c1".into()));
        assert_eq!(addresses, ["10.2.1.1/24"]);
        let (target, _) = split(&["10.2.1.1/24", "--pid", "7"]).expect("valid");
        assert_eq!(target, Target::Pid(7));
        assert!(split(&["--pid", "x"]).is_err());
        assert!(split(&["--pid", "7", "--netns", "c1"]).is_err());
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
