//! Proof parameters as their users see them: a generated set is used for a real proof by the proofs library, damage
//! is found, and killed or concurrent generators leave nothing that could be taken for a set.
#![expect(
    clippy::unwrap_used,
    reason = "the helpers of the tests, too, fail by panicking"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use filecoin_proofs_api::seal::{add_piece, seal_pre_commit_phase1, seal_pre_commit_phase2};
use filecoin_proofs_api::{
    PieceInfo, PrivateReplicaInfo, ProverId, PublicReplicaInfo, RegisteredPoStProof, RegisteredSealProof,
    SectorId, UnpaddedBytesAmount, post,
};
use sealflow_stages::params::{
    GenerateReport, Origin, ParamKind, ParamSet, ParamsDir, ParamsError, Phase, Progress, SectorSize,
    SetState, Source, Verdict, check, check_with, fetch, generate, list, status,
};

/// The smallest set: 11.5 MB, a second of two cores.
const SET: ParamSet = ParamSet::new(ParamKind::WindowPost, SectorSize::KiB2);

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

fn generate_quietly(dir: &ParamsDir) -> Result<GenerateReport, ParamsError> {
    generate(SET, dir, |_| (), &never())
}

fn file(dir: &ParamsDir, ending: &str) -> PathBuf {
    let names = SET.files().unwrap();
    dir.path().join(
        names
            .names()
            .into_iter()
            .find(|name| name.ends_with(ending))
            .unwrap(),
    )
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_generated_set_is_listed_checked_and_repaired() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    assert!(
        list(&dir)
            .unwrap()
            .iter()
            .all(|status| status.state == SetState::Missing && status.bytes == 0)
    );

    let phases = Mutex::new(Vec::new());
    let report = generate(
        SET,
        &dir,
        |progress| phases.lock().unwrap().push(progress.phase),
        &never(),
    )
    .unwrap();
    assert!(report.generated && report.scalars > report.constraints && report.constraints > 20_000);
    assert_eq!(phases.lock().unwrap().last(), Some(&Phase::Commit));
    let status = status(&dir, SET).unwrap();
    assert_eq!(
        (status.state, Some(status.bytes)),
        (SetState::Present, status.expected_bytes)
    );
    assert_eq!(
        list(&dir)
            .unwrap()
            .iter()
            .filter(|status| status.state == SetState::Present)
            .count(),
        1
    );
    assert!(check(&dir, SET).unwrap().is_good());
    let again = generate_quietly(&dir).unwrap();
    assert_eq!((again.generated, &again.files), (false, &report.files));

    // A flipped byte, in the middle of the parameters.
    change(&file(&dir, ".params"), |bytes| bytes[5_000_000] ^= 1);
    let report = check(&dir, SET).unwrap();
    assert!(
        matches!(&report.files[0].verdict, Verdict::WrongDigest { .. }),
        "{report}"
    );
    assert_eq!(report.files[1].verdict, Verdict::Good);
    let text = report.to_string();
    let named = file(&dir, ".params").display().to_string();
    assert!(
        text.contains(&named) && text.contains("sealflow params generate window-post-2KiB"),
        "{text}"
    );
    assert!(
        generate_quietly(&dir).unwrap().generated,
        "a damaged set is made anew"
    );

    // A truncated file, then a missing one.
    change(&file(&dir, ".vk"), |bytes| bytes.truncate(100));
    let report = check(&dir, SET).unwrap();
    assert!(
        matches!(report.files[1].verdict, Verdict::WrongSize { found: 100, .. }),
        "{report}"
    );
    assert_eq!(self::status(&dir, SET).unwrap().state, SetState::Partial);
    fs::remove_file(file(&dir, ".vk")).unwrap();
    assert_eq!(check(&dir, SET).unwrap().files[1].verdict, Verdict::Missing);
}

#[test]
fn what_a_killed_generator_leaves_is_no_set_and_goes_away() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    generate_quietly(&dir).unwrap();
    let manifest = dir.path().join("window-post-2KiB.manifest.json");
    let good = fs::read(&manifest).unwrap();

    // Killed before the manifest: all files in place, but of which run?
    fs::remove_file(&manifest).unwrap();
    assert_eq!(status(&dir, SET).unwrap().state, SetState::Partial);
    let report = check(&dir, SET).unwrap();
    assert!(
        report
            .files
            .iter()
            .all(|file| file.verdict == Verdict::Unfinished),
        "{report}"
    );
    // Killed while writing: half a file under a temporary name, and half a manifest.
    let temporary = format!("{}.generating", file(&dir, ".params").display());
    fs::rename(file(&dir, ".params"), &temporary).unwrap();
    change(Path::new(&temporary), |bytes| bytes.truncate(1_000_000));
    fs::write(&manifest, &good[..good.len() / 2]).unwrap();
    assert_eq!(status(&dir, SET).unwrap().state, SetState::Partial);
    assert!(!check(&dir, SET).unwrap().is_good());

    assert!(generate_quietly(&dir).unwrap().generated);
    assert!(check(&dir, SET).unwrap().is_good());
    assert!(!Path::new(&temporary).exists());
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        4,
        "two files, the manifest and the lock"
    );
}

/// Kills real generators with SIGKILL as soon as they have got so far; whatever they leave, no set is taken for one
/// that is not, and the next generator makes a good one.
#[test]
fn a_generator_may_be_killed_at_any_time() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    let name = file(&dir, ".params");
    let reached: [&dyn Fn() -> bool; 4] = [
        &|| dir.path().join("window-post-2KiB.lock").exists(),
        &|| fs::metadata(format!("{}.generating", name.display())).is_ok_and(|file| file.len() > 1000),
        &|| name.exists(),
        &|| dir.path().join("window-post-2KiB.manifest.json").exists(),
    ];
    for reached in reached {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "generate_in_a_child", "--ignored"])
            .env("SEALFLOW_TEST_BASE", base.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !reached() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let present = status(&dir, SET).unwrap().state == SetState::Present;
        assert_eq!(present, check(&dir, SET).unwrap().is_good());
    }
    generate_quietly(&dir).unwrap();
    assert!(check(&dir, SET).unwrap().is_good());
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        4,
        "two files, the manifest and the lock"
    );
}

#[test]
#[ignore = "killed by the test above"]
fn generate_in_a_child() {
    generate_quietly(&ParamsDir::generated(
        std::env::var("SEALFLOW_TEST_BASE").unwrap(),
    ))
    .unwrap();
}

#[test]
fn a_cancelled_generator_leaves_nothing() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    let result = generate(SET, &dir, |_| (), &AtomicBool::new(true));
    assert!(matches!(result, Err(ParamsError::Cancelled { .. })), "{result:?}");
    assert_eq!(status(&dir, SET).unwrap().state, SetState::Missing);
}

#[test]
fn large_circuits_can_be_cancelled_in_the_middle() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    for kind in [ParamKind::PoRep, ParamKind::EmptySectorUpdate] {
        let set = ParamSet::new(kind, SectorSize::KiB2);
        let cancel = never();
        let seen = |progress: Progress| cancel.store(progress.phase != Phase::Waiting, Ordering::Relaxed);
        let result = generate(set, &dir, seen, &cancel);
        assert!(matches!(result, Err(ParamsError::Cancelled { .. })), "{result:?}");
        assert_eq!(status(&dir, set).unwrap().state, SetState::Missing);
    }
}

#[test]
fn of_two_generators_one_waits_and_finds_the_set() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    let made = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                made.fetch_add(
                    usize::from(generate_quietly(&dir).unwrap().generated),
                    Ordering::Relaxed,
                )
            });
        }
    });
    assert_eq!(made.into_inner(), 1);
    assert!(check(&dir, SET).unwrap().is_good());
}

#[tokio::test]
async fn published_and_generated_never_mix() {
    let base = tempfile::tempdir().unwrap();
    let (published, generated) = (ParamsDir::published(&base), ParamsDir::generated(&base));
    let error = generate_quietly(&published).unwrap_err();
    assert!(
        matches!(
            error,
            ParamsError::WrongFolder {
                is: Origin::Published,
                ..
            }
        ),
        "{error}"
    );
    let error = fetch(SET, &generated, &Source::default(), |_| (), &never())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ParamsError::WrongFolder {
                is: Origin::Generated,
                ..
            }
        ),
        "{error}"
    );
    let large = ParamSet::new(ParamKind::PoRep, SectorSize::GiB32);
    let error = generate(large, &generated, |_| (), &never())
        .unwrap_err()
        .to_string();
    assert!(error.contains("sealflow params fetch porep-32GiB"), "{error}");
    assert_eq!(fs::read_dir(&base).unwrap().count(), 0);

    // A generated set in the published folder is found out.
    generate_quietly(&generated).unwrap();
    fs::rename(generated.path(), published.path()).unwrap();
    assert_eq!(status(&published, SET).unwrap().state, SetState::Present);
    let report = check_with(&published, SET, |_| (), &never()).unwrap();
    assert!(
        report
            .files
            .iter()
            .all(|file| matches!(file.verdict, Verdict::WrongDigest { .. })),
        "{report}"
    );
    assert!(report.advice().unwrap().contains("fetch window-post-2KiB"));
}

/// The library's settings are read once a process, so the proof is made in a child.
#[test]
fn the_library_proves_and_verifies_with_a_generated_set() {
    let base = tempfile::tempdir().unwrap();
    let dir = ParamsDir::generated(&base);
    generate_quietly(&dir).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "prove_and_verify_in_a_child",
            "--ignored",
            "--nocapture",
        ])
        .env("FIL_PROOFS_PARAMETER_CACHE", dir.path())
        .env("FIL_PROOFS_PARENT_CACHE", base.path().join("parents"))
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}{}",
        String::from_utf8_lossy(&child.stderr)
    );
}

#[test]
#[ignore = "needs the environment that the test above sets"]
fn prove_and_verify_in_a_child() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let seal = RegisteredSealProof::StackedDrg2KiBV1_1;
    let (prover, sector): (ProverId, _) = ([7; 32], SectorId::from(3));
    let size = UnpaddedBytesAmount(2032);
    let data: Vec<u8> = (0..2032_u32).map(|i| (i * 7 % 251) as u8).collect();
    let mut staged = fs::File::create(path("unsealed")).unwrap();
    let (piece, _): (PieceInfo, _) = add_piece(seal, &data[..], &mut staged, size, &[]).unwrap();
    drop(staged);
    fs::File::create(path("sealed")).unwrap();
    fs::create_dir(path("cache")).unwrap();
    let one = seal_pre_commit_phase1(
        seal,
        path("cache"),
        path("unsealed"),
        path("sealed"),
        prover,
        sector,
        [5; 32],
        &[piece],
    )
    .unwrap();
    let two = seal_pre_commit_phase2(one, path("cache"), path("sealed")).unwrap();

    let window = RegisteredPoStProof::StackedDrgWindow2KiBV1_2;
    let private = PrivateReplicaInfo::new(window, two.comm_r, path("cache"), path("sealed"));
    let randomness = [1; 32];
    let replicas = BTreeMap::from([(sector, private)]);
    let proofs = post::generate_window_post(&randomness, &replicas, prover).unwrap();
    let public = BTreeMap::from([(sector, PublicReplicaInfo::new(window, two.comm_r))]);
    let views: Vec<_> = proofs
        .iter()
        .map(|(proof, bytes)| (*proof, bytes.as_slice()))
        .collect();
    assert!(post::verify_window_post(&randomness, &views, &public, prover).unwrap());
    let other = [2; 32];
    assert!(!post::verify_window_post(&other, &views, &public, prover).unwrap_or(false));
    let mut tampered = proofs[0].1.clone();
    tampered.rotate_left(48);
    let views = [(proofs[0].0, tampered.as_slice())];
    assert!(!post::verify_window_post(&randomness, &views, &public, prover).unwrap_or(false));
}
