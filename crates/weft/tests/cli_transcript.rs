//! What the command line says without a daemon: every verb and every wrong use, by both names.
//!
//! `testdata/cli/*.txt` hold commands and what they gave: `$` is the prompt of a command, `#` of one that only
//! root can give, what follows are the exit status and the lines of the two streams. Lines that open
//! with `==` are headings. With `WEFT_REWRITE_TRANSCRIPTS` set, the files are written anew.
//!
//! Nothing here reaches the machine: the control address is a closed port, and the directories for state
//! and run files are below a plain file, so that a command that would start a daemon cannot.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Port 1 of the loopback interface is closed.
const NOBODY: &str = "127.0.0.1:1";

#[test]
fn the_command_line_says_what_the_transcripts_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/cli");
    let rewrite = std::env::var_os("WEFT_REWRITE_TRANSCRIPTS").is_some();
    let mut count = 0;
    for entry in std::fs::read_dir(directory).expect("the transcripts are there") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("a transcript is text");
        let host = Host::new(&path);
        let told = host.replay(&text);
        if rewrite {
            std::fs::write(&path, &told).expect("writable");
        } else {
            for (wanted, got) in commands(&text).zip(commands(&told)) {
                assert_eq!(got, wanted, "{}", path.display());
            }
            assert_eq!(told, text, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 2, "{count} transcripts");
}

/// A transcript in pieces: what precedes the first command, then each command with what it gave.
fn commands(text: &str) -> impl Iterator<Item = String> {
    let mut pieces = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("$ ") || line.starts_with("# ") {
            pieces.push(String::new());
        }
        let piece = pieces.last_mut().expect("there is one");
        piece.push_str(line);
        piece.push('\n');
    }
    pieces.into_iter()
}

/// A place without a daemon.
struct Host {
    directory: PathBuf,
    is_root: bool,
}

impl Host {
    fn new(transcript: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        let name = transcript.file_stem().expect("a name").to_string_lossy();
        let directory =
            std::env::temp_dir().join(format!("weft-transcript-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        std::fs::write(directory.join("file"), "").expect("a file");
        let owner = std::fs::metadata("/proc/self").expect("procfs").uid();
        Self {
            directory,
            is_root: owner == 0,
        }
    }

    /// Gives the commands of a transcript again and returns it with what they give.
    fn replay(&self, text: &str) -> String {
        let mut told = String::new();
        if !self.is_root {
            let _ = writeln!(
                std::io::stderr(),
                "skipped: commands of a transcript: need root"
            );
        }
        for piece in commands(text) {
            let command = piece.lines().next().unwrap_or_default();
            let Some((prompt, line)) = command.split_at_checked(2) else {
                told.push_str(&piece);
                continue;
            };
            match prompt {
                "# " if !self.is_root => {
                    told.push_str(&piece);
                    continue;
                }
                "$ " | "# " => {}
                _ => {
                    told.push_str(&piece);
                    continue;
                }
            }
            let _ = writeln!(told, "{command}");
            told.push_str(&self.answer(line));
            let headings = piece
                .lines()
                .skip_while(|line| !line.is_empty() && !line.starts_with("=="));
            for heading in headings {
                let _ = writeln!(told, "{heading}");
            }
        }
        told
    }

    /// Runs one line: `[VARIABLE=value …] weft|weave [word …]`.
    fn answer(&self, line: &str) -> String {
        let words = split(&line.replace("$DIR", &self.directory.to_string_lossy()));
        let is_variable = |word: &&String| word.split('=').next().is_some_and(is_variable_name);
        let variables: Vec<&String> = words.iter().take_while(is_variable).collect();
        let name = &words[variables.len()];
        assert!(["weft", "weave"].contains(&name.as_str()), "{line}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .arg0(name)
            .args(&words[variables.len() + 1..])
            .env_clear()
            .env("WEFT_RUN_DIR", self.directory.join("file/run"))
            .env("WEFT_STATE_DIR", self.directory.join("file/state"))
            .env("WEAVE_HTTP_ADDR", NOBODY)
            .stdin(Stdio::null());
        for variable in variables {
            let (name, value) = variable.split_once('=').expect("a variable has a value");
            command.env(name, value);
        }
        let output = command.output().expect("the binary runs");
        let code = output.status.code().unwrap_or(-1);
        let mut told = format!("exit {code}\n");
        told.push_str(&self.stream("out", &output.stdout));
        told.push_str(&self.stream("err", &output.stderr));
        told
    }

    /// The lines of a stream, with what differs from run to run taken out.
    fn stream(&self, name: &str, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes)
            .replace(&*self.directory.to_string_lossy(), "$DIR")
            .replace(env!("CARGO_PKG_VERSION"), "$VERSION");
        let mut told = String::new();
        for line in text.lines() {
            let _ = writeln!(told, "{}", format!("{name}| {line}").trim_end());
        }
        if !text.is_empty() && !text.ends_with('\n') {
            let _ = writeln!(told, "{name}: no line end");
        }
        told
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn is_variable_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

/// Words at blanks; what stands between single quotes is kept together.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut is_quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => {
                is_quoted = !is_quoted;
                word.get_or_insert_default();
            }
            ' ' if !is_quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
