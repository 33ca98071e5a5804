//! A run's timeline in the terminal: a line for each step, with signs for queued, running and waiting.

use std::time::{Duration, SystemTime};

use crate::draw::seconds;
use crate::timeline::{StepSpans, TimelineView};

/// Items of a step that are drawn.
const ITEMS: usize = 12;

/// The sign of a status, and which of two wins where both fall into one character.
fn sign(status: &str) -> (char, u8) {
    match status {
        "running" => ('█', 4),
        "failed" => ('✗', 3),
        "ready" => ('░', 2),
        "waiting" => ('┄', 1),
        _ => (' ', 0),
    }
}

fn at(text: &str) -> SystemTime {
    humantime::parse_rfc3339_weak(text).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Draws a timeline at most `width` characters wide.
pub(crate) fn draw(timeline: &TimelineView, width: usize) -> String {
    let (from, to) = (at(&timeline.from), at(&timeline.to));
    let whole = to.duration_since(from).unwrap_or_default();
    let (shown, hidden) = shown(&timeline.steps);
    let names = shown.iter().map(|row| row.step.len()).max().unwrap_or_default();
    let columns = width.saturating_sub(names + 16).clamp(10, 200);
    let mut lines = vec![format!("{}  {} to {}", timeline.run, timeline.from, timeline.to)];
    for row in shown {
        let bar = bar(row, from, to, columns);
        let ran = spent(row, "running", to).map(|ran| seconds(ran.as_secs_f64()));
        let line = format!("  {:names$}  {bar}  {}", row.step, ran.unwrap_or_default());
        lines.push(line.trim_end().to_owned());
    }
    if hidden > 0 {
        lines.push(format!("  … {hidden} more items; --json has all"));
    }
    let end = seconds(whole.as_secs_f64());
    lines.push(format!(
        "  {:names$}  0{end:>rest$}",
        "",
        rest = columns.saturating_sub(1)
    ));
    lines.push("  █ runs   ░ queued   ┄ waits   ✗ failed".to_owned());
    lines.join("\n")
}

/// Steps, each with the first of its items behind it, and how many items are left out.
fn shown(rows: &[StepSpans]) -> (Vec<&StepSpans>, usize) {
    let (items, steps): (Vec<&StepSpans>, Vec<&StepSpans>) =
        rows.iter().partition(|row| row.step.contains('['));
    let mut shown = Vec::new();
    let mut hidden = 0;
    for step in steps {
        shown.push(step);
        let own = items
            .iter()
            .filter(|item| item.step.split('[').next() == Some(&step.step));
        for (n, item) in own.enumerate() {
            if n < ITEMS {
                shown.push(item);
            } else {
                hidden += 1;
            }
        }
    }
    (shown, hidden)
}

/// How long it stood so in all; nothing if it never did.
fn spent(row: &StepSpans, status: &str, now: SystemTime) -> Option<Duration> {
    let spans = row.spans.iter().filter(|span| span.status == status);
    let times = spans.map(|span| {
        let to = span.to.as_deref().map_or(now, at);
        to.duration_since(at(&span.from)).unwrap_or_default()
    });
    times.reduce(|all, one| all + one)
}

/// What a step did in each part of the whole time.
fn bar(row: &StepSpans, from: SystemTime, to: SystemTime, columns: usize) -> String {
    let whole = to
        .duration_since(from)
        .unwrap_or_default()
        .as_secs_f64()
        .max(f64::MIN_POSITIVE);
    let mut bar = vec![(' ', 0); columns];
    for span in &row.spans {
        let place = |time: SystemTime| {
            let part = time.duration_since(from).unwrap_or_default().as_secs_f64() / whole;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a part of at most 200 columns"
            )]
            let column = (part * columns as f64) as usize;
            column.min(columns)
        };
        let (sign, strength) = sign(&span.status);
        let (begin, end) = (at(&span.from), span.to.as_deref().map_or(to, at));
        // Something that took no time at all is not drawn, unless it is work.
        if strength == 0 || (begin == end && span.status != "running") {
            continue;
        }
        // The least thing has one character.
        let first = place(begin).min(columns - 1);
        for cell in &mut bar[first..place(end).max(first + 1)] {
            if strength > cell.1 {
                *cell = (sign, strength);
            }
        }
    }
    bar.into_iter().map(|(sign, _)| sign).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::SpanView;

    fn span(status: &str, from: u64, to: Option<u64>) -> SpanView {
        SpanView {
            status: status.to_owned(),
            from: crate::view::time(from * 1000),
            to: to.map(|to| crate::view::time(to * 1000)),
            visit: 1,
            attempt: None,
            executor: None,
        }
    }

    #[test]
    fn queue_run_and_wait_are_told_apart() {
        let one = StepSpans {
            step: "one".to_owned(),
            spans: vec![
                span("ready", 0, Some(5)),
                span("running", 5, Some(10)),
                span("succeeded", 10, None),
            ],
        };
        let two = StepSpans {
            step: "two".to_owned(),
            spans: vec![
                span("pending", 0, Some(10)),
                span("waiting", 10, Some(15)),
                span("running", 15, None),
            ],
        };
        let timeline = TimelineView {
            run: "run_1".to_owned(),
            from: crate::view::time(0),
            to: crate::view::time(20_000),
            steps: vec![one, two],
        };
        let drawn = draw(&timeline, 39);
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[1], "  one  ░░░░░█████            5.0s");
        assert_eq!(lines[2], "  two            ┄┄┄┄┄█████  5.0s");
        assert_eq!(lines[3], "       0                20s");
    }
}
