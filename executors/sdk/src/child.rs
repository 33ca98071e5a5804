//! The child's side of the ext-processor protocol: one request a line on standard input, one answer a line on standard
//! output, in any order. Any parent that speaks the protocol of `vc-processors` 0.2 can drive it.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tonic::codegen::Bytes;

use crate::attempts::{Context, End, Handler, Job};
use crate::v1;

/// The most bytes of a request.
const LINE_LIMIT: u64 = 1 << 30;

/// The most bytes of a request that are looked at for its id, if it is broken.
const HEAD: usize = 4096;

#[derive(Deserialize)]
struct Request<'a> {
    id: u64,
    #[serde(borrow)]
    task: &'a RawValue,
}

#[derive(Serialize)]
struct Response<'a> {
    id: u64,
    err_msg: Option<&'a str>,
    output: Option<&'a RawValue>,
}

/// Says `STAGE processor ready` and answers requests until standard input ends, which is how a parent that is gone
/// looks. Requests are worked on at the same time, each in a task of its own; a panic is an answer too. The handler
/// gets the task of the protocol as [`Job::input`], and gives its output as [`End::Done`]. What it waits for it must not
/// block the runtime with.
///
/// # Errors
/// Standard input ends (`UnexpectedEof`; a child then ends with a status that is not 0), or cannot be read.
pub async fn run_child<H: Handler>(stage: &str, handler: Arc<H>) -> io::Result<()> {
    let stage = stage.to_owned();
    let runtime = tokio::runtime::Handle::current();
    write_line(format!("{stage} processor ready").as_bytes())?;
    let (to, ended) = tokio::sync::oneshot::channel();
    // A thread of its own, for which the end of the process does not wait.
    let read = move || {
        let error = requests(|line| {
            let (stage, handler) = (stage.clone(), handler.clone());
            drop(runtime.spawn(async move { answer(&stage, handler, &line).await }));
        });
        drop(to.send(error));
    };
    std::thread::Builder::new()
        .name("requests".to_owned())
        .spawn(read)?;
    Err(ended
        .await
        .unwrap_or_else(|_| io::Error::other("the reader of requests broke")))
}

/// Gives each request, until there are no more.
fn requests(mut each: impl FnMut(Vec<u8>)) -> io::Error {
    let mut input = io::stdin().lock();
    loop {
        let mut line = Vec::new();
        match input.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
            Ok(0) => {
                let why = "standard input has ended: the parent is gone";
                return io::Error::new(io::ErrorKind::UnexpectedEof, why);
            }
            Ok(_) => each(line),
            Err(error) => return error,
        }
    }
}

async fn answer<H: Handler>(stage: &str, handler: Arc<H>, line: &[u8]) {
    let (id, result) = match serde_json::from_slice::<Request<'_>>(line) {
        Ok(request) => {
            let task = Bytes::copy_from_slice(request.task.get().as_bytes());
            (request.id, compute(stage, handler, task).await)
        }
        Err(error) => {
            tracing::error!(%error, "a line that is no request");
            let Some(id) = request_id(line) else { return };
            (
                id,
                Err(format!(
                    "bad_request (permanent): the request cannot be read: {error}"
                )),
            )
        }
    };
    let output = result.and_then(|output| {
        let text = String::from_utf8(output).map_err(|error| error.to_string())?;
        // A line break in it would end the answer.
        let text = if text.contains('\n') {
            text.replace('\n', " ")
        } else {
            text
        };
        RawValue::from_string(text).map_err(|error| error.to_string())
    });
    let response = match &output {
        Ok(output) => Response {
            id,
            err_msg: None,
            output: Some(output),
        },
        Err(why) => Response {
            id,
            err_msg: Some(why),
            output: None,
        },
    };
    let written = serde_json::to_vec(&response).map_err(io::Error::from);
    if let Err(error) = written.and_then(|line| write_line(&line)) {
        tracing::error!(%error, id, "an answer cannot be written");
    }
}

/// The output, or the protocol's words for why there is none.
async fn compute<H: Handler>(stage: &str, handler: Arc<H>, task: Bytes) -> Result<Vec<u8>, String> {
    let job = Job {
        attempt: v1::Attempt::default(),
        executor: String::new(),
        subject: String::new(),
        stage: stage.to_owned(),
        version: 0,
        many: false,
        input: task,
        held: v1::Resources::default(),
    };
    // A task of its own, so that a panic ends there.
    match tokio::spawn(async move { handler.run(job, Context::of_child()).await }).await {
        Ok(End::Done(output)) => Ok(output),
        Ok(End::Failed(failure)) => Err(format!(
            "{} ({}): {}",
            failure.code, failure.class, failure.message
        )),
        Ok(End::Park(_)) => {
            Err("cannot_wait (permanent): a child cannot wait for something outside".to_owned())
        }
        Ok(End::Lost(why)) => Err(format!("lost (transient): {why}")),
        Err(error) => Err(format!("Panic: {error}")),
    }
}

/// Writes a whole line at once.
fn write_line(line: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes to standard error, where a parent looks for what a child says.
pub(crate) fn say(text: &[u8]) {
    // Nobody may be there to read it.
    drop(io::stderr().lock().write_all(text));
}

/// The request that a broken line of the protocol names near its beginning.
pub fn request_id(line: &[u8]) -> Option<u64> {
    let head: Cow<'_, str> = String::from_utf8_lossy(&line[..line.len().min(HEAD)]);
    let rest = head.trim_start().strip_prefix('{')?;
    let (_, rest) = rest.split_once("\"id\"")?;
    let digits = rest.trim_start().strip_prefix(':')?.trim_start();
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_name_their_request() {
        assert_eq!(request_id(br#"{"id": 7, "task":"#), Some(7));
        assert_eq!(
            request_id(br#"  {"task":1e,"id" : 18446744073709551615}"#),
            Some(u64::MAX)
        );
        for none in [&b"{}"[..], b"7", b"\xff{\"id\":7", br#"{"id":"x"}"#] {
            assert_eq!(request_id(none), None);
        }
    }
}
