//! Measures what one transaction of the journal costs on embedded SurrealKV in candidate shapes, so
//! that the schema and the number of rows a step may write are chosen from numbers. Prints JSON.
//! Usage: `row_budget [FOLDER]`; docs/storage.md says what follows from the results.

use std::io::Write;
use std::time::Instant;

use sealflow_engine::journal::{Batch, Journal};
use sealflow_engine::testing::SampleRun;
use sealflow_storage::journal::{OpenOptions, SurrealJournal};
use serde_json::{Value as Json, json};
use surrealdb::Surreal;
use surrealdb::engine::any::{Any, connect};
use surrealdb::types::{Array, Object, RecordId, RecordIdKey, SurrealValue, Value};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const LEASE: &str = "LET $l = (UPDATE lease:main SET at = $at WHERE epoch = 1 RETURN VALUE epoch); \
     IF array::len($l) != 1 { THROW 'fenced' };";

/// One way to write a transition of each of `k` runs.
struct Shape {
    name: &'static str,
    /// What is done in the transaction beside the lease.
    sql: &'static str,
    /// Rows per transition: entries, run rows, step rows.
    rows: [usize; 3],
    native: bool,
    lease: bool,
    /// Whether the rows of one run are packed into its run row.
    packed: bool,
}

const fn shape(name: &'static str, sql: &'static str, rows: [usize; 3]) -> Shape {
    Shape {
        name,
        sql,
        rows,
        native: false,
        lease: true,
        packed: false,
    }
}

const INSERT: &str = "INSERT INTO entry $entries RETURN NONE;";

fn shapes() -> Vec<Shape> {
    let on_duplicate = "INSERT INTO entry $entries RETURN NONE; \
        INSERT INTO run $runs ON DUPLICATE KEY UPDATE seq = $input.seq, status = $input.status, data = $input.data RETURN NONE; \
        INSERT INTO step $steps ON DUPLICATE KEY UPDATE data = $input.data RETURN NONE;";
    let upsert_loop = "INSERT INTO entry $entries RETURN NONE; \
        FOR $r IN $runs { UPSERT $r.id CONTENT $r RETURN NONE }; \
        FOR $s IN $steps { UPSERT $s.id CONTENT $s RETURN NONE };";
    let delete_insert = "INSERT INTO entry $entries RETURN NONE; \
        DELETE $run_ids RETURN NONE; INSERT INTO run $runs RETURN NONE; \
        DELETE $step_ids RETURN NONE; INSERT INTO step $steps RETURN NONE;";
    let conditional = "FOR $r IN $runs { \
        LET $u = (UPDATE $r.id SET seq = $r.seq, data = $r.data WHERE seq = $r.before RETURN VALUE seq); \
        IF array::len($u) != 1 { THROW 'fenced' } }; \
        INSERT INTO entry $entries RETURN NONE; INSERT INTO change $changes RETURN NONE;";
    vec![
        Shape {
            lease: false,
            ..shape("a_conditional_loop", conditional, [1, 1, 1])
        },
        shape("b_entries_only", INSERT, [1, 0, 0]),
        shape("b_insert_on_duplicate", on_duplicate, [1, 1, 2]),
        shape("b_upsert_loop", upsert_loop, [1, 1, 2]),
        shape("b_delete_insert", delete_insert, [1, 1, 2]),
        Shape {
            native: true,
            ..shape("b_insert_on_duplicate_native", on_duplicate, [1, 1, 2])
        },
        shape(
            "b_entry_and_run",
            "INSERT INTO entry $entries RETURN NONE; \
             INSERT INTO run $runs ON DUPLICATE KEY UPDATE seq = $input.seq, status = $input.status, data = $input.data RETURN NONE;",
            [1, 1, 0],
        ),
        Shape {
            packed: true,
            ..shape(
                "b_packed_state",
                "INSERT INTO entry $entries RETURN NONE; \
                 INSERT INTO run $runs ON DUPLICATE KEY UPDATE seq = $input.seq, status = $input.status, data = $input.data RETURN NONE;",
                [1, 1, 0],
            )
        },
        shape(
            "c_append_only",
            "INSERT INTO entry $entries RETURN NONE; INSERT INTO change $changes RETURN NONE;",
            [1, 0, 1],
        ),
        Shape {
            lease: true,
            packed: true,
            ..shape("d_one_row_per_transition", INSERT, [1, 0, 0])
        },
        shape(
            "e_one_row_per_commit",
            "CREATE $commit CONTENT $body RETURN NONE;",
            [0, 0, 0],
        ),
    ]
}

fn id(table: &str, parts: Vec<Value>) -> Value {
    RecordId::new(table, RecordIdKey::Array(Array::from(parts))).into_value()
}

fn text(run: usize) -> String {
    format!("run_{run:032x}")
}

fn data(native: bool, value: Json) -> Value {
    if native {
        value.into_value()
    } else {
        Value::String(value.to_string())
    }
}

fn entry(run: usize, seq: usize) -> Json {
    let token = format!("{:032x}", run * 31 + seq);
    json!({"seq": seq, "at": 1_790_000_000_000_u64 + seq as u64, "events": [
        {"event": "attempt_succeeded", "step": "pc1", "attempt": 1, "output": {"inline": {"layers": 11, "sealed": token}}, "seconds": 1.25},
        {"event": "attempt_started", "step": "pc2", "visit": 1, "attempt": 1, "token": token, "executor": "local", "held": {"cpu": 1, "memory": 1_073_741_824_u64}},
    ]})
}

fn run_row(run: usize, seq: usize) -> Json {
    json!({"run": text(run), "workflow": "seal", "graph": "ab".repeat(32), "subject": format!("f01000/{run}"), "claim": "write",
        "status": "running", "params": {"miner": "f01000", "sector": run, "proof": "StackedDrg32GiBV1_1"}, "seq": seq,
        "created_at": 1_790_000_000_000_u64, "updated_at": 1_790_000_000_000_u64 + seq as u64})
}

fn step_row(run: usize, seq: usize, ix: usize) -> Json {
    json!({"ix": ix, "step": "pc2", "status": "running", "since": 1_790_000_000_000_u64, "visit": 1, "attempts": 1, "seconds": 1.5,
        "current": {"attempt": 1, "token": format!("{:032x}", run * 31 + seq), "executor": "local", "held": {"cpu": 1, "memory": 1_073_741_824_u64}, "started_at": 1_790_000_000_000_u64}})
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect::<Object>(),
    )
}

fn number(n: usize) -> Value {
    i64::try_from(n).unwrap_or(i64::MAX).into_value()
}

/// The parameters of a transaction in which runs `0..k` go from `seq - 1` to `seq`.
fn params(shape: &Shape, k: usize, seq: usize) -> Object {
    let mut lists: [Vec<Value>; 6] = Default::default();
    let [entries, runs, steps, changes, run_ids, step_ids] = &mut lists;
    let mut body = String::new();
    for run in 0..k {
        let run_text = Value::String(text(run));
        let key = id("entry", vec![run_text.clone(), number(seq)]);
        let mut content = entry(run, seq);
        if shape.packed {
            let rows: Vec<Json> = (0..10).map(|ix| step_row(run, seq, ix)).collect();
            let packed = if shape.rows[1] == 0 { &rows[..2] } else { &[] };
            content["rows"] = json!(packed);
        }
        entries.push(object([
            ("id", key.clone()),
            ("data", data(shape.native, content.clone())),
        ]));
        body.push_str(&content.to_string());
        let run_key = id("run", vec![run_text.clone()]);
        run_ids.push(run_key.clone());
        let mut row = run_row(run, seq);
        if shape.packed {
            row["steps"] = (0..10).map(|ix| step_row(run, seq, ix)).collect();
        }
        runs.push(object([
            ("id", run_key),
            ("seq", number(seq)),
            ("before", number(seq - 1)),
            ("status", Value::String("running".to_owned())),
            ("data", data(shape.native, row)),
        ]));
        for ix in [seq % 10, (seq + 1) % 10] {
            let key = id("step", vec![run_text.clone(), number(ix)]);
            step_ids.push(key.clone());
            steps.push(object([
                ("id", key),
                ("data", data(shape.native, step_row(run, seq, ix))),
            ]));
        }
        let key = id("change", vec![run_text, number(seq)]);
        let rows = json!([run_row(run, seq), step_row(run, seq, 1), step_row(run, seq, 2)]);
        changes.push(object([("id", key), ("data", data(shape.native, rows))]));
    }
    let commit = id("commit", vec![number(seq)]);
    let names = ["entries", "runs", "steps", "changes", "run_ids", "step_ids"];
    let mut all: Object = names
        .into_iter()
        .zip(lists)
        .map(|(name, list)| (name.to_owned(), list.into_value()))
        .collect();
    all.insert("at".to_owned(), number(seq));
    all.insert("commit".to_owned(), commit);
    all.insert("body".to_owned(), object([("data", Value::String(body))]));
    all
}

async fn fresh(folder: &std::path::Path) -> Fallible<Surreal<Any>> {
    let db = connect(format!("surrealkv://{}?sync=every", folder.display())).await?;
    db.use_ns("sealflow").use_db("sealflow").await?;
    let tables = "DEFINE TABLE entry SCHEMALESS; DEFINE TABLE run SCHEMALESS; DEFINE TABLE step SCHEMALESS; \
         DEFINE TABLE change SCHEMALESS; DEFINE TABLE commit SCHEMALESS; DEFINE TABLE lease SCHEMALESS; \
         CREATE lease:main SET epoch = 1, at = 0;";
    db.query(tables).await?.check()?;
    Ok(db)
}

async fn measure(shape: &Shape, k: usize, folder: &std::path::Path) -> Fallible<Json> {
    // Dropping a connection closes the store later, in the background: every measurement has its own.
    let db = fresh(&folder.join(format!("{}-{k}", shape.name))).await?;
    if !shape.lease {
        let seed = params(shape, k, 1);
        db.query("INSERT INTO run $runs RETURN NONE")
            .bind(seed)
            .await?
            .check()?;
    }
    let rounds = match k {
        1 => 300,
        20 => 100,
        _ => 40,
    };
    let lease = if shape.lease { LEASE } else { "" };
    let sql = format!("BEGIN; {lease} {} COMMIT;", shape.sql);
    let mut times = Vec::with_capacity(rounds);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for seq in 2..rounds + 2 {
        let bound = params(shape, k, seq);
        let begun = Instant::now();
        db.query(sql.as_str()).bind(bound).await?.check()?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    times.sort_by(f64::total_cmp);
    let sum: f64 = times.iter().sum();
    let mean = sum / rounds as f64;
    let rows: usize = shape.rows.iter().sum();
    let per_second = k as f64 * 1000.0 / mean;
    drop(db);
    Ok(json!({
        "shape": shape.name, "runs_per_transaction": k, "transactions": rounds,
        "rows_per_transition": rows,
        "ms_per_transaction": {"mean": round(mean), "p50": round(times[rounds / 2]), "p99": round(times[rounds * 99 / 100])},
        "transitions_per_second": round(per_second), "rows_per_second": round(per_second * rows as f64),
        "cpu_seconds_per_wall_second": round(cpu / wall),
    }))
}

/// The journal itself: transitions that finish one step and start the next, as the engine makes them.
async fn measure_journal(k: u16, folder: &std::path::Path) -> Fallible<Json> {
    let folder = folder.join(format!("journal-{k}"));
    let url = format!("surrealkv://{}", folder.display());
    let journal = SurrealJournal::open(&url, OpenOptions::new(folder.join("payloads"))).await?;
    let mut batch = Batch::default();
    let mut runs = Vec::new();
    for n in 0..k {
        let (run, start) = SampleRun::start(n, None);
        batch.push(start);
        runs.push(run);
    }
    journal.commit(&batch).await?;
    let rounds: usize = match k {
        1 => 600,
        20 => 300,
        _ => 100,
    };
    let mut times = Vec::with_capacity(rounds);
    let (start, cpu) = (Instant::now(), cpu_seconds());
    for round in 0..rounds {
        let mut batch = Batch::default();
        for run in &mut runs {
            batch.push(if round % 2 == 0 {
                run.one_done()
            } else {
                run.rewound()
            });
        }
        // The sample's artifact would be written at every other transition; real ones are rare.
        batch.artifacts.clear();
        let begun = Instant::now();
        journal.commit(&batch).await?;
        times.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    times.sort_by(f64::total_cmp);
    let mean = times.iter().sum::<f64>() / rounds as f64;
    let begun = Instant::now();
    let open = journal.open_runs().await?.len();
    let open_runs = begun.elapsed().as_secs_f64() * 1000.0;
    let begun = Instant::now();
    journal.run(&runs[0].id()).await?;
    let one_run = begun.elapsed().as_secs_f64() * 1000.0;
    let begun = Instant::now();
    journal.steps(&runs[0].id()).await?;
    let steps = begun.elapsed().as_secs_f64() * 1000.0;
    let resident = resident_mib();
    let begun = Instant::now();
    journal.close().await?;
    Ok(json!({
        "shape": "SurrealJournal", "runs_per_transaction": k, "transactions": rounds,
        "ms_per_transaction": {"mean": round(mean), "p50": round(times[rounds / 2]), "p99": round(times[rounds * 99 / 100])},
        "transitions_per_second": round(f64::from(k) * 1000.0 / mean),
        "cpu_seconds_per_wall_second": round(cpu / wall),
        "read_ms": {"open_runs": round(open_runs), "of_so_many": open, "run": round(one_run),
            "steps_of_a_run_of_so_many_entries": rounds + 1, "steps": round(steps)},
        "resident_mib": resident,
        "close_ms": round(begun.elapsed().as_secs_f64() * 1000.0),
    }))
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Memory of this process that is resident, in MiB.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    round(kib.unwrap_or_default() / 1024.0)
}

/// The time of an fsync of a small append, in milliseconds: what no shape can go below.
fn fsync_ms(folder: &std::path::Path) -> Fallible<f64> {
    std::fs::create_dir_all(folder)?;
    let mut file = std::fs::File::create(folder.join("probe"))?;
    let start = Instant::now();
    for _ in 0..100 {
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
    }
    Ok(start.elapsed().as_secs_f64() * 10.0)
}

#[tokio::main]
async fn main() -> Fallible<()> {
    let mut args = std::env::args().skip(1);
    let parent = args.next().unwrap_or_else(|| "/tmp".to_owned());
    let only = args.next();
    let temporary = tempfile::Builder::new()
        .prefix("sealflow-row-budget")
        .tempdir_in(parent)?;
    let folder = temporary.path().to_owned();
    let mut journal = Vec::new();
    for k in [1, 20, 200] {
        journal.push(measure_journal(k, &folder).await?);
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name\t: "))
        .unwrap_or("unknown")
        .to_owned();
    let fsync = fsync_ms(&folder)?;
    let mut results = Vec::new();
    for shape in shapes() {
        if only
            .as_ref()
            .is_some_and(|only| !shape.name.contains(only.as_str()))
        {
            continue;
        }
        for k in [1, 20, 200] {
            results.push(measure(&shape, k, &folder).await?);
        }
    }
    let report = json!({
        "what": "one journal transaction on embedded surrealkv, in candidate shapes",
        "conditions": {
            "cpu": model, "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "load_before": load.trim(), "sync": "every", "surrealdb": "3.3.5",
            "profile": "release, dependencies at opt-level 1", "fsync_of_4_KiB_ms": round(fsync),
        },
        "chosen": journal,
        "candidates": results,
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    Ok(())
}
