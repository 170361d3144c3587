//! The measured parts of `docs/performance.md`.
//!
//! Each measured part stands between two comments with its name, so that what others wrote around it, and parts
//! that were not measured this time, stay as they are:
//!
//! ```text
//!   <!-- race:begin -->
//!   ...
//!   <!-- race-tcp:begin -->
//!   ...
//!   <!-- race-tcp:end -->
//!   <!-- race:end -->
//! ```

use std::fs;

use super::network::Underlay;
use super::plan::Part;
use crate::stage::Outcome;

const FILE: &str = "docs/performance.md";

const ABOUT: &str = "## Beside the original\n\n\
    Written by `cargo xtask race --write`. Hosts are network namespaces joined by veths with an MTU of \
    1500; containers are further namespaces with an MTU of 65535, which learn what the tunnel carries \
    (`--no-fastdp`, for both). Mode \"one core per host\": packets, daemons and programs of \
    a host run on one core, where a daemon and the programs beside it get equal shares if both want it \
    (control groups). CPU time is that of all processes of all hosts of a path, from control groups; the \
    column \"counted CPU of all\" is its share of the time the whole machine was busy meanwhile, the rest \
    being interrupts on idle cores and programs outside the test. All paths of a table stand at once and \
    are measured in turn, round after round.\n\n\
    What two Wefts send each other encrypted is sealed with AES-256-GCM where both processors have \
    instructions for it. In the row \"weft sleeve secretbox\" Weft offers only the original's cipher, NaCl's \
    secretbox (`WEFT_SLEEVE_CIPHER=secretbox`): that is what a Weft sends to an original.\n\n\
    Where a table says so, packets of the MTU's size cross the cables, as through network cards: `gso`, `tso` \
    and `tx-udp-segmentation` are off and `gro` is on at both ends (`--underlay nic`). Elsewhere \
    super-packets of up to 64 KiB cross them in one piece, as veths have it. A row \"weft before\" is another \
    binary of Weft, measured in the same rounds (`--before FILE`).\n\n\
    Only ratios within one table mean something; differences \
    below 15 % do not.\n";

/// Puts a measured part into the file; `name` is that of its comments.
pub(crate) fn write(name: &str, body: &str) -> Outcome<()> {
    edit(|text| replace(text, name, body))
}

/// A part of the race and what it came to.
pub(super) struct Measured {
    pub(super) part: Part,
    pub(super) underlay: Underlay,
    pub(super) text: String,
}

/// Puts the measured parts of the race into the file.
pub(super) fn write_race(parts: &[Measured]) -> Outcome<()> {
    edit(|text| {
        let old = inside(text, "race")?.unwrap_or_default();
        replace(text, "race", &race(old, parts)?)
    })
}

fn edit(change: impl Fn(&str) -> Outcome<String>) -> Outcome<()> {
    let file = crate::tidy::workspace_root().join(FILE);
    let named = |error: std::io::Error| format!("{}: {error}", file.display());
    let text = fs::read_to_string(&file).map_err(named)?;
    fs::write(&file, change(&text)?).map_err(named)?;
    println!("written to {FILE}");
    Ok(())
}

/// What stands between the comments of the race: new parts, and old ones where there is no new one.
fn race(old: &str, parts: &[Measured]) -> Outcome<String> {
    let mut text = ABOUT.to_owned();
    let all = Part::ALL.into_iter();
    let all = all.flat_map(|part| Underlay::ALL.map(|underlay| (part, underlay)));
    for (part, underlay) in all {
        let name = match underlay {
            Underlay::Veth => format!("race-{}", part.word()),
            Underlay::Nic => format!("race-{}-nic", part.word()),
        };
        let is_new = |new: &&Measured| (new.part, new.underlay) == (part, underlay);
        let body = match parts.iter().find(is_new) {
            Some(new) => Some(new.text.as_str()),
            None => inside(old, &name)?,
        };
        if let Some(body) = body {
            text.push('\n');
            text.push_str(&block(&name, body));
        }
    }
    Ok(text)
}

/// Number of cores, processor and kernel, for a reader who compares.
pub(crate) fn machine() -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let release = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{cores} cores of {}, Linux {}",
        model.unwrap_or("an unnamed processor"),
        kernel.join(".")
    )
}

/// How the test stood to other programs of the machine, if they were not equal.
pub(crate) fn weight(weight: u64) -> String {
    match weight {
        1 => String::new(),
        more => format!(", with {more} times the share of a core that another program gets"),
    }
}

fn comments(name: &str) -> (String, String) {
    (
        format!("<!-- {name}:begin -->"),
        format!("<!-- {name}:end -->"),
    )
}

fn block(name: &str, body: &str) -> String {
    let (begin, end) = comments(name);
    format!("{begin}\n{}\n{end}\n", body.trim_matches('\n'))
}

/// Where the text between the comments begins and ends.
fn find(text: &str, name: &str) -> Outcome<Option<(usize, usize)>> {
    let (begin, end) = comments(name);
    let only = |comment: &str| {
        let mut at = text.match_indices(comment).map(|(at, _)| at);
        (at.next(), at.next().is_some())
    };
    match (only(&begin), only(&end)) {
        ((None, _), (None, _)) => Ok(None),
        ((Some(from), false), (Some(to), false)) if from < to => Ok(Some((from + begin.len(), to))),
        _ => Err(format!(
            "{FILE} must have {begin} and {end} once each, in this order"
        )),
    }
}

fn inside<'a>(text: &'a str, name: &str) -> Outcome<Option<&'a str>> {
    Ok(find(text, name)?.map(|(from, to)| &text[from..to]))
}

/// The text with a new body between the comments; both are added at the end if they are not there.
fn replace(text: &str, name: &str, body: &str) -> Outcome<String> {
    Ok(match find(text, name)? {
        Some((from, to)) => format!(
            "{}\n{}\n{}",
            &text[..from],
            body.trim_matches('\n'),
            &text[to..]
        ),
        None => format!("{}\n\n{}", text.trim_end_matches('\n'), block(name, body)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# Performance\n\nby hand\n\n<!-- race:begin -->\nold\n<!-- race:end -->\n\nmore\n";

    #[test]
    fn only_what_stands_between_the_comments_is_replaced() {
        let text = replace(TEXT, "race", "new\n").unwrap();
        assert_eq!(text, TEXT.replace("old", "new"));
        assert_eq!(replace(&text, "race", "new").unwrap(), text);
    }

    #[test]
    fn a_new_part_is_added_at_the_end() {
        let text = replace(TEXT, "profile", "where it goes").unwrap();
        let added = "more\n\n<!-- profile:begin -->\nwhere it goes\n<!-- profile:end -->\n";
        assert_eq!(text, TEXT.replace("more\n", added));
    }

    #[test]
    fn the_introduction_tells_which_row_has_which_cipher() {
        let text = race("", &[]).unwrap();
        assert!(
            text.contains("AES-256-GCM where both processors have"),
            "{text}"
        );
        for name in ["weft sleeve secretbox", "`WEFT_SLEEVE_CIPHER=secretbox`"] {
            assert_eq!(text.matches(name).count(), 1, "{text}");
        }
    }

    #[test]
    fn comments_that_do_not_match_are_refused() {
        for text in [
            "<!-- race:begin -->\n",
            "<!-- race:end -->\n<!-- race:begin -->\n",
            "<!-- race:begin -->\n<!-- race:begin -->\n<!-- race:end -->\n",
        ] {
            let error = replace(text, "race", "new").unwrap_err();
            assert!(error.contains("race:begin"), "{error}");
        }
    }

    #[test]
    fn parts_that_were_not_measured_stay() {
        let measured = |part, underlay, text: &str| Measured {
            part,
            underlay,
            text: text.to_owned(),
        };
        let tcp = measured(Part::Tcp, Underlay::Veth, "tcp one");
        let cards = measured(Part::Tcp, Underlay::Nic, "tcp over cards");
        let relay = measured(Part::Relay, Underlay::Veth, "relay one");
        let first = race("", &[relay, cards, tcp]).unwrap();
        let relay = measured(Part::Relay, Underlay::Veth, "relay two");
        let second = race(&first, &[relay]).unwrap();
        assert!(second.contains("tcp one") && second.contains("relay two"));
        assert!(second.contains("tcp over cards"));
        assert!(!second.contains("relay one"));
        assert!(first.find("tcp one") < first.find("tcp over cards"));
        assert!(first.find("tcp over cards") < first.find("relay one"));
        assert_eq!(second.matches("## Beside the original").count(), 1);
    }
}
