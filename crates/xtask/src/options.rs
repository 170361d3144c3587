//! Reading the options of a command, one after the other.

use std::path::PathBuf;
use std::process::ExitCode;
use std::slice::Iter;

use crate::chance::Chance;
use crate::demo::build_release;
use crate::setup;
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

/// What every ordeal of running routers is told.
pub(crate) struct Ordeal {
    /// Decides what happens when.
    pub(crate) seed: u64,
    /// Whether the result goes into the documentation.
    pub(crate) write: bool,
    /// A binary to be tried instead of one built from these sources.
    weft: Option<PathBuf>,
}

impl Ordeal {
    /// Reads the options every ordeal has, and leaves others to `own`, which takes its value and says
    /// whether it knows the name.
    pub(crate) fn read(
        arguments: &[&str],
        mut own: impl FnMut(&str, &mut Options<'_>) -> Outcome<bool>,
    ) -> Outcome<Self> {
        let mut ordeal = Self {
            seed: Chance::fresh_seed(),
            write: false,
            weft: None,
        };
        let mut options = Options::of(arguments);
        while let Some(name) = options.next_name() {
            match name {
                "--seed" => ordeal.seed = options.number()?,
                "--write" => ordeal.write = true,
                "--weft" => ordeal.weft = Some(PathBuf::from(options.value()?)),
                _ if own(name, &mut options)? => {}
                _ => return options.unknown(),
            }
        }
        Ok(ordeal)
    }

    /// Looks for the programs that are needed, says the seed, and returns the binary to be tried.
    pub(crate) fn prepare(&self) -> Outcome<PathBuf> {
        let missing = setup::ensure(setup::FOR_TEST);
        if !missing.is_empty() {
            return Err(format!("please install: {}", missing.join(" ")));
        }
        let weft = self.weft.clone().map_or_else(build_release, Ok)?;
        println!("seed {}", self.seed);
        Ok(weft)
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
    fn an_ordeal_takes_its_own_options_and_refuses_what_nobody_knows() {
        let mut kills = 0;
        let mut own = |name: &str, options: &mut Options<'_>| {
            if name == "--kills" {
                kills = options.number()?;
            }
            Ok(name == "--kills")
        };
        let ordeal = Ordeal::read(&["--seed", "5", "--kills", "7", "--write"], &mut own).unwrap();
        assert_eq!((ordeal.seed, ordeal.write, ordeal.weft), (5, true, None));
        let error = Ordeal::read(&["--minutes", "3"], &mut own).err();
        assert_eq!(error.as_deref(), Some("unknown argument --minutes"));
        let error = Ordeal::read(&["--kills"], &mut own).err();
        assert_eq!(error.as_deref(), Some("--kills needs a value"));
        assert_eq!(kills, 7);
    }

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
