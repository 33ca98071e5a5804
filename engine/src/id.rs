//! Names and numbers that identify things: runs, steps, attempts, subjects, stages.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// What is wrong with a name that came from outside.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {why}")]
pub struct NameError {
    what: &'static str,
    text: String,
    why: &'static str,
}

fn check_slug(what: &'static str, text: &str) -> Result<(), NameError> {
    let fail = |why| {
        Err(NameError {
            what,
            text: text.chars().take(80).collect(),
            why,
        })
    };
    let Some(first) = text.chars().next() else {
        return fail("it is empty");
    };
    if text.len() > 64 {
        return fail("it is longer than 64 characters");
    }
    if !first.is_ascii_lowercase() {
        return fail("it must begin with a lower-case letter");
    }
    if !text
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    {
        return fail("only lower-case letters, digits and `_` are allowed");
    }
    Ok(())
}

/// A slug, with the number of an item behind it or without.
fn check_step(what: &'static str, text: &str) -> Result<(), NameError> {
    let Some((step, rest)) = text.split_once('[') else {
        return check_slug(what, text);
    };
    let number = rest.strip_suffix(']').filter(|number| {
        let canonical = number
            .parse::<u32>()
            .is_ok_and(|parsed| parsed.to_string() == *number);
        canonical && number.len() <= 5
    });
    if number.is_none() {
        return Err(NameError {
            what,
            text: text.chars().take(80).collect(),
            why: "an item is written step[3]",
        });
    }
    check_slug(what, step)
}

macro_rules! slug {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// Names are 1 to 64 lower-case letters, digits and `_`, and begin with a letter; an item of a
            /// step has its number behind it, as in `window_post[3]`.
            pub fn new(text: &str) -> Result<Self, NameError> {
                $check($what, text)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(&text)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

slug!(
    /// The name of a workflow, as its file gives it.
    WorkflowName, "workflow name", check_slug);
slug!(
    /// The name of a step (a stage placed in a workflow), or of one item of it: `window_post[3]`.
    StepName, "step name", check_step);
slug!(
    /// The name of a stage: a kind of work.
    StageName, "stage name", check_slug);

impl StepName {
    /// The name of an item of this step.
    #[must_use]
    pub fn item(&self, index: u32) -> Self {
        Self(format!("{self}[{index}]").into())
    }

    /// The name of the step, and the number of the item if it is one.
    pub fn split(&self) -> (&str, Option<u32>) {
        match self.0.split_once('[') {
            Some((step, rest)) => (step, rest.trim_end_matches(']').parse().ok()),
            None => (&self.0, None),
        }
    }
}

/// One execution of a workflow: `run_` and a time-ordered UUID (version 7) in 32 hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Arc<str>);

impl RunId {
    /// A new identifier from the time in milliseconds since 1970 and 10 random bytes.
    pub fn new(wall_ms: u64, random: &[u8; 10]) -> Self {
        let uuid = uuid::Builder::from_unix_timestamp_millis(wall_ms, random).into_uuid();
        Self(format!("run_{}", uuid.simple()).into())
    }

    /// The identifier as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let fail = |why| {
            Err(NameError {
                what: "run",
                text: text.chars().take(80).collect(),
                why,
            })
        };
        match text.strip_prefix("run_") {
            Some(hex) if hex.len() == 32 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) => {
                Ok(Self(text.into()))
            }
            Some(_) => fail("after `run_` come 32 lower-case hexadecimal digits"),
            None => fail("a run is named `run_` and 32 hexadecimal digits"),
        }
    }
}

impl TryFrom<String> for RunId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0.as_ref().to_owned()
    }
}

/// What a run is about, for example `f01000/7` (a sector). The engine compares subjects and makes
/// folder names of them; what they mean is the stages' business.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subject(Arc<str>);

impl Subject {
    /// Checks and takes a subject.
    ///
    /// # Errors
    /// A subject is 1 to 128 letters, digits, `.`, `_`, `-`, in parts that `/` separates. No part
    /// is empty or begins with a dot, so a subject can never leave the folder it names.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let fail = |why| {
            Err(NameError {
                what: "subject",
                text: text.chars().take(80).collect(),
                why,
            })
        };
        if text.is_empty() || text.len() > 128 {
            return fail("it must have 1 to 128 characters");
        }
        if !text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/'))
        {
            return fail("only letters, digits, `.`, `_`, `-` and `/` are allowed");
        }
        if text
            .split('/')
            .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return fail("a part between `/` is empty or begins with a dot");
        }
        Ok(Self(text.into()))
    }

    /// The subject as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The subject as one folder name: `/` becomes `-`, which a part that holds `-` doubles.
    pub fn folder(&self) -> String {
        self.0.replace('-', "--").replace('/', "-")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Subject {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(&text)
    }
}

impl FromStr for Subject {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> String {
        subject.0.as_ref().to_owned()
    }
}

/// Which try of which step of which run.
///
/// `visit` counts the passages of the run through the step (a rewind starts another), from 1.
/// `attempt` counts tries of the step over all visits, from 1, and only grows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptKey {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: StepName,
    /// The passage through the step.
    pub visit: u32,
    /// The try.
    pub attempt: u32,
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}.{}", self.run, self.step, self.visit, self.attempt)
    }
}

/// The fence of an attempt: 128 random bits that every report and artifact of it carries. What
/// does not carry the current token is answered `superseded`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token(Arc<str>);

impl Token {
    /// A token from 16 random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        Self(hex::encode(random).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[..8.min(self.0.len())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(StepName::new("pc1").is_ok());
        for bad in [
            "",
            "1pc",
            "PC1",
            "a-b",
            "a/b",
            &"a".repeat(65),
            "a[",
            "a[x]",
            "a[03]",
            "a[3]b",
            "a[100000]",
        ] {
            assert!(StepName::new(bad).is_err(), "{bad}");
        }
        let item = StepName::new("pc1").unwrap().item(12);
        assert_eq!(StepName::new(item.as_str()), Ok(item.clone()));
        assert_eq!(item.split(), ("pc1", Some(12)));
        assert!(StageName::new("pc1[3]").is_err());
    }

    #[test]
    fn subjects_cannot_leave_their_folder() {
        for bad in ["", "/a", "a//b", "../a", "a/..", "a/.b", "a b", "a\\b"] {
            assert!(Subject::new(bad).is_err(), "{bad}");
        }
        let one = Subject::new("f01000/7").unwrap();
        let two = Subject::new("f01000-7").unwrap();
        assert_ne!(one.folder(), two.folder());
    }

    #[test]
    fn run_ids_sort_by_time_and_parse_back() {
        let a = RunId::new(1, &[255; 10]);
        let b = RunId::new(2, &[0; 10]);
        assert!(a < b);
        assert_eq!(a.to_string().parse::<RunId>().unwrap(), a);
        assert!("run_zz".parse::<RunId>().is_err());
    }
}
