//! Expressions in workflow files (`when`, `foreach`): CEL, the Common Expression Language, over the
//! run's parameters and the outputs of earlier steps. Checked when the file is loaded: every name must
//! exist, operators must fit, and the result must have the type that its place wants.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, LiteralValue, operators};
use cel::{Context, Env, IdedExpr, Program};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest expression, in bytes.
const MAX_TEXT: usize = 2048;

/// A parsed expression. Stored as its text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expression(Arc<Parsed>);

struct Parsed {
    text: String,
    program: Program,
    roots: BTreeSet<String>,
}

/// The names that an expression can use: `params` and steps, each with its fields and their types.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    roots: BTreeMap<String, BTreeMap<String, String>>,
}

impl Scope {
    /// Adds a name with fields, given as `(field, type)`.
    pub fn add(&mut self, root: &str, fields: impl IntoIterator<Item = (String, String)>) {
        self.roots.insert(root.to_owned(), fields.into_iter().collect());
    }
}

/// What is wrong with an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ExpressionError {
    /// What, in one sentence.
    pub what: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

fn wrong(what: impl Into<String>) -> ExpressionError {
    ExpressionError {
        what: what.into(),
        hint: None,
    }
}

/// What kind of value an expression gives, as far as that can be known before it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Any,
    Null,
    Bool,
    Number,
    Text,
    List(Box<Kind>),
    Object,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "a value of unknown type",
            Self::Null => "null",
            Self::Bool => "true or false",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::List(_) => "a list",
            Self::Object => "an object",
        })
    }
}

impl Kind {
    /// The kind of a field's type, by the type's name (see `schema.rs`).
    fn of(ty: &str) -> Self {
        match ty {
            // What may be absent can be compared with null.
            _ if ty.ends_with('?') => Self::Any,
            "bool" => Self::Bool,
            "string" => Self::Text,
            "integer" | "number" | "float" | "double" => Self::Number,
            _ if ty.starts_with("uint") || ty.starts_with("int") => Self::Number,
            _ => match ty.strip_prefix("list of ") {
                Some(inner) => Self::List(Box::new(Self::of(inner))),
                None => Self::Any,
            },
        }
    }

    fn is(&self, wanted: &Self) -> bool {
        match (self, wanted) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::List(a), Self::List(b)) => a.is(b),
            (a, b) => a == b,
        }
    }
}

/// CEL as it is here: its standard functions and macros, and nothing of ours.
static LANGUAGE: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

impl Expression {
    /// Parses an expression.
    ///
    /// # Errors
    /// What is no expression, and lists worked through inside lists, which could take for ever.
    pub fn parse(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > MAX_TEXT {
            return Err(wrong(format!(
                "the expression has {} bytes; at most {MAX_TEXT} are allowed",
                text.len()
            )));
        }
        let program = LANGUAGE.compile(text).map_err(|errors| {
            let text = errors.to_string();
            let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
            wrong(format!("it cannot be read: {}", line.trim()))
        })?;
        let mut roots = BTreeSet::new();
        names(program.expression(), &mut Vec::new(), &mut roots)?;
        Ok(Self(Arc::new(Parsed {
            text: text.to_owned(),
            program,
            roots,
        })))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// The names it begins from: `params`, and steps.
    pub fn roots(&self) -> &BTreeSet<String> {
        &self.0.roots
    }

    /// Whether it reads this field of this name.
    pub fn mentions(&self, root: &str, field: &str) -> bool {
        fn within(expr: &IdedExpr, wanted: (&str, &str)) -> bool {
            let select = match &expr.expr {
                Expr::Select(select) => match &select.operand.expr {
                    Expr::Ident(root) => Some((root.as_str(), select.field.as_str())),
                    _ => None,
                },
                _ => None,
            };
            select == Some(wanted) || parts(&expr.expr).into_iter().any(|part| within(part, wanted))
        }
        within(self.0.program.expression(), (root, field))
    }

    /// `(name, field)` when the expression is nothing but that field.
    pub fn plain(&self) -> Option<(&str, &str)> {
        plain(self.0.program.expression())
    }

    /// Checks that it gives true or false.
    ///
    /// # Errors
    /// A name that is not there, an operator that does not fit, another result.
    pub fn check_condition(&self, scope: &Scope) -> Result<(), ExpressionError> {
        self.check(scope, &Kind::Bool, "true or false")
    }

    /// Checks that it gives a list, and names the type of its items (`any` where that is not known).
    ///
    /// # Errors
    /// As [`Self::check_condition`].
    pub fn check_list(&self, scope: &Scope) -> Result<String, ExpressionError> {
        self.check(scope, &Kind::List(Box::new(Kind::Any)), "a list")?;
        let ty = self
            .plain()
            .and_then(|(root, field)| scope.roots.get(root)?.get(field));
        let item = ty.and_then(|ty| ty.trim_end_matches('?').strip_prefix("list of "));
        Ok(item.unwrap_or("any").to_owned())
    }

    /// Checks that it gives a time: milliseconds since 1970, or an RFC 3339 text.
    ///
    /// # Errors
    /// As [`Self::check_condition`].
    pub fn check_time(&self, scope: &Scope) -> Result<(), ExpressionError> {
        match self.check(scope, &Kind::Number, "a time") {
            Ok(()) => Ok(()),
            Err(_) => self.check(
                scope,
                &Kind::Text,
                "a time (milliseconds since 1970, or RFC 3339)",
            ),
        }
    }

    fn check(&self, scope: &Scope, wanted: &Kind, words: &str) -> Result<(), ExpressionError> {
        let checker = Checker { scope };
        let kind = checker.kind(self.0.program.expression(), &mut Vec::new())?;
        if kind.is(wanted) {
            Ok(())
        } else {
            Err(wrong(format!("it gives {kind}, but {words} is wanted here")))
        }
    }

    /// Works it out. `root` gives the object behind each of [`Self::roots`].
    ///
    /// # Errors
    /// A field that is not there, or values that do not fit together.
    pub fn evaluate(&self, root: impl Fn(&str) -> Value) -> Result<Value, String> {
        let mut context = Context::with_env(LANGUAGE.clone());
        for name in &self.0.roots {
            context.add_variable_from_value(name.clone(), to_cel(&root(name)));
        }
        let value = self
            .0
            .program
            .execute(&context)
            .map_err(|error| error.to_string())?;
        value.json().map_err(|error| error.to_string())
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.0.text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl TryFrom<String> for Expression {
    type Error = ExpressionError;
    fn try_from(text: String) -> Result<Self, ExpressionError> {
        Self::parse(&text)
    }
}

impl From<Expression> for String {
    fn from(expression: Expression) -> Self {
        expression.0.text.clone()
    }
}

/// Numbers that fit are CEL's plain integers, so that `params.size > 5` compares like with like.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(flag) => cel::Value::Bool(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => cel::Value::Int(int),
            (None, Some(uint)) => cel::Value::UInt(uint),
            (None, None) => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(items) => cel::Value::List(Arc::new(items.iter().map(to_cel).collect())),
        Value::Object(fields) => {
            let fields: HashMap<String, cel::Value> = fields
                .iter()
                .map(|(name, value)| (name.clone(), to_cel(value)))
                .collect();
            fields.into()
        }
    }
}

fn plain(expr: &IdedExpr) -> Option<(&str, &str)> {
    match &expr.expr {
        Expr::Select(select) if !select.test => match &select.operand.expr {
            Expr::Ident(root) => Some((root, &select.field)),
            _ => None,
        },
        _ => None,
    }
}

/// Every part of an expression directly below this one.
fn parts(expr: &Expr) -> Vec<&IdedExpr> {
    match expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Comprehension(inner) => vec![
            &inner.iter_range,
            &inner.accu_init,
            &inner.loop_cond,
            &inner.loop_step,
            &inner.result,
        ],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(|one| entries(&one.expr)).collect(),
        Expr::Struct(object) => object.entries.iter().flat_map(|one| entries(&one.expr)).collect(),
        Expr::Select(select) => vec![&select.operand],
    }
}

fn entries(entry: &EntryExpr) -> Vec<&IdedExpr> {
    match entry {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// Collects the names that come from outside; `bound` are those of the macros around.
fn names<'a>(
    expr: &'a IdedExpr,
    bound: &mut Vec<&'a str>,
    roots: &mut BTreeSet<String>,
) -> Result<(), ExpressionError> {
    match &expr.expr {
        Expr::Ident(name) if !bound.contains(&name.as_str()) && !name.starts_with('@') => {
            roots.insert(name.clone());
            Ok(())
        }
        Expr::Comprehension(inner) => {
            if !bound.is_empty() {
                return Err(wrong("a list is worked through inside another list"));
            }
            names(&inner.iter_range, bound, roots)?;
            let before = bound.len();
            bound.extend([inner.iter_var.as_str(), inner.accu_var.as_str()]);
            bound.extend(inner.iter_var2.as_deref());
            for part in parts(&expr.expr).into_iter().skip(1) {
                names(part, bound, roots)?;
            }
            bound.truncate(before);
            Ok(())
        }
        other => parts(other)
            .into_iter()
            .try_for_each(|part| names(part, bound, roots)),
    }
}

struct Checker<'a> {
    scope: &'a Scope,
}

type Bound<'a> = Vec<(&'a str, Kind)>;

impl Checker<'_> {
    fn kind<'e>(&self, expr: &'e IdedExpr, bound: &mut Bound<'e>) -> Result<Kind, ExpressionError> {
        Ok(match &expr.expr {
            Expr::Unspecified | Expr::Struct(_) => Kind::Any,
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => Kind::Bool,
                LiteralValue::Int(_) | LiteralValue::UInt(_) | LiteralValue::Double(_) => Kind::Number,
                LiteralValue::String(_) => Kind::Text,
                LiteralValue::Null => Kind::Null,
                LiteralValue::Bytes(_) => Kind::Any,
            },
            Expr::Ident(name) => match bound.iter().rev().find(|(known, _)| known == name) {
                Some((_, kind)) => kind.clone(),
                None if self.scope.roots.contains_key(name) => Kind::Object,
                None if name.starts_with('@') => Kind::Any,
                None => return Err(self.unknown(name)),
            },
            Expr::Select(select) => self.select(select, bound)?,
            Expr::List(list) => {
                let mut kinds = list.elements.iter().map(|one| self.kind(one, bound));
                let first = kinds.next().transpose()?;
                let mut item = first.unwrap_or(Kind::Any);
                for other in kinds {
                    if other? != item {
                        item = Kind::Any;
                    }
                }
                Kind::List(Box::new(item))
            }
            Expr::Map(map) => {
                for part in map.entries.iter().flat_map(|one| entries(&one.expr)) {
                    self.kind(part, bound)?;
                }
                Kind::Object
            }
            Expr::Call(call) => self.call(call, bound)?,
            Expr::Comprehension(inner) => {
                let range = self.kind(&inner.iter_range, bound)?;
                let item = match range {
                    Kind::List(item) => *item,
                    Kind::Any | Kind::Object => Kind::Any,
                    other => return Err(wrong(format!("{other} cannot be worked through"))),
                };
                let start = self.kind(&inner.accu_init, bound)?;
                // A list grows from an empty one, whose items are of any kind.
                let start = if matches!(start, Kind::List(_)) {
                    Kind::List(Box::new(Kind::Any))
                } else {
                    start
                };
                let before = bound.len();
                bound.push((&inner.iter_var, item));
                bound.extend(inner.iter_var2.as_deref().map(|name| (name, Kind::Any)));
                bound.push((&inner.accu_var, start));
                for part in [&inner.loop_cond, &inner.loop_step] {
                    self.kind(part, bound)?;
                }
                let result = self.kind(&inner.result, bound)?;
                bound.truncate(before);
                result
            }
        })
    }

    fn unknown(&self, name: &str) -> ExpressionError {
        let known = self.scope.roots.keys().map(String::as_str);
        let hint = crate::workflow::did_you_mean(name, known.clone()).unwrap_or_else(|| {
            format!(
                "known here: {}; a step must be in `needs`",
                known.collect::<Vec<_>>().join(", ")
            )
        });
        ExpressionError {
            what: format!("`{name}` is neither `params` nor a step that comes before"),
            hint: Some(hint),
        }
    }

    fn select<'e>(
        &self,
        select: &'e cel::common::ast::SelectExpr,
        bound: &mut Bound<'e>,
    ) -> Result<Kind, ExpressionError> {
        let operand = self.kind(&select.operand, bound)?;
        if let Expr::Ident(root) = &select.operand.expr
            && !bound.iter().any(|(known, _)| known == root)
            && let Some(fields) = self.scope.roots.get(root)
        {
            let Some(ty) = fields.get(&select.field) else {
                let known = fields.keys().map(String::as_str);
                let hint = crate::workflow::did_you_mean(&select.field, known.clone())
                    .unwrap_or_else(|| format!("it has: {}", known.collect::<Vec<_>>().join(", ")));
                return Err(ExpressionError {
                    what: format!("`{root}` has no `{}`", select.field),
                    hint: Some(hint),
                });
            };
            return Ok(if select.test { Kind::Bool } else { Kind::of(ty) });
        }
        match operand {
            Kind::Any | Kind::Object if select.test => Ok(Kind::Bool),
            Kind::Any | Kind::Object => Ok(Kind::Any),
            other => Err(wrong(format!("{other} has no fields such as `{}`", select.field))),
        }
    }

    fn call<'e>(
        &self,
        call: &'e cel::common::ast::CallExpr,
        bound: &mut Bound<'e>,
    ) -> Result<Kind, ExpressionError> {
        let mut args = Vec::with_capacity(call.args.len() + 1);
        for part in call.target.as_deref().into_iter().chain(&call.args) {
            args.push(self.kind(part, bound)?);
        }
        let want = |wanted: &Kind, sign: &str| match args.iter().find(|kind| !kind.is(wanted)) {
            Some(kind) => Err(wrong(format!("`{sign}` takes {wanted}, not {kind}"))),
            None => Ok(()),
        };
        let alike = |sign: &str| match args.as_slice() {
            [a, b] if a.is(b) || *a == Kind::Null || *b == Kind::Null => Ok(()),
            [a, b] => Err(wrong(format!("`{sign}` compares {a} with {b}"))),
            _ => Ok(()),
        };
        Ok(match call.func_name.as_str() {
            operators::LOGICAL_AND => want(&Kind::Bool, "&&").map(|()| Kind::Bool)?,
            operators::LOGICAL_OR => want(&Kind::Bool, "||").map(|()| Kind::Bool)?,
            operators::LOGICAL_NOT => want(&Kind::Bool, "!").map(|()| Kind::Bool)?,
            operators::EQUALS => alike("==").map(|()| Kind::Bool)?,
            operators::NOT_EQUALS => alike("!=").map(|()| Kind::Bool)?,
            operators::LESS => alike("<").map(|()| Kind::Bool)?,
            operators::LESS_EQUALS => alike("<=").map(|()| Kind::Bool)?,
            operators::GREATER => alike(">").map(|()| Kind::Bool)?,
            operators::GREATER_EQUALS => alike(">=").map(|()| Kind::Bool)?,
            operators::SUBSTRACT => want(&Kind::Number, "-").map(|()| Kind::Number)?,
            operators::MULTIPLY => want(&Kind::Number, "*").map(|()| Kind::Number)?,
            operators::DIVIDE => want(&Kind::Number, "/").map(|()| Kind::Number)?,
            operators::MODULO => want(&Kind::Number, "%").map(|()| Kind::Number)?,
            operators::NEGATE => want(&Kind::Number, "-").map(|()| Kind::Number)?,
            operators::ADD => {
                alike("+")?;
                args.into_iter()
                    .find(|kind| *kind != Kind::Any)
                    .unwrap_or(Kind::Any)
            }
            operators::CONDITIONAL => match args.as_slice() {
                [condition, a, b] if condition.is(&Kind::Bool) => {
                    if a == b {
                        a.clone()
                    } else {
                        Kind::Any
                    }
                }
                _ => return Err(wrong("`? :` asks for true or false before the `?`")),
            },
            operators::INDEX => match args.into_iter().next() {
                Some(Kind::List(item)) => *item,
                Some(Kind::Any | Kind::Object) | None => Kind::Any,
                Some(other) => return Err(wrong(format!("{other} has no parts to be numbered"))),
            },
            operators::IN | operators::NOT_STRICTLY_FALSE => Kind::Bool,
            "size" => Kind::Number,
            "contains" | "startsWith" | "endsWith" | "matches" => Kind::Bool,
            "int" | "uint" | "double" => Kind::Number,
            "string" => Kind::Text,
            "bool" => Kind::Bool,
            "max" | "min" => Kind::Any,
            other => {
                let known = [
                    "size",
                    "contains",
                    "startsWith",
                    "endsWith",
                    "int",
                    "double",
                    "string",
                    "has",
                    "all",
                    "exists",
                    "map",
                    "filter",
                ];
                return Err(ExpressionError {
                    what: format!("there is no function `{other}`"),
                    hint: Some(
                        crate::workflow::did_you_mean(other, known)
                            .unwrap_or_else(|| format!("functions: {}", known.join(", "))),
                    ),
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope() -> Scope {
        let field = |name: &str, ty: &str| (name.to_owned(), ty.to_owned());
        let mut scope = Scope::default();
        scope.add(
            "params",
            [
                field("size", "uint64"),
                field("sectors", "list of uint64"),
                field("miner", "actor_id"),
            ],
        );
        scope.add(
            "pc2",
            [
                field("comm_r", "string"),
                field("synthetic", "bool"),
                field("note", "string?"),
            ],
        );
        scope
    }

    fn condition(text: &str) -> Result<(), String> {
        let show = |error: ExpressionError| match error.hint {
            Some(hint) => format!("{}; {hint}", error.what),
            None => error.what,
        };
        Expression::parse(text)
            .and_then(|expression| expression.check_condition(&scope()))
            .map_err(show)
    }

    #[test]
    fn good_conditions_pass() {
        for text in [
            "params.size > 5",
            "pc2.synthetic && params.size % 2 == 0",
            "!pc2.synthetic || size(params.sectors) >= 2",
            "params.sectors.exists(s, s == 7)",
            "params.sectors.filter(s, s > 7).size() > 0",
            "pc2.note == null || pc2.note == 'x'",
            "has(pc2.note)",
            "params.miner == 'f01000'",
            "7 in params.sectors",
            "pc2.comm_r.startsWith('00')",
        ] {
            assert_eq!(condition(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn mistakes_are_found_before_anything_runs() {
        for (text, part) in [
            ("params.sise > 5", "did you mean `size`"),
            ("pc1.out == 1", "neither `params` nor a step"),
            ("params.size", "it gives a number"),
            ("params.size && true", "takes true or false"),
            ("params.size == 'x'", "compares a number with a text"),
            ("pc2.comm_r > 5", "compares a text with a number"),
            ("params.size >", "cannot be read"),
            ("siz(params.sectors) > 1", "no function `siz`"),
            (
                "params.sectors.all(a, params.sectors.all(b, a == b))",
                "inside another list",
            ),
            ("pc2.comm_r.length > 3", "has no fields"),
        ] {
            let error = condition(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Expression::parse(&"1 + ".repeat(1000)).is_err());
    }

    #[test]
    fn values_come_out() {
        let root = |name: &str| match name {
            "params" => json!({"size": 18_446_744_073_709_551_615_u64, "sectors": [1, 2, 3]}),
            _ => json!({"synthetic": true}),
        };
        let value = |text: &str| Expression::parse(text).unwrap().evaluate(root);
        assert_eq!(value("params.sectors.map(s, s * 2)"), Ok(json!([2, 4, 6])));
        assert_eq!(value("pc2.synthetic ? 1 : 2"), Ok(json!(1)));
        assert_eq!(value("params.size > 5"), Ok(json!(true)));
        assert_eq!(value("has(pc2.note)"), Ok(json!(false)));
        assert!(value("pc2.note == 'x'").is_err());
        assert!(value("params.sectors[9] == 1").is_err());
    }

    #[test]
    fn lists_know_their_items() {
        let list = |text: &str| Expression::parse(text).unwrap().check_list(&scope());
        assert_eq!(list("params.sectors"), Ok("uint64".to_owned()));
        assert_eq!(list("params.sectors.filter(s, s > 2)"), Ok("any".to_owned()));
        assert!(list("params.size").is_err());
    }
}
