//! What standard error says about a wrong use: the original's words when called by its name
//! (spec/cli-api.md 2 and 3), ours otherwise.

use crate::args::absent;
use crate::help;
use crate::hints;
use crate::mistake::Mistake;
use crate::program::{self, Program};

/// What standard error says about a mistake in the words of a verb, and the exit status.
pub(crate) fn report(program: Program, verb: Option<&str>, mistake: &Mistake) -> (String, u8) {
    if let Mistake::Verb { word, .. } = mistake
        && let Some(text) = absent::verb(word)
    {
        return (format!("{text}\n"), 1);
    }
    // No word of the command line is wrong.
    if let Mistake::Variable { .. } | Mistake::VariableNotText(_) = mistake {
        return (format!("{}\n", mistake.message(program)), 1);
    }
    let code = program::codes(verb).usage;
    let text = match program {
        Program::Weave => in_words_of_weave(verb, mistake),
        Program::Weft => in_our_words(verb, mistake),
    };
    (text, code)
}

fn in_words_of_weave(verb: Option<&str>, mistake: &Mistake) -> String {
    let program = Program::Weave;
    let message = mistake.message(program);
    // The daemon's own parser points to the help, the script shows it.
    if program::codes(verb) == program::DAEMON {
        format!("{message}\n{}\n", hints::more(program, None))
    } else {
        format!("{message}\n{}", help::text(program, verb))
    }
}

fn in_our_words(verb: Option<&str>, mistake: &Mistake) -> String {
    let program = Program::Weft;
    if matches!(mistake, Mistake::Verb { word, .. } if word.is_empty()) {
        return help::text(program, None);
    }
    let mut lines = vec![format!("{program}: {}", mistake.message(program))];
    lines.extend(mistake.hint().map(|hint| hints::line(&hint)));
    lines.push(String::new());
    lines.push(help::usage(program, verb));
    lines.push(hints::more(
        program,
        verb.filter(|_| !matches!(mistake, Mistake::Verb { .. })),
    ));
    lines.join("\n") + "\n"
}
