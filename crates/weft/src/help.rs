//! Help and usage, out of the declaration.

use clap::Command;

use crate::args::{PageArgs, declaration};
use crate::mistake::Mistake;
use crate::program::Program;

/// The help of a verb, or the overview.
pub(crate) fn text(program: Program, verb: Option<&str>) -> String {
    with(program, verb, |command| command.render_help().to_string())
}

/// The usage of a verb, or of the program: one line.
pub(crate) fn usage(program: Program, verb: Option<&str>) -> String {
    with(program, verb, |command| command.render_usage().to_string())
        .trim_end()
        .to_owned()
}

fn with(program: Program, verb: Option<&str>, render: impl Fn(&mut Command) -> String) -> String {
    let mut command = declaration(program);
    command.build();
    match verb.and_then(|name| command.find_subcommand_mut(name)) {
        Some(verb) => render(verb),
        None => render(&mut command),
    }
}

/// The verb a page is asked for, if there is such a verb.
pub(crate) fn known(program: Program, args: &PageArgs) -> Result<Option<&str>, Mistake> {
    let Some(word) = args.command.as_deref() else {
        return Ok(None);
    };
    let command = declaration(program);
    if command.find_subcommand(word).is_some() {
        return Ok(Some(word));
    }
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    Err(Mistake::Choice {
        what: "command".to_owned(),
        value: word.to_owned(),
        suggestion: None,
        choices: verbs.map(|verb| verb.get_name().to_owned()).collect(),
    })
}
