//! Functions of templates and how values print.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::ExecError;

/// Widest padding `printf` applies, columns.
const WIDTH_MAX: usize = 4096;

/// Whether templates may call this.
pub(super) fn is_known(name: &str) -> bool {
    matches!(
        name,
        "and"
            | "or"
            | "not"
            | "len"
            | "index"
            | "json"
            | "print"
            | "println"
            | "printf"
            | "eq"
            | "ne"
            | "lt"
            | "le"
            | "gt"
            | "ge"
    )
}

/// Calls a function other than `and` and `or`, which do not evaluate all their arguments.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, ExecError> {
    match (name, arguments) {
        ("not", [value]) => Ok(Value::Bool(!truth(Some(value)))),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("json", [value]) => Ok(Value::from(api::json::compact(value))),
        ("print", values) => Ok(Value::from(print(values))),
        ("println", values) => {
            let words: Vec<String> = values.iter().map(display).collect();
            Ok(Value::from(words.join(" ") + "\n"))
        }
        ("printf", [Value::String(format), values @ ..]) => Ok(Value::from(printf(format, values))),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            for other in others {
                if compare(first, other)? == Ordering::Equal {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("ne", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Equal)),
        ("lt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Less)),
        ("le", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Greater)),
        ("gt", [a, b]) => Ok(Value::Bool(compare(a, b)? == Ordering::Greater)),
        ("ge", [a, b]) => Ok(Value::Bool(compare(a, b)? != Ordering::Less)),
        _ => Err(ExecError(format!("wrong arguments for {name}"))),
    }
}

/// What counts as true: everything but false, zero, and what is empty.
pub(super) fn truth(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(Value::Number(n)) => n.as_f64() != Some(0.0),
        Some(Value::String(s)) => !s.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
    }
}

/// Whether an object stands for a map of free keys rather than a struct.
pub(super) fn is_map(map: &Map<String, Value>) -> bool {
    !map.keys()
        .any(|key| key.starts_with(|c: char| c.is_ascii_uppercase()))
}

/// A value as Go's `%v` prints it.
pub(super) fn display(value: &Value) -> String {
    match value {
        Value::Null => "[]".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(list) => {
            let words: Vec<String> = list.iter().map(display).collect();
            format!("[{}]", words.join(" "))
        }
        Value::Object(map) if is_map(map) => {
            let mut words: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", display(value)))
                .collect();
            words.sort();
            format!("map[{}]", words.join(" "))
        }
        Value::Object(map) => {
            let words: Vec<String> = map.values().map(display).collect();
            format!("{{{}}}", words.join(" "))
        }
    }
}

fn length(value: &Value) -> Result<Value, ExecError> {
    match value {
        Value::Null => Ok(Value::from(0)),
        Value::String(s) => Ok(Value::from(s.len())),
        Value::Array(list) => Ok(Value::from(list.len())),
        Value::Object(map) => Ok(Value::from(map.len())),
        Value::Bool(_) | Value::Number(_) => Err(ExecError(format!("len of {}", display(value)))),
    }
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, ExecError> {
    let mut current = value;
    for key in keys {
        current = match (current, key) {
            (Value::Array(list), Value::Number(n)) => n
                .as_u64()
                .and_then(|n| list.get(usize::try_from(n).ok()?))
                .ok_or_else(|| ExecError(format!("index out of range: {n}")))?,
            (Value::Object(map), Value::String(name)) => map.get(name).unwrap_or(&Value::Null),
            _ => return Err(ExecError(format!("can't index with {}", display(key)))),
        };
    }
    Ok(current.clone())
}

fn compare(a: &Value, b: &Value) -> Result<Ordering, ExecError> {
    let ordering = match (a, b) {
        (Value::Number(x), Value::Number(y)) => match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => Some(x.cmp(&y)),
            _ => x.as_f64().partial_cmp(&y.as_f64()),
        },
        (Value::String(x), Value::String(y)) => Some(x.cmp(y)),
        (Value::Bool(x), Value::Bool(y)) => Some(x.cmp(y)),
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Null, _) | (_, Value::Null) => Some(Ordering::Less),
        _ => None,
    };
    ordering.ok_or_else(|| ExecError("incompatible types for comparison".to_owned()))
}

/// Values side by side, with a blank between two neither of which is a string.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        if index > 0 && !value.is_string() && !values[index - 1].is_string() {
            text.push(' ');
        }
        text.push_str(&display(value));
    }
    text
}

/// Flags, width and precision of one verb.
#[derive(Default)]
struct Verb {
    left: bool,
    zero: bool,
    plus: bool,
    width: usize,
    precision: Option<usize>,
}

fn printf(format: &str, values: &[Value]) -> String {
    let mut text = String::new();
    let mut values = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|c| "-0+ #".contains(*c)) {
            verb.left |= flag == '-';
            verb.zero |= flag == '0';
            verb.plus |= flag == '+';
        }
        while let Some(digit) = chars.next_if(char::is_ascii_digit) {
            let digit = digit.to_digit(10).map_or(0, |d| d as usize);
            verb.width = (verb.width * 10 + digit).min(WIDTH_MAX);
        }
        if chars.next_if_eq(&'.').is_some() {
            let mut precision = 0;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = digit.to_digit(10).map_or(0, |d| d as usize);
                precision = (precision * 10 + digit).min(WIDTH_MAX);
            }
            verb.precision = Some(precision);
        }
        match chars.next() {
            None => text.push_str("%!(NOVERB)"),
            Some('%') => text.push('%'),
            Some(letter) => match values.next() {
                None => text.push_str(&format!("%!{letter}(MISSING)")),
                Some(value) => text.push_str(&pad(&formatted(letter, value, &verb), &verb)),
            },
        }
    }
    let extra: Vec<String> = values
        .map(|value| format!("{}={}", kind(value), display(value)))
        .collect();
    if !extra.is_empty() {
        text.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text
}

fn formatted(letter: char, value: &Value, verb: &Verb) -> String {
    match (letter, value) {
        ('v', _) => display(value),
        ('s', Value::String(s)) => match verb.precision {
            Some(precision) => s.chars().take(precision).collect(),
            None => s.clone(),
        },
        ('s', Value::Array(_) | Value::Object(_) | Value::Null) => display(value),
        ('q', Value::String(s)) => format!("{s:?}"),
        ('t', Value::Bool(b)) => b.to_string(),
        ('d', Value::Number(n)) if !n.is_f64() => {
            let sign = if verb.plus && n.as_i64().is_none_or(|n| n >= 0) {
                "+"
            } else {
                ""
            };
            format!("{sign}{n}")
        }
        ('x', Value::Number(n)) => n
            .as_u64()
            .map_or_else(|| n.to_string(), |n| format!("{n:x}")),
        ('x', Value::String(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('f', Value::Number(n)) => {
            format!(
                "{:.*}",
                verb.precision.unwrap_or(6),
                n.as_f64().unwrap_or(0.0)
            )
        }
        _ => format!("%!{letter}({}={})", kind(value), display(value)),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn pad(text: &str, verb: &Verb) -> String {
    let missing = verb.width.saturating_sub(text.chars().count());
    if verb.left {
        format!("{text}{}", " ".repeat(missing))
    } else if verb.zero {
        format!("{}{text}", "0".repeat(missing))
    } else {
        format!("{}{text}", " ".repeat(missing))
    }
}
