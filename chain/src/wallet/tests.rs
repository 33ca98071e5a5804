//! The wallet as a whole: what it signs, what it refuses, and what is on the disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::*;
use crate::params::{self, Call, SectorSet};
use crate::types::{BitField, RawBytes, TokenAmount};

/// So that tests do not take seconds; what it protects is worth nothing.
const CHEAP: KdfCost = KdfCost {
    memory_kib: 8,
    passes: 1,
    lanes: 1,
};

fn pass(text: &str) -> Passphrase {
    Passphrase::new(Zeroizing::new(text.into())).unwrap()
}

fn policy() -> Policy {
    Policy::parse(
        r#"
        [[allow]]
        keys = ["any"]
        methods = ["DeclareFaults", "Send"]
        to = ["f01000"]
        max_value = "1 FIL"
        "#,
    )
    .unwrap()
}

fn open(dir: &Path) -> Wallet {
    try_open(dir).unwrap()
}

fn try_open(dir: &Path) -> Result<Wallet, WalletError> {
    Wallet::open(WalletConfig {
        dir: dir.to_owned(),
        policy: policy(),
        kdf: CHEAP,
    })
}

fn home() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let wallet = dir.path().join("wallet");
    (dir, wallet)
}

fn faults(from: Address) -> Message {
    let call = params::declare_faults(vec![SectorSet {
        deadline: 3,
        partition: 0,
        sectors: BitField::try_from_bits([1]).unwrap(),
    }])
    .unwrap();
    with_gas(message::unsent(from, Address::new_id(1000), TokenAmount::from_atto(0), &call).unwrap())
}

fn with_gas(mut message: Message) -> Message {
    message.gas_limit = 1_000_000;
    message.gas_fee_cap = TokenAmount::from_atto(1000);
    message.gas_premium = TokenAmount::from_atto(100);
    message
}

fn records(dir: &Path) -> Vec<AuditRecord> {
    let text = std::fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn keys_survive_and_sign_when_unlocked() {
    let (_guard, dir) = home();
    let phrase = pass("correct horse");
    let wallet = open(&dir);
    let bls = wallet.create(KeyType::Bls, &phrase).unwrap();
    let secp = wallet.create(KeyType::Secp256k1, &phrase).unwrap();
    drop(wallet);
    let wallet = open(&dir);
    assert_eq!(wallet.list().len(), 2);
    for address in [bls, secp] {
        let error = wallet.sign(&faults(address)).unwrap_err().to_string();
        assert!(error.contains("locked; unlock"), "{error}");
    }
    assert_eq!(wallet.unlock(&phrase).unwrap(), 2);
    for address in [bls, secp] {
        let signed = wallet.sign(&faults(address)).unwrap();
        message::verify(&signed).unwrap();
    }
    wallet.lock().unwrap();
    assert!(wallet.list().iter().all(|key| !key.unlocked));
    assert!(matches!(
        wallet.sign(&faults(bls)),
        Err(WalletError::Locked { .. })
    ));
    let verdicts: Vec<Verdict> = records(&dir).iter().map(|record| record.verdict).collect();
    use Verdict::{Locked, Refused, Signed, Unlocked};
    assert_eq!(
        verdicts,
        [Refused, Refused, Unlocked, Signed, Signed, Locked, Refused]
    );
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let (_guard, dir) = home();
    let wallet = open(&dir);
    wallet.create(KeyType::Bls, &pass("correct horse")).unwrap();
    wallet.lock().unwrap();
    let wrong = pass("battery staple");
    assert!(matches!(
        wallet.unlock(&wrong),
        Err(WalletError::WrongPassphrase { .. })
    ));
    assert!(
        matches!(
            wallet.create(KeyType::Bls, &wrong),
            Err(WalletError::WrongPassphrase { .. })
        ),
        "one wallet, one passphrase"
    );
    let address = wallet.list()[0].address;
    assert!(wallet.export(&address, &wrong).is_err());
    assert_eq!(records(&dir).last().unwrap().verdict, Verdict::Refused);
    assert_eq!(wallet.list().len(), 1);
    assert!(!wallet.list()[0].unlocked);
}

#[test]
fn keys_of_lotus_come_and_go() {
    let (_guard, dir) = home();
    let phrase = pass("correct horse");
    let wallet = open(&dir);
    let key = data_encoding::BASE64.encode(&[7; 32]);
    let text = hex::encode(format!(r#"{{"Type":"secp256k1","PrivateKey":"{key}"}}"#));
    let lotus = LotusKey::parse(&text).unwrap();
    let address = wallet.import(&lotus, &phrase).unwrap();
    assert_eq!(address.to_string(), "f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y");
    assert!(matches!(
        wallet.import(&lotus, &phrase),
        Err(WalletError::KeyExists { .. })
    ));
    assert_eq!(*wallet.export(&address, &phrase).unwrap().export(), text);
    assert_eq!(records(&dir).last().unwrap().verdict, Verdict::Exported);
    for file in std::fs::read_dir(&dir).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let secret = [7u8; 32];
        assert!(!bytes.windows(32).any(|window| window == secret));
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!text.contains(&hex::encode(secret)) && !text.contains(&key));
    }
}

#[test]
fn files_that_were_cut_or_changed() {
    let (_guard, dir) = home();
    let phrase = pass("correct horse");
    let address = open(&dir).create(KeyType::Bls, &phrase).unwrap();
    let path = dir.join(format!("{address}.key.json"));
    let whole = std::fs::read_to_string(&path).unwrap();
    for cut in [0, 1, whole.len() / 2, whole.len() - 2] {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = try_open(&dir).unwrap_err();
        assert!(matches!(error, WalletError::Damaged { .. }), "{cut}: {error}");
    }
    // A changed cost, address or ciphertext is found when the key is opened.
    let file: serde_json::Value = serde_json::from_str(&whole).unwrap();
    let ciphertext = file["ciphertext"].as_str().unwrap();
    let flipped = if ciphertext.starts_with('0') { "1" } else { "0" };
    for changed in [
        whole.replace("\"passes\": 1", "\"passes\": 2"),
        whole.replace(ciphertext, &format!("{flipped}{}", &ciphertext[1..])),
        whole.replace(ciphertext, &ciphertext[2..]),
    ] {
        assert_ne!(changed, whole);
        std::fs::write(&path, changed).unwrap();
        let error = open(&dir).unlock(&phrase).unwrap_err();
        assert!(matches!(error, WalletError::WrongPassphrase { .. }), "{error}");
    }
    // A file that asks for all memory is not obeyed.
    std::fs::write(
        &path,
        whole.replace("\"memory_kib\": 8", "\"memory_kib\": 4000000000"),
    )
    .unwrap();
    assert!(
        try_open(&dir)
            .unwrap_err()
            .to_string()
            .contains("above the limits")
    );
    std::fs::write(&path, "x".repeat(20_000)).unwrap();
    assert!(
        try_open(&dir)
            .unwrap_err()
            .to_string()
            .contains("more than 16384 bytes")
    );
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(open(&dir).unlock(&phrase).unwrap(), 1);
}

#[test]
fn another_keys_file_under_this_name_is_not_taken() {
    let (_guard, dir) = home();
    let phrase = pass("correct horse");
    let wallet = open(&dir);
    let one = wallet.create(KeyType::Bls, &phrase).unwrap();
    let two = wallet.create(KeyType::Bls, &phrase).unwrap();
    let path = |address| dir.join(format!("{address}.key.json"));
    std::fs::copy(path(two), path(one)).unwrap();
    assert!(matches!(wallet.unlock(&phrase), Err(WalletError::Damaged { .. })));
}

#[test]
fn half_written_keys_are_removed_and_half_lines_ended() {
    let (_guard, dir) = home();
    let phrase = pass("correct horse");
    let address = open(&dir).create(KeyType::Bls, &phrase).unwrap();
    let partial = dir.join("f3x.key.json.partial");
    std::fs::write(&partial, "{").unwrap();
    std::fs::write(dir.join("audit.jsonl"), "{\"at_ms\":1,\"ver").unwrap();
    let wallet = open(&dir);
    assert!(!partial.exists());
    assert_eq!(wallet.list().len(), 1);
    wallet.unlock(&phrase).unwrap();
    wallet.sign(&faults(address)).unwrap();
    let text = std::fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    let last: AuditRecord = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((last.verdict, last.rule), (Verdict::Signed, Some(1)));
    // The half line was ended, so that the next one is whole.
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn what_others_can_read_is_not_used() {
    let (_guard, dir) = home();
    let address = open(&dir).create(KeyType::Bls, &pass("correct horse")).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = dir.join(format!("{address}.key.json"));
    assert_eq!(
        (mode(&dir), mode(&key), mode(&dir.join("audit.jsonl"))),
        (0o700, 0o600, 0o600)
    );
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(
        try_open(&dir),
        Err(WalletError::Permissions { mode: 0o640, .. })
    ));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(try_open(&dir), Err(WalletError::Permissions { .. })));
}

#[test]
fn what_is_not_understood_or_not_allowed_is_not_signed() {
    let (_guard, dir) = home();
    let wallet = open(&dir);
    let key = wallet.create(KeyType::Secp256k1, &pass("correct horse")).unwrap();
    let good = faults(key);
    let mut unknown = good.clone();
    unknown.method_num = 99;
    let mut undecodable = good.clone();
    undecodable.params = RawBytes::new(vec![0x81]);
    let mut trailing = good.clone();
    trailing.params = RawBytes::new([good.params.bytes(), &[0]].concat());
    let mut elsewhere = good.clone();
    elsewhere.to = Address::new_id(1001);
    let mut dear = good.clone();
    dear.gas_fee_cap = TokenAmount::from_whole(1);
    let mut stranger = good.clone();
    stranger.from = crate::address::parse("f1ick6svk3i23qdgn74hz2yu4wsoryzuaw4h3jk4y").unwrap();
    let mut by_id = good.clone();
    by_id.from = Address::new_id(1);
    let mut no_gas = good.clone();
    no_gas.gas_limit = 0;
    let withdraw = params::withdraw(TokenAmount::from_whole(1)).unwrap();
    let withdraw = message::unsent(key, Address::new_id(1000), TokenAmount::from_atto(0), &withdraw);
    let withdraw = with_gas(withdraw.unwrap());
    let pay = |fil| {
        let value = TokenAmount::from_whole(fil);
        with_gas(message::unsent(key, Address::new_id(1000), value, &Call::Send).unwrap())
    };
    for (message, reason) in [
        (unknown, "method 99 of the miner actor is not one"),
        (undecodable, "the parameters of DeclareFaults cannot be decoded"),
        (trailing, "the parameters of DeclareFaults"),
        (elsewhere, "does not name this destination"),
        (dear, "fees up to 1"),
        (stranger, "is not in the wallet"),
        (by_id, "no key of its own"),
        (no_gas, "gas limit 0"),
        (withdraw, "does not name this method"),
        (pay(2), "a value up to 1"),
    ] {
        let error = wallet.sign(&message).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        let record = records(&dir).pop().unwrap();
        assert_eq!(record.verdict, Verdict::Refused);
        assert!(record.reason.contains(reason), "{record:?}");
        assert_eq!(record.rule, None);
    }
    wallet.sign(&pay(1)).unwrap();
    wallet.sign(&good).unwrap();
    let record = records(&dir).pop().unwrap();
    assert_eq!(record.cid, message::cid(&good).unwrap().to_string());
    assert_eq!(
        (record.method.as_str(), record.to.as_str()),
        ("DeclareFaults", "f01000")
    );
}

#[test]
fn no_record_no_signature() {
    let (_guard, dir) = home();
    let wallet = open(&dir);
    let key = wallet.create(KeyType::Bls, &pass("correct horse")).unwrap();
    // `/dev/full` takes the place of a disk that is full.
    wallet.inner().audit = Audit::full();
    assert!(matches!(wallet.sign(&faults(key)), Err(WalletError::Io { .. })));
}

#[test]
fn the_default_costs_are_used_and_work() {
    let (_guard, dir) = home();
    let phrase = pass("correct horse");
    let config = WalletConfig {
        dir: dir.clone(),
        policy: Policy::default(),
        kdf: KdfCost::default(),
    };
    let address = Wallet::open(config)
        .unwrap()
        .create(KeyType::Bls, &phrase)
        .unwrap();
    let text = std::fs::read_to_string(dir.join(format!("{address}.key.json"))).unwrap();
    assert!(text.contains("\"memory_kib\": 65536") && text.contains("argon2id"));
    assert_eq!(open(&dir).unlock(&phrase).unwrap(), 1);
}
