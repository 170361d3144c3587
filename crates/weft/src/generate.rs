//! Completions and manual pages, out of the declaration.

use anyhow::Context;
use clap::Command;
use clap_complete::aot;
use clap_mangen::{Man, roff};

use crate::appendix::{List, lists};
use crate::args::{PageArgs, Shell, declaration};
use crate::failure::Outcome;
use crate::help;
use crate::output::print;
use crate::program::Program;

/// Prints a script that completes our commands.
pub(crate) fn completion(program: Program, shell: Shell) -> Outcome {
    let mut command = visible(&declaration(program));
    let name = program.name();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => aot::generate(aot::Bash, &mut command, name, &mut script),
        Shell::Zsh => aot::generate(aot::Zsh, &mut command, name, &mut script),
        Shell::Fish => aot::generate(aot::Fish, &mut command, name, &mut script),
    }
    print(&String::from_utf8(script).context("the completion is no text")?)
}

/// A command without what is hidden: completions would offer it.
fn visible(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned())
        .disable_help_subcommand(true)
        .disable_help_flag(true)
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(
            command
                .get_subcommands()
                .filter(|verb| !verb.is_hide_set())
                .map(visible),
        );
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    match command.get_long_flag() {
        Some(flag) => shown.long_flag(flag.to_owned()),
        None => shown,
    }
}

/// Prints a manual page in roff.
pub(crate) fn man(program: Program, args: &PageArgs) -> Outcome {
    let mut command = declaration(program);
    let lists = lists(&command);
    let page = match help::known(program, args)? {
        None => page(program, command.after_help(None::<&'static str>), &lists),
        Some(name) => {
            command.build();
            let verb = command
                .find_subcommand(name)
                .cloned()
                .context("a known verb is found")?;
            page(program, verb, &[])
        }
    };
    let page = page.context("writing a manual page")?;
    print(&String::from_utf8(page).context("a manual page is text")?)
}

fn page(program: Program, command: Command, lists: &[List]) -> std::io::Result<Vec<u8>> {
    let words = command.get_after_help().map(ToString::to_string);
    let has_verbs = command.has_subcommands();
    let source = format!("{program} {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command).source(source);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if has_verbs {
        man.render_subcommands_section(&mut page)?;
    }
    for paragraph in words.iter().flat_map(|words| words.split("\n\n")) {
        preformatted(paragraph).to_writer(&mut page)?;
    }
    for list in lists {
        definitions(list).to_writer(&mut page)?;
    }
    Ok(page)
}

/// A paragraph below a help text: examples under their heading, or plain words.
fn preformatted(paragraph: &str) -> roff::Roff {
    let mut text = roff::Roff::new();
    let (heading, lines) = match paragraph.split_once(":\n") {
        Some((heading, lines)) if !heading.contains('\n') => (heading, lines),
        _ => ("Notes", paragraph),
    };
    text.control("SH", [heading.to_uppercase().as_str()]);
    text.control("nf", []);
    for line in lines.lines() {
        text.text([roff::roman(line)]);
    }
    text.control("fi", []);
    text
}

fn definitions(list: &List) -> roff::Roff {
    let mut text = roff::Roff::new();
    text.control("SH", [list.title.to_uppercase().as_str()]);
    for (word, meaning) in &list.entries {
        text.control("TP", []);
        text.text([roff::bold(word.as_str())]);
        text.text([roff::roman(meaning.as_str())]);
    }
    text
}
