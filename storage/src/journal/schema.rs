//! The tables, their version, and the fence.

use surrealdb::types::{Object, Value};

use super::client::Client;
use super::error::OpenError;
use super::record::{number, object};

/// The schema version that this program writes. A journal with a newer one is not touched.
pub const SCHEMA_VERSION: u64 = 5;

/// From each version to the next: `MIGRATIONS[n]` makes version `n + 1` of version `n`; the first
/// makes the tables. Each runs in one transaction with the change of the version row; for a new journal all
/// of them in one.
const MIGRATIONS: [&str; 5] = [
    "
    DEFINE TABLE entry SCHEMALESS;
    DEFINE TABLE run SCHEMALESS;
    DEFINE TABLE open SCHEMALESS;
    DEFINE TABLE graph SCHEMALESS;
    DEFINE TABLE key SCHEMALESS;
    DEFINE TABLE artifact SCHEMALESS;
    DEFINE TABLE lease SCHEMALESS;
",
    // Only an index whose last field is what is sorted by is read from its end and no further than needed.
    "
    DEFINE INDEX run_open ON run FIELDS open, run;
    DEFINE INDEX run_status ON run FIELDS status, run;
    DEFINE INDEX run_workflow ON run FIELDS workflow, run;
    DEFINE INDEX run_subject ON run FIELDS subject, run;
    REMOVE TABLE open;
",
    "
    DEFINE TABLE site SCHEMALESS;
",
    "
    DEFINE TABLE archive SCHEMALESS;
    DEFINE TABLE removal SCHEMALESS;
    DEFINE INDEX archive_run ON archive FIELDS run;
    DEFINE INDEX archive_status ON archive FIELDS status, run;
    DEFINE INDEX archive_workflow ON archive FIELDS workflow, run;
    DEFINE INDEX archive_subject ON archive FIELDS subject, run;
",
    "
    DEFINE TABLE message SCHEMALESS;
    DEFINE TABLE message_sender SCHEMALESS;
    DEFINE TABLE message_head SCHEMALESS;
    DEFINE INDEX message_number ON message FIELDS number;
    DEFINE INDEX message_live ON message FIELDS live, number;
",
];

/// How often a transaction that another one got in the way of is tried again.
const TRIES: usize = 20;

/// Brings the tables to the present version, or refuses. Without `write` nothing is changed.
pub(super) async fn prepare(client: &Client, write: bool) -> Result<(), OpenError> {
    for _ in 0..TRIES {
        let version = version(client).await?;
        if version == SCHEMA_VERSION {
            return Ok(());
        }
        if version > SCHEMA_VERSION {
            return Err(OpenError::Newer {
                place: client.place().to_owned(),
                found: version,
                known: SCHEMA_VERSION,
            });
        }
        if !write {
            let place = client.place().to_owned();
            return Err(if version == 0 {
                OpenError::Missing { place }
            } else {
                OpenError::Older {
                    place,
                    found: version,
                    known: SCHEMA_VERSION,
                }
            });
        }
        // A new journal gets everything at once: one that was killed meanwhile is still new.
        let next = if version == 0 { SCHEMA_VERSION } else { version + 1 };
        let steps =
            usize::try_from(version).unwrap_or(usize::MAX)..usize::try_from(next).unwrap_or(usize::MAX);
        let migration = MIGRATIONS.get(steps).unwrap_or_default().concat();
        let sql = format!(
            "BEGIN; DEFINE TABLE IF NOT EXISTS meta SCHEMALESS; {migration} \
             UPSERT meta:schema SET version = $next RETURN NONE; COMMIT;"
        );
        let done = client.query(&sql, object([("next", number(next))])).await;
        if let Err(error) = done.and_then(surrealdb::IndexedResults::check) {
            // Another daemon that starts now may have done it: look again.
            tracing::warn!(%error, "the journal's tables could not be made; looking again");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
    let what = format!("its tables could not be brought to version {SCHEMA_VERSION}; the log says why");
    Err(OpenError::Store {
        place: client.place().to_owned(),
        what,
    })
}

/// The version of what is stored; 0 when there is nothing at all.
pub(super) async fn version(client: &Client) -> Result<u64, OpenError> {
    let damaged = |what: String| OpenError::Damaged {
        place: client.place().to_owned(),
        what,
    };
    let info: Vec<Value> = client
        .fetch("RETURN [(INFO FOR DB).tables.keys()]", Object::new())
        .await
        .map_err(|error| client.open_error("listing its tables", &error))?;
    let tables: Vec<String> = match info.into_iter().next() {
        Some(Value::Array(tables)) => tables
            .into_inner()
            .into_iter()
            .filter_map(|table| {
                if let Value::String(table) = table {
                    Some(table)
                } else {
                    None
                }
            })
            .collect(),
        _ => Vec::new(),
    };
    if tables.is_empty() {
        return Ok(0);
    }
    if tables.iter().all(|table| table != "meta") {
        return Err(damaged(format!(
            "it has the tables {} but no schema version",
            tables.join(", ")
        )));
    }
    let found: Vec<Value> = client
        .fetch("SELECT VALUE version FROM meta:schema", Object::new())
        .await
        .map_err(|error| client.open_error("reading its schema version", &error))?;
    match found.as_slice() {
        [Value::Number(version)] => version
            .to_int()
            .and_then(|version| u64::try_from(version).ok())
            .filter(|version| *version > 0)
            .ok_or_else(|| damaged(format!("its schema version is {version:?}"))),
        [] => Err(damaged("its schema version is missing".to_owned())),
        other => Err(damaged(format!("its schema version is {other:?}"))),
    }
}

/// Becomes the newest daemon: every commit of an older one is refused from now on. With `after` only if nobody followed that
/// epoch yet. Gives the epoch.
pub(super) async fn take_fence(client: &Client, after: Option<u64>) -> Result<u64, OpenError> {
    client.follow(take(client, after)).await
}

async fn take(client: &Client, after: Option<u64>) -> Result<u64, OpenError> {
    const SET: &str = "SET epoch = (epoch ?? 0) + 1, taken = time::now(), process = $process, released = false, holder = NONE";
    let sql = match after {
        None => format!("UPSERT lease:journal {SET} RETURN VALUE epoch"),
        Some(_) => format!("UPDATE lease:journal {SET} WHERE epoch = $after RETURN VALUE epoch"),
    };
    let mut last = String::new();
    for _ in 0..TRIES {
        let process = number(u64::from(std::process::id()));
        let params = object([("process", process), ("after", number(after.unwrap_or_default()))]);
        match client.fetch::<u64>(&sql, params).await {
            Ok(epoch) => match (&epoch[..], after) {
                ([epoch], _) => return Ok(*epoch),
                ([], Some(after)) => {
                    let place = client.place().to_owned();
                    return Err(OpenError::Followed { place, after });
                }
                _ => last = "the fence has no number".to_owned(),
            },
            // The daemon that is being replaced commits at the same moment.
            Err(error) => last = error.message().to_owned(),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err(OpenError::Store {
        place: client.place().to_owned(),
        what: format!("taking over failed: {last}"),
    })
}
