//! From words to the types of the declaration, by the original's conventions.
//!
//! The original takes `--flag value` and `--flag=value`, with one dash or two, `--switch[=bool]`, flags before,
//! between and after other words, and the last of several. clap takes a narrower language, so words
//! are brought into it by one step that knows nothing but the declaration.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};

use super::{CommandLine, PageArgs, Verb, declaration};
use crate::mistake::Mistake;
use crate::program::Program;
use crate::variables;

/// A command line that is understood.
pub(crate) struct Invocation {
    /// The verb's name.
    pub(crate) name: String,
    /// What is to be done.
    pub(crate) verb: Verb,
    /// The flags that were typed.
    pub(crate) given: Given,
}

/// The flags on the command line by name, with their last values: what was typed, not what it means.
#[derive(Default)]
pub(crate) struct Given(BTreeMap<String, String>);

impl Given {
    /// Whether a flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// As the original's first log line shows flags, secrets blotted out.
    pub(crate) fn shown(&self) -> String {
        let shown: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| match name.as_str() {
                "password" | "token" => format!("{name}:<redacted>"),
                _ => format!("{name}:{value}"),
            })
            .collect();
        format!("map[{}]", shown.join(" "))
    }

    /// The command line again, without the flags named.
    pub(crate) fn without(&self, names: &[&str], words: &[String]) -> Vec<String> {
        let mut again: Vec<String> = self
            .0
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_str()))
            .map(|(name, value)| format!("--{name}={value}"))
            .collect();
        again.push("--".to_owned());
        again.extend(words.iter().cloned());
        again
    }

    fn read(verb: &Command, matches: &ArgMatches) -> Self {
        let typed = |arg: &Arg| {
            let id = arg.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                return None;
            }
            let value = matches.get_raw(id)?.next_back()?;
            Some((name(arg)?, value.to_string_lossy().into_owned()))
        };
        Self(verb.get_arguments().filter_map(typed).collect())
    }
}

/// A wrong use, and of which verb.
pub(crate) struct WrongUse {
    /// The verb, as far as there is one.
    pub(crate) verb: Option<String>,
    /// What is wrong.
    pub(crate) mistake: Mistake,
}

/// Where the values of variables of the environment come from.
pub(crate) type Environment<'a> = &'a dyn Fn(&OsStr) -> Option<OsString>;

/// Takes a command line apart.
pub(crate) fn parse(
    program: Program,
    words: &[String],
    environment: Environment<'_>,
) -> Result<Invocation, WrongUse> {
    let mut grammar = declaration(program).mut_subcommands(|verb| {
        verb.mut_args(|arg| {
            let value = variable(&arg, environment);
            convention(arg, value)
        })
    });
    grammar.build();
    let line = Line::read(&grammar, words);
    let declared = declaration(program);
    let verb = line
        .verb
        .as_deref()
        .and_then(|name| declared.find_subcommand(name));
    if let Some(name) = verb.and_then(|verb| unreadable(verb, environment)) {
        return Err(WrongUse {
            mistake: Mistake::VariableNotText(name),
            verb: line.verb,
        });
    }
    let matches = match grammar.try_get_matches_from_mut(&line.words) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Invocation {
                name: "help".to_owned(),
                verb: Verb::Help(PageArgs { command: line.verb }),
                given: Given::default(),
            });
        }
        Err(error) => {
            let mistake = line.mistake(&error, verb);
            return Err(WrongUse {
                verb: line.verb,
                mistake,
            });
        }
    };
    let (name, given) = match matches.subcommand() {
        Some((name, matches)) => {
            let verb = grammar.find_subcommand(name);
            let given = verb.map(|verb| Given::read(verb, matches));
            (name.to_owned(), given.unwrap_or_default())
        }
        None => (String::new(), Given::default()),
    };
    match CommandLine::from_arg_matches(&matches) {
        Ok(CommandLine { verb, .. }) => Ok(Invocation { name, verb, given }),
        Err(error) => Err(WrongUse {
            mistake: line.mistake(&error, verb),
            verb: line.verb,
        }),
    }
}

/// The value of the variable that stands for a flag. An empty one counts as absent, but for the one
/// that the original switches a listener off by.
fn variable(arg: &Arg, environment: Environment<'_>) -> Option<OsString> {
    let name = arg.get_env()?;
    environment(name).filter(|value| !value.is_empty() || name == variables::STATUS_ADDR)
}

/// A variable of this verb that is no text.
fn unreadable(verb: &Command, environment: Environment<'_>) -> Option<OsString> {
    let is_text =
        |arg: &&Arg| variable(arg, environment).is_none_or(|value| value.to_str().is_some());
    let arg = verb.get_arguments().find(|arg| !is_text(arg))?;
    arg.get_env().map(OsStr::to_owned)
}

/// A flag as the original takes it, with the value of its variable. A switch may be given a value; its
/// variable switches it on by being there.
fn convention(arg: Arg, variable: Option<OsString>) -> Arg {
    // What clap itself found in the environment does not count.
    let arg = arg.env(None);
    if is_switch(&arg) {
        return arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value(if variable.is_some() { "true" } else { "false" })
            .value_parser(boolean);
    }
    match variable {
        Some(value) => arg.default_value(value),
        None => arg,
    }
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

/// The spellings the original accepts.
fn boolean(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false"),
    }
}

/// A flag's name without its dashes; words that are not flags have none.
fn name(arg: &Arg) -> Option<String> {
    match arg.get_long() {
        Some(long) => Some(long.to_owned()),
        None => arg.get_short().map(String::from),
    }
}

/// A command line in clap's language, and what was typed for each word of it.
struct Line {
    /// The name of the program, and the words.
    words: Vec<String>,
    /// What was typed, word by word.
    typed: Vec<String>,
    verb: Option<String>,
}

impl Line {
    fn read(grammar: &Command, given: &[String]) -> Self {
        let mut line = Self {
            words: vec![grammar.get_name().to_owned()],
            typed: vec![String::new()],
            verb: None,
        };
        let mut command = grammar;
        let mut rest = given.iter();
        while let Some(word) = rest.next() {
            if word == "--" {
                line.push(word, word.clone());
                break;
            }
            if let Some((body, value)) = split_flag(word) {
                match Spelling::of(command, body) {
                    Spelling::Flag { flag, wants_value } => {
                        let value = match value {
                            None if wants_value => rest.next().map(String::as_str),
                            value => value,
                        };
                        line.push_flag(word, &flag, value);
                        continue;
                    }
                    Spelling::Verb(verb) => {
                        line.push(word, verb.get_name().to_owned());
                        line.verb = Some(verb.get_name().to_owned());
                        command = verb;
                        continue;
                    }
                    // Before the verb nothing is a flag that we do not know.
                    Spelling::Unknown(_) if line.verb.is_none() => {}
                    Spelling::Unknown(flag) => {
                        line.push_flag(word, &flag, value);
                        continue;
                    }
                }
            }
            line.push(word, word.clone());
            if line.verb.is_some() {
                continue;
            }
            line.verb = Some(named(word).to_owned());
            match grammar.find_subcommand(word) {
                Some(verb) => command = verb,
                None => break,
            }
        }
        for word in rest {
            line.push(word, word.clone());
        }
        line
    }

    fn push_flag(&mut self, typed: &str, flag: &str, value: Option<&str>) {
        match value {
            Some(value) => self.push(typed, format!("{flag}={value}")),
            None => self.push(typed, flag.to_owned()),
        }
    }

    fn push(&mut self, typed: &str, word: String) {
        self.typed.push(typed.to_owned());
        self.words.push(word);
    }

    /// The flag as it was typed, without its value; `None` if it was not.
    fn typed(&self, flag: &str) -> Option<&str> {
        let is_it = |word: &&String| word.split('=').next() == Some(flag);
        let at = self.words.iter().position(|word| is_it(&word))?;
        self.typed[at].split('=').next()
    }

    fn mistake(&self, error: &clap::Error, verb: Option<&Command>) -> Mistake {
        let invalid = text(error, ContextKind::InvalidArg).unwrap_or_default();
        // `--port <PORT>`, `--replace[=<REPLACE>]`, `[SECTION]`, `<PEER>...`
        let flag = invalid.split([' ', '=', '[']).next().unwrap_or_default();
        let is_flag = flag.starts_with('-');
        let typed = self.typed(flag).filter(|_| is_flag).map(str::to_owned);
        let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
        let Some(verb) = verb else {
            return Mistake::Verb {
                word: self.verb.clone().unwrap_or_default(),
                suggestion: text(error, ContextKind::SuggestedSubcommand),
            };
        };
        let is_this =
            |arg: &&Arg| name(arg).is_some_and(|name| flag.trim_start_matches('-') == name);
        let arg = verb.get_arguments().find(is_this);
        match (error.kind(), typed) {
            (ErrorKind::UnknownArgument, typed) if is_flag => Mistake::Flag {
                flag: typed.unwrap_or_else(|| flag.to_owned()),
                suggestion: text(error, ContextKind::SuggestedArg),
            },
            (ErrorKind::UnknownArgument, _) => Mistake::Word(invalid),
            (ErrorKind::InvalidValue, Some(flag)) if value.is_empty() => Mistake::NoValue(flag),
            (ErrorKind::InvalidValue, _) => Mistake::Choice {
                what: placeholder(&invalid),
                value,
                suggestion: text(error, ContextKind::SuggestedValue),
                choices: texts(error, ContextKind::ValidValue),
            },
            (ErrorKind::ValueValidation, Some(flag)) if arg.is_some_and(is_switch) => {
                Mistake::Boolean { flag, value }
            }
            (ErrorKind::ValueValidation, Some(flag)) => Mistake::Number { flag, value },
            (ErrorKind::ValueValidation, None) => Mistake::Variable {
                name: arg.and_then(Arg::get_env).unwrap_or_default().to_owned(),
                value,
            },
            (ErrorKind::MissingRequiredArgument, _) => Mistake::Missing(placeholder(&invalid)),
            (ErrorKind::ArgumentConflict, _) => {
                let other = text(error, ContextKind::PriorArg).unwrap_or_default();
                let mut flags = [flag, other.split(' ').next().unwrap_or_default()];
                flags.sort_unstable();
                Mistake::Conflict(flags.map(str::to_owned))
            }
            _ => Mistake::Other(error.to_string()),
        }
    }
}

/// What the text behind the dashes of a flag stands for.
enum Spelling<'a> {
    /// A flag, as clap writes it.
    Flag { flag: String, wants_value: bool },
    /// A verb in the clothes of a flag: `--version`.
    Verb(&'a Command),
    /// Nothing known, as clap would write it.
    Unknown(String),
}

impl<'a> Spelling<'a> {
    fn of(command: &'a Command, body: &str) -> Self {
        for arg in command.get_arguments() {
            let aliases = arg.get_all_aliases().unwrap_or_default();
            if let Some(name) = name(arg)
                && (name == body || aliases.contains(&body))
            {
                return Self::Flag {
                    flag: dashed(&name),
                    wants_value: arg.get_action().takes_values() && !takes_boolean(arg),
                };
            }
            if arg
                .get_short()
                .is_some_and(|letter| body == letter.to_string())
            {
                return Self::Flag {
                    flag: dashed(body),
                    wants_value: false,
                };
            }
        }
        let is_verb = |verb: &&Command| verb.get_long_flag() == Some(body);
        match command.get_subcommands().find(is_verb) {
            Some(verb) => Self::Verb(verb),
            None => Self::Unknown(dashed(body)),
        }
    }
}

/// One dash before a letter, two before a word.
fn dashed(name: &str) -> String {
    let dashes = if name.chars().count() == 1 { "-" } else { "--" };
    format!("{dashes}{name}")
}

/// What a word is called in a message: what follows a flag's `=` may be a passphrase.
fn named(word: &str) -> &str {
    match word.split_once('=') {
        Some((flag, _)) if flag.starts_with('-') => flag,
        Some(_) | None => word,
    }
}

/// Name and value of a flag; `None` for words, a lone dash and negative numbers included.
fn split_flag(word: &str) -> Option<(&str, Option<&str>)> {
    let body = match word.strip_prefix("--") {
        Some(body) => body,
        None => word
            .strip_prefix('-')
            .filter(|body| body.starts_with(|first: char| first.is_ascii_alphabetic()))?,
    };
    match body.split_once('=') {
        Some((name, value)) => Some((name, Some(value))),
        None => Some((body, None)),
    }
}

/// Whether an argument is a switch by our conventions.
fn takes_boolean(arg: &Arg) -> bool {
    arg.is_require_equals_set()
}

/// `PEER` out of `<PEER>...`, as we write it: `peer`.
fn placeholder(invalid: &str) -> String {
    let inner: String = invalid
        .chars()
        .filter(|letter| !matches!(letter, '<' | '>' | '[' | ']' | '.'))
        .collect();
    inner.to_lowercase()
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    texts(error, kind).into_iter().next()
}

fn texts(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    let value = error.get(kind);
    if let Some(ContextValue::String(text)) = value {
        return vec![text.clone()];
    }
    let Some(ContextValue::Strings(texts)) = value else {
        return Vec::new();
    };
    texts.clone()
}

#[cfg(test)]
mod tests;
