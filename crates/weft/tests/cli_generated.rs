//! What is generated from the declaration of the command line: completions and manual pages; and
//! that the README names every command.

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Standard output of a run that has to succeed.
fn weft(words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(words)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{words:?}: {output:?}");
    assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// The commands of the overview.
fn verbs() -> Vec<String> {
    let overview = weft(&["help"]);
    let lines = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let words = |line: &str| {
        let word = line.split_whitespace().next().unwrap_or_default();
        word.trim_end_matches(',').to_owned()
    };
    let verbs: Vec<String> = lines.map(words).collect();
    assert!(verbs.len() > 15, "{overview}");
    verbs
}

/// The long flags in the help of a command.
fn flags(verb: &str) -> Vec<String> {
    let help = weft(&[verb, "--help"]);
    let flag = |line: &str| {
        let word = line.split_whitespace().find(|word| word.starts_with('-'))?;
        let word = match word.strip_suffix(',') {
            Some(_) => line.split_whitespace().nth(1)?,
            None => word,
        };
        word.starts_with("--").then(|| word.to_owned())
    };
    let options = help.lines().filter(|line| line.starts_with("  "));
    options
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(flag)
        .collect()
}

/// Says what was not tested, past the capture of the output.
fn say(words: &str) {
    let _ = writeln!(std::io::stderr(), "{words}");
}

/// Runs a program on a text; `None` if it is not installed.
fn try_run(program: &str, arguments: &[&str], input: &str) -> Option<Output> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        return None;
    };
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads");
    Some(output)
}

#[test]
fn completions_know_every_command_and_flag_and_nothing_hidden() {
    for shell in ["bash", "zsh", "fish"] {
        let script = weft(&["completion", shell]);
        for verb in verbs() {
            assert!(script.contains(&verb), "{shell}: {verb}");
            for flag in flags(&verb) {
                let name = flag.trim_start_matches('-');
                assert!(script.contains(name), "{shell}: {verb} {flag}");
            }
        }
        for hidden in ["supervise", "tlscacert", "awsvpc", "--local"] {
            assert!(!script.contains(hidden), "{shell}: {hidden}");
        }
        let checked = try_run(shell, &["-n"], &script);
        if checked.is_none() {
            say(&format!(
                "not checked by {shell} itself: it is not installed"
            ));
        }
        if let Some(output) = checked {
            assert!(
                output.status.success() && output.stderr.is_empty(),
                "{shell}: {output:?}"
            );
        }
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    let script = weft(&["completion", "bash"]);
    for (line, expected) in [
        ("weft sta", "status"),
        ("weft reset --fo", "--force"),
        ("weft status pe", "peers"),
        ("weft completion f", "fish"),
        ("weft launch --ipalloc-r", "--ipalloc-range"),
    ] {
        let asked = format!(
            "{script}\nCOMP_WORDS=({line}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n\
             _weft weft \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\"\n"
        );
        let Some(output) = try_run("bash", &["--norc"], &asked) else {
            return say("skipped: completion by bash: it is not installed");
        };
        let offered = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(offered.trim(), expected, "{line}: {output:?}");
    }
}

#[test]
fn the_manual_names_every_command_and_each_command_has_a_page() {
    let plain = |page: String| page.replace('\\', "");
    let manual = plain(weft(&["man"]));
    for heading in [
        "NAME",
        "SYNOPSIS",
        "SUBCOMMANDS",
        "ENVIRONMENT",
        "EXIT STATUS",
    ] {
        let is_there = [heading.to_owned(), format!("\"{heading}\"")]
            .iter()
            .any(|heading| manual.contains(&format!(".SH {heading}\n")));
        assert!(is_there, "{heading}: {manual}");
    }
    assert!(manual.contains("WEAVE_PASSWORD"), "{manual}");
    for verb in verbs() {
        assert!(
            manual.contains(&format!("weft-{verb}(1)")),
            "{verb}: {manual}"
        );
        let page = plain(weft(&["man", &verb]));
        assert!(page.contains(&format!(".TH weft-{verb} 1")), "{page}");
        for flag in flags(&verb) {
            assert!(page.contains(&flag), "{verb} {flag}: {page}");
        }
    }
}

#[test]
fn manual_pages_are_sound_roff() {
    for page in [
        &["man"][..],
        &["man", "launch"],
        &["man", "attach"],
        &["man", "rmpeer"],
    ] {
        let page_text = weft(page);
        assert!(page_text.is_ascii(), "{page_text}");
        let Some(output) = try_run("groff", &["-man", "-ww", "-Tutf8"], &page_text) else {
            return say("skipped: manual pages: groff is not installed");
        };
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{page:?}: {output:?}"
        );
    }
}

#[test]
fn the_readme_names_every_command() {
    let readme = include_str!("../../../README.md");
    for verb in verbs() {
        assert!(readme.contains(&format!("`weft {verb}")), "{verb}");
    }
}
