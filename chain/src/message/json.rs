//! Messages and signatures as nodes write them in JSON (chain.md §3.2).

use serde::{Deserialize, Serialize};

use crate::types::{Address, Cid, Message, MethodNum, RawBytes, Signature, SignatureType, TokenAmount};

use super::{MessageError, SignedMessage};

/// A message as nodes write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MessageJson {
    /// Always 0.
    #[serde(default)]
    pub version: u64,
    /// The destination.
    #[serde(with = "crate::json")]
    pub to: Address,
    /// The sender.
    #[serde(with = "crate::json")]
    pub from: Address,
    /// The sender's sequence number.
    #[serde(default)]
    pub nonce: u64,
    /// What the destination is paid.
    #[serde(with = "crate::json")]
    pub value: TokenAmount,
    /// The most gas.
    #[serde(default)]
    pub gas_limit: u64,
    /// The most for a unit of gas.
    #[serde(with = "crate::json")]
    pub gas_fee_cap: TokenAmount,
    /// What the block producer gets for a unit of gas.
    #[serde(with = "crate::json")]
    pub gas_premium: TokenAmount,
    /// The method.
    pub method: MethodNum,
    /// Its parameters.
    #[serde(with = "crate::json", default = "super::no_params")]
    pub params: RawBytes,
    /// Its CID, which nodes write and nobody reads.
    #[serde(
        rename = "CID",
        with = "crate::json",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub cid: Option<Cid>,
}

impl From<&Message> for MessageJson {
    fn from(message: &Message) -> Self {
        Self {
            version: message.version,
            to: message.to,
            from: message.from,
            nonce: message.sequence,
            value: message.value.clone(),
            gas_limit: message.gas_limit,
            gas_fee_cap: message.gas_fee_cap.clone(),
            gas_premium: message.gas_premium.clone(),
            method: message.method_num,
            params: message.params.clone(),
            cid: None,
        }
    }
}

impl From<MessageJson> for Message {
    fn from(json: MessageJson) -> Self {
        Self {
            version: json.version,
            to: json.to,
            from: json.from,
            sequence: json.nonce,
            value: json.value,
            gas_limit: json.gas_limit,
            gas_fee_cap: json.gas_fee_cap,
            gas_premium: json.gas_premium,
            method_num: json.method,
            params: json.params,
        }
    }
}

/// A signature as nodes write it. The kind is a number, because other senders have kinds that we do not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureJson {
    /// 1 secp256k1, 2 BLS, 3 delegated.
    #[serde(rename = "Type")]
    pub kind: u8,
    /// The bytes without the kind.
    #[serde(rename = "Data", with = "crate::json")]
    pub data: Vec<u8>,
}

impl From<&Signature> for SignatureJson {
    fn from(signature: &Signature) -> Self {
        Self {
            kind: signature.signature_type() as u8,
            data: signature.bytes.clone(),
        }
    }
}

impl TryFrom<SignatureJson> for Signature {
    type Error = MessageError;

    fn try_from(json: SignatureJson) -> Result<Self, MessageError> {
        let sig_type = match json.kind {
            1 => SignatureType::Secp256k1,
            2 => SignatureType::BLS,
            other => {
                return Err(MessageError::Field(format!(
                    "signatures of type {other} are not known"
                )));
            }
        };
        Ok(Self {
            sig_type,
            bytes: json.data,
        })
    }
}

/// A signed message as nodes write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignedMessageJson {
    /// The message.
    pub message: MessageJson,
    /// Its signature.
    pub signature: SignatureJson,
    /// Its CID, which nodes write and nobody reads.
    #[serde(
        rename = "CID",
        with = "crate::json",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub cid: Option<Cid>,
}

impl From<&SignedMessage> for SignedMessageJson {
    fn from(signed: &SignedMessage) -> Self {
        Self {
            message: (&signed.message).into(),
            signature: (&signed.signature).into(),
            cid: None,
        }
    }
}

impl TryFrom<SignedMessageJson> for SignedMessage {
    type Error = MessageError;

    fn try_from(json: SignedMessageJson) -> Result<Self, MessageError> {
        Ok(Self {
            message: json.message.into(),
            signature: json.signature.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `MSG` of chain.md §3.2, with a whole sender.
    const MSG: &str = r#"{"Version":0,"To":"f01000","From":"f3wtvfjmsmhwxeyxihfz2steew7hb5jruqeejl3nc66gbidp6ecq5sibtc2rkdcyesvtv27xd7wqt4w6vl3wiq","Nonce":5,"Value":"0","GasLimit":1000000,"GasFeeCap":"1000","GasPremium":"100","Method":28,"Params":"gYA=","CID":{"/":"bafy2bzacea3wsdh6y3a36tb3skempjoxqpuyompjbmfeyf34fi3uy6uue42v4"}}"#;

    #[test]
    fn a_message_of_a_node() {
        let json: MessageJson = serde_json::from_str(MSG).unwrap();
        assert_eq!(serde_json::to_string(&json).unwrap(), MSG);
        let message = Message::from(json);
        assert_eq!(
            super::super::cid(&message).unwrap().to_string(),
            "bafy2bzaceciqhkwyxpml6odom3llfc7t4jtixhn6uqcpz76r3ea4j5idktgc6",
            "the CID is made of the message, never taken from the node"
        );
        let ours = serde_json::to_string(&MessageJson::from(&message)).unwrap();
        assert_eq!(ours, MSG.split(r#","CID""#).next().unwrap().to_owned() + "}");
    }

    #[test]
    fn nulls_and_unknown_fields() {
        for params in ["null", "\"\""] {
            let text = format!(
                r#"{{"To":"t01000","From":"t01001","Value":"0","GasFeeCap":"0","GasPremium":"0","Method":0,"Params":{params},"New":[1]}}"#
            );
            let json: MessageJson = serde_json::from_str(&text).unwrap();
            assert!(json.params.is_empty() && json.cid.is_none());
        }
        assert!(serde_json::from_str::<MessageJson>("{}").is_err());
        assert!(serde_json::from_str::<MessageJson>(&MSG.replace("\"0\"", "0")).is_err());
    }

    #[test]
    fn signatures_of_other_kinds_are_read_but_not_taken() {
        let text = format!(r#"{{"Message":{MSG},"Signature":{{"Type":3,"Data":"AAE="}}}}"#);
        let json: SignedMessageJson = serde_json::from_str(&text).unwrap();
        let error = SignedMessage::try_from(json.clone()).unwrap_err().to_string();
        assert!(error.contains("type 3"), "{error}");
        let mut bls = json;
        bls.signature.kind = 2;
        let signed = SignedMessage::try_from(bls.clone()).unwrap();
        let mut back = SignedMessageJson::from(&signed);
        back.message.cid = bls.message.cid;
        assert_eq!(back, bls);
    }
}
