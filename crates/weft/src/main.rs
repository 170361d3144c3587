//! The `weft` binary: the command line, and the daemon behind its `daemon` verb.
//!
//! Called by the name `weave` it speaks of itself by that name. Verbs, flags, outputs and exit codes
//! of the original are those of spec/cli-api.md 2 and 3; data goes to standard output, words to
//! standard error.

mod appendix;
mod args;
mod attach;
mod client;
mod config;
mod failure;
mod generate;
mod help;
mod hints;
mod launch;
mod mistake;
mod output;
mod privilege;
mod program;
mod stop;
mod usage;
mod variables;
mod verbs;

use std::process::ExitCode;

use args::parse::{Invocation, WrongUse};
use args::{PageArgs, Verb};
use client::Client;
use failure::{Failure, Outcome};
use mistake::Mistake;
use program::Program;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let program = Program::called(
        words
            .next()
            .and_then(|word| word.into_string().ok())
            .as_deref(),
    );
    match run(program, words) {
        Ok(()) => ExitCode::SUCCESS,
        Err((verb, failure)) => report(program, verb.as_deref(), &failure),
    }
}

/// Does what is asked; a failure comes with its verb, as far as there is one.
fn run(program: Program, words: std::env::ArgsOs) -> Result<(), (Option<String>, Failure)> {
    let words: Result<Vec<String>, usize> = (1..)
        .zip(words)
        .map(|(at, word)| word.into_string().map_err(|_| at))
        .collect();
    let words = words.map_err(|at| (None, Mistake::NotText(at).into()))?;
    let Invocation { name, verb, given } =
        args::parse::parse(program, &words, &|name| std::env::var_os(name))
            .map_err(|WrongUse { verb, mistake }| (verb, mistake.into()))?;
    let client = Client {
        program,
        codes: program::codes(Some(&name)),
    };
    let outcome = match verb {
        Verb::Launch(args) => launch::launch(program, &args, &given),
        Verb::Daemon(args) => launch::daemon(program, &args, &given),
        Verb::Supervise(args) => launch::supervise(&args, &given),
        Verb::Stop => stop::stop(),
        Verb::Reset(args) => stop::reset(&client, &args),
        Verb::Connect(args) => verbs::connect(&client, &args),
        Verb::Forget(args) => verbs::forget(&client, &args),
        Verb::Attach(args) => attach::attach(&client, args),
        Verb::Detach(args) => attach::detach(&client, args),
        Verb::Claim(args) => attach::claim(&client, args),
        Verb::Expose(args) => attach::expose(&client, args),
        Verb::Hide(args) => attach::hide(&client, args),
        Verb::Ps(args) => attach::ps(&client, &args),
        Verb::Prime => verbs::prime(&client),
        Verb::Rmpeer(args) => verbs::rmpeer(&client, &args),
        Verb::Status(args) => verbs::status(&client, &args),
        Verb::Report(args) => verbs::report(&client, &args),
        Verb::Version(args) => verbs::version(&client, &args),
        Verb::Completion(args) => generate::completion(program, args.shell),
        Verb::Man(args) => generate::man(program, &args),
        Verb::Help(args) => show_help(program, &args),
    };
    outcome.map_err(|failure| (Some(name), failure))
}

/// The original's help goes to standard error; ours was asked for, so it is data.
fn show_help(program: Program, args: &PageArgs) -> Outcome {
    let verb = help::known(program, args)?;
    let text = help::text(program, verb);
    match program {
        Program::Weft => output::print(&text),
        Program::Weave => {
            eprint!("{text}");
            Ok(())
        }
    }
}

fn report(program: Program, verb: Option<&str>, failure: &Failure) -> ExitCode {
    match failure {
        Failure::Wrong(mistake) => {
            let (text, code) = usage::report(program, verb, mistake);
            eprint!("{text}");
            ExitCode::from(code)
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
