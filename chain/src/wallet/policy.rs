//! What may be signed: rules of key, type, method, destination and value. What no rule names is denied.
//!
//! ```toml
//! [[allow]]
//! keys      = ["f3wtvfjm…"]
//! methods   = ["PreCommitSectorBatch2", "ProveCommitSectors3"]
//! to        = ["f01000"]
//! max_value = "10 FIL"
//! max_fee   = "0.5 FIL"
//! ```

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::params::Call;
use crate::types::{Address, TokenAmount, Zero};
use crate::{address, amount};

/// The most rules of a policy.
const RULES: usize = 1000;
/// The most bytes of its text.
const TEXT_LIMIT: usize = 1024 * 1024;
/// What a rule's lists say for every key or every destination.
const ANY: &str = "any";
/// What a message may cost where a rule does not say.
const MAX_FEE: u64 = 1;

/// What kind of thing is signed. Blocks and randomness for block production will be others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SigningType {
    /// A chain message.
    Message,
}

/// A request to sign, as it was decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The key.
    pub key: Address,
    /// What is signed.
    pub signing_type: SigningType,
    /// The method's name.
    pub method: &'static str,
    /// The destination.
    pub to: Address,
    /// What the destination is paid.
    pub value: TokenAmount,
    /// The most that the message can cost beside its value.
    pub max_fee: TokenAmount,
}

/// The rules. Without rules nothing is signed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    keys: Scope,
    types: BTreeSet<SigningType>,
    methods: BTreeSet<&'static str>,
    to: Scope,
    max_value: TokenAmount,
    max_fee: TokenAmount,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    Any,
    These(BTreeSet<Address>),
}

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signing policy cannot be used: {0}")]
pub struct PolicyError(String);

/// Why a request is denied: what the rule that came closest lacks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signing policy does not allow {0}")]
pub struct Denied(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyText {
    #[serde(default)]
    allow: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    keys: Vec<String>,
    #[serde(default = "messages")]
    types: BTreeSet<SigningType>,
    methods: Vec<String>,
    to: Vec<String>,
    max_value: Option<String>,
    max_fee: Option<String>,
}

fn messages() -> BTreeSet<SigningType> {
    BTreeSet::from([SigningType::Message])
}

impl Policy {
    /// Reads a policy in TOML. `keys` and `to` are lists of addresses or `["any"]`; `methods` are names; a rule
    /// without `max_value` allows no value, and one without `max_fee` fees up to 1 FIL.
    ///
    /// # Errors
    /// The text is no policy: unknown fields, methods, addresses, amounts, empty lists, too many rules.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > TEXT_LIMIT {
            return Err(PolicyError(format!("it has more than {TEXT_LIMIT} bytes")));
        }
        let text: PolicyText = toml::from_str(text).map_err(|e| PolicyError(e.to_string()))?;
        if text.allow.len() > RULES {
            return Err(PolicyError(format!("it has more than {RULES} rules")));
        }
        let rules = text.allow.into_iter().enumerate().map(|(at, rule)| {
            Rule::read(rule).map_err(|reason| PolicyError(format!("rule {}: {reason}", at + 1)))
        });
        Ok(Self {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }

    /// The place of the first rule that allows the request, from zero.
    ///
    /// # Errors
    /// No rule does.
    pub fn allows(&self, request: &Request) -> Result<usize, Denied> {
        let mut closest = (0, "no rule names this key".to_owned());
        for (at, rule) in self.rules.iter().enumerate() {
            match rule.lacks(request) {
                None => return Ok(at),
                Some((step, reason)) if step > closest.0 => {
                    closest = (step, format!("rule {} {reason}", at + 1));
                }
                Some(_) => {}
            }
        }
        let Request {
            key,
            method,
            to,
            value,
            ..
        } = request;
        let reason = closest.1;
        Err(Denied(format!(
            "{method} from {key} to {to} with {value} FIL: {reason}"
        )))
    }
}

impl Rule {
    fn read(text: RuleText) -> Result<Self, String> {
        let methods = text.methods.iter().map(|name| {
            let known = Call::NAMES.iter().find(|known| *known == name);
            known.copied().ok_or_else(|| {
                format!(
                    "`{name}` is no method; the methods are {}",
                    Call::NAMES.join(", ")
                )
            })
        });
        let methods: BTreeSet<_> = methods.collect::<Result<_, _>>()?;
        if methods.is_empty() {
            return Err("`methods` is empty".into());
        }
        if text.types.is_empty() {
            return Err("`types` is empty".into());
        }
        let parsed = |amount: Option<String>, default: TokenAmount| match amount {
            Some(text) => amount::parse(&text).map_err(|e| e.to_string()),
            None => Ok(default),
        };
        Ok(Self {
            keys: Scope::read("keys", &text.keys)?,
            types: text.types,
            methods,
            to: Scope::read("to", &text.to)?,
            max_value: parsed(text.max_value, TokenAmount::zero())?,
            max_fee: parsed(text.max_fee, TokenAmount::from_whole(MAX_FEE))?,
        })
    }

    /// How far the rule fits, and what it lacks; nothing if it allows the request.
    fn lacks(&self, request: &Request) -> Option<(u8, String)> {
        if !self.keys.has(&request.key) {
            return Some((0, "names other keys".into()));
        }
        if !self.types.contains(&request.signing_type) {
            return Some((1, "names other types".into()));
        }
        if !self.methods.contains(request.method) {
            return Some((2, "does not name this method".into()));
        }
        if !self.to.has(&request.to) {
            return Some((3, "does not name this destination".into()));
        }
        if request.value > self.max_value {
            return Some((4, format!("allows a value up to {} FIL", self.max_value)));
        }
        if request.max_fee > self.max_fee {
            let asked = &request.max_fee;
            return Some((
                5,
                format!(
                    "allows fees up to {} FIL, and this message can cost {asked} FIL",
                    self.max_fee
                ),
            ));
        }
        None
    }
}

impl Scope {
    fn read(field: &str, texts: &[String]) -> Result<Self, String> {
        if texts.is_empty() {
            return Err(format!("`{field}` is empty; write [\"{ANY}\"] if you mean all"));
        }
        if texts.len() == 1 && texts[0] == ANY {
            return Ok(Self::Any);
        }
        let addresses = texts
            .iter()
            .map(|text| address::parse(text).map_err(|e| format!("`{field}`: {e}")));
        addresses.collect::<Result<_, _>>().map(Self::These)
    }

    fn has(&self, address: &Address) -> bool {
        match self {
            Self::Any => true,
            Self::These(these) => these.contains(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECP: &str = "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y";

    fn policy() -> Policy {
        Policy::parse(&format!(
            r#"
            [[allow]]
            keys = ["{SECP}"]
            methods = ["PreCommitSectorBatch2", "ProveCommitSectors3"]
            to = ["f01000", "t01001"]
            max_value = "2 FIL"

            [[allow]]
            keys = ["any"]
            types = ["message"]
            methods = ["SubmitWindowedPoSt"]
            to = ["any"]
            max_fee = "5 FIL"
            "#
        ))
        .unwrap()
    }

    fn request() -> Request {
        Request {
            key: address::parse(SECP).unwrap(),
            signing_type: SigningType::Message,
            method: "PreCommitSectorBatch2",
            to: Address::new_id(1000),
            value: TokenAmount::from_whole(2),
            max_fee: TokenAmount::from_whole(1),
        }
    }

    #[test]
    fn each_dimension_denies() {
        let policy = policy();
        let id = Address::new_id;
        let ok = request();
        assert_eq!(policy.allows(&ok), Ok(0));
        let to_other = Request {
            to: id(1001),
            ..request()
        };
        assert_eq!(policy.allows(&to_other), Ok(0));
        for (changed, reason) in [
            (
                Request {
                    key: id(7),
                    ..request()
                },
                "does not name this method",
            ),
            (
                Request {
                    method: "Send",
                    ..request()
                },
                "does not name this method",
            ),
            (
                Request {
                    to: id(1002),
                    ..request()
                },
                "destination",
            ),
            (
                Request {
                    value: TokenAmount::from_whole(2) + TokenAmount::from_atto(1),
                    ..request()
                },
                "a value up to 2",
            ),
            (
                Request {
                    max_fee: TokenAmount::from_whole(2),
                    ..request()
                },
                "fees up to 1",
            ),
        ] {
            let error = policy.allows(&changed).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        let post = Request {
            method: "SubmitWindowedPoSt",
            value: TokenAmount::zero(),
            ..request()
        };
        assert_eq!(
            policy.allows(&Request {
                key: id(7),
                ..post.clone()
            }),
            Ok(1)
        );
        let paid = Request {
            value: TokenAmount::from_atto(1),
            ..post
        };
        assert!(policy.allows(&paid).is_err(), "no max_value, no value");
    }

    #[test]
    fn nothing_is_allowed_by_no_rules() {
        for policy in [Policy::default(), Policy::parse("").unwrap()] {
            let error = policy.allows(&request()).unwrap_err().to_string();
            assert!(error.contains("no rule names this key"), "{error}");
        }
    }

    #[test]
    fn policies_with_mistakes() {
        let rule = |line: &str| {
            format!("[[allow]]\nkeys = [\"any\"]\nmethods = [\"Send\"]\nto = [\"f01000\"]\n{line}\n")
        };
        assert!(Policy::parse(&rule("")).is_ok());
        for (text, reason) in [
            (rule("max_valeu = \"1 FIL\""), "max_valeu"),
            (rule("max_value = \"1\""), "no unit"),
            (rule("types = [\"block\"]"), "unknown variant"),
            (rule("types = []"), "`types` is empty"),
            (rule("").replace("Send", "Sned"), "`Sned` is no method"),
            (rule("").replace("[\"Send\"]", "[]"), "`methods` is empty"),
            (rule("").replace("[\"f01000\"]", "[]"), "`to` is empty"),
            (rule("").replace("f01000", "f0"), "not a Filecoin address"),
            (
                rule("").replace("[\"any\"]", "[\"any\", \"f01\"]"),
                "not a Filecoin address",
            ),
            ("[[deny]]".into(), "deny"),
            (rule("").repeat(1001), "more than 1000 rules"),
            (" ".repeat(TEXT_LIMIT + 1), "more than 1048576 bytes"),
        ] {
            let error = Policy::parse(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn hostile_policies_never_panic(text in "\\PC{0,200}") {
            if let Ok(policy) = Policy::parse(&text) {
                assert!(policy.allows(&request()).is_err(), "{text}");
            }
        }
    }
}
