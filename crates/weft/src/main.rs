//! The `weft` binary: the command line, and the daemon behind its `daemon` verb.
//!
//! Called by the name `weave` it speaks of itself by that name. Verbs, flags, outputs and exit codes
//! of the original are those of spec/cli-api.md 2 and 3; data goes to standard output, words to
//! standard error.

mod address_options;
mod attach;
mod client;
mod daemon_options;
mod flags;
mod launch;
mod stop;
mod usage;
mod verbs;

use std::process::ExitCode;

use flags::FlagError;

/// Why a verb did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Wrong words: message, usage, exit status 1.
    #[error("{0}")]
    Usage(String),
    /// A message for standard error and an exit status.
    #[error("{message}")]
    Exit {
        /// What happened; may be empty.
        message: String,
        /// Exit status.
        code: u8,
    },
    /// Anything else: exit status 1.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl Failure {
    /// A message and an exit status.
    pub(crate) fn exit(code: u8, message: impl Into<String>) -> Self {
        Self::Exit {
            message: message.into(),
            code,
        }
    }
}

impl From<FlagError> for Failure {
    fn from(error: FlagError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Result of a verb.
pub(crate) type Outcome = Result<(), Failure>;

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let program = usage::program(arguments.next().as_deref());
    let mut arguments: Vec<String> = arguments.collect();
    // The original chose between host and helper container; we always run on the host.
    arguments.retain({
        let mut before_verb = true;
        move |argument| {
            let drop = before_verb && argument == "--local";
            before_verb &= drop;
            !drop
        }
    });
    let Some((verb, rest)) = arguments.split_first() else {
        eprint!("{}", usage::overview(program));
        return ExitCode::from(1);
    };
    if matches!(verb.as_str(), "help" | "--help" | "-h") {
        eprint!("{}", usage::overview(program));
        return ExitCode::SUCCESS;
    }
    match run(program, verb, rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(program, verb, &failure),
    }
}

fn run(program: &str, verb: &str, arguments: &[String]) -> Outcome {
    let asks_help = arguments.iter().any(|a| a == "--help");
    if asks_help && usage::exists(verb) {
        eprint!("{}", usage::verb(program, verb));
        return Ok(());
    }
    match verb {
        "launch" => launch::launch(program, arguments),
        "daemon" => launch::daemon(arguments),
        "supervise" => launch::supervise(arguments),
        "stop" => stop::stop(arguments),
        "reset" => stop::reset(program, arguments),
        "connect" => verbs::connect(program, arguments),
        "forget" => verbs::forget(program, arguments),
        "status" => verbs::status(program, arguments),
        "report" => verbs::report(program, arguments),
        "version" | "--version" => verbs::version(program, arguments),
        "attach" => attach::attach(program, arguments),
        "detach" => attach::detach(program, arguments),
        "claim" => attach::claim(program, arguments),
        "prime" => verbs::prime(program, arguments),
        "rmpeer" => verbs::rmpeer(program, arguments),
        "expose" => attach::expose(program, arguments),
        "hide" => attach::hide(program, arguments),
        "ps" => attach::ps(program, arguments),
        _ => match usage::not_enabled(verb) {
            Some(reason) => Err(Failure::exit(1, reason)),
            None => Err(Failure::exit(
                1,
                format!(
                    "Unknown {program} command '{verb}'\n{}",
                    usage::overview(program)
                ),
            )),
        },
    }
}

fn report(program: &str, verb: &str, failure: &Failure) -> ExitCode {
    match failure {
        Failure::Usage(message) => {
            eprintln!("{message}");
            eprint!("{}", usage::verb(program, verb));
            ExitCode::from(1)
        }
        Failure::Exit { message, code } => {
            if !message.is_empty() {
                eprintln!("{}", message.trim_end());
            }
            ExitCode::from(*code)
        }
        Failure::Other(error) if is_broken_pipe(error) => ExitCode::SUCCESS,
        Failure::Other(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// Whether our reader went away, as `head` does.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
