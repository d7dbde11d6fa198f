//! A CEL expression over a finding as it is written (`finding.device.name`, `finding.remote.urls` …).
//!
//! Owns what makes one safe to put in force: it names only fields that a finding has, compares only what can be equal, is true or false
//! for every example, and can't run long: its text, depth and loops are bounded, and there are no regular expressions. One that fails on a
//! finding, say for a field that it lacks, does not match.

use cel::common::ast::{Expr, LiteralValue};
use cel::parser::{Expression as Node, PrattParser};
use cel::{Context, ExecutionError, Value};
use std::collections::HashMap;

/// Longest text, in bytes.
const LONGEST: usize = 2000;
/// Deepest nesting of the parsed expression.
const DEEPEST: usize = 40;

/// An expression that may be put in force.
#[derive(Debug)]
pub(super) struct Expression(Node);

/// What a part of an expression is, as far as that is known before it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Boolean,
    Number,
    Text,
    List,
    Object,
    Unknown,
}

impl Kind {
    const fn words(self) -> &'static str {
        match self {
            Kind::Boolean => "true or false",
            Kind::Number => "a number",
            Kind::Text => "a text",
            Kind::List => "a list",
            Kind::Object => "an object",
            Kind::Unknown => "anything",
        }
    }

    fn of(value: &serde_json::Value) -> Kind {
        match value {
            serde_json::Value::Null => Kind::Unknown,
            serde_json::Value::Bool(_) => Kind::Boolean,
            serde_json::Value::Number(_) => Kind::Number,
            serde_json::Value::String(_) => Kind::Text,
            serde_json::Value::Array(_) => Kind::List,
            serde_json::Value::Object(_) => Kind::Object,
        }
    }

    /// Whether the two can be equal.
    fn fits(self, other: Kind) -> bool {
        self == other || self == Kind::Unknown || other == Kind::Unknown
    }
}

impl Expression {
    /// Reads and checks an expression. `example` is a finding that has every field.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(text: &str, example: &serde_json::Value) -> Result<Expression, String> {
        if text.len() > LONGEST {
            return Err(format!("has {} bytes, expected at most {LONGEST}", text.len()));
        }
        let parser = PrattParser::new().max_recursion_depth(32).max_expression_node_count(500).error_reporting_limit(1);
        let node = parser.parse(text).map_err(|errors| match errors.errors.first() {
            Some(error) => format!("can't be read: {} (line {}, column {})", error.msg, error.pos.0, error.pos.1),
            None => "can't be read".to_owned(),
        })?;
        let mut checker = Checker { example, variables: Vec::new(), loops: 0 };
        let kind = checker.check(&node, 0)?;
        if !kind.fits(Kind::Boolean) {
            return Err(format!("is {}, expected true or false", kind.words()));
        }
        let expression = Expression(node);
        match expression.evaluate(example) {
            Ok(Value::Bool(_)) => Ok(expression),
            Ok(other) => Err(format!("gives {:?}, expected true or false", other.type_of())),
            Err(error) => Err(format!("fails on a finding that has every field: {error}")),
        }
    }

    /// Whether it is true of a finding; one that fails is not.
    pub(super) fn is_true(&self, finding: &serde_json::Value) -> bool {
        matches!(self.evaluate(finding), Ok(Value::Bool(true)))
    }

    fn evaluate(&self, finding: &serde_json::Value) -> Result<Value, ExecutionError> {
        let mut context = Context::default();
        context.add_variable_from_value("finding", value(finding));
        Value::resolve(&self.0, &context)
    }
}

/// Whole numbers are CEL's `int`, whatever their sign, so that they compare with the numbers that people write.
fn value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::MAX)), Value::Int),
        serde_json::Value::String(text) => text.as_str().into(),
        serde_json::Value::Array(items) => items.iter().map(value).collect::<Vec<Value>>().into(),
        serde_json::Value::Object(fields) => {
            fields.iter().map(|(name, json)| (name.clone(), value(json))).collect::<HashMap<String, Value>>().into()
        }
    }
}

/// Walks an expression before it may run.
struct Checker<'a> {
    example: &'a serde_json::Value,
    /// Loop variables in scope, each with an example where there is one.
    variables: Vec<(String, Option<&'a serde_json::Value>, Kind)>,
    loops: usize,
}

impl<'a> Checker<'a> {
    fn check(&mut self, node: &Node, depth: usize) -> Result<Kind, String> {
        if depth > DEEPEST {
            return Err(format!("is nested deeper than {DEEPEST} levels"));
        }
        match &node.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(_) => Kind::Boolean,
                LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Kind::Number,
                LiteralValue::String(_) => Kind::Text,
                LiteralValue::Bytes(_) | LiteralValue::Null => Kind::Unknown,
            }),
            Expr::Ident(_) | Expr::Select(_) => self.path(node, depth),
            Expr::List(list) => {
                let mut kinds = Vec::new();
                for element in &list.elements {
                    kinds.push(self.check(element, depth + 1)?);
                }
                Ok(Kind::List)
            }
            Expr::Call(call) => {
                let mut kinds = Vec::new();
                for argument in call.target.as_deref().into_iter().chain(&call.args) {
                    kinds.push(self.check(argument, depth + 1)?);
                }
                self.call(&call.func_name, &kinds, &call.args)
            }
            Expr::Comprehension(of) => {
                let range = self.check(&of.iter_range, depth + 1)?;
                if !range.fits(Kind::List) {
                    return Err(format!("loops over {}, expected a list", range.words()));
                }
                if of.iter_var2.is_some() || self.loops > 0 {
                    return Err("has a loop within a loop; expected one at a time".to_owned());
                }
                // What one loop makes, another must not take: it could grow without end.
                if !matches!(of.iter_range.expr, Expr::List(_)) && self.example_of(&of.iter_range).is_none() {
                    return Err("loops over what it made itself; expected a list of the finding, such as finding.remote.urls".to_owned());
                }
                let element = self.example_of(&of.iter_range).and_then(|list| list.get(0));
                let accumulator = self.check(&of.accu_init, depth + 1)?;
                self.loops += 1;
                self.variables.push((of.iter_var.clone(), element, element.map_or(Kind::Unknown, Kind::of)));
                self.variables.push((of.accu_var.clone(), None, accumulator));
                self.check(&of.loop_cond, depth + 1)?;
                self.check(&of.loop_step, depth + 1)?;
                let result = self.check(&of.result, depth + 1);
                self.variables.truncate(self.variables.len().saturating_sub(2));
                self.loops -= 1;
                result
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                Err("makes an object; expected only questions about the finding".to_owned())
            }
        }
    }

    /// A field of the finding, or of a loop's variable.
    fn path(&mut self, node: &Node, depth: usize) -> Result<Kind, String> {
        match &node.expr {
            Expr::Ident(name) if name == "finding" => Ok(Kind::Object),
            Expr::Ident(name) => match self.variables.iter().rev().find(|(of, _, _)| of == name) {
                Some((_, _, kind)) => Ok(*kind),
                None => Err(format!("names {name:?}; expected finding and its fields, such as finding.device.name")),
            },
            Expr::Select(select) => {
                let operand = self.check(&select.operand, depth + 1)?;
                let Some(example) = self.example_of(&select.operand) else {
                    return if operand.fits(Kind::Object) {
                        Ok(if select.test { Kind::Boolean } else { Kind::Unknown })
                    } else {
                        Err(format!("asks {} for {:?}; only objects have fields", operand.words(), select.field))
                    };
                };
                match example.get(select.field.as_str()) {
                    Some(_) if select.test => Ok(Kind::Boolean),
                    Some(field) => Ok(Kind::of(field)),
                    None => Err(format!(
                        "names the field {:?}, which {} does not have; docs/findings.md lists the fields",
                        select.field,
                        spelled(&select.operand)
                    )),
                }
            }
            _ => Ok(Kind::Unknown),
        }
    }

    fn is_accumulator(&self, name: &str) -> bool {
        self.variables.last().is_some_and(|(of, _, kind)| of == name && *kind == Kind::List)
    }

    /// The example's value at a path.
    fn example_of(&self, node: &Node) -> Option<&'a serde_json::Value> {
        match &node.expr {
            Expr::Ident(name) if name == "finding" => Some(self.example),
            Expr::Ident(name) => self.variables.iter().rev().find(|(of, _, _)| of == name).and_then(|(_, example, _)| *example),
            Expr::Select(select) if !select.test => self.example_of(&select.operand)?.get(select.field.as_str()),
            _ => None,
        }
    }

    fn call(&self, name: &str, kinds: &[Kind], arguments: &[Node]) -> Result<Kind, String> {
        let all = |wanted: Kind, result: Kind| match kinds.iter().find(|kind| !kind.fits(wanted)) {
            Some(kind) => Err(format!("puts {} where {} belongs (in {})", kind.words(), wanted.words(), shown(name))),
            None => Ok(result),
        };
        let [first, other] = [kinds.first().copied().unwrap_or(Kind::Unknown), kinds.get(1).copied().unwrap_or(Kind::Unknown)];
        match name {
            "_&&_" | "_||_" | "!_" | "@not_strictly_false" => all(Kind::Boolean, Kind::Boolean),
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" if !first.fits(other) => {
                Err(format!("compares {} with {}, which is never so", first.words(), other.words()))
            }
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => Ok(Kind::Boolean),
            "@in" => match arguments.get(1).map(|node| &node.expr) {
                Some(Expr::List(list)) => {
                    let literal = |node: &Node| match &node.expr {
                        Expr::Literal(LiteralValue::String(_)) => Kind::Text,
                        Expr::Literal(LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_)) => Kind::Number,
                        _ => Kind::Unknown,
                    };
                    match list.elements.iter().map(literal).find(|kind| !kind.fits(first)) {
                        Some(kind) => Err(format!("looks for {} among {}", first.words(), kind.words())),
                        None => Ok(Kind::Boolean),
                    }
                }
                _ if other.fits(Kind::List) => Ok(Kind::Boolean),
                _ => Err(format!("looks in {}, expected a list", other.words())),
            },
            "contains" | "startsWith" | "endsWith" => all(Kind::Text, Kind::Boolean),
            "size" if first == Kind::Boolean || first == Kind::Number => Err(format!("asks for the size of {}", first.words())),
            "size" => Ok(Kind::Number),
            "_?_:_" => Ok(other),
            "_[_]" => Ok(Kind::Unknown),
            "-_" | "_-_" | "_*_" | "_/_" | "_%_" => all(Kind::Number, Kind::Number),
            // The loops that make lists add to what they made so far.
            "_+_" if matches!(arguments.first().map(|node| &node.expr), Some(Expr::Ident(name)) if self.is_accumulator(name)) => {
                Ok(Kind::List)
            }
            "_+_" if [first, other] != [Kind::Number; 2] => Err(format!("adds {} to {}; expected numbers", other.words(), first.words())),
            "_+_" => Ok(Kind::Number),
            other => Err(format!(
                "calls {other}; expected contains, startsWith, endsWith, size, has, in, all, exists, exists_one, filter, map and operators"
            )),
        }
    }
}

/// An operator as it is written.
fn shown(name: &str) -> &str {
    name.trim_matches(['_', '@'])
}

fn spelled(node: &Node) -> String {
    match &node.expr {
        Expr::Ident(name) => name.clone(),
        Expr::Select(select) => format!("{}.{}", spelled(&select.operand), select.field),
        _ => "it".to_owned(),
    }
}

#[cfg(test)]
mod tests;
