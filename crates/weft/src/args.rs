//! The command line, declared once: verbs, flags, environment variables, examples.
//!
//! What was typed becomes these types, and nothing of the system is looked at on the way (`parse`);
//! what it means is the business of the modules that take them. Help, usage, "did you mean", completions
//! and man pages come from the same declaration. The original's verbs and flags: spec/cli-api.md 2, 3.

pub(crate) mod absent;
pub(crate) mod daemon;
pub(crate) mod parse;

use clap::{Arg, ArgAction, Args, Command, CommandFactory, Parser, Subcommand, ValueEnum};

pub(crate) use daemon::{DaemonArgs, LaunchArgs};

use crate::appendix::{List, lists};
use crate::program::Program;

/// What follows the help of a verb that takes addresses.
const ADDRESSES: &str = "\
Addresses:
  net:default, or none             any in the default subnet
  net:10.32.1.0/24                 any in this subnet
  10.32.1.5/24, ip:10.32.1.5/24    exactly this one";
const LAUNCH_EXAMPLES: &str = "\
Examples:
  weft launch                        the first host
  weft launch first.example.com      each further host; any of those that run will do
  weft launch --password-file=key first.example.com
  weft launch --resume               again, with the peers of the last run

The flags of Weave Net that are not listed are accepted too; a warning names those without effect.";
const CONNECT_EXAMPLES: &str = "\
Examples:
  weft connect third.example.com             one more peer
  weft connect --replace a.example.com:6783  this one, and none of those given before";
const ATTACH_EXAMPLES: &str = "\
Examples:
  weft attach web                  a Docker container, any address
  weft attach 10.32.1.5/24 net:10.33.0.0/24 web
  weft attach --netns blue         a namespace of 'ip netns'
  weft attach --pid 4711           whatever namespace that process is in";
const DETACH_EXAMPLES: &str = "\
Examples:
  weft detach web                  all of it
  weft detach 10.32.1.5/24 web     one address
  weft detach --netns blue";
const CLAIM_EXAMPLES: &str = "\
Examples:
  weft claim 10.32.1.5/12 web
  weft claim --netns blue 10.32.1.5/12";
const EXPOSE_EXAMPLES: &str = "\
Examples:
  weft expose                      any address
  weft expose net:10.32.1.0/24";
const STATUS_EXAMPLES: &str = "\
Examples:
  weft status connections          each link, and why it is as it is
  weft status peers --json";
/// What must be known before a peer is removed.
const RMPEER: &str = "\
The peer must not come back with its old state, and no other host may take it over at the same
time. Containers that still run on it keep addresses that may then be given out again.";
const REPORT_EXAMPLES: &str = "\
Examples:
  weft report -f '{{.Router.Name}}'
  weft report -f '{{range .Router.Peers}}{{.NickName}}{{\"\\n\"}}{{end}}'";
const COMPLETION_EXAMPLES: &str = "\
Examples:
  weft completion bash > /etc/bash_completion.d/weft
  weft completion fish > ~/.config/fish/completions/weft.fish
  weft completion zsh > \"${fpath[1]}/_weft\"";
const MAN_EXAMPLES: &str = "\
Examples:
  weft man | man -l -
  weft man attach > weft-attach.1";

/// One Ethernet network for containers on many hosts.
#[derive(Parser)]
#[command(disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    /// Of no effect: the original chose between host and helper container, we always run on the host.
    #[arg(long, hide = true)]
    local: bool,
    /// What is to be done.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What can be done.
#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Start the daemon on this host and connect to peers.
    #[command(after_help = LAUNCH_EXAMPLES)]
    Launch(Box<LaunchArgs>),
    /// Run the daemon in the foreground.
    Daemon(Box<DaemonArgs>),
    /// Keep a daemon running; started by launch only.
    #[command(hide = true)]
    Supervise(Box<LaunchArgs>),
    /// Stop the daemon; containers stay attached.
    Stop,
    /// Stop the daemon and remove everything it made.
    Reset(ResetArgs),
    /// Connect to more peers, or to others.
    #[command(after_help = CONNECT_EXAMPLES)]
    Connect(ConnectArgs),
    /// Stop trying to connect to peers.
    Forget(PeersArgs),
    /// Join a container to the network.
    #[command(after_help = format!("{ADDRESSES}\n\n{ATTACH_EXAMPLES}"))]
    Attach(AttachArgs),
    /// Take addresses, or all of it, away from a container.
    #[command(after_help = format!("{ADDRESSES}\n\n{DETACH_EXAMPLES}"))]
    Detach(DetachArgs),
    /// Keep addresses for a container that has them already.
    #[command(after_help = CLAIM_EXAMPLES)]
    Claim(ClaimArgs),
    /// Give this host an address in the network.
    #[command(after_help = format!("{ADDRESSES}\n\n{EXPOSE_EXAMPLES}"))]
    Expose(ExposeArgs),
    /// Take addresses of this host away.
    #[command(after_help = ADDRESSES)]
    Hide(HideArgs),
    /// List what is attached.
    Ps(PsArgs),
    /// Wait until addresses can be allocated.
    Prime,
    /// Take over the addresses of peers that are gone for good.
    #[command(after_help = RMPEER)]
    Rmpeer(PeersArgs),
    /// Show how the network is.
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArgs),
    /// Show everything, as JSON or by a template.
    #[command(after_help = REPORT_EXAMPLES)]
    Report(ReportArgs),
    /// Show the version.
    #[command(long_flag = "version")]
    Version(VersionArgs),
    /// Print a script that completes commands and flags in a shell.
    #[command(after_help = COMPLETION_EXAMPLES)]
    Completion(CompletionArgs),
    /// Print the manual page, or that of one command.
    #[command(after_help = MAN_EXAMPLES)]
    Man(PageArgs),
    /// Show this, or the help of one command.
    Help(PageArgs),
}

/// Words of `reset`.
#[derive(Args)]
pub(crate) struct ResetArgs {
    /// Also when the daemon does not run and cannot tell its peers.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Words of `connect`.
#[derive(Args)]
pub(crate) struct ConnectArgs {
    /// Host names or addresses, with a port if it is not 6783.
    #[arg(value_name = "PEER")]
    pub(crate) peers: Vec<String>,
    /// Forget all other peers given before; alone, all of them.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// Words of `forget` and `rmpeer`.
#[derive(Args)]
pub(crate) struct PeersArgs {
    /// Peers, as they were given or are called.
    #[arg(value_name = "PEER", required = true)]
    pub(crate) peers: Vec<String>,
}

/// What is attached, when it is no container.
#[derive(Args)]
pub(crate) struct TargetFlags {
    /// A network namespace instead of a container.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) netns: Option<String>,
    /// The namespace of a process instead of a container.
    #[arg(long, value_name = "N", conflicts_with = "netns")]
    pub(crate) pid: Option<u32>,
}

/// Waiting for addresses.
#[derive(Args)]
pub(crate) struct WaitFlag {
    /// Wait for an address as long as it takes, instead of 5 seconds.
    #[arg(long)]
    pub(crate) wait: bool,
}

/// The form of what is printed.
#[derive(Args)]
pub(crate) struct JsonFlag {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Words of `attach`.
#[derive(Args)]
pub(crate) struct AttachArgs {
    /// Addresses, and after them the id or name of a Docker container.
    #[arg(value_name = "ADDRESS|CONTAINER")]
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetFlags,
    #[command(flatten)]
    pub(crate) wait: WaitFlag,
    /// Do not route multicast into the network.
    #[arg(long)]
    pub(crate) no_multicast_route: bool,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
    #[command(flatten)]
    pub(crate) names: AttachNameFlags,
}

/// What `attach` is to do about names.
#[derive(Args)]
pub(crate) struct AttachNameFlags {
    /// Register no name; of no effect until there are names.
    #[arg(long, hide = true)]
    pub(crate) without_dns: bool,
    /// Write the container's /etc/hosts.
    #[arg(long, hide = true)]
    pub(crate) rewrite_hosts: bool,
    /// A further line of the container's /etc/hosts.
    #[arg(long, hide = true, value_name = "NAME:ADDRESS")]
    pub(crate) add_host: Vec<String>,
}

/// Words of `detach`.
#[derive(Args)]
pub(crate) struct DetachArgs {
    /// Addresses, and after them the id or name of a Docker container.
    #[arg(value_name = "ADDRESS|CONTAINER")]
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetFlags,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
}

/// Words of `claim`.
#[derive(Args)]
pub(crate) struct ClaimArgs {
    /// Addresses, and after them the id or name of a Docker container.
    #[arg(value_name = "ADDRESS|CONTAINER")]
    pub(crate) words: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetFlags,
    #[command(flatten)]
    pub(crate) wait: WaitFlag,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
}

/// Words of `expose`.
#[derive(Args)]
pub(crate) struct ExposeArgs {
    /// Addresses for this host.
    #[arg(value_name = "ADDRESS")]
    pub(crate) addresses: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: WaitFlag,
    /// Keep addresses of containers that talk to the outside.
    #[arg(long)]
    pub(crate) without_masquerade: bool,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
    /// A name of this host in the network.
    #[arg(short = 'h', hide = true, value_name = "NAME")]
    pub(crate) hostname: Option<String>,
}

/// Words of `hide`.
#[derive(Args)]
pub(crate) struct HideArgs {
    /// Addresses of this host.
    #[arg(value_name = "ADDRESS")]
    pub(crate) addresses: Vec<String>,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
}

/// Words of `ps`.
#[derive(Args)]
pub(crate) struct PsArgs {
    /// Only these containers, by id or name.
    #[arg(value_name = "CONTAINER")]
    pub(crate) containers: Vec<String>,
    /// Only these network namespaces; may be given again.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) netns: Vec<String>,
    /// Only the namespaces of these processes; may be given again.
    #[arg(long, value_name = "N")]
    pub(crate) pid: Vec<u32>,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
}

/// A part of the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Links to other hosts, and why each is as it is.
    Connections,
    /// Names.
    #[value(hide = true)]
    Dns,
    /// Who has which addresses.
    Ipam,
    /// All hosts of the network.
    Peers,
    /// Peers to connect to.
    Targets,
}

/// Words of `status`.
#[derive(Args)]
pub(crate) struct StatusArgs {
    /// One part of it instead of the summary.
    #[arg(value_enum)]
    pub(crate) section: Option<Section>,
    #[command(flatten)]
    pub(crate) json: JsonFlag,
}

/// Words of `report`.
#[derive(Args)]
pub(crate) struct ReportArgs {
    /// Print by a template.
    #[arg(short = 'f', value_name = "TEMPLATE")]
    pub(crate) format: Option<String>,
    /// Print JSON; the default.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Words of `version`.
#[derive(Args)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    pub(crate) json: JsonFlag,
}

/// A shell we write completions for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    /// GNU Bash.
    Bash,
    /// The Z shell.
    Zsh,
    /// The friendly interactive shell.
    Fish,
}

/// Words of `completion`.
#[derive(Args)]
pub(crate) struct CompletionArgs {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// Words of `man` and `help`.
#[derive(Args)]
pub(crate) struct PageArgs {
    /// The command it is about.
    pub(crate) command: Option<String>,
}

/// The declaration as a value, for parsing, help, completions and manual pages.
pub(crate) fn declaration(program: Program) -> Command {
    let command = CommandLine::command()
        .name(program.name())
        .args_override_self(true)
        .mut_subcommands(|verb| {
            let words = verb.get_after_help().map(ToString::to_string);
            let words = words.map(|words| words.replace("weft", program.name()));
            in_form(program, verb).after_help(words.unwrap_or_default())
        });
    let command = in_form(program, command);
    let lists: Vec<String> = lists(&command).iter().map(List::text).collect();
    command.after_help(lists.join("\n"))
}

/// What holds for every verb: no value of the environment is ever shown; `-h` asks for help only where
/// the original gives it no meaning; usage comes first where the original's words call for usage.
fn in_form(program: Program, verb: Command) -> Command {
    let help = Arg::new("help")
        .long("help")
        .action(ArgAction::Help)
        .help_heading(None::<&'static str>)
        .help("Print help");
    let is_free = verb.get_arguments().all(|arg| arg.get_short() != Some('h'));
    let help = if is_free { help.short('h') } else { help };
    let verb = verb
        .mut_args(|arg| arg.hide_env_values(true))
        .disable_help_flag(true)
        .arg(help);
    match program {
        Program::Weft => verb,
        Program::Weave => verb.help_template(
            "{usage-heading} {usage}\n\n{about-with-newline}\n{all-args}{after-help}",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_free_of_contradictions() {
        declaration(Program::Weft).debug_assert();
        declaration(Program::Weave).debug_assert();
    }

    #[test]
    fn no_value_of_the_environment_is_ever_shown() {
        let command = declaration(Program::Weft);
        for verb in command.get_subcommands() {
            for arg in verb.get_arguments() {
                assert!(
                    arg.get_env().is_none() || arg.is_hide_env_values_set(),
                    "{}: {}",
                    verb.get_name(),
                    arg.get_id()
                );
            }
        }
    }
}
