//! What an answer that is no success means: whether to try again, and what a person can do about it.

use std::error::Error as _;

use s3::error::S3Error;

/// The most characters of a server's own words that are repeated.
const WORDS: usize = 200;

/// A request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such object.
    Missing,
    /// The range is not in the object.
    OutOfRange,
    /// There is no such upload (any more).
    NoUpload,
    /// It may work when it is tried again; the text says what happened.
    Passing(String),
    /// The store is left alone for a while, because it did not answer; the text says so.
    Resting(String),
    /// The server has no room for it.
    Full(String),
    /// It will be refused again; the text says why and what to do.
    Refused(String),
}

impl Fault {
    /// What an error of the library means.
    pub(super) fn of(error: S3Error) -> Self {
        match error {
            S3Error::HttpFailWithBody(status, body) => answer(status, &body),
            S3Error::Reqwest(error) => transport(error),
            S3Error::Credentials(error) => Self::Refused(format!("no credentials: {error}")),
            S3Error::Io(error) => Self::Passing(error.to_string()),
            // What a server answers that makes no sense may be half of an answer.
            S3Error::SerdeXml(_) | S3Error::Utf8(_) | S3Error::FromUtf8(_) | S3Error::HttpFail => {
                Self::Passing("the answer makes no sense".to_owned())
            }
            other => Self::Refused(clean(&other.to_string())),
        }
    }
}

/// What a status and the body of an answer mean (the table of error responses in the S3 API reference).
fn answer(status: u16, body: &str) -> Fault {
    let code = element(body, "Code");
    let words = match (code, element(body, "Message")) {
        ("", _) => format!("HTTP {status}"),
        (code, "") => format!("{code} (HTTP {status})"),
        (code, message) => format!("{code} (HTTP {status}): {message}"),
    };
    let words = clean(&words);
    let refused = |advice: &str| Fault::Refused(format!("{words}; {advice}"));
    match code {
        "NoSuchKey" => return Fault::Missing,
        "NoSuchUpload" => return Fault::NoUpload,
        "InvalidRange" => return Fault::OutOfRange,
        "NoSuchBucket" => return refused("make the bucket, or correct `bucket` in the configuration"),
        "RequestTimeTooSkewed" | "RequestExpired" => {
            return refused(
                "this machine's clock is wrong; set it (NTP), the server refuses requests of another time",
            );
        }
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "ExpiredToken"
        | "NotSignedUp"
        | "InvalidSecurity"
        | "AccessDenied"
        | "AllAccessDisabled" => {
            return refused("check the store's credentials and what they are allowed to do");
        }
        "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => {
            return refused("check the store's `region` and `endpoint`");
        }
        "QuotaExceeded" | "InsufficientCapacity" | "XMinioStorageFull" | "StorageFull" => {
            return Fault::Full(words);
        }
        "SlowDown"
        | "RequestTimeout"
        | "InternalError"
        | "ServiceUnavailable"
        | "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody"
        | "OperationAborted" => return Fault::Passing(words),
        _ => {}
    }
    match status {
        404 => Fault::Missing,
        416 => Fault::OutOfRange,
        507 => Fault::Full(words),
        408 | 425 | 429 | 500..=599 => Fault::Passing(words),
        401 | 403 => refused("check the store's credentials and what they are allowed to do"),
        301 | 307 | 308 => refused("check the store's `region` and `endpoint`"),
        _ => Fault::Refused(words),
    }
}

/// What happens between the two machines passes, but for addresses and certificates that are wrong.
fn transport(error: reqwest::Error) -> Fault {
    let error = error.without_url();
    let builder = error.is_builder();
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    let text = clean(&text);
    if builder || text.contains("certificate") {
        return Fault::Refused(format!("{text}; check the store's `endpoint`"));
    }
    Fault::Passing(text)
}

/// The text of the first element of this name.
fn element<'a>(body: &'a str, name: &str) -> &'a str {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let rest = body.find(&open).map_or("", |at| &body[at + open.len()..]);
    rest.find(&close).map_or("", |end| &rest[..end])
}

/// What came from outside, short and without control characters.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(code: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>why</Message></Error>")
    }

    #[test]
    fn answers_are_understood() {
        let of = |status, text: &str| Fault::of(S3Error::HttpFailWithBody(status, text.to_owned()));
        assert_eq!(of(404, ""), Fault::Missing);
        assert_eq!(of(404, &body("NoSuchKey")), Fault::Missing);
        assert_eq!(of(404, &body("NoSuchUpload")), Fault::NoUpload);
        assert_eq!(of(416, ""), Fault::OutOfRange);
        assert!(matches!(of(503, ""), Fault::Passing(_)));
        assert!(matches!(of(400, &body("RequestTimeout")), Fault::Passing(_)));
        assert!(matches!(of(507, ""), Fault::Full(_)));
        for (status, code, advice) in [
            (404, "NoSuchBucket", "`bucket`"),
            (403, "RequestTimeTooSkewed", "clock"),
            (403, "InvalidAccessKeyId", "credentials"),
            (403, "", "credentials"),
            (301, "PermanentRedirect", "`region`"),
        ] {
            let fault = of(status, &body(code));
            assert!(
                matches!(&fault, Fault::Refused(text) if text.contains(advice)),
                "{fault:?}"
            );
        }
    }

    #[test]
    fn words_from_outside_are_bounded() {
        let long = format!(
            "<Code>Odd\u{1b}[2J</Code><Message>{}</Message>",
            "x".repeat(10_000)
        );
        let Fault::Refused(text) = Fault::of(S3Error::HttpFailWithBody(400, long)) else {
            panic!("it is refused");
        };
        assert!(text.len() < 300 && !text.contains('\u{1b}'), "{text}");
        assert_eq!(element("<Code>half", "Code"), "");
    }
}
