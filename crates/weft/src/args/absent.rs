//! Verbs and flags of the original that have nothing to act on here: accepted so that scripts go on
//! working, and named in one line where their absence can be noticed.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Why a flag has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// Its service is not part of this version.
    Service(&'static str),
    /// Its service no longer exists anywhere.
    Gone,
    /// Nobody can notice.
    Unnoticed,
}

/// A flag, the placeholder of its value unless it is a switch, and why it has no effect.
struct Flag(&'static str, Option<&'static str>, Absence);

const PROXY: Absence = Absence::Service("the Docker API proxy");
const PLUGIN: Absence = Absence::Service("the Docker plugin");
const NAMES: Absence = Absence::Service("the name service");
const POLICY: Absence = Absence::Service("network policy");

const FLAGS: &[Flag] = &[
    Flag("H", Some("ADDRESS"), PROXY),
    Flag("advertise-address", Some("ADDRESS"), Absence::Gone),
    Flag("bufsz", Some("MB"), Absence::Unnoticed),
    Flag("datapath", Some("NAME"), Absence::Unnoticed),
    Flag("db-prefix", Some("PATH"), Absence::Unnoticed),
    Flag("dns-domain", Some("DOMAIN"), NAMES),
    Flag("dns-fallback-timeout", Some("MS"), Absence::Unnoticed),
    Flag("dns-listen-address", Some("ADDRESS"), NAMES),
    Flag("dns-ttl", Some("SECONDS"), Absence::Unnoticed),
    Flag("expect-npc", None, POLICY),
    Flag("hostname-from-label", None, Absence::Unnoticed),
    Flag("hostname-match", Some("REGEXP"), Absence::Unnoticed),
    Flag("hostname-replacement", Some("TEXT"), Absence::Unnoticed),
    Flag("no-bridged-fastdp", None, Absence::Unnoticed),
    Flag("no-default-ipalloc", None, Absence::Unnoticed),
    Flag("no-detect-tls", None, Absence::Unnoticed),
    Flag("no-dns", None, Absence::Unnoticed),
    Flag("no-masq-local", None, Absence::Unnoticed),
    Flag("no-multicast-route", None, Absence::Unnoticed),
    Flag("no-rewrite-hosts", None, Absence::Unnoticed),
    Flag("peer-discovery-url", Some("URL"), Absence::Gone),
    Flag("pkt-debug", None, Absence::Unnoticed),
    Flag("plugin", None, PLUGIN),
    Flag("plugin-mesh-socket", Some("PATH"), Absence::Unnoticed),
    Flag("plugin-socket", Some("PATH"), Absence::Unnoticed),
    Flag("plugin-v2", None, PLUGIN),
    Flag("plugin-v2-multicast", None, Absence::Unnoticed),
    Flag("proc-path", Some("PATH"), Absence::Unnoticed),
    Flag("profile", Some("DIR"), Absence::Unnoticed),
    Flag("proxy", None, PROXY),
    Flag("resolv-conf", Some("PATH"), Absence::Unnoticed),
    Flag("rewrite-inspect", None, Absence::Unnoticed),
    Flag("tls", None, Absence::Unnoticed),
    Flag("tlscacert", Some("PATH"), Absence::Unnoticed),
    Flag("tlscert", Some("PATH"), Absence::Unnoticed),
    Flag("tlskey", Some("PATH"), Absence::Unnoticed),
    Flag("tlsverify", None, Absence::Unnoticed),
    Flag("token", Some("TOKEN"), Absence::Gone),
    Flag("without-dns", None, Absence::Unnoticed),
];

/// The flags of the daemon without effect, as they were given.
pub(crate) struct AbsentFlags {
    warnings: Vec<String>,
}

impl AbsentFlags {
    /// A line for the operator about each whose absence can be noticed.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Flag {
    fn arg(&self) -> Arg {
        let Self(name, value, _) = *self;
        let arg = Arg::new(name).hide(true);
        let arg = match name.chars().next() {
            Some(letter) if name.len() == 1 => arg.short(letter),
            _ => arg.long(name),
        };
        match value {
            Some(value) => arg.value_name(value),
            None => arg.action(ArgAction::SetTrue),
        }
    }

    fn warning(&self, matches: &ArgMatches) -> Option<String> {
        let Self(name, value, absence) = *self;
        let is_asked = match value {
            Some(_) => matches.get_one::<String>(name).map(|text| !text.is_empty()),
            None => matches.get_one::<bool>(name).copied(),
        };
        let dashes = if name.len() == 1 { "-" } else { "--" };
        let says = |why: &str| format!("WARNING: {dashes}{name} has no effect: {why}");
        match absence {
            Absence::Gone => is_asked.map(|_| says("the service is gone")),
            Absence::Service(what) if is_asked? => Some(says(&format!("{what} is not enabled"))),
            Absence::Service(_) | Absence::Unnoticed => None,
        }
    }
}

impl clap::FromArgMatches for AbsentFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let warnings = FLAGS.iter().filter_map(|flag| flag.warning(matches));
        Ok(Self {
            warnings: warnings.collect(),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for AbsentFlags {
    fn augment_args(command: Command) -> Command {
        command.args(FLAGS.iter().map(Flag::arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// What to say about a verb of the original that is not part of this version.
pub(crate) fn verb(name: &str) -> Option<String> {
    let missing = match name {
        "dns-add" | "dns-remove" | "dns-lookup" | "dns-args" => "names are not enabled",
        "env" | "config" => "the Docker API proxy is not enabled",
        "setup" | "setup-cni" => "the CNI plugin is not enabled",
        "attach-bridge" | "bridge-type" | "docker-bridge-ip" => "this command is not enabled",
        "run" | "start" | "restart" | "launch-router" | "stop-router" | "launch-proxy"
        | "stop-proxy" | "launch-plugin" | "stop-plugin" => {
            return Some(format!(
                "The '{name}' command was removed in Weave Net 2.0.\n\
                 Use 'launch', 'stop', 'attach' and 'detach' instead."
            ));
        }
        _ => return None,
    };
    Some(format!("'{name}': {missing}"))
}
