//! Flags of address allocation, to its configuration (spec/ipam.md 1 and 4), and what the routes of
//! this host say about the range.

use std::time::Duration;

use anyhow::{Context, anyhow};
use daemon::config::IpamOptions;
use ipam::Init;
use ipam::address::Subnet;
use linux::addr::Cidr;
use linux::overlap;
use wire::PeerName;

use crate::args::daemon::{AddressFlags, DEFAULT_RANGE};
use crate::failure::Failure;

/// Shortest absence after which ranges may be taken over: a reboot must not count.
const RECLAIM_MIN: Duration = Duration::from_secs(10);

/// The configuration of address allocation; `None` when it is off.
pub(crate) fn options(flags: &AddressFlags) -> Result<Option<IpamOptions>, Failure> {
    let fatal = |message: String| Failure::exit(1, message);
    let default_subnet = unless_empty(&flags.ipalloc_default_subnet);
    let init = unless_empty(&flags.ipalloc_init);
    let range = flags.ipalloc_range.as_deref().unwrap_or(DEFAULT_RANGE);
    if range.is_empty() {
        let orphans = [
            (init, "--ipalloc-init"),
            (default_subnet, "--ipalloc-default-subnet"),
        ];
        if let Some((_, flag)) = orphans.iter().find(|(value, _)| value.is_some()) {
            return Err(fatal(format!("{flag} specified without --ipalloc-range.")));
        }
        return Ok(None);
    }
    let subnet = |text: &str| {
        text.parse::<Subnet>()
            .map_err(|error| fatal(error.to_string()))
    };
    let universe = subnet(range)?;
    let default_subnet = default_subnet.map_or(Ok(universe), subnet)?;
    if !default_subnet.range().overlaps(universe.range()) {
        return Err(fatal(format!(
            "IP address allocation default subnet {default_subnet} \
             does not overlap with allocation range {universe}"
        )));
    }
    let init = init_mode(init.unwrap_or("consensus"))
        .map_err(|error| fatal(format!("Unable to parse --ipalloc-init: {error}")))?;
    let reclaim_after = flags.reclaim_after.as_deref();
    let reclaim_after = reclaim_after
        .filter(|text| !matches!(*text, "" | "0" | "never"))
        .map(reclaim_after_of)
        .transpose()
        .map_err(|error| fatal(format!("invalid --reclaim-after: {error}")))?;
    Ok(Some(IpamOptions {
        universe,
        default_subnet,
        init,
        reclaim_after,
    }))
}

fn unless_empty(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn init_mode(text: &str) -> Result<Init, String> {
    let (mode, parameter) = match text.split_once('=') {
        Some((mode, parameter)) => (mode, Some(parameter)),
        None => (text, None),
    };
    match (mode, parameter) {
        ("consensus", None) => Ok(Init::Consensus(None)),
        ("consensus", Some(count)) => match count.parse::<usize>() {
            Ok(count) => Ok(Init::Consensus((count > 0).then_some(count))),
            Err(_) => Err(format!(
                "bad consensus parameter: strconv.Atoi: parsing {count:?}: invalid syntax"
            )),
        },
        ("seed", None | Some("")) => Err("seed mode requires peer name list".to_owned()),
        ("seed", Some(names)) => seeds(names).map(Init::Seed),
        ("observer", None) => Ok(Init::Observer),
        ("observer", Some(_)) => Err("observer mode takes no parameter".to_owned()),
        _ => Err(format!("unknown mode: {mode}")),
    }
}

fn seeds(names: &str) -> Result<Vec<PeerName>, String> {
    let parsed: Result<Vec<PeerName>, _> = names.split(',').map(str::parse).collect();
    let mut seeds =
        parsed.map_err(|error| format!("bad seed parameter: error parsing peer names: {error}"))?;
    seeds.sort_unstable();
    seeds.dedup();
    Ok(seeds)
}

/// `90s`, `10m`, `12h`, `7d`.
fn reclaim_after_of(text: &str) -> Result<Duration, String> {
    let usage = || format!("{text:?}: give a duration such as 10m, 12h or 7d");
    let unit = text.chars().last().ok_or_else(usage)?;
    let secs = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(usage()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| usage())?;
    let duration = Duration::from_secs(u64::from(count) * secs);
    if duration < RECLAIM_MIN {
        return Err(format!("{text:?}: shorter than {}s", RECLAIM_MIN.as_secs()));
    }
    Ok(duration)
}

/// Looks for routes of this host that lead to addresses of the range. One that nobody chose is
/// refused, with a range that is free; one the user chose gets a warning, which is returned.
pub(crate) fn check_routes(
    flags: &AddressFlags,
    options: &IpamOptions,
    bridge: &str,
) -> Result<Option<String>, Failure> {
    let universe = options.universe;
    let range: Cidr = universe
        .to_string()
        .parse()
        .map_err(|_| anyhow!("range {universe} is no prefix"))?;
    let routes = overlap::routes_overlapping(range, bridge).context("reading routes")?;
    let Some(first) = routes.first() else {
        return Ok(None);
    };
    let more = match routes.len() - 1 {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    if flags.ipalloc_range.is_some() {
        return Ok(Some(format!(
            "WARNING: Specified --ipalloc-range {universe} overlaps with existing route on host: \
             {first}{more}.\nContainers and whatever that route leads to may not reach each other."
        )));
    }
    let free = overlap::free_range(universe.prefix_len(), bridge)
        .ok()
        .flatten();
    let advice = match free {
        Some(free) => format!("--ipalloc-range={free}, which is free here"),
        None => "an --ipalloc-range of your own".to_owned(),
    };
    Err(Failure::exit(
        1,
        format!(
            "ERROR: Default --ipalloc-range {universe} overlaps with existing route on host.\n\
             The route is {first}{more}. Launch with {advice}, on all hosts; \
             or with {universe} if that is what you want."
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Verb;
    use crate::args::parse::{Invocation, parse};
    use crate::program::Program;

    fn flags(words: &[&str]) -> AddressFlags {
        let words = [&["daemon"], words].concat();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        match parse(Program::Weave, &words, &|_| None) {
            Ok(Invocation {
                verb: Verb::Daemon(args),
                ..
            }) => args.addresses,
            Ok(_) => panic!("another verb"),
            Err(wrong) => panic!("{:?}", wrong.mistake),
        }
    }

    fn accepted(words: &[&str]) -> Option<IpamOptions> {
        options(&flags(words)).expect("valid")
    }

    fn refusal(words: &[&str]) -> String {
        match options(&flags(words)).err() {
            Some(Failure::Exit { message, code: 1 }) => message,
            Some(other) => format!("other failure: {other}"),
            None => "accepted".to_owned(),
        }
    }

    #[test]
    fn without_a_word_the_usual_range_is_decided_by_election() {
        let options = accepted(&[]).expect("on");
        assert_eq!(options.universe.to_string(), DEFAULT_RANGE);
        assert_eq!(options.default_subnet, options.universe);
        assert_eq!(options.init, Init::Consensus(None));
        assert_eq!(options.reclaim_after, None);
    }

    #[test]
    fn an_empty_range_switches_allocation_off_and_the_old_name_still_works() {
        assert!(accepted(&["--ipalloc-range="]).is_none());
        assert!(accepted(&["--iprange="]).is_none());
        let options = accepted(&["--iprange", "10.2.0.0/16"]).expect("on");
        assert_eq!(options.universe.to_string(), "10.2.0.0/16");
    }

    #[test]
    fn init_modes_are_the_originals() {
        let init = |text: &str| accepted(&["--ipalloc-init", text]).expect("on").init;
        assert_eq!(init("consensus"), Init::Consensus(None));
        assert_eq!(init("consensus=3"), Init::Consensus(Some(3)));
        assert_eq!(init("consensus=0"), Init::Consensus(None));
        assert_eq!(init("observer"), Init::Observer);
        let names = [1, 2].map(PeerName::from_u64).to_vec();
        assert_eq!(init("seed=::2,::1,00:00:00:00:00:02"), Init::Seed(names));
    }

    #[test]
    fn mistakes_have_the_originals_words() {
        let cases: [(&[&str], &str); 13] = [
            (
                &["--ipalloc-init=foo"],
                "Unable to parse --ipalloc-init: unknown mode: foo",
            ),
            (
                &["--ipalloc-init=seed"],
                "Unable to parse --ipalloc-init: seed mode requires peer name list",
            ),
            (
                &["--ipalloc-init=seed=a,b"],
                "Unable to parse --ipalloc-init: bad seed parameter: error parsing peer names: \
                 invalid peer name format: \"a\"",
            ),
            (
                &["--ipalloc-init=observer=1"],
                "Unable to parse --ipalloc-init: observer mode takes no parameter",
            ),
            (
                &["--ipalloc-init=consensus=x"],
                "Unable to parse --ipalloc-init: bad consensus parameter: strconv.Atoi: \
                 parsing \"x\": invalid syntax",
            ),
            (
                &["--ipalloc-range=", "--ipalloc-init=observer"],
                "--ipalloc-init specified without --ipalloc-range.",
            ),
            (
                &["--ipalloc-range=", "--ipalloc-default-subnet=10.2.0.0/16"],
                "--ipalloc-default-subnet specified without --ipalloc-range.",
            ),
            (
                &["--ipalloc-default-subnet=10.2.0.0/16"],
                "IP address allocation default subnet 10.2.0.0/16 does not overlap with \
                 allocation range 10.32.0.0/12",
            ),
            (
                &["--ipalloc-range=10.2.0.1/16"],
                "invalid subnet - bits after network prefix are not all zero: 10.2.0.1/16",
            ),
            (
                &["--ipalloc-range=10.2.0.1/31"],
                "invalid subnet - smaller than minimum size 4: 10.2.0.1/31",
            ),
            (&["--ipalloc-range=bogus"], "invalid CIDR address: bogus"),
            (
                &["--ipalloc-range=fe80::/64"],
                "invalid Non-IPv4 address not supported: fe80::/64",
            ),
            (
                &["--reclaim-after=5"],
                "invalid --reclaim-after: \"5\": give a duration such as 10m, 12h or 7d",
            ),
        ];
        for (words, expected) in cases {
            assert_eq!(refusal(words), expected, "{words:?}");
        }
    }

    #[test]
    fn absences_are_given_in_any_unit() {
        let after = |text: &str| {
            let options = accepted(&["--reclaim-after", text]).expect("on");
            options.reclaim_after.map(|after| after.as_secs())
        };
        assert_eq!(after("90s"), Some(90));
        assert_eq!(after("10m"), Some(600));
        assert_eq!(after("12h"), Some(43_200));
        assert_eq!(after("7d"), Some(604_800));
        assert_eq!(after("0"), None);
        assert!(refusal(&["--reclaim-after=1s"]).ends_with("shorter than 10s"));
        assert!(refusal(&["--reclaim-after=1µ"]).contains("give a duration"));
    }
}
