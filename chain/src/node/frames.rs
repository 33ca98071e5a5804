//! JSON-RPC 2.0 frames, and the channels that go-jsonrpc puts on top of them (chain.md §3.1, §3.3). No input
//! or output here: bytes become frames.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::failure::bounded;

/// A call.
#[derive(Serialize)]
pub(super) struct Request<'a, P: Serialize> {
    jsonrpc: &'static str,
    id: u64,
    method: &'a str,
    params: P,
}

impl<'a, P: Serialize> Request<'a, P> {
    pub(super) fn new(id: u64, method: &'a str, params: P) -> Self {
        Self {
            jsonrpc: "2.0",
            id,
            method,
            params,
        }
    }
}

/// An error as a node writes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct RpcError {
    /// The code; see chain.md §3.1.
    pub(super) code: i64,
    /// The text.
    #[serde(default)]
    pub(super) message: String,
}

/// What arrives: an answer, or something of a channel.
#[derive(Debug)]
pub(super) enum Frame {
    /// The answer to the call with this id.
    Answer {
        id: u64,
        result: Result<Box<RawValue>, RpcError>,
    },
    /// A value of a channel.
    Value { channel: u64, value: Box<RawValue> },
    /// The channel ends.
    Close { channel: u64 },
    /// Something that we did not ask for.
    Other,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default)]
    id: Option<serde_json::Value>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default, borrow)]
    params: Option<&'a RawValue>,
    #[serde(default, borrow)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

/// Reads a frame.
pub(super) fn read(text: &str) -> Result<Frame, String> {
    let wire: Wire = serde_json::from_str(text).map_err(|e| e.to_string())?;
    match wire.method.as_deref() {
        Some("xrpc.ch.val") => {
            let (channel, value): (u64, Box<RawValue>) = params(wire.params)?;
            return Ok(Frame::Value { channel, value });
        }
        Some("xrpc.ch.close") => {
            let (channel,): (u64,) = params(wire.params)?;
            return Ok(Frame::Close { channel });
        }
        Some(_) => return Ok(Frame::Other),
        None => {}
    }
    let id = wire.id.as_ref().and_then(serde_json::Value::as_u64);
    let Some(id) = id else {
        // A server that could not read the request answers without an id.
        return match wire.error {
            Some(error) => Err(format!("{} (code {})", bounded(&error.message), error.code)),
            None => Err("it has neither id nor method".into()),
        };
    };
    let result = match (wire.error, wire.result) {
        (Some(error), _) => Err(error),
        (None, Some(result)) => Ok(result.to_owned()),
        // A method without a result is answered by null, which may be left out.
        (None, None) => Ok(RawValue::NULL.to_owned()),
    };
    Ok(Frame::Answer { id, result })
}

fn params<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, String> {
    let params = params.ok_or("a frame of a channel without params")?;
    serde_json::from_str(params.get()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_the_contract() {
        let request = Request::new(1, "Filecoin.ChainHead", [(); 0]);
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"jsonrpc":"2.0","id":1,"method":"Filecoin.ChainHead","params":[]}"#
        );
    }

    #[test]
    fn frames_of_the_contract() {
        let answer = read(r#"{"jsonrpc":"2.0","id":1,"result":7}"#).unwrap();
        assert!(matches!(answer, Frame::Answer { id: 1, result: Ok(value) } if value.get() == "7"));
        let error = read(r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no","data":"0x"}}"#);
        let told = RpcError {
            code: 1,
            message: "no".into(),
        };
        assert!(matches!(error.unwrap(), Frame::Answer { id: 1, result: Err(e) } if e == told));
        let value = r#"{"jsonrpc":"2.0","method":"xrpc.ch.val","params":[7,[{"Type":"current"}]]}"#;
        let value = read(value).unwrap();
        assert!(
            matches!(value, Frame::Value { channel: 7, value } if value.get() == r#"[{"Type":"current"}]"#)
        );
        let close = read(r#"{"jsonrpc":"2.0","method":"xrpc.ch.close","params":[7]}"#).unwrap();
        assert!(matches!(close, Frame::Close { channel: 7 }));
        let null = read(r#"{"jsonrpc":"2.0","id":3}"#).unwrap();
        assert!(matches!(null, Frame::Answer { id: 3, result: Ok(value) } if value.get() == "null"));
        assert!(matches!(
            read(r#"{"jsonrpc":"2.0","method":"else","params":[]}"#).unwrap(),
            Frame::Other
        ));
    }

    #[test]
    fn what_is_no_frame() {
        for text in [
            "",
            "[]",
            "7",
            "{}",
            r#"{"id":"x","result":1}"#,
            r#"{"id":-1,"result":1}"#,
            r#"{"method":"xrpc.ch.val"}"#,
            r#"{"method":"xrpc.ch.val","params":[7]}"#,
            r#"{"method":"xrpc.ch.close","params":["x"]}"#,
            r#"{"id":null,"error":{"code":-32700,"message":"parse"}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(read(&deep).is_err());
    }

    proptest::proptest! {
        #[test]
        fn hostile_frames_never_panic(text in "\\PC{0,100}", id in 0u64..) {
            drop(read(&text));
            let framed = format!(r#"{{"id":{id},"result":{text}}}"#);
            drop(read(&framed));
        }
    }
}
