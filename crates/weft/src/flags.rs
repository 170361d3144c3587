//! Command lines as the original takes them: `--flag value`, `--flag=value`, `--switch[=bool]`,
//! flags before, between and after other words, the last of several winning.
//!
//! No library: none keeps these conventions together with the original's messages.

use std::collections::BTreeMap;

/// A flag and what it takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    /// Name without dashes; one letter means a single dash.
    pub(crate) name: &'static str,
    /// Placeholder of its value; a switch has none.
    pub(crate) value: Option<&'static str>,
    /// One line of help; empty hides it.
    pub(crate) help: &'static str,
}

/// A switch.
pub(crate) const fn switch(name: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        value: None,
        help,
    }
}

/// A flag with a value.
pub(crate) const fn value(name: &'static str, value: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        value: Some(value),
        help,
    }
}

/// A command line taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    values: BTreeMap<&'static str, Vec<String>>,
    /// Words that are neither flags nor their values, in order.
    pub(crate) words: Vec<String>,
}

/// Why a command line is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    /// Nobody knows the flag.
    #[error("flag provided but not defined: {0}")]
    Unknown(String),
    /// The line ends where a value should be.
    #[error("flag needs an argument: {0}")]
    Missing(String),
    /// A switch was given something else than true or false.
    #[error("invalid boolean value {value:?} for {flag}")]
    Boolean {
        /// The flag as typed.
        flag: String,
        /// Its value.
        value: String,
    },
    /// `--help` was given.
    #[error("help requested")]
    Help,
}

/// Takes a command line apart.
pub(crate) fn parse(arguments: &[String], flags: &[Flag]) -> Result<Parsed, FlagError> {
    let mut parsed = Parsed::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            parsed.words.extend(rest.cloned());
            break;
        }
        let Some(body) = flag_body(argument) else {
            parsed.words.push(argument.clone());
            continue;
        };
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let typed = argument.split('=').next().unwrap_or_default().to_owned();
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
            if name == "help" || argument == "-h" {
                return Err(FlagError::Help);
            }
            return Err(FlagError::Unknown(typed));
        };
        let value = match (flag.value, inline) {
            (Some(_), Some(value)) => value,
            (Some(_), None) => rest.next().ok_or(FlagError::Missing(typed))?.clone(),
            (None, None) => "true".to_owned(),
            (None, Some(value)) => match boolean(&value) {
                Some(on) => on.to_string(),
                None => return Err(FlagError::Boolean { flag: typed, value }),
            },
        };
        parsed.values.entry(flag.name).or_default().push(value);
    }
    Ok(parsed)
}

/// The text behind the dashes; `None` for words, a lone dash and negative numbers included.
fn flag_body(argument: &str) -> Option<&str> {
    if let Some(body) = argument.strip_prefix("--") {
        return Some(body);
    }
    let body = argument.strip_prefix('-')?;
    let first = body.chars().next()?;
    first.is_ascii_alphabetic().then_some(body)
}

/// The spellings the original accepts.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

impl Parsed {
    /// The last value given.
    pub(crate) fn last(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    /// All values given.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        self.values.get(name).cloned().unwrap_or_default()
    }

    /// Whether a switch is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.last(name) == Some("true")
    }

    /// All flags given, by name, with their last values.
    pub(crate) fn given(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values
            .iter()
            .filter_map(|(name, values)| Some((*name, values.last()?.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        switch("replace", ""),
        value("port", "PORT", ""),
        value("f", "TEMPLATE", ""),
    ];

    fn line(words: &[&str]) -> Result<Parsed, FlagError> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        parse(&words, FLAGS)
    }

    #[test]
    fn flags_may_stand_anywhere() {
        for words in [
            &["--port", "1", "--replace", "a", "b"][..],
            &["a", "--port=1", "b", "--replace"],
            &["a", "b", "--replace=true", "-port", "1"],
            &[
                "--replace=0",
                "--port",
                "9",
                "a",
                "--port",
                "1",
                "--replace",
                "b",
            ],
        ] {
            let parsed = line(words).expect("valid");
            assert_eq!(parsed.words, ["a", "b"], "{words:?}");
            assert_eq!(parsed.last("port"), Some("1"), "{words:?}");
            assert!(parsed.is_on("replace"), "{words:?}");
        }
        assert!(!line(&["--replace=false"]).expect("valid").is_on("replace"));
    }

    #[test]
    fn two_dashes_end_flags() {
        let parsed = line(&["--", "--port", "-f"]).expect("valid");
        assert_eq!(parsed.words, ["--port", "-f"]);
        assert_eq!(line(&["-", "-1"]).expect("valid").words, ["-", "-1"]);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            line(&["--nope=1"]),
            Err(FlagError::Unknown("--nope".into()))
        );
        assert_eq!(
            line(&["--nope"]).expect_err("unknown").to_string(),
            "flag provided but not defined: --nope"
        );
        assert_eq!(line(&["-f"]), Err(FlagError::Missing("-f".into())));
        assert!(matches!(
            line(&["--replace=maybe"]),
            Err(FlagError::Boolean { .. })
        ));
        assert_eq!(line(&["--help"]), Err(FlagError::Help));
        assert_eq!(line(&["-h"]), Err(FlagError::Help));
    }
}
