//! Crash points: named places, before and after every durable write, where a test can stop the
//! process as a power cut or `kill -9` would. `SEALFLOW_CRASH_AT=name=3*off->return` (the syntax of
//! the `fail` crate) arms them; unarmed, a point costs one look-up of an empty table.

/// Ends the process at once, without unwinding or flushing, if a test armed this point.
pub fn point(name: &str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Arms the points that `plan` names, for as long as the returned guard lives.
///
/// # Errors
/// The text of what is wrong with the plan.
pub fn arm(plan: &str) -> Result<(), String> {
    for part in plan.split(';').filter(|part| !part.is_empty()) {
        let Some((name, actions)) = part.split_once('=') else {
            return Err(format!("`{part}` is not NAME=ACTION"));
        };
        fail::cfg(name.trim(), actions.trim())?;
    }
    Ok(())
}
