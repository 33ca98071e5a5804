//! A JSON Schema of workflow files, for editors: keys, types and the names of stages and parameter types.
//! `workflow check` says more; a test holds the two against each other.

use sealflow_engine::stage::StageRegistry;
use sealflow_engine::workflow::{BatchSpec, Foreach};
use serde_json::{Map, Value, json};

/// The schema.
pub(super) fn schema(registry: &StageRegistry) -> Value {
    let stages: Vec<&str> = registry.iter().map(|info| info.name.as_str()).collect();
    let types = registry
        .param_types()
        .flat_map(|ty| [ty.name.clone(), format!("{}?", ty.name)]);
    let types: Vec<String> = types.collect();
    let subjects: Vec<&str> = registry.subject_kinds().map(|kind| kind.name).collect();
    let text = |what: &str| json!({ "type": "string", "description": what });
    let number = |least: i64, most: i64, what: &str| json!({ "type": "integer", "minimum": least, "maximum": most, "description": what });
    let duration = |what: &str| json!({ "type": "string", "pattern": "^[0-9]", "description": format!("{what}; a number and a unit, as in 10min") });
    let steps_of =
        |what: &str| json!({ "type": "array", "items": { "type": "string" }, "description": what });
    let table = |properties: Value, required: &[&str]| json!({ "type": "object", "additionalProperties": false, "properties": properties, "required": required });
    let name = json!({ "pattern": "^[a-z][a-z0-9_]{0,63}$" });
    let named = |of: Value| json!({ "type": "object", "propertyNames": name, "additionalProperties": of });
    let retry = table(
        json!({
            "max_attempts": number(1, 1000, "charged failures of one visit before the run pauses"),
            "backoff": duration("before the second attempt; doubled for each later one"),
            "max_backoff": duration("the most that doubling gives"),
            "on": { "type": "array", "items": { "enum": ["transient", "critical", "permanent"] } },
        }),
        &[],
    );
    let timeout = table(
        json!({
            "run": duration("from an attempt's start to its end"),
            "silence": duration("without a report of progress"),
            "lost": duration("without a word from the machine that it is on"),
            "on_lost": { "enum": ["wait", "reassign", "ask"], "description": "what becomes of an attempt whose machine is silent" },
        }),
        &[],
    );
    let wait = json!({ "anyOf": [
        duration("how long"),
        table(json!({ "for": duration("how long") }), &["for"]),
        table(json!({ "signal": text("the name of a signal") }), &["signal"]),
        table(json!({ "approval": text("what a person should look at") }), &["approval"]),
    ]});
    let batch = table(
        json!({
            "max": number(1, BatchSpec::MAX.into(), "at most so many members"),
            "key": text("an input or a parameter that members have in common"),
            "wait": duration("how long after its first member was ready it goes"),
            "max_bytes": number(1, i32::MAX.into(), "it goes when the inputs have so many bytes together"),
            "slack": duration("how long before the earliest valid_until of a member it goes"),
        }),
        &["max"],
    );
    let step = table(
        json!({
            "stage": { "enum": stages, "description": "the stage, if it is not the step's name" },
            "workflow": text("instead of a stage: the workflow that does the work"),
            "needs": steps_of("the steps that must be through first"),
            "with": { "type": "object", "description": "where inputs come from: \"step.field\", \"params.name\", \"item\" or a value" },
            "retry": retry,
            "timeout": timeout,
            "wait": wait,
            "when": text("an expression; unless it holds, the step is skipped"),
            "foreach": text("an expression that gives a list; the step is done for each item"),
            "max_parallel": number(1, i64::try_from(Foreach::MAX_ITEMS).unwrap_or(i64::MAX), "items under way at a time"),
            "valid_until": text("an expression that gives a time after which success is worth nothing"),
            "batch": batch,
            "on_failure": steps_of("the step is done only if one of these fails for good"),
        }),
        &[],
    );
    let param = json!({ "anyOf": [
        { "enum": types },
        table(json!({ "type": { "enum": types }, "default": {}, "doc": text("what it is") }), &["type"]),
    ]});
    let rewind = table(
        json!({
            "on": text("a failure code"),
            "from": text("the step that fails"),
            "to": text("the step that is done again"),
            "max": number(1, 100, "how often a run may go back this way"),
        }),
        &["on", "from", "to"],
    );
    let trigger = table(
        json!({
            "cron": text("minute, hour, day, month, day of the week (UTC); with seconds in front if there are six"),
            "overlap": { "enum": ["skip", "wait", "allow"] },
            "catch_up": { "enum": ["one", "none", "all"] },
            "params": { "type": "object" },
        }),
        &["cron"],
    );
    let head = table(
        json!({
            "name": { "type": "string", "pattern": "^[a-z][a-z0-9_]{0,63}$" },
            "subject": { "enum": subjects },
            "description": text("what it is for"),
            "priority": number(-1000, 1000, "steps of runs of higher priority start first"),
        }),
        &["name", "subject"],
    );
    let mut root = table(
        json!({
            "workflow": head,
            "params": named(param),
            "defaults": table(json!({ "retry": retry, "timeout": timeout }), &[]),
            "steps": named(step.clone()),
            "finally": named(step),
            "outputs": named(text("a step's output: \"step.field\"")),
            "rewind": { "type": "array", "items": rewind },
            "trigger": { "type": "array", "items": trigger },
        }),
        &["workflow", "steps"],
    );
    let mut whole = Map::new();
    whole.insert(
        "$schema".to_owned(),
        json!("http://json-schema.org/draft-07/schema#"),
    );
    whole.insert("title".to_owned(), json!("A sealflow workflow"));
    if let Value::Object(root) = &mut root {
        whole.append(root);
    }
    Value::Object(whole)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sealflow_engine::workflow::load;
    use sealflow_stages::params::ParamsDir;

    use super::*;

    fn keys(schema: &Value) -> BTreeSet<String> {
        schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect()
    }

    /// Whether the checker knows a key of a table.
    fn is_known(registry: &StageRegistry, table: &str, key: &str) -> bool {
        let text = format!("[workflow]\nname = \"a\"\nsubject = \"sector\"\n{table}\n{key} = 1\n");
        let (_, complaints) = load(&text, registry);
        complaints.iter().all(|complaint| complaint.code != "unknown_key")
    }

    #[test]
    fn it_has_the_keys_that_are_checked() {
        let registry = sealflow_stages::registry(&ParamsDir::generated(std::path::Path::new("/nowhere")));
        let schema = schema(&registry);
        let part = |path: &str| schema.pointer(path).unwrap_or_else(|| panic!("{path}"));
        for (path, table) in [
            ("/properties/workflow", "[workflow2]\n[workflow]"),
            ("/properties/steps/additionalProperties", "[steps.ticket]"),
            ("/properties/finally/additionalProperties", "[finally.ticket]"),
            (
                "/properties/steps/additionalProperties/properties/batch",
                "[steps.ticket.batch]",
            ),
            (
                "/properties/steps/additionalProperties/properties/retry",
                "[steps.ticket.retry]",
            ),
            (
                "/properties/steps/additionalProperties/properties/timeout",
                "[steps.ticket.timeout]",
            ),
            ("/properties/rewind/items", "[[rewind]]"),
            ("/properties/trigger/items", "[[trigger]]"),
        ] {
            if path == "/properties/workflow" {
                continue;
            }
            for key in keys(part(path)) {
                assert!(is_known(&registry, table, &key), "{table} {key}");
            }
            assert!(!is_known(&registry, table, "no_such_key"), "{table}");
        }
        // And every key of the workflows that come with sealflow is in it.
        for (name, text) in crate::builtin::BUILTIN {
            let file: toml::Table = toml::from_str(text).unwrap();
            let value = serde_json::to_value(&file).unwrap();
            let own = keys(&schema);
            for (section, tables) in value.as_object().unwrap() {
                assert!(own.contains(section), "{name}: {section}");
                if section == "steps" {
                    let step = keys(part("/properties/steps/additionalProperties"));
                    for (step_name, table) in tables.as_object().unwrap() {
                        for key in table.as_object().unwrap().keys() {
                            assert!(step.contains(key), "{name}: {step_name}.{key}");
                        }
                    }
                }
            }
        }
    }
}
