//! The names of sets, and that their files are those the library looks up.

use super::*;

#[test]
fn names_are_read_back() {
    assert_eq!(ParamSet::all().count(), 20);
    for set in ParamSet::all() {
        assert_eq!(set.to_string().parse::<ParamSet>().unwrap(), set);
    }
    let set = "WINDOW-POST-8mib".parse::<ParamSet>().unwrap();
    assert_eq!(set, ParamSet::new(ParamKind::WindowPost, SectorSize::MiB8));
    let error = "window-post-4KiB".parse::<ParamSet>().unwrap_err().to_string();
    assert!(
        error.contains("window-post-4KiB") && error.contains("porep-2KiB"),
        "{error}"
    );
}

/// The library's own public entry points agree on the names, for all versions and features of a proof.
#[test]
fn files_are_those_the_library_looks_up() {
    let of = |kind, size| ParamSet::new(kind, size).files().unwrap();
    let same = |files: &SetFiles, paths: [std::path::PathBuf; 2]| {
        for (name, path) in files.names().into_iter().zip(paths) {
            assert_eq!(path.file_name().unwrap().to_str().unwrap(), name);
        }
    };
    for proof in [
        RegisteredSealProof::StackedDrg2KiBV1_1,
        RegisteredSealProof::StackedDrg2KiBV1_1_Feat_SyntheticPoRep,
        RegisteredSealProof::StackedDrg2KiBV1_2_Feat_NonInteractivePoRep,
    ] {
        let paths = [
            proof.cache_params_path().unwrap(),
            proof.cache_verifying_key_path().unwrap(),
        ];
        same(&of(ParamKind::PoRep, SectorSize::KiB2), paths);
    }
    let proof = RegisteredSealProof::StackedDrg32GiBV1_2_Feat_NonInteractivePoRep;
    let paths = [
        proof.cache_params_path().unwrap(),
        proof.cache_verifying_key_path().unwrap(),
    ];
    same(&of(ParamKind::PoRep, SectorSize::GiB32), paths);
    for (proof, kind, size) in [
        (
            RegisteredPoStProof::StackedDrgWinning64GiBV1,
            ParamKind::WinningPost,
            SectorSize::GiB64,
        ),
        (
            RegisteredPoStProof::StackedDrgWindow8MiBV1_2,
            ParamKind::WindowPost,
            SectorSize::MiB8,
        ),
        (
            RegisteredPoStProof::StackedDrgWindow8MiBV1,
            ParamKind::WindowPost,
            SectorSize::MiB8,
        ),
    ] {
        same(
            &of(kind, size),
            [
                proof.cache_params_path().unwrap(),
                proof.cache_verifying_key_path().unwrap(),
            ],
        );
    }
}

#[test]
fn names_are_pinned() {
    let files = ParamSet::new(ParamKind::PoRep, SectorSize::KiB2).files().unwrap();
    assert!(
        files
            .params
            .starts_with("v28-stacked-proof-of-replication-merkletree-poseidon_hasher-8-0-0-sha256")
    );
    assert!(files.params.ends_with("2b3793b06832f.params"), "{}", files.params);
    assert!(
        files.verifying_key.ends_with("fee82b3793b06832f.vk"),
        "{}",
        files.verifying_key
    );
    // The registry of the library names the PoRep files for updates too, but its prover opens these.
    let files = ParamSet::new(ParamKind::EmptySectorUpdate, SectorSize::KiB2)
        .files()
        .unwrap();
    assert!(
        files
            .params
            .starts_with("v28-empty-sector-update-merkletree-poseidon_hasher-8-0-0-fb9e")
    );
}

#[test]
fn every_set_was_published_for_its_own_size() {
    for set in ParamSet::all() {
        for data in set.published().unwrap().unwrap() {
            assert_eq!(
                (data.sector_size, data.digest.len()),
                (set.size.bytes(), 32),
                "{set}"
            );
        }
    }
}
