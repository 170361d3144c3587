//! Wrong uses of the command line, and the words for them: the original's when called by its name
//! (spec/cli-api.md 2 and 3), ours otherwise.

use std::ffi::OsString;

use crate::hints;
use crate::program::Program;

/// What is wrong with a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// No verb, or none that is known.
    Verb {
        /// What stands in its place; may be empty.
        word: String,
        /// A verb that looks like it.
        suggestion: Option<String>,
    },
    /// Nobody knows the flag.
    Flag {
        /// The flag as typed, without a value.
        flag: String,
        /// One that looks like it.
        suggestion: Option<String>,
    },
    /// One word too many.
    Word(String),
    /// The line ends where the value of this flag should be.
    NoValue(String),
    /// A value out of a list was expected.
    Choice {
        /// What it chooses.
        what: String,
        /// What was given.
        value: String,
        /// One that looks like it.
        suggestion: Option<String>,
        /// All that may be chosen.
        choices: Vec<String>,
    },
    /// A switch was given something else than true or false.
    Boolean {
        /// The flag as typed.
        flag: String,
        /// Its value.
        value: String,
    },
    /// A number was expected.
    Number {
        /// The flag as typed.
        flag: String,
        /// Its value.
        value: String,
    },
    /// A variable of the environment has a value that cannot be.
    Variable {
        /// Its name.
        name: OsString,
        /// Its value.
        value: String,
    },
    /// A variable of the environment is no text. It may be a secret, so it is not repeated.
    VariableNotText(OsString),
    /// A word is missing: what it would say.
    Missing(String),
    /// Two flags exclude each other.
    Conflict([String; 2]),
    /// This word, counted from one, is no text. It may be a secret, so it is not repeated.
    NotText(usize),
    /// The library refuses for a reason of its own.
    Other(String),
}

impl Mistake {
    /// What is wrong, in the words of the program.
    pub(crate) fn message(&self, program: Program) -> String {
        match (program, self) {
            (Program::Weave, Self::Verb { word, .. }) => format!("Unknown weave command '{word}'"),
            (Program::Weft, Self::Verb { word, .. }) => format!("unknown command {word:?}"),
            (Program::Weave, Self::Flag { flag, .. }) => {
                format!("flag provided but not defined: {flag}")
            }
            (Program::Weft, Self::Flag { flag, .. }) => format!("unknown flag {flag}"),
            (Program::Weave, Self::NoValue(flag)) => format!("flag needs an argument: {flag}"),
            (Program::Weft, Self::NoValue(flag)) => format!("flag {flag} needs a value"),
            (Program::Weave, Self::Choice { what, value, .. }) if what == "section" => {
                format!("Invalid 'weave status' sub-command: {value}")
            }
            (_, Self::Choice { what, value, .. }) => format!("invalid {what} {value:?}"),
            (_, Self::Word(word)) => format!("unexpected word {word:?}"),
            (_, Self::Boolean { flag, value }) => {
                format!("invalid boolean value {value:?} for {flag}")
            }
            (_, Self::Number { flag, value }) => {
                format!("invalid value {value:?} for flag {flag}: not a number")
            }
            (_, Self::Variable { name, value }) => {
                format!("invalid {} {value:?}", name.to_string_lossy())
            }
            (_, Self::VariableNotText(name)) => {
                format!("{} is not valid UTF-8", name.to_string_lossy())
            }
            (_, Self::Missing(what)) => format!("no {what} given"),
            (_, Self::Conflict([one, other])) => format!("{one} and {other} exclude each other"),
            (_, Self::NotText(at)) => format!("word {at} is not valid UTF-8"),
            (_, Self::Other(message)) => message.clone(),
        }
    }

    /// What to do instead.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Verb { suggestion, .. }
            | Self::Flag { suggestion, .. }
            | Self::Choice { suggestion, .. }
                if suggestion.is_some() =>
            {
                suggestion.as_deref().map(hints::did_you_mean)
            }
            Self::Choice { choices, .. } => Some(hints::one_of(choices)),
            Self::Verb { .. }
            | Self::Flag { .. }
            | Self::Word(_)
            | Self::NoValue(_)
            | Self::Boolean { .. }
            | Self::Number { .. }
            | Self::Variable { .. }
            | Self::VariableNotText(_)
            | Self::Missing(_)
            | Self::Conflict(_)
            | Self::NotText(_)
            | Self::Other(_) => None,
        }
    }
}
