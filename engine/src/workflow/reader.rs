//! Reads TOML values with their positions and collects every complaint instead of stopping at the first.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{Diagnostic, did_you_mean};

/// A value and the bytes of the text that it came from.
#[derive(Debug, Clone)]
pub(super) struct Sp<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T> Sp<T> {
    pub(super) fn new(value: T, span: Range<usize>) -> Self {
        Self { value, span }
    }
}

pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// The complaints so far.
#[derive(Default)]
pub(super) struct Complaints(RefCell<Vec<Diagnostic>>);

impl Complaints {
    pub(super) fn add(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    pub(super) fn into_vec(self) -> Vec<Diagnostic> {
        self.0.into_inner()
    }
}

/// One table whose keys are taken one by one; what is left at the end is unknown.
pub(super) struct Table<'a, 'i> {
    pub(super) span: Range<usize>,
    name: String,
    table: &'a DeTable<'i>,
    known: RefCell<BTreeSet<&'static str>>,
    complaints: &'a Complaints,
}

impl<'a, 'i> Table<'a, 'i> {
    pub(super) fn new(
        name: impl Into<String>,
        span: Range<usize>,
        table: &'a DeTable<'i>,
        complaints: &'a Complaints,
    ) -> Self {
        Self {
            span,
            name: name.into(),
            table,
            known: RefCell::default(),
            complaints,
        }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<&'a Value<'i>> {
        self.known.borrow_mut().insert(key);
        self.table.get(key)
    }

    /// All entries, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(Sp<String>, &'a Value<'i>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| (Sp::new(key.get_ref().to_string(), key.span()), value))
            .collect();
        entries.sort_by_key(|(key, _)| key.span.start);
        entries
    }

    /// Complains about keys that nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for (key, _) in self.entries() {
            if known.contains(key.value.as_str()) {
                continue;
            }
            let message = format!("{} has no key `{}`", self.name, key.value);
            let hint = did_you_mean(&key.value, known.iter().copied()).unwrap_or_else(|| {
                format!(
                    "known here: {}",
                    known.iter().copied().collect::<Vec<_>>().join(", ")
                )
            });
            self.complaints
                .add(Diagnostic::error("unknown_key", key.span, message).hint(hint));
        }
    }

    fn wrong_type(&self, key: &str, value: &Value<'i>, wanted: &str) {
        let message = format!("`{key}` must be {wanted}, not {}", kind(value.get_ref()));
        self.complaints
            .add(Diagnostic::error("wrong_type", value.span(), message));
    }

    pub(super) fn string(&self, key: &'static str) -> Option<Sp<String>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::String(text) => Some(Sp::new(text.to_string(), value.span())),
            _ => {
                self.wrong_type(key, value, "a string");
                None
            }
        }
    }

    pub(super) fn required_string(&self, key: &'static str) -> Option<Sp<String>> {
        if !self.table.contains_key(key) {
            self.known.borrow_mut().insert(key);
            let message = format!("{} needs the key `{key}`", self.name);
            self.complaints
                .add(Diagnostic::error("missing_key", self.span.clone(), message));
            return None;
        }
        self.string(key)
    }

    pub(super) fn strings(&self, key: &'static str) -> Vec<Sp<String>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings, for example [\"pc1\"]");
            return Vec::new();
        };
        let mut strings = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => strings.push(Sp::new(text.to_string(), item.span())),
                _ => self.wrong_type(key, item, "a list of strings"),
            }
        }
        strings
    }

    /// A whole number from 1 to `max`.
    pub(super) fn count(&self, key: &'static str, max: u32) -> Option<Sp<u32>> {
        let value = self.get(key)?;
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok());
        match number
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| (1..=max).contains(number))
        {
            Some(number) => Some(Sp::new(number, value.span())),
            None => {
                self.wrong_type(key, value, &format!("a whole number from 1 to {max}"));
                None
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn integer(&self, key: &'static str, range: std::ops::RangeInclusive<i32>) -> Option<i32> {
        let value = self.get(key)?;
        let number = match to_json(value.get_ref()) {
            serde_json::Value::Number(number) => {
                number.as_i64().and_then(|number| i32::try_from(number).ok())
            }
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let wanted = format!("a whole number from {} to {}", range.start(), range.end());
            self.wrong_type(key, value, &wanted);
        }
        number
    }

    pub(super) fn duration(&self, key: &'static str) -> Option<Sp<Duration>> {
        let text = self.string(key)?;
        self.parse_duration(key, &text)
    }

    pub(super) fn parse_duration(&self, key: &str, text: &Sp<String>) -> Option<Sp<Duration>> {
        match humantime::parse_duration(&text.value) {
            Ok(duration) => Some(Sp::new(duration, text.span.clone())),
            Err(error) => {
                let message = format!("`{key}` is not a duration: {error}");
                let hint = "write a number and a unit, for example \"30s\", \"10min\" or \"12h\"";
                self.complaints
                    .add(Diagnostic::error("bad_duration", text.span.clone(), message).hint(hint));
                None
            }
        }
    }

    pub(super) fn table(&self, key: &'static str) -> Option<Table<'a, 'i>> {
        let value = self.get(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(Table::new(
                format!("`{key}`"),
                value.span(),
                table,
                self.complaints,
            )),
            _ => {
                self.wrong_type(key, value, "a table");
                None
            }
        }
    }

    /// The tables of a list: `[[key]]`.
    pub(super) fn tables(&self, key: &'static str) -> Vec<Table<'a, 'i>> {
        let Some(value) = self.get(key) else {
            return Vec::new();
        };
        let hint = format!("write [[{key}]]");
        let Some(items) = value.get_ref().as_array() else {
            let message = format!("`{key}` is a list of tables");
            let wrong = Diagnostic::error("wrong_type", value.span(), message);
            self.complaints.add(wrong.hint(hint));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let name = format!("[[{key}]]");
                    tables.push(Table::new(name, item.span(), table, self.complaints));
                }
                None => {
                    let message = format!("`{key}` is a list of tables");
                    let wrong = Diagnostic::error("wrong_type", item.span(), message);
                    self.complaints.add(wrong.hint(hint.clone()));
                }
            }
        }
        tables
    }

    /// Where the table is.
    pub(super) fn span(&self) -> Range<usize> {
        self.span.clone()
    }

    pub(super) fn complaints(&self) -> &'a Complaints {
        self.complaints
    }
}

/// What a value is, for people.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A TOML value as JSON. Dates become strings.
pub(super) fn to_json(value: &DeValue<'_>) -> serde_json::Value {
    use serde_json::Value as Json;
    match value {
        DeValue::String(text) => Json::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(&number.as_str().replace('_', ""), number.radix())
            .map_or(Json::Null, Json::from),
        DeValue::Float(number) => number.as_str().parse::<f64>().map_or(Json::Null, Json::from),
        DeValue::Boolean(truth) => Json::Bool(*truth),
        DeValue::Datetime(date) => Json::String(date.to_string()),
        DeValue::Array(items) => Json::Array(items.iter().map(|item| to_json(item.get_ref())).collect()),
        DeValue::Table(table) => Json::Object(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref())))
                .collect(),
        ),
    }
}
