//! Reading the options of a command, one after the other.

use std::process::ExitCode;
use std::slice::Iter;

use crate::stage::Outcome;

/// Options of the form `--name` or `--name value`.
pub(crate) struct Options<'a> {
    words: Iter<'a, &'a str>,
    name: &'a str,
}

impl<'a> Options<'a> {
    /// Of what stands behind the command's name.
    pub(crate) fn of(arguments: &'a [&'a str]) -> Self {
        Self {
            words: arguments.iter(),
            name: "",
        }
    }

    /// Name of the next option, if there is one.
    pub(crate) fn next_name(&mut self) -> Option<&'a str> {
        self.name = self.words.next()?;
        Some(self.name)
    }

    /// Value of this option.
    pub(crate) fn value(&mut self) -> Outcome<&'a str> {
        let value = self.words.next().copied();
        value.ok_or_else(|| format!("{} needs a value", self.name))
    }

    /// Value of this option, a number.
    pub(crate) fn number(&mut self) -> Outcome<u64> {
        let value = self.value()?;
        let number = value.parse();
        number.map_err(|error| format!("{} {value}: {error}", self.name))
    }

    /// What to say about an option nobody knows.
    pub(crate) fn unknown<T>(&self) -> Outcome<T> {
        Err(format!("unknown argument {}", self.name))
    }
}

/// The exit code of a command that succeeded, did not, or could not be carried out, which is said
/// after `broke_off`.
pub(crate) fn exit_code(broke_off: &str, outcome: Outcome<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{broke_off}: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_order_and_refused_by_name() {
        let words = ["--write", "--rounds", "5", "--seconds", "x", "--rounds"];
        let mut options = Options::of(&words);
        assert_eq!(options.next_name(), Some("--write"));
        assert_eq!(options.next_name(), Some("--rounds"));
        assert_eq!(options.number(), Ok(5));
        assert_eq!(options.next_name(), Some("--seconds"));
        let error = options.number().unwrap_err();
        assert!(error.starts_with("--seconds x: "), "{error}");
        assert_eq!(options.next_name(), Some("--rounds"));
        assert_eq!(options.value(), Err("--rounds needs a value".to_owned()));
        assert_eq!(
            options.unknown::<()>().unwrap_err(),
            "unknown argument --rounds"
        );
        assert_eq!(options.next_name(), None);
    }
}
