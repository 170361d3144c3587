//! Template text to a tree.

use std::iter::Peekable;
use std::str::CharIndices;

use serde_json::Value;

use super::ParseError;
use super::functions;

/// How deep actions and parentheses may nest.
const DEPTH_MAX: usize = 64;

/// A piece of a template.
#[derive(Debug)]
pub(super) enum Node {
    /// Copied to the output.
    Text(String),
    /// Printed, unless it declares a variable.
    Action(Pipeline),
    /// `if`.
    If {
        pipeline: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
    /// `with`.
    With {
        pipeline: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
    /// `range`.
    Range {
        pipeline: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
}

/// Commands joined by `|`, with the variables they set.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    /// Names with their `$`.
    pub(super) variables: Vec<String>,
    /// Whether `=` was written instead of `:=`.
    pub(super) assigns: bool,
    /// At least one.
    pub(super) commands: Vec<Command>,
}

/// One command of a pipeline.
#[derive(Debug)]
pub(super) enum Command {
    /// A value.
    Value(Operand),
    /// A function and its arguments.
    Call {
        name: String,
        arguments: Vec<Operand>,
    },
}

/// Something with a value.
#[derive(Debug)]
pub(super) enum Operand {
    /// A constant.
    Literal(Value),
    /// Fields of dot; empty for dot itself.
    Path(Vec<String>),
    /// Fields of a variable.
    Variable(String, Vec<String>),
    /// Fields of a parenthesised pipeline.
    Group(Box<Pipeline>, Vec<String>),
}

/// Parses a whole template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, ParseError> {
    let pieces = split(text)?;
    let mut parser = Parser {
        pieces: pieces.into_iter().peekable(),
        depth: 0,
    };
    let (nodes, end) = parser.nodes()?;
    match end {
        None => Ok(nodes),
        Some(word) => Err(ParseError(format!("unexpected {{{{{}}}}}", word.text()))),
    }
}

/// Text or the tokens of one action.
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    /// A bare word: function or keyword.
    Word(String),
    /// `.A.B`, or `.` with no names. `glued` when it follows `)` without a blank.
    Path {
        names: Vec<String>,
        glued: bool,
    },
    /// `$x.A.B`.
    Variable(String, Vec<String>),
    Literal(Value),
    Pipe,
    Declare,
    Assign,
    Comma,
    Open,
    Close,
}

/// What ended a list of nodes.
enum End {
    End,
    /// `else`, with the tokens behind it.
    Else(Vec<Token>),
}

impl End {
    fn text(&self) -> &'static str {
        match self {
            Self::End => "end",
            Self::Else(_) => "else",
        }
    }
}

/// Cuts the text into pieces, applying trim markers.
fn split(text: &str) -> Result<Vec<Piece>, ParseError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (before, action) = match rest.find("{{") {
            Some(at) => (&rest[..at], Some(&rest[at + 2..])),
            None => (rest, None),
        };
        let trims_before = action.is_some_and(trims_left);
        let mut literal = before;
        if trim_next {
            literal = literal.trim_start();
        }
        if trims_before {
            literal = literal.trim_end();
        }
        if !literal.is_empty() {
            pieces.push(Piece::Text(literal.to_owned()));
        }
        let Some(mut action) = action else {
            return Ok(pieces);
        };
        if trims_before {
            action = action[1..].trim_start();
        }
        let (tokens, after, trims_after) = tokens(action)?;
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens));
        }
        trim_next = trims_after;
        rest = after;
    }
}

/// Whether an action begins with the left trim marker: a dash and white space.
fn trims_left(action: &str) -> bool {
    action
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(char::is_whitespace))
}

/// Tokens of an action (`None` for a comment), the text behind it, and whether that is trimmed.
fn tokens(action: &str) -> Result<(Option<Vec<Token>>, &str, bool), ParseError> {
    if let Some(comment) = action.trim_start().strip_prefix("/*") {
        let (_, rest) = comment
            .split_once("*/")
            .ok_or_else(|| ParseError("unclosed comment".to_owned()))?;
        let rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((None, after, false));
        }
        if let Some(after) = rest.strip_prefix("-}}") {
            return Ok((None, after, true));
        }
        return Err(ParseError(
            "comment ends before closing delimiter".to_owned(),
        ));
    }
    let mut list = Vec::new();
    let mut chars = action.char_indices().peekable();
    while let Some(&(at, c)) = chars.peek() {
        if let Some(after) = action[at..].strip_prefix("}}") {
            return Ok((Some(list), after, false));
        }
        if c.is_whitespace() {
            chars.next();
            if let Some(after) = action[at + c.len_utf8()..].strip_prefix("-}}") {
                return Ok((Some(list), after, true));
            }
            continue;
        }
        let glued = at > 0 && action[..at].ends_with(')');
        list.push(token(action, &mut chars, glued)?);
    }
    Err(ParseError("unclosed action".to_owned()))
}

fn token(
    text: &str,
    chars: &mut Peekable<CharIndices<'_>>,
    glued: bool,
) -> Result<Token, ParseError> {
    let (at, c) = chars.next().expect("the caller peeked a character");
    match c {
        '|' => Ok(Token::Pipe),
        ',' => Ok(Token::Comma),
        '(' => Ok(Token::Open),
        ')' => Ok(Token::Close),
        '=' => Ok(Token::Assign),
        ':' => match chars.next() {
            Some((_, '=')) => Ok(Token::Declare),
            _ => Err(ParseError("expected :=".to_owned())),
        },
        '"' => quoted(chars).map(|s| Token::Literal(Value::from(s))),
        '`' => {
            let mut raw = String::new();
            for (_, c) in chars.by_ref() {
                if c == '`' {
                    return Ok(Token::Literal(Value::from(raw)));
                }
                raw.push(c);
            }
            Err(ParseError("unterminated raw quoted string".to_owned()))
        }
        '.' if !chars.peek().is_some_and(|(_, c)| c.is_ascii_digit()) => {
            let mut names = Vec::new();
            if chars.peek().is_some_and(|&(_, c)| is_name(c)) {
                names.push(name(chars));
                names.extend(fields(chars));
            }
            Ok(Token::Path { names, glued })
        }
        '$' => {
            let variable = format!("${}", name(chars));
            Ok(Token::Variable(variable, fields(chars)))
        }
        '0'..='9' | '+' | '-' | '.' => {
            let mut end = at + c.len_utf8();
            while let Some(&(next, c)) = chars.peek() {
                if !(is_name(c) || c == '.' || c == '+' || c == '-') {
                    break;
                }
                chars.next();
                end = next + c.len_utf8();
            }
            number(&text[at..end])
        }
        c if is_name(c) => {
            let mut word = c.to_string();
            word.push_str(&name(chars));
            Ok(match word.as_str() {
                "true" => Token::Literal(Value::Bool(true)),
                "false" => Token::Literal(Value::Bool(false)),
                "nil" => Token::Literal(Value::Null),
                _ => Token::Word(word),
            })
        }
        _ => Err(ParseError(format!("unexpected {c:?} in command"))),
    }
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn name(chars: &mut Peekable<CharIndices<'_>>) -> String {
    let mut name = String::new();
    while let Some((_, c)) = chars.next_if(|&(_, c)| is_name(c)) {
        name.push(c);
    }
    name
}

fn fields(chars: &mut Peekable<CharIndices<'_>>) -> Vec<String> {
    let mut names = Vec::new();
    while chars.next_if(|&(_, c)| c == '.').is_some() {
        names.push(name(chars));
    }
    names
}

fn number(text: &str) -> Result<Token, ParseError> {
    let bad = || ParseError(format!("bad number syntax: {text:?}"));
    let digits = text.strip_prefix('+').unwrap_or(text);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        Value::from(u64::from_str_radix(hex, 16).map_err(|_| bad())?)
    } else if let Ok(n) = digits.parse::<i64>() {
        Value::from(n)
    } else if let Ok(n) = digits.parse::<u64>() {
        Value::from(n)
    } else {
        let float: f64 = digits.parse().map_err(|_| bad())?;
        Value::from(float)
    };
    if value.is_null() {
        Err(bad())
    } else {
        Ok(Token::Literal(value))
    }
}

/// The rest of a string literal, after its opening quote.
fn quoted(chars: &mut Peekable<CharIndices<'_>>) -> Result<String, ParseError> {
    let unterminated = || ParseError("unterminated quoted string".to_owned());
    let mut text = String::new();
    loop {
        let (_, c) = chars.next().ok_or_else(unterminated)?;
        match c {
            '"' => return Ok(text),
            '\n' => return Err(unterminated()),
            '\\' => {
                let (_, escape) = chars.next().ok_or_else(unterminated)?;
                text.push(match escape {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    'a' => '\u{7}',
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'v' => '\u{b}',
                    '\\' | '"' | '\'' => escape,
                    'x' => code(chars, 2)?,
                    'u' => code(chars, 4)?,
                    'U' => code(chars, 8)?,
                    _ => return Err(ParseError(format!("invalid escape \\{escape}"))),
                });
            }
            _ => text.push(c),
        }
    }
}

fn code(chars: &mut Peekable<CharIndices<'_>>, digits: usize) -> Result<char, ParseError> {
    let hex: String = chars.by_ref().take(digits).map(|(_, c)| c).collect();
    u32::from_str_radix(&hex, 16)
        .ok()
        .filter(|_| hex.len() == digits)
        .and_then(char::from_u32)
        .ok_or_else(|| ParseError(format!("invalid escape {hex}")))
}

struct Parser {
    pieces: Peekable<std::vec::IntoIter<Piece>>,
    depth: usize,
}

impl Parser {
    /// Nodes up to the end of text, `end` or `else`.
    fn nodes(&mut self) -> Result<(Vec<Node>, Option<End>), ParseError> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            match tokens.first() {
                Some(Token::Word(word)) if word == "end" && tokens.len() == 1 => {
                    return Ok((nodes, Some(End::End)));
                }
                Some(Token::Word(word)) if word == "else" => {
                    return Ok((nodes, Some(End::Else(tokens[1..].to_vec()))));
                }
                Some(Token::Word(word)) if matches!(word.as_str(), "if" | "with" | "range") => {
                    let word = word.clone();
                    nodes.push(self.block(&word, &tokens[1..])?);
                }
                _ => nodes.push(Node::Action(pipeline(&tokens, false)?)),
            }
        }
        Ok((nodes, None))
    }

    fn block(&mut self, word: &str, tokens: &[Token]) -> Result<Node, ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ParseError("nested too deeply".to_owned()));
        }
        let pipeline = pipeline(tokens, word == "range")?;
        let (then, end) = self.nodes()?;
        let otherwise = match end {
            None => return Err(ParseError(format!("unexpected EOF in {{{{{word}}}}}"))),
            Some(End::End) => Vec::new(),
            Some(End::Else(rest)) => match rest.first() {
                None => match self.nodes()? {
                    (nodes, Some(End::End)) => nodes,
                    _ => return Err(ParseError("expected end; found else or EOF".to_owned())),
                },
                Some(Token::Word(next)) if (next == "if" || next == "with") && word != "range" => {
                    let next = next.clone();
                    vec![self.block(&next, &rest[1..])?]
                }
                Some(_) => return Err(ParseError("unexpected token in else".to_owned())),
            },
        };
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If {
                pipeline,
                then,
                otherwise,
            },
            "with" => Node::With {
                pipeline,
                then,
                otherwise,
            },
            _ => Node::Range {
                pipeline,
                then,
                otherwise,
            },
        })
    }
}

/// A pipeline with its optional variables; `range` may set two.
fn pipeline(tokens: &[Token], is_range: bool) -> Result<Pipeline, ParseError> {
    let (variables, assigns, rest) = match tokens {
        [
            Token::Variable(a, p),
            Token::Comma,
            Token::Variable(b, q),
            Token::Declare,
            rest @ ..,
        ] if is_range && p.is_empty() && q.is_empty() => (vec![a.clone(), b.clone()], false, rest),
        [Token::Variable(a, p), Token::Declare, rest @ ..] if p.is_empty() => {
            (vec![a.clone()], false, rest)
        }
        [Token::Variable(a, p), Token::Assign, rest @ ..] if p.is_empty() => {
            (vec![a.clone()], true, rest)
        }
        _ => (Vec::new(), false, tokens),
    };
    let mut cursor = Cursor {
        tokens: rest,
        at: 0,
        depth: 0,
    };
    let mut parsed = cursor.pipeline()?;
    if cursor.at != rest.len() {
        return Err(ParseError(format!(
            "unexpected {:?} in command",
            rest[cursor.at]
        )));
    }
    parsed.variables = variables;
    parsed.assigns = assigns;
    Ok(parsed)
}

struct Cursor<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Cursor<'_> {
    fn pipeline(&mut self) -> Result<Pipeline, ParseError> {
        let mut commands = vec![self.command()?];
        while self.tokens.get(self.at) == Some(&Token::Pipe) {
            self.at += 1;
            let command = self.command()?;
            if matches!(command, Command::Value(_)) {
                return Err(ParseError("non executable command in pipeline".to_owned()));
            }
            commands.push(command);
        }
        Ok(Pipeline {
            variables: Vec::new(),
            assigns: false,
            commands,
        })
    }

    fn command(&mut self) -> Result<Command, ParseError> {
        if let Some(Token::Word(word)) = self.tokens.get(self.at) {
            let name = word.clone();
            if !functions::is_known(&name) {
                return Err(ParseError(format!("function {name:?} not defined")));
            }
            self.at += 1;
            let mut arguments = Vec::new();
            while let Some(operand) = self.operand()? {
                arguments.push(operand);
            }
            return Ok(Command::Call { name, arguments });
        }
        let first = self
            .operand()?
            .ok_or_else(|| ParseError("missing value for command".into()))?;
        if self.operand()?.is_some() {
            return Err(ParseError("can't give argument to non-function".to_owned()));
        }
        Ok(Command::Value(first))
    }

    fn operand(&mut self) -> Result<Option<Operand>, ParseError> {
        let Some(token) = self.tokens.get(self.at) else {
            return Ok(None);
        };
        let operand = match token {
            Token::Literal(value) => Operand::Literal(value.clone()),
            Token::Path { names, .. } => Operand::Path(names.clone()),
            Token::Variable(name, path) => Operand::Variable(name.clone(), path.clone()),
            Token::Word(name) if functions::is_known(name) => {
                // A function without arguments in argument position.
                let name = name.clone();
                let command = Command::Call {
                    name,
                    arguments: Vec::new(),
                };
                let group = Pipeline {
                    commands: vec![command],
                    ..Pipeline::default()
                };
                Operand::Group(Box::new(group), Vec::new())
            }
            Token::Word(name) => return Err(ParseError(format!("function {name:?} not defined"))),
            Token::Open => return self.group().map(Some),
            Token::Pipe | Token::Close => return Ok(None),
            Token::Declare | Token::Assign | Token::Comma => {
                return Err(ParseError("unexpected assignment in command".to_owned()));
            }
        };
        self.at += 1;
        Ok(Some(operand))
    }

    fn group(&mut self) -> Result<Operand, ParseError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(ParseError("nested too deeply".to_owned()));
        }
        self.at += 1;
        let pipeline = self.pipeline()?;
        if self.tokens.get(self.at) != Some(&Token::Close) {
            return Err(ParseError("unclosed left paren".to_owned()));
        }
        self.at += 1;
        self.depth -= 1;
        let mut path = Vec::new();
        if let Some(Token::Path { names, glued: true }) = self.tokens.get(self.at) {
            path = names.clone();
            self.at += 1;
        }
        Ok(Operand::Group(Box::new(pipeline), path))
    }
}
