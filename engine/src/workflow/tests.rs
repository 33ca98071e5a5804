//! What is said about workflow files, and where: one row per mistake. And what right files become.

use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;
use crate::failure::{Failure, FailureClass};
use crate::id::{StepName, Subject};
use crate::resource::Need;
use crate::stage::{Claim, Outcome, Stage, StageContext, SubjectKind};

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "blob")]
struct Blob(String);

#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "digest")]
struct Digest(String);

/// Declares a pretend stage: its fields in, its fields out.
macro_rules! stage {
    ($name:ident, $text:literal, $claim:ident, { $($in:ident: $in_ty:ty),* }, { $($out:ident: $out_ty:ty),* }) => {
        mod $name {
            use super::*;
            #[derive(Serialize, Deserialize, JsonSchema)]
            pub(super) struct Input { $($in: $in_ty),* }
            #[derive(Serialize, Deserialize, JsonSchema)]
            pub(super) struct Output { $($out: $out_ty),* }
            pub(super) struct Pretend;
            impl Stage for Pretend {
                const NAME: &'static str = $text;
                const VERSION: u32 = 1;
                const SOURCE: &'static str = "//! Pretends.";
                const CLAIM: Claim = Claim::$claim;
                type Input = Input;
                type Output = Output;
                fn costs(&self, _: &Value) -> Need {
                    Need::default()
                }
                async fn run(&self, _: &StageContext, _: Input) -> Result<Outcome<Output>, Failure> {
                    Err(Failure::permanent("pretend", "it does nothing"))
                }
            }
        }
    };
}

stage!(fetch, "fetch", Read, { id: u64 }, { data: Blob, size: u64 });
stage!(mirror, "mirror", Read, { id: u64 }, { data: Blob });
stage!(digest, "digest", None, { data: Blob }, { sum: Digest });
stage!(verify, "verify", None, { data: Blob, sum: Digest, limit: Option<u64> }, { good: Option<bool> });
stage!(note, "note", None, { good: bool }, { });

fn registry() -> StageRegistry {
    let subject = |params: &Value| Subject::new(&params["id"].to_string()).map_err(|error| error.to_string());
    StageRegistry::default()
        .with_subject(SubjectKind {
            name: "thing",
            params: &[("id", "uint64")],
            subject,
        })
        .with_type::<u64>()
        .with_type::<bool>()
        .with_type::<String>()
        .with_type::<Blob>()
        .with(fetch::Pretend)
        .with(mirror::Pretend)
        .with(digest::Pretend)
        .with(verify::Pretend)
        .with(note::Pretend)
}

/// What every right file begins with: five lines.
const HEAD: &str = "[workflow]\nname = \"w\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n";

/// A complaint: its code, line and column, a part of its message and a part of its hint.
type Expected<'a> = (&'a str, usize, usize, &'a str, &'a str);

/// All complaints about a text, in the order of the file, and that it does not load.
#[track_caller]
fn check(text: &str, expected: &[Expected<'_>]) {
    let (graph, diagnostics) = load(text, &registry());
    let found: Vec<String> = diagnostics
        .iter()
        .map(|found| {
            let (line, column) = found.position(text);
            format!(
                "{} at {line}:{column}: {} ({})",
                found.code,
                found.message,
                found.hint.as_deref().unwrap_or("")
            )
        })
        .collect();
    let shown = found.join("\n");
    assert_eq!(found.len(), expected.len(), "of\n{text}\nis said:\n{shown}");
    for (found, (code, line, column, message, hint)) in diagnostics.iter().zip(expected) {
        assert_eq!(
            (found.code, found.position(text)),
            (*code, (*line, *column)),
            "{shown}"
        );
        assert!(found.message.contains(message), "`{message}` is not in\n{shown}");
        assert!(
            found.hint.as_deref().unwrap_or("").contains(hint),
            "`{hint}` is not in\n{shown}"
        );
        assert!(found.hint.is_some() || hint.is_empty(), "{shown}");
    }
    let errors = diagnostics.iter().any(|found| found.severity == Severity::Error);
    assert_eq!(graph.is_none(), errors, "{shown}");
}

/// The same after [`HEAD`].
#[track_caller]
fn check_steps(steps: &str, expected: &[Expected<'_>]) {
    check(&format!("{HEAD}{steps}"), expected);
}

#[track_caller]
fn graph(text: &str) -> Graph {
    let (graph, diagnostics) = load(text, &registry());
    graph.unwrap_or_else(|| panic!("{diagnostics:?}"))
}

#[track_caller]
fn graph_of(steps: &str) -> Graph {
    graph(&format!("{HEAD}{steps}"))
}

#[test]
fn keys_and_tables() {
    check_steps(
        "[steps.fetch]\nned = []\n",
        &[(
            "unknown_key",
            7,
            1,
            "step `fetch` has no key `ned`",
            "did you mean `needs`?",
        )],
    );
    check_steps(
        "[step.fetch]\n",
        &[
            ("no_steps", 2, 8, "no steps", "[steps."),
            ("unknown_key", 6, 2, "has no key `step`", "did you mean `steps`?"),
        ],
    );
    check(
        "[steps.fetch]\n[params]\nid = \"uint64\"\n",
        &[(
            "missing_key",
            1,
            1,
            "no [workflow] table",
            "begin with [workflow]",
        )],
    );
    check(
        "[workflow]\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n[steps.fetch]\n",
        &[("missing_key", 1, 1, "needs the key `name`", "")],
    );
    check(
        "workflow = 1\n",
        &[
            ("no_steps", 1, 1, "no steps", ""),
            (
                "wrong_type",
                1,
                12,
                "`workflow` must be a table, not a whole number",
                "",
            ),
        ],
    );
    check_steps(
        "[steps.fetch]\nneeds = \"x\"\n",
        &[("wrong_type", 7, 9, "must be a list of strings", "")],
    );
    check_steps(
        "[steps.fetch]\nneeds = [1]\n",
        &[("wrong_type", 7, 10, "not a whole number", "")],
    );
    check_steps(
        "[steps]\nfetch = 1\n",
        &[
            ("no_steps", 2, 8, "no steps", ""),
            ("wrong_type", 7, 9, "a step is a table", "write [steps.NAME]"),
        ],
    );
    check_steps(
        "rewind = 1\n[steps.fetch]\n",
        &[("wrong_type", 6, 10, "parameter is a type", "write name")],
    );
    check_steps(
        "[steps.fetch]\n[rewind]\non = \"x\"\n",
        &[("wrong_type", 7, 1, "list of tables", "write [[rewind]]")],
    );
    check_steps(
        "[steps.fetch]\n[[rewind]]\non = \"x\"\n",
        &[
            ("missing_key", 7, 1, "needs the key `from`", ""),
            ("missing_key", 7, 1, "needs the key `to`", ""),
        ],
    );
}

#[test]
fn syntax() {
    check(
        "[workflow]\nname = \"a\"\nname = \"b\"\n",
        &[("syntax", 3, 1, "duplicate key", "")],
    );
    check("[workflow\n", &[("syntax", 1, 10, "unclosed table", "")]);
    check("a = 1\nb = =\n", &[("syntax", 2, 5, "", "")]);
    let (graph, found) = load(
        &format!("# {}\n{HEAD}[steps.fetch]\n", "x".repeat(1 << 20)),
        &registry(),
    );
    assert!(graph.is_none());
    assert_eq!(
        found.iter().map(|found| found.code).collect::<Vec<_>>(),
        ["too_large"]
    );
}

#[test]
fn names() {
    check(
        "[workflow]\nname = \"W w\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\n[steps.fetch]\n",
        &[("bad_name", 2, 8, "`W w` is not a workflow name", "")],
    );
    check_steps(
        "[steps.Fetch]\nstage = \"fetch\"\n[steps.\"a b\"]\nstage = \"fetch\"\n",
        &[
            ("bad_name", 6, 8, "`Fetch` is not a step name", ""),
            ("bad_name", 8, 8, "`a b` is not a step name", ""),
        ],
    );
    check(
        "[workflow]\nname = \"w\"\nsubject = \"thing\"\n[params]\nid = \"uint64\"\nBad = \"uint64\"\n[steps.fetch]\n",
        &[
            ("bad_name", 6, 1, "`Bad` is not a parameter name", "lower-case"),
            ("unused_param", 6, 1, "`Bad`", ""),
        ],
    );
}

#[test]
fn subjects() {
    check(
        "[workflow]\nname = \"w\"\nsubject = \"thin\"\n[params]\nid = \"uint64\"\n[steps.fetch]\n",
        &[(
            "unknown_subject",
            3,
            11,
            "no subject `thin`",
            "did you mean `thing`?",
        )],
    );
    check(
        "[workflow]\nname = \"w\"\nsubject = \"thing\"\n[steps.fetch]\n",
        &[
            (
                "missing_param",
                3,
                11,
                "named by its `id`",
                "add id = \"uint64\" under [params]",
            ),
            (
                "unfilled_input",
                4,
                8,
                "its input `id` (uint64)",
                "add a parameter: id = \"uint64\"",
            ),
        ],
    );
    check(
        "[workflow]\nname = \"w\"\nsubject = \"thing\"\n[params]\nid = \"string\"\n[steps.fetch]\n",
        &[
            ("wrong_type", 5, 6, "its `id`, which is a uint64", ""),
            (
                "wrong_type",
                6,
                8,
                "input `id` is a uint64, but `params.id` is a string",
                "",
            ),
        ],
    );
}

#[test]
fn parameters() {
    let with = |param: &str| format!("{HEAD}{param}\n[steps.fetch]\n");
    check(
        &with("x = \"uint46\""),
        &[
            ("unused_param", 6, 1, "`x`", ""),
            ("unknown_type", 6, 5, "no type `uint46`", "did you mean `uint64`?"),
        ],
    );
    check(
        &with("x = { type = \"uint64\", default = \"many\" }"),
        &[
            ("unused_param", 6, 1, "`x`", ""),
            ("wrong_type", 6, 34, "the default of `x` is not a uint64", ""),
        ],
    );
    check(
        &with("x = { default = 1 }"),
        &[("missing_key", 6, 5, "parameter `x` needs the key `type`", "")],
    );
    check(
        &with("x = 5"),
        &[(
            "wrong_type",
            6,
            5,
            "a parameter is a type, not a whole number",
            "write name = ",
        )],
    );
    // A warning alone does not stop the file.
    check(
        &with("x = { type = \"uint64?\", doc = \"nobody takes it\" }"),
        &[("unused_param", 6, 1, "`x`", "")],
    );
}

#[test]
fn stages_and_needs() {
    check_steps(
        "[steps.fetsh]\n",
        &[("unknown_stage", 6, 8, "no stage `fetsh`", "did you mean `fetch`?")],
    );
    check_steps(
        "[steps.a]\nstage = \"nothing_like_it\"\n",
        &[(
            "unknown_stage",
            7,
            9,
            "no stage `nothing_like_it`",
            "`sealflow stage list`",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nneeds = [\"fetsh\"]\n",
        &[(
            "unknown_step",
            8,
            10,
            "step `digest` needs `fetsh`",
            "did you mean `fetch`?",
        )],
    );
    check_steps(
        "[steps.a]\nstage = \"fetch\"\nneeds = [\"c\"]\n[steps.b]\nstage = \"fetch\"\nneeds = [\"a\"]\n[steps.c]\nstage = \"fetch\"\nneeds = [\"b\"]\n",
        &[(
            "cycle",
            8,
            10,
            "in a circle: a → c → b → a",
            "take one of these needs away",
        )],
    );
    check_steps(
        "[steps.a]\nstage = \"fetch\"\nneeds = [\"a\"]\n",
        &[("cycle", 8, 10, "a → a", "")],
    );
    // A step that cannot be resolved makes no further noise about what it would have given.
    check_steps(
        "[steps.fetsh]\n[steps.digest]\nneeds = [\"fetsh\"]\n",
        &[("unknown_stage", 6, 8, "", "fetch")],
    );
}

#[test]
fn wiring() {
    let two = "[steps.fetch]\n[steps.mirror]\n";
    check_steps(
        "[steps.digest]\n[steps.fetch]\n",
        &[(
            "unfilled_input",
            6,
            8,
            "step `digest` its input `data` (blob)",
            "step `fetch` gives it: add it to `needs`",
        )],
    );
    check_steps(
        &format!("{two}[steps.digest]\nneeds = [\"fetch\", \"mirror\"]\n"),
        &[(
            "ambiguous_input",
            8,
            8,
            "could come from fetch or mirror",
            "with = { data = \"fetch.data\" }",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nneeds = [\"fetch\"]\nwith = { data = \"fetch.size\" }\n",
        &[(
            "wrong_type",
            9,
            17,
            "input `data` is a blob, but `fetch.size` is a uint64",
            "",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nneeds = [\"fetch\"]\n[steps.verify]\nneeds = [\"digest\"]\n[steps.note]\nneeds = [\"verify\"]\n",
        &[(
            "wrong_type",
            11,
            8,
            "input `good` is a bool, but `verify.good` is a bool?",
            "",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nneeds = [\"fetch\"]\nwith = { daat = \"fetch.data\" }\n",
        &[(
            "unknown_field",
            9,
            10,
            "stage `digest` has no input `daat`",
            "did you mean `data`?",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nneeds = [\"fetch\"]\nwith = { data = \"fetch.dat\" }\n",
        &[(
            "unknown_field",
            9,
            17,
            "step `fetch` has no output `dat`",
            "did you mean `data`?",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nwith = { data = \"fetch.data\" }\n",
        &[(
            "not_needed",
            8,
            17,
            "step `fetch` need not have ended",
            "add \"fetch\" to `needs`",
        )],
    );
    check_steps(
        "[steps.fetch]\n[steps.digest]\nneeds = [\"fetch\"]\nwith = { data = \"fetsh.data\" }\n",
        &[("unknown_step", 9, 17, "no step `fetsh`", "did you mean `fetch`?")],
    );
    check_steps(
        "[steps.fetch]\nwith = { id = \"params.ib\" }\n",
        &[("unknown_param", 7, 15, "no parameter `ib`", "did you mean `id`?")],
    );
    check_steps(
        "[steps.fetch]\nwith = { id = \"seven\" }\n",
        &[(
            "bad_reference",
            7,
            15,
            "`seven` does not say where `id` comes from",
            "id = { value = \"seven\" }",
        )],
    );
    check_steps(
        "[steps.fetch]\nwith = { id = -1 }\n",
        &[("wrong_type", 7, 15, "input `id` is a uint64", "")],
    );
    check_steps(
        "[steps.fetch]\nwith = { id = { value = \"x\" } }\n",
        &[("wrong_type", 7, 15, "input `id` is a uint64", "")],
    );
    check_steps(
        "[steps.pause]\nwait = \"1s\"\nwith = { id = 1 }\n",
        &[("unknown_field", 8, 10, "has no stage that could take inputs", "")],
    );
}

#[test]
fn policies() {
    check_steps(
        "[steps.fetch]\ntimeout = { run = \"soon\" }\n",
        &[("bad_duration", 7, 19, "`run` is not a duration", "\"30s\"")],
    );
    check_steps(
        "[steps.fetch]\nretry = { on = [\"transiet\"] }\n",
        &[("unknown_class", 7, 17, "`transiet`", "did you mean `transient`?")],
    );
    check_steps(
        "[steps.fetch]\nretry = { on = [\"rewind\"] }\n",
        &[("unknown_class", 7, 17, "`rewind`", "[[rewind]] edges")],
    );
    check_steps(
        "[steps.fetch]\nretry = { max_attempts = 0 }\n",
        &[("wrong_type", 7, 26, "from 1 to 1000", "")],
    );
    check_steps(
        "[steps.fetch]\nretry = { max_atempts = 2 }\n",
        &[("unknown_key", 7, 11, "no key `max_atempts`", "`max_attempts`")],
    );
    check_steps(
        "[steps.fetch]\nwait = { for = \"1s\", signal = \"x\" }\n",
        &[("bad_wait", 7, 8, "either", "")],
    );
    check_steps("[steps.fetch]\nwait = {}\n", &[("bad_wait", 7, 8, "either", "")]);
    check_steps(
        "[steps.fetch]\nwait = { for = \"x\" }\n",
        &[("bad_duration", 7, 16, "`for`", "")],
    );
    check_steps(
        "[steps.fetch]\nwait = 5\n",
        &[("wrong_type", 7, 8, "`wait` must be", "")],
    );
}

#[test]
fn rewinds() {
    let edge = |from: &str, to: &str| format!("[[rewind]]\non = \"x\"\nfrom = \"{from}\"\nto = \"{to}\"\n");
    let steps = "[steps.fetch]\n[steps.digest]\nneeds = [\"fetch\"]\n";
    check_steps(
        &format!("{steps}{}", edge("fetch", "digest")),
        &[(
            "rewind_forward",
            12,
            6,
            "`digest` does not come before `fetch`",
            "goes back to a step",
        )],
    );
    check_steps(
        &format!("{steps}{}", edge("digset", "fetch")),
        &[(
            "unknown_step",
            11,
            8,
            "no step `digset`",
            "did you mean `digest`?",
        )],
    );
    check_steps(
        &format!("{steps}{0}{0}", edge("digest", "fetch")),
        &[("duplicate_rewind", 13, 1, "has a rewind edge already", "")],
    );
    check_steps(
        &format!("{steps}{}max = 0\n", edge("digest", "fetch")),
        &[("wrong_type", 13, 7, "from 1 to 100", "")],
    );
}

#[test]
fn everything_at_once() {
    let text = "\
[workflow]
nmae = \"w\"
subject = \"thing\"
[params]
id = \"uint46\"
[steps.fetsh]
[steps.mirror]
timeout = { run = \"soon\" }
[steps.Digest]
stage = \"digest\"
needs = [\"miror\"]
[[rewind]]
on = \"x\"
from = \"mirror\"
to = \"nowhere\"
";
    check(
        text,
        &[
            ("missing_key", 1, 1, "`name`", ""),
            ("unknown_key", 2, 1, "`nmae`", "did you mean `name`?"),
            ("unknown_type", 5, 6, "`uint46`", "`uint64`"),
            ("unknown_stage", 6, 8, "`fetsh`", "`fetch`"),
            ("bad_duration", 8, 19, "`run`", ""),
            ("bad_name", 9, 8, "`Digest`", ""),
            ("unknown_step", 11, 10, "`miror`", "`mirror`"),
            ("unknown_step", 15, 6, "`nowhere`", ""),
        ],
    );
}

#[test]
fn columns_count_characters() {
    check(
        "# ä\n[workflow]\nname = \"w\" # é\nsubject = \"thing\"\n[params]\nid = { doc = \"ü\", type = \"uint46\" }\n[steps.fetch]\n",
        &[("unknown_type", 6, 26, "", "uint64")],
    );
}

const WHOLE: &str = "[defaults]
retry = { max_attempts = 5, backoff = \"1s\" }
timeout = { run = \"1h\" }
[steps.mirror]
[steps.fetch]
retry = { backoff = \"2s\", on = [\"permanent\"] }
timeout = { silence = \"1min\" }
wait = \"10min\"
[steps.verify]
needs = [\"digest\", \"fetch\", \"digest\"]
with = { limit = 7, data = \"fetch.data\" }
[steps.digest]
needs = [\"mirror\"]
wait = { signal = \"go\" }
[steps.nap]
needs = [\"verify\"]
wait = { for = \"1s\" }
[[rewind]]
on = \"bad\"
from = \"verify\"
to = \"mirror\"
";

#[test]
fn a_whole_file_becomes_a_graph() {
    let graph = graph_of(WHOLE);
    let names: Vec<&str> = graph.steps().map(|(_, step)| step.name.as_str()).collect();
    // Among those that could come next, the first in the file does.
    assert_eq!(names, ["mirror", "fetch", "digest", "verify", "nap"]);
    let step = |name: &str| graph.step(graph.find(&StepName::new(name).unwrap()).unwrap());
    assert_eq!(step("verify").needs, [StepIx(1), StepIx(2)]);
    let retry = |name: &str| (step(name).retry.max_attempts, step(name).retry.backoff_ms);
    assert_eq!((retry("mirror"), retry("fetch")), ((5, 1000), (5, 2000)));
    assert_eq!(
        step("mirror").retry.max_backoff_ms,
        Retry::default().max_backoff_ms
    );
    assert_eq!(step("mirror").retry.on, Retry::default().on);
    assert_eq!(
        step("fetch").retry.on.iter().copied().collect::<Vec<_>>(),
        [FailureClass::Permanent]
    );
    assert_eq!(
        step("fetch").timeout,
        Timeouts {
            run_ms: Some(3_600_000),
            silence_ms: Some(60_000),
            ..Timeouts::default()
        }
    );
    assert_eq!(step("fetch").wait, Some(WaitSpec::For(600_000)));
    assert_eq!(step("digest").wait, Some(WaitSpec::Signal("go".to_owned())));
    assert_eq!(
        (&step("nap").stage, &step("nap").wait),
        (&None, &Some(WaitSpec::For(1000)))
    );
    let output = |step: u32, field: &str| Source::Output {
        step: StepIx(step),
        field: field.to_owned(),
        optional: false,
    };
    let inputs = &step("verify").inputs;
    assert_eq!(inputs["data"], output(1, "data"));
    assert_eq!(inputs["sum"], output(2, "sum"));
    assert_eq!(inputs["limit"], Source::Literal(json!(7)));
    assert_eq!(step("fetch").inputs["id"], Source::Param("id".to_owned()));
    assert_eq!(graph.data().claim, Claim::Read);
    let edge = RewindEdge {
        on: "bad".to_owned(),
        from: StepIx(3),
        to: StepIx(0),
        max: 3,
    };
    assert_eq!(graph.data().rewinds, [edge]);
    let all: Vec<u32> = graph.with_descendants(StepIx(0)).iter().map(|ix| ix.0).collect();
    assert_eq!(all, [0, 2, 3, 4]);
    assert_eq!(
        graph
            .ancestors(StepIx(3))
            .iter()
            .map(|ix| ix.0)
            .collect::<Vec<_>>(),
        [0, 1, 2]
    );
}

#[test]
fn of_several_givers_the_nearest_counts() {
    let graph = graph_of(
        "[steps.fetch]\n[steps.mirror]\nneeds = [\"fetch\"]\n[steps.digest]\nneeds = [\"mirror\"]\n",
    );
    assert_eq!(
        graph.step(StepIx(2)).inputs["data"],
        Source::Output {
            step: StepIx(1),
            field: "data".to_owned(),
            optional: false,
        }
    );
}

#[test]
fn the_hash_follows_the_meaning() {
    let hash = graph_of(WHOLE).hash().clone();
    let dressed = WHOLE
        .replace("[steps.fetch]", "# a comment\n\n  [ steps . \"fetch\" ]")
        .replace("\"10min\"", "'600s'");
    assert_eq!(*graph_of(&dressed).hash(), hash);
    for (from, to) in [
        ("\"10min\"", "\"11min\""),
        ("max_attempts = 5", "max_attempts = 4"),
        ("limit = 7", "limit = 8"),
        ("on = \"bad\"", "on = \"worse\""),
        ("signal = \"go\"", "signal = \"stop\""),
        ("[steps.nap]", "[steps.rest]"),
    ] {
        assert!(WHOLE.contains(from));
        assert_ne!(*graph_of(&WHOLE.replace(from, to)).hash(), hash, "{to}");
    }
    let stored = serde_json::to_string(graph_of(WHOLE).data()).unwrap();
    let back: GraphData = serde_json::from_str(&stored).unwrap();
    assert_eq!(*Graph::new(back).unwrap().hash(), hash);
}

#[test]
fn too_many_steps_are_refused() {
    let steps = |count: usize| {
        (0..count)
            .map(|n| format!("[steps.s{n}]\nstage = \"fetch\"\n"))
            .collect::<String>()
    };
    graph_of(&steps(2000));
    check_steps(&steps(2001), &[("too_many_steps", 2, 8, "2001 steps", "")]);
}

/// Random edits of a text: cut out, doubled, overwritten.
fn mutated(text: &'static str) -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0..12_usize,
        prop_oneof![Just(String::new()), "[\\[\\]{}=\"'.,#\\n a-zäé0-9_-]{0,6}"],
    );
    prop::collection::vec(edit, 1..6).prop_map(move |edits| {
        let mut chars: Vec<char> = text.chars().collect();
        for (at, length, new) in edits {
            let at = at.index(chars.len() + 1);
            let end = (at + length).min(chars.len());
            chars.splice(at..end, new.chars());
        }
        chars.into_iter().collect()
    })
}

/// Whatever is said is said about a place in the text.
fn never_panics(text: &str) {
    let (graph, found) = load(text, &registry());
    for found in &found {
        let (line, column) = found.position(text);
        assert!(line >= 1 && column >= 1 && !found.message.is_empty());
        assert!(
            found.span.start <= found.span.end && found.span.end <= text.len(),
            "{found:?}"
        );
        assert_ne!(found.code, "internal", "{found:?}");
    }
    assert!(graph.is_some() || found.iter().any(|found| found.severity == Severity::Error));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        never_panics(&text);
    }

    #[test]
    fn any_edit_of_a_built_in_file_is_answered(text in mutated(include_str!("../../../workflows/seal_offline.toml"))) {
        never_panics(&text);
    }

    #[test]
    fn any_edit_of_a_right_file_is_answered(text in mutated(WHOLE)) {
        never_panics(&format!("{HEAD}{text}"));
    }
}
