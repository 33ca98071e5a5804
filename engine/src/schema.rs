//! The types of step inputs and outputs, read from the Rust types' JSON schemas so that they cannot
//! drift apart. A type is known by name (`comm_d`, `uint64`, `list of piece`, `string?`); the engine
//! compares names and leaves their meaning to the stages.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One named field of an input or an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name; wiring goes by it.
    pub name: String,
    /// The name of its type; a trailing `?` marks a value that may be absent.
    pub ty: String,
    /// Whether a value must be there.
    pub required: bool,
    /// What it is, in one or two sentences.
    pub doc: String,
}

/// The fields of a struct.
pub fn fields_of<T: JsonSchema>() -> Vec<Field> {
    let schema = schemars::schema_for!(T).to_value();
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    properties
        .iter()
        .map(|(name, property)| Field {
            name: name.clone(),
            ty: type_name(property),
            required: required.contains(&name.as_str()),
            doc: property["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " "),
        })
        .collect()
}

/// The name of a schema's type.
fn type_name(schema: &Value) -> String {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(options) = schema[key].as_array() {
            let is_null = |option: &&Value| option["type"] == "null";
            let optional = options.iter().any(|option| is_null(&option));
            let names: Vec<String> = options
                .iter()
                .filter(|option| !is_null(option))
                .map(type_name)
                .collect();
            let name = names.join(" or ");
            return if optional { format!("{name}?") } else { name };
        }
    }
    let simple = |kind: &str| match kind {
        "integer" => schema["format"].as_str().unwrap_or("integer").to_owned(),
        "array" => format!("list of {}", type_name(&schema["items"])),
        "boolean" => "bool".to_owned(),
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(kind) => simple(kind),
        Value::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Value::as_str).collect();
            let name = kinds
                .iter()
                .find(|kind| **kind != "null")
                .map_or("null".to_owned(), |kind| simple(kind));
            if kinds.contains(&"null") {
                format!("{name}?")
            } else {
                name
            }
        }
        _ => "any".to_owned(),
    }
}

/// Whether a value of type `from` may go into a field of type `to`.
pub fn assignable(from: &str, to: &str) -> bool {
    let strip = |name: &str| name.strip_suffix('?').map(str::to_owned);
    if from == to || to == "any" {
        return true;
    }
    match (strip(from), strip(to)) {
        (None, Some(inner)) => assignable(from, &inner),
        (Some(_), None) => false,
        _ => is_uint(from) && is_uint(to),
    }
}

fn is_uint(name: &str) -> bool {
    matches!(name, "uint8" | "uint16" | "uint32" | "uint64" | "uint")
}

/// A type that a workflow parameter can have.
#[derive(Clone)]
pub struct ParamType {
    /// Its name in `[params]`.
    pub name: String,
    /// What it is and how it is written.
    pub doc: String,
    normalise: fn(Value) -> Result<Value, serde_json::Error>,
}

impl ParamType {
    /// The parameter type of a Rust type, under the type's schema name.
    pub fn of<T: JsonSchema + Serialize + DeserializeOwned>() -> Self {
        let schema = schemars::schema_for!(T).to_value();
        let name = match schema["title"].as_str() {
            Some(title) if schema["type"] != "array" || !title.starts_with("Array_of") => title.to_owned(),
            _ => type_name(&schema),
        };
        let name = match name.as_str() {
            "boolean" => "bool".to_owned(),
            _ => name,
        };
        Self {
            name,
            doc: schema["description"]
                .as_str()
                .unwrap_or_default()
                .replace('\n', " "),
            normalise: |value| serde_json::from_value::<T>(value).and_then(serde_json::to_value),
        }
    }

    /// Checks a value and gives it in its normal form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn normalise(&self, value: Value) -> Result<Value, String> {
        (self.normalise)(value).map_err(|error| error.to_string())
    }
}

impl std::fmt::Debug for ParamType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[schemars(rename = "comm_d")]
    struct CommD(String);

    #[derive(Serialize, Deserialize, JsonSchema)]
    struct Example {
        /// The data commitment.
        comm_d: CommD,
        maybe: Option<CommD>,
        count: u64,
        list: Vec<CommD>,
        text: Option<String>,
        #[serde(default)]
        flag: bool,
    }

    #[test]
    fn types_are_named() {
        let fields = fields_of::<Example>();
        let of = |name: &str| fields.iter().find(|field| field.name == name).unwrap();
        assert_eq!(of("comm_d").ty, "comm_d");
        assert_eq!(of("comm_d").doc, "The data commitment.");
        assert_eq!(of("maybe").ty, "comm_d?");
        assert_eq!(of("count").ty, "uint64");
        assert_eq!(of("list").ty, "list of comm_d");
        assert_eq!(of("text").ty, "string?");
        assert!(!of("flag").required && !of("maybe").required && of("count").required);
        assert_eq!(ParamType::of::<CommD>().name, "comm_d");
        assert_eq!(ParamType::of::<u64>().name, "uint64");
        assert_eq!(ParamType::of::<String>().name, "string");
    }

    #[test]
    fn assignability() {
        assert!(assignable("comm_d", "comm_d?"));
        assert!(!assignable("comm_d?", "comm_d"));
        assert!(!assignable("comm_d", "comm_r"));
        assert!(assignable("uint32", "uint64"));
    }
}
