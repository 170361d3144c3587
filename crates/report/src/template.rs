//! The subset of Go's text/template that `report -f` promises (spec/cli-api.md 6).
//!
//! Supported: field paths, `$` and variables, literals, pipelines, parentheses, `if`/`else if`,
//! `range`, `with`, comments, trim markers, and the functions of `functions`. Everything else is a
//! parse error. Values are JSON; objects whose keys begin with a capital are structs, others maps.

mod functions;
mod parse;

use std::cell::Cell;

use serde_json::Value;

use parse::{Command, Node, Operand, Pipeline};

/// Largest text a template may produce, bytes; nested ranges multiply.
const OUTPUT_BYTES_MAX: usize = 64 << 20;
/// Bytes one rendering may copy and make before they are output; without it a few words could double
/// a text until memory is gone, or go round for ever without saying anything.
const WORK_BYTES_MAX: usize = 128 << 20;
/// What each step and each small value counts as, bytes.
const STEP_BYTES: usize = 64;

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

/// The text is not a template we understand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: {0}")]
pub struct ParseError(String);

/// The template does not fit the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExecError(String);

impl Template {
    /// Parses a template.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        Ok(Self {
            nodes: parse::parse(text)?,
        })
    }

    /// Renders the template over a value.
    pub fn render(&self, root: &Value) -> Result<String, ExecError> {
        let mut run = Run {
            out: String::new(),
            variables: vec![("$".to_owned(), root.clone())],
            work_left: Cell::new(WORK_BYTES_MAX),
        };
        run.nodes(&self.nodes, root)?;
        Ok(run.out)
    }
}

/// One rendering: the text so far and the variables in scope.
struct Run {
    out: String,
    variables: Vec<(String, Value)>,
    work_left: Cell<usize>,
}

impl Run {
    /// Counts work.
    fn spend(&self, bytes: usize) -> Result<(), ExecError> {
        let left = self.work_left.get().checked_sub(bytes);
        let left = left.ok_or_else(|| ExecError("template does too much".to_owned()))?;
        self.work_left.set(left);
        Ok(())
    }

    /// Counts a value that was copied or made.
    fn spend_on(&self, value: Option<&Value>) -> Result<(), ExecError> {
        self.spend(value.map_or(0, weight))
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<(), ExecError> {
        for node in nodes {
            self.spend(STEP_BYTES)?;
            self.node(node, dot)?;
            if self.out.len() > OUTPUT_BYTES_MAX {
                return Err(ExecError("output too large".to_owned()));
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<(), ExecError> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                match (pipeline.variables.is_empty(), value) {
                    (true, Some(value)) => self.out.push_str(&functions::display(&value)),
                    (true, None) => self.out.push_str("<no value>"),
                    (false, _) => {}
                }
            }
            Node::If {
                pipeline,
                then,
                otherwise,
            } => {
                let scope = self.variables.len();
                let value = self.pipeline(pipeline, dot)?;
                let chosen = if functions::truth(value.as_ref()) {
                    then
                } else {
                    otherwise
                };
                self.nodes(chosen, dot)?;
                self.variables.truncate(scope);
            }
            Node::With {
                pipeline,
                then,
                otherwise,
            } => {
                let scope = self.variables.len();
                match self.pipeline(pipeline, dot)? {
                    Some(value) if functions::truth(Some(&value)) => self.nodes(then, &value)?,
                    _ => self.nodes(otherwise, dot)?,
                }
                self.variables.truncate(scope);
            }
            Node::Range {
                pipeline,
                then,
                otherwise,
            } => {
                self.range(pipeline, then, otherwise, dot)?;
            }
        }
        Ok(())
    }

    fn range(
        &mut self,
        pipeline: &Pipeline,
        then: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<(), ExecError> {
        let scope = self.variables.len();
        let value = self.evaluate(pipeline, dot)?.unwrap_or(Value::Null);
        let items: Vec<(Value, Value)> = match value {
            Value::Null => Vec::new(),
            Value::Array(list) => list
                .into_iter()
                .enumerate()
                .map(|(i, v)| (Value::from(i), v))
                .collect(),
            Value::Object(map) => {
                let mut items: Vec<_> = map
                    .into_iter()
                    .map(|(key, v)| (Value::from(key), v))
                    .collect();
                items.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
                items
            }
            Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Err(ExecError(format!(
                    "range can't iterate over {}",
                    functions::display(&value)
                )));
            }
        };
        if items.is_empty() {
            self.nodes(otherwise, dot)?;
        }
        for (key, item) in items {
            self.spend(STEP_BYTES)?;
            match pipeline.variables.as_slice() {
                [] => {}
                [only] => self.variables.push((only.clone(), item.clone())),
                [first, second, ..] => {
                    self.variables.push((first.clone(), key));
                    self.variables.push((second.clone(), item.clone()));
                }
            }
            self.nodes(then, &item)?;
            self.variables.truncate(scope);
        }
        Ok(())
    }

    /// Evaluates and declares the pipeline's variable.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Option<Value>, ExecError> {
        let value = self.evaluate(pipeline, dot)?;
        if let [name] = pipeline.variables.as_slice() {
            self.spend_on(value.as_ref())?;
            let stored = value.clone().unwrap_or(Value::Null);
            if pipeline.assigns {
                match self
                    .variables
                    .iter_mut()
                    .rev()
                    .find(|(known, _)| known == name)
                {
                    Some(slot) => slot.1 = stored,
                    None => return Err(ExecError(format!("undefined variable: {name}"))),
                }
            } else {
                self.variables.push((name.clone(), stored));
            }
        }
        Ok(value)
    }

    fn evaluate(&self, pipeline: &Pipeline, dot: &Value) -> Result<Option<Value>, ExecError> {
        let mut previous: Option<Option<Value>> = None;
        for command in &pipeline.commands {
            previous = Some(self.command(command, dot, previous.take())?);
        }
        previous.ok_or_else(|| ExecError("empty pipeline".to_owned()))
    }

    /// `piped` is the result of the command before, which becomes the last argument.
    fn command(
        &self,
        command: &Command,
        dot: &Value,
        piped: Option<Option<Value>>,
    ) -> Result<Option<Value>, ExecError> {
        match command {
            Command::Value(operand) => {
                if piped.is_some() {
                    return Err(ExecError("can't give argument to non-function".to_owned()));
                }
                self.operand(operand, dot)
            }
            Command::Call { name, arguments } if name == "and" || name == "or" => {
                let stop_at = name == "or";
                let mut last = None;
                for argument in arguments {
                    last = self.operand(argument, dot)?;
                    if functions::truth(last.as_ref()) == stop_at {
                        return Ok(last);
                    }
                }
                Ok(piped.unwrap_or(last))
            }
            Command::Call { name, arguments } => {
                let mut values = Vec::with_capacity(arguments.len() + 1);
                for argument in arguments {
                    values.push(self.operand(argument, dot)?.unwrap_or(Value::Null));
                }
                if let Some(value) = piped {
                    values.push(value.unwrap_or(Value::Null));
                }
                let made = functions::call(name, &values)?;
                self.spend_on(Some(&made))?;
                Ok(Some(made))
            }
        }
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Option<Value>, ExecError> {
        let value = self.resolve(operand, dot)?;
        self.spend_on(value.as_ref())?;
        Ok(value)
    }

    fn resolve(&self, operand: &Operand, dot: &Value) -> Result<Option<Value>, ExecError> {
        match operand {
            Operand::Literal(value) => Ok(Some(value.clone())),
            Operand::Path(path) => follow(dot, path),
            Operand::Variable(name, path) => {
                let slot = self.variables.iter().rev().find(|(known, _)| known == name);
                match slot {
                    Some((_, value)) => follow(value, path),
                    None => Err(ExecError(format!("undefined variable: {name}"))),
                }
            }
            Operand::Group(pipeline, path) => match self.evaluate(pipeline, dot)? {
                Some(value) => follow(&value, path),
                None if path.is_empty() => Ok(None),
                None => Err(ExecError(format!("nil value has no field {}", path[0]))),
            },
        }
    }
}

/// About how many bytes a value takes.
fn weight(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(key, v)| key.len() + weight(v)).sum(),
    };
    STEP_BYTES + inside
}

/// Follows field names. A missing key of a map has no value; a missing field of a struct is an error.
fn follow(value: &Value, path: &[String]) -> Result<Option<Value>, ExecError> {
    let mut value = value;
    for (index, name) in path.iter().enumerate() {
        let last = index + 1 == path.len();
        value = match value {
            Value::Object(map) => match map.get(name) {
                Some(found) => found,
                None if last && functions::is_map(map) => return Ok(None),
                None => return Err(ExecError(format!("can't evaluate field {name}"))),
            },
            Value::Null => return Err(ExecError(format!("nil pointer evaluating field {name}"))),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                return Err(ExecError(format!("can't evaluate field {name}")));
            }
        };
    }
    Ok(Some(value.clone()))
}

#[cfg(test)]
mod tests;
