//! The mirror of a workflow file: what is written, with positions, before it is checked against stages.

use std::ops::Range;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::OnLost;
use super::diagnostic::{Diagnostic, did_you_mean};
use super::reader::{Complaints, Sp, Table, Value, kind, to_json};
use crate::failure::FailureClass;

pub(super) struct WorkflowFile {
    /// Nothing if it is missing, which was complained about; the rest is checked all the same.
    pub(super) name: Option<Sp<String>>,
    pub(super) description: String,
    /// As with the name.
    pub(super) subject: Option<Sp<String>>,
    pub(super) priority: i32,
    pub(super) params: Vec<ParamDecl>,
    pub(super) defaults: Policies,
    pub(super) steps: Vec<StepDecl>,
    pub(super) rewinds: Vec<RewindDecl>,
    pub(super) outputs: Vec<(Sp<String>, Sp<String>)>,
    pub(super) triggers: Vec<TriggerDecl>,
}

pub(super) struct TriggerDecl {
    pub(super) span: Range<usize>,
    pub(super) cron: Sp<String>,
    pub(super) overlap: Option<Sp<String>>,
    pub(super) catch_up: Option<Sp<String>>,
    pub(super) params: Vec<(Sp<String>, Sp<serde_json::Value>)>,
}

pub(super) struct ParamDecl {
    pub(super) name: Sp<String>,
    pub(super) ty: Sp<String>,
    pub(super) default: Option<Sp<serde_json::Value>>,
    pub(super) doc: String,
}

#[derive(Default, Clone)]
pub(super) struct Policies {
    pub(super) retry: RetryDecl,
    pub(super) timeout: TimeoutDecl,
}

#[derive(Default, Clone)]
pub(super) struct RetryDecl {
    pub(super) max_attempts: Option<Sp<u32>>,
    pub(super) backoff: Option<Sp<Duration>>,
    pub(super) max_backoff: Option<Sp<Duration>>,
    pub(super) on: Option<Vec<Sp<FailureClass>>>,
}

#[derive(Default, Clone)]
pub(super) struct TimeoutDecl {
    pub(super) run: Option<Sp<Duration>>,
    pub(super) silence: Option<Sp<Duration>>,
    pub(super) lost: Option<Sp<Duration>>,
    pub(super) on_lost: Option<OnLost>,
}

pub(super) struct StepDecl {
    pub(super) name: Sp<String>,
    pub(super) stage: Option<Sp<String>>,
    pub(super) needs: Vec<Sp<String>>,
    pub(super) with: Vec<(Sp<String>, Sp<Wire>)>,
    pub(super) policies: Policies,
    pub(super) wait: Option<Sp<WaitDecl>>,
    pub(super) when: Option<Sp<String>>,
    pub(super) foreach: Option<Sp<String>>,
    pub(super) max_parallel: Option<Sp<u32>>,
    pub(super) valid_until: Option<Sp<String>>,
    pub(super) workflow: Option<Sp<String>>,
    pub(super) batch: Option<Sp<BatchDecl>>,
    pub(super) on_failure: Vec<Sp<String>>,
    pub(super) finally: bool,
}

pub(super) struct BatchDecl {
    pub(super) key: Option<Sp<String>>,
    pub(super) max: Option<Sp<u32>>,
    pub(super) max_bytes: Option<u64>,
    pub(super) wait: Option<Sp<Duration>>,
    pub(super) slack: Option<Sp<Duration>>,
}

pub(super) enum Wire {
    /// `step.field` or `params.name`.
    Reference(String),
    Literal(serde_json::Value),
}

pub(super) enum WaitDecl {
    For(Duration),
    Signal(String),
    Approval(String),
}

pub(super) struct RewindDecl {
    pub(super) span: Range<usize>,
    pub(super) on: Sp<String>,
    pub(super) from: Sp<String>,
    pub(super) to: Sp<String>,
    pub(super) max: u32,
}

/// The most a file may hold: what is larger is not a workflow.
const MAX_FILE: usize = 1 << 20;

pub(super) fn parse(text: &str) -> (Option<WorkflowFile>, Vec<Diagnostic>) {
    if text.len() > MAX_FILE {
        let message = format!(
            "the file has {} bytes; a workflow has at most {MAX_FILE}",
            text.len()
        );
        return (None, vec![Diagnostic::error("too_large", 0..0, message)]);
    }
    let complaints = Complaints::default();
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        complaints.add(Diagnostic::error(
            "syntax",
            span,
            error.message().trim().replace('\n', ", "),
        ));
    }
    if !errors.is_empty() {
        return (None, complaints.into_vec());
    }
    let file = read(Table::new("a workflow file", 0..0, root.get_ref(), &complaints));
    (Some(file), complaints.into_vec())
}

fn read(root: Table<'_, '_>) -> WorkflowFile {
    let complaints = root.complaints();
    let head = root.table("workflow");
    if head.is_none() && root.get("workflow").is_none() {
        let hint = "begin with [workflow], name = \"…\" and subject = \"sector\"";
        complaints.add(Diagnostic::error("missing_key", 0..0, "there is no [workflow] table").hint(hint));
    }
    let (name, subject, description, priority) = match head {
        Some(head) => {
            let name = head.required_string("name");
            let subject = head.required_string("subject");
            let description = head
                .string("description")
                .map(|text| text.value)
                .unwrap_or_default();
            let priority = head.integer("priority", -1000..=1000).unwrap_or_default();
            head.finish();
            (name, subject, description, priority)
        }
        None => (None, None, String::new(), 0),
    };
    let params = root.table("params").map(read_params).unwrap_or_default();
    let defaults = match root.table("defaults") {
        Some(table) => {
            let policies = read_policies(&table);
            table.finish();
            policies
        }
        None => Policies::default(),
    };
    let mut steps: Vec<StepDecl> = Vec::new();
    for (section, finally) in [("steps", false), ("finally", true)] {
        for (name, value) in root
            .table(section)
            .map(|table| table.entries())
            .unwrap_or_default()
        {
            let decl = read_step(name, value, complaints, finally);
            let Some(decl) = decl else { continue };
            if steps.iter().any(|other| other.name.value == decl.name.value) {
                let message = format!("there is a step `{}` already", decl.name.value);
                complaints.add(Diagnostic::error(
                    "duplicate_step",
                    decl.name.span.clone(),
                    message,
                ));
                continue;
            }
            steps.push(decl);
        }
    }
    let rewinds = read_rewinds(&root);
    let triggers = read_triggers(&root);
    let outputs = root.table("outputs").map(read_outputs).unwrap_or_default();
    root.finish();
    WorkflowFile {
        name,
        description,
        subject,
        priority,
        params,
        defaults,
        steps,
        rewinds,
        outputs,
        triggers,
    }
}

fn read_triggers(root: &Table<'_, '_>) -> Vec<TriggerDecl> {
    let mut triggers = Vec::new();
    for table in root.tables("trigger") {
        let params = table.table("params").map(|params| {
            let all = params.entries().into_iter();
            all.map(|(name, value)| (name, Sp::new(to_json(value.get_ref()), value.span())))
                .collect()
        });
        let cron = table.required_string("cron");
        let (overlap, catch_up) = (table.string("overlap"), table.string("catch_up"));
        let span = table.span();
        table.finish();
        triggers.extend(cron.map(|cron| TriggerDecl {
            span,
            cron,
            overlap,
            catch_up,
            params: params.unwrap_or_default(),
        }));
    }
    triggers
}

fn read_outputs(table: Table<'_, '_>) -> Vec<(Sp<String>, Sp<String>)> {
    let mut outputs = Vec::new();
    for (name, value) in table.entries() {
        match value.get_ref() {
            DeValue::String(text) => outputs.push((name, Sp::new(text.to_string(), value.span()))),
            other => table.complaints().add(
                Diagnostic::error(
                    "wrong_type",
                    value.span(),
                    format!("an output says where it comes from, it is not {}", kind(other)),
                )
                .hint("write name = \"step.field\""),
            ),
        }
    }
    outputs
}

fn read_batch(step: &Table<'_, '_>) -> Option<Sp<BatchDecl>> {
    let span = step.get("batch")?.span();
    let table = step.table("batch")?;
    let batch = BatchDecl {
        key: table.string("key"),
        max: table.count("max", crate::workflow::BatchSpec::MAX),
        max_bytes: table
            .integer("max_bytes", 1..=i32::MAX)
            .map(|bytes| u64::from(bytes.unsigned_abs())),
        wait: table.duration("wait"),
        slack: table.duration("slack"),
    };
    if batch.max.is_none() && table.get("max").is_none() {
        let hint = "write batch = { max = 100, wait = \"1h\" }";
        let missing = Diagnostic::error("missing_key", span.clone(), "a batch needs `max`").hint(hint);
        step.complaints().add(missing);
    }
    table.finish();
    Some(Sp::new(batch, span))
}

fn read_params(table: Table<'_, '_>) -> Vec<ParamDecl> {
    let complaints = table.complaints();
    let mut params = Vec::new();
    for (name, value) in table.entries() {
        match value.get_ref() {
            DeValue::String(ty) => {
                let ty = Sp::new(ty.to_string(), value.span());
                params.push(ParamDecl {
                    name,
                    ty,
                    default: None,
                    doc: String::new(),
                });
            }
            DeValue::Table(inner) => {
                let inner = Table::new(
                    format!("parameter `{}`", name.value),
                    value.span(),
                    inner,
                    complaints,
                );
                let ty = inner.required_string("type");
                let default = inner
                    .get("default")
                    .map(|value| Sp::new(to_json(value.get_ref()), value.span()));
                let doc = inner.string("doc").map(|text| text.value).unwrap_or_default();
                inner.finish();
                if let Some(ty) = ty {
                    params.push(ParamDecl {
                        name,
                        ty,
                        default,
                        doc,
                    });
                }
            }
            other => complaints.add(
                Diagnostic::error(
                    "wrong_type",
                    value.span(),
                    format!("a parameter is a type, not {}", kind(other)),
                )
                .hint("write name = \"type\", or name = { type = \"…\", default = …, doc = \"…\" }"),
            ),
        }
    }
    params
}

fn read_on_lost(table: &Table<'_, '_>) -> Option<OnLost> {
    let word = table.string("on_lost")?;
    let all = [OnLost::Wait, OnLost::Reassign, OnLost::Ask];
    let found = all.into_iter().find(|one| one.as_str() == word.value);
    if found.is_none() {
        let what = format!("`{}` is not known", word.value);
        let hint = "on_lost is wait, reassign or ask";
        table
            .complaints()
            .add(Diagnostic::error("wrong_value", word.span, what).hint(hint));
    }
    found
}

fn read_policies(table: &Table<'_, '_>) -> Policies {
    let mut policies = Policies::default();
    if let Some(retry) = table.table("retry") {
        policies.retry = RetryDecl {
            max_attempts: retry.count("max_attempts", 1000),
            backoff: retry.duration("backoff"),
            max_backoff: retry.duration("max_backoff"),
            on: retry.get("on").is_some().then(|| read_classes(&retry)),
        };
        retry.finish();
    }
    if let Some(timeout) = table.table("timeout") {
        policies.timeout = TimeoutDecl {
            run: timeout.duration("run"),
            silence: timeout.duration("silence"),
            lost: timeout.duration("lost"),
            on_lost: read_on_lost(&timeout),
        };
        timeout.finish();
    }
    policies
}

fn read_classes(retry: &Table<'_, '_>) -> Vec<Sp<FailureClass>> {
    let mut classes = Vec::new();
    for text in retry.strings("on") {
        let class = match text.value.as_str() {
            "transient" => FailureClass::Transient,
            "critical" => FailureClass::Critical,
            "permanent" => FailureClass::Permanent,
            other => {
                let message = format!("`{other}` is not a failure class that can be retried");
                let hint = did_you_mean(other, ["transient", "critical", "permanent"]).unwrap_or_else(|| {
                    "use transient, critical or permanent; rewinds are [[rewind]] edges".to_owned()
                });
                retry
                    .complaints()
                    .add(Diagnostic::error("unknown_class", text.span.clone(), message).hint(hint));
                continue;
            }
        };
        classes.push(Sp::new(class, text.span));
    }
    classes
}

fn read_step(
    name: Sp<String>,
    value: &Value<'_>,
    complaints: &Complaints,
    finally: bool,
) -> Option<StepDecl> {
    let DeValue::Table(table) = value.get_ref() else {
        let message = format!("a step is a table, not {}", kind(value.get_ref()));
        complaints.add(Diagnostic::error("wrong_type", value.span(), message).hint("write [steps.NAME]"));
        return None;
    };
    let table = Table::new(
        format!("step `{}`", name.value),
        name.span.clone(),
        table,
        complaints,
    );
    let step = StepDecl {
        stage: table.string("stage"),
        needs: table.strings("needs"),
        with: table
            .table("with")
            .map(|with| read_with(&with))
            .unwrap_or_default(),
        policies: read_policies(&table),
        wait: read_wait(&table),
        when: table.string("when"),
        foreach: table.string("foreach"),
        max_parallel: table.count("max_parallel", 10_000),
        valid_until: table.string("valid_until"),
        workflow: table.string("workflow"),
        batch: read_batch(&table),
        on_failure: table.strings("on_failure"),
        finally,
        name,
    };
    table.finish();
    Some(step)
}

fn read_with(with: &Table<'_, '_>) -> Vec<(Sp<String>, Sp<Wire>)> {
    let mut wires = Vec::new();
    for (field, value) in with.entries() {
        let wire = match value.get_ref() {
            DeValue::String(text) => Wire::Reference(text.to_string()),
            DeValue::Table(inner) if inner.len() == 1 && inner.contains_key("value") => inner
                .get("value")
                .map_or(Wire::Literal(serde_json::Value::Null), |value| {
                    Wire::Literal(to_json(value.get_ref()))
                }),
            other => Wire::Literal(to_json(other)),
        };
        wires.push((field, Sp::new(wire, value.span())));
    }
    wires
}

fn read_wait(step: &Table<'_, '_>) -> Option<Sp<WaitDecl>> {
    let value = step.get("wait")?;
    if let DeValue::String(text) = value.get_ref() {
        let text = Sp::new(text.to_string(), value.span());
        return step
            .parse_duration("wait", &text)
            .map(|duration| Sp::new(WaitDecl::For(duration.value), duration.span));
    }
    let table = step.table("wait")?;
    let has = |key| table.get(key).is_some();
    let wait = match (has("for"), has("signal"), has("approval")) {
        (true, false, false) => table
            .duration("for")
            .map(|duration| WaitDecl::For(duration.value)),
        (false, true, false) => table
            .string("signal")
            .map(|signal| WaitDecl::Signal(signal.value)),
        (false, false, true) => table
            .string("approval")
            .map(|text| WaitDecl::Approval(text.value)),
        _ => {
            let message = "a wait has either `for`, `signal` or `approval`";
            let hint = "write wait = \"10min\", wait = { for = \"10min\" }, wait = { signal = \"go\" } or wait = { approval = \"look at …\" }";
            step.complaints()
                .add(Diagnostic::error("bad_wait", value.span(), message).hint(hint));
            None
        }
    };
    let span = value.span();
    table.finish();
    wait.map(|wait| Sp::new(wait, span))
}

fn read_rewinds(root: &Table<'_, '_>) -> Vec<RewindDecl> {
    let mut rewinds = Vec::new();
    for table in root.tables("rewind") {
        let on = table.required_string("on");
        let from = table.required_string("from");
        let to = table.required_string("to");
        let max = table.count("max", 100).map_or(3, |max| max.value);
        let span = table.span();
        table.finish();
        if let (Some(on), Some(from), Some(to)) = (on, from, to) {
            rewinds.push(RewindDecl {
                span,
                on,
                from,
                to,
                max,
            });
        }
    }
    rewinds
}
