//! Lines that a child writes: bounded, whatever they hold, and told apart. A line is an answer, the broken
//! remains of one, or noise.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};

use sealflow_executor::request_id;
use serde::Deserialize;
use serde_json::value::RawValue;

/// Reads lines of at most so many bytes. The same reader reads the ready line and everything after it, so that
/// no byte is lost between.
pub(super) struct Lines<R> {
    inner: BufReader<R>,
    limit: usize,
}

/// One line, without its end.
pub(super) struct Line {
    pub(super) bytes: Vec<u8>,
    /// It was longer, and its rest is gone.
    pub(super) cut: bool,
    /// The program ended before it ended the line.
    pub(super) unfinished: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(inner: R, limit: usize) -> Self {
        Self {
            inner: BufReader::with_capacity(64 << 10, inner),
            limit,
        }
    }

    /// The next line; none at the end.
    pub(super) fn next(&mut self) -> std::io::Result<Option<Line>> {
        let (mut bytes, mut cut, mut any, mut unfinished) = (Vec::new(), false, false, true);
        loop {
            let chunk = match self.inner.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if chunk.is_empty() {
                break;
            }
            any = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            let room = self.limit - bytes.len();
            bytes.extend_from_slice(&chunk[..taken.min(room)]);
            cut |= taken > room;
            self.inner.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                unfinished = false;
                break;
            }
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(any.then_some(Line {
            bytes,
            cut,
            unfinished,
        }))
    }
}

/// What a line is.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    /// The answer to a request: the JSON of its output, or its `err_msg`.
    Answer { id: u64, result: Result<String, String> },
    /// Something that names a request, but is no answer.
    Broken { id: u64, why: String },
    /// Anything else.
    Noise,
}

impl Message {
    /// Tells what a line is, as the reference does: `err_msg` goes before `output`, and one of them must be there.
    pub(super) fn of(line: &Line) -> Self {
        if line.unfinished {
            // Its end tells more than what it did not finish.
            return Self::finished(line).unwrap_or(Self::Noise);
        }
        Self::whole(line)
    }

    /// The answer in a line that only lacks its end.
    fn finished(line: &Line) -> Option<Self> {
        let message = Self::whole(line);
        matches!(message, Self::Answer { .. }).then_some(message)
    }

    fn whole(line: &Line) -> Self {
        let broken = |why: String| request_id(&line.bytes).map_or(Self::Noise, |id| Self::Broken { id, why });
        if line.cut {
            return broken("it is longer than `max_line`".to_owned());
        }
        let Ok(text) = std::str::from_utf8(&line.bytes) else {
            return broken("it is not UTF-8".to_owned());
        };
        if !text.trim_start().starts_with('{') {
            return Self::Noise;
        }
        let response: Response<'_> = match serde_json::from_str(text) {
            Ok(response) => response,
            Err(error) => return broken(error.to_string()),
        };
        let result = match (response.err_msg, response.output) {
            (Some(err_msg), _) => Err(err_msg.into_owned()),
            (None, Some(output)) => Ok(output.get().to_owned()),
            (None, None) => {
                let why = "it has neither `output` nor `err_msg`".to_owned();
                return Self::Broken { id: response.id, why };
            }
        };
        Self::Answer {
            id: response.id,
            result,
        }
    }
}

/// A response line of the protocol. Missing fields are null, unknown ones are ignored.
#[derive(Debug, Deserialize)]
struct Response<'a> {
    id: u64,
    #[serde(default)]
    err_msg: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Message {
        Message::of(&Line {
            bytes: bytes.to_vec(),
            cut: false,
            unfinished: false,
        })
    }

    #[test]
    fn lines_are_told_apart() {
        let answer = |id, result: Result<&str, &str>| Message::Answer {
            id,
            result: result.map(str::to_owned).map_err(str::to_owned),
        };
        assert_eq!(
            of(br#"{"id":7,"err_msg":null,"output":true}"#),
            answer(7, Ok("true"))
        );
        assert_eq!(
            of(br#"{"id":7,"err_msg":"no","output":true}"#),
            answer(7, Err("no"))
        );
        for noise in [&b"INFO starting"[..], b"\xff\xfe", b"{}", b"[1]", b"", b"3"] {
            assert_eq!(of(noise), Message::Noise);
        }
        for broken in [
            &b"{\"id\": 7, \"output\":\xff}"[..],
            br#"{"id":7,"output":tru"#,
            br#"{"id":7}"#,
            br#"{"output":1e,"id" : 7}"#,
        ] {
            assert!(matches!(of(broken), Message::Broken { id: 7, .. }), "{broken:?}");
        }
    }

    #[test]
    fn lines_are_bounded_and_nothing_between_them_is_lost() {
        let mut text = b"ready\r\n".to_vec();
        text.extend_from_slice(br#"{"id":3,"output":""#);
        text.extend(std::iter::repeat_n(b'x', 300_000));
        text.extend_from_slice(b"\"}\n\nlast");
        let mut lines = Lines::new(&text[..], 100_000);
        assert_eq!(lines.next().unwrap().unwrap().bytes, b"ready");
        let long = lines.next().unwrap().unwrap();
        assert!(long.cut && long.bytes.len() == 100_000);
        assert!(matches!(Message::of(&long), Message::Broken { id: 3, .. }));
        assert_eq!(lines.next().unwrap().unwrap().bytes, b"");
        assert_eq!(lines.next().unwrap().unwrap().bytes, b"last");
        assert!(lines.next().unwrap().is_none());
    }

    #[test]
    fn responses_are_read_as_the_reference_reads_them() {
        let read = |text| serde_json::from_str::<Response<'_>>(text);
        let response = read(r#"{"id":1,"err_msg":null,"output":[1,2],"extra":{}}"#).unwrap();
        assert_eq!(response.output.unwrap().get(), "[1,2]");
        assert_eq!(
            read(r#"{"id":1,"err_msg":"a\nb"}"#).unwrap().err_msg.unwrap(),
            "a\nb"
        );
        assert!(read(r#"{"id":1}"#).unwrap().output.is_none());
        assert!(read(r#"{"id":"1"}"#).is_err());
    }
}
