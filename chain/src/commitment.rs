//! Commitments as CIDs: comm_r of a sealed sector, comm_d of its data, comm_p of a piece (chain.md §2.8).

use fvm_shared::commcid;

use crate::types::Cid;

/// Why a CID is not the commitment that is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{cid}` is not {meant}: {reason}")]
pub struct CommitmentError {
    cid: String,
    meant: &'static str,
    reason: String,
}

/// The CID of a sealed sector (`bagboea4b5abc…`) for comm_r.
///
/// # Errors
/// Never for 32 bytes; the published constructor can fail, so this can.
pub fn sealed_cid(comm_r: &[u8; 32]) -> Result<Cid, CommitmentError> {
    commcid::replica_commitment_v1_to_cid(comm_r).map_err(|reason| CommitmentError {
        cid: hex::encode(comm_r),
        meant: "a replica commitment",
        reason: reason.into(),
    })
}

/// The CID of unsealed data or of a piece (`baga6ea4seaq…`) for comm_d or comm_p.
///
/// # Errors
/// Never for 32 bytes; the published constructor can fail, so this can.
pub fn unsealed_cid(comm_d: &[u8; 32]) -> Result<Cid, CommitmentError> {
    commcid::data_commitment_v1_to_cid(comm_d).map_err(|reason| CommitmentError {
        cid: hex::encode(comm_d),
        meant: "a data commitment",
        reason: reason.into(),
    })
}

/// comm_r of a sealed sector's CID.
///
/// # Errors
/// The CID has another codec, hash or length.
pub fn comm_r(cid: &Cid) -> Result<[u8; 32], CommitmentError> {
    check_version(cid, "a sealed CID")?;
    commcid::cid_to_replica_commitment_v1(cid).map_err(|reason| CommitmentError {
        cid: cid.to_string(),
        meant: "a sealed CID",
        reason: reason.into(),
    })
}

/// comm_d or comm_p of an unsealed CID.
///
/// # Errors
/// The CID has another codec, hash or length.
pub fn comm_d(cid: &Cid) -> Result<[u8; 32], CommitmentError> {
    check_version(cid, "an unsealed or piece CID")?;
    commcid::cid_to_data_commitment_v1(cid).map_err(|reason| CommitmentError {
        cid: cid.to_string(),
        meant: "an unsealed or piece CID",
        reason: reason.into(),
    })
}

fn check_version(cid: &Cid, meant: &'static str) -> Result<(), CommitmentError> {
    if cid.version() == cid::Version::V1 {
        return Ok(());
    }
    Err(CommitmentError {
        cid: cid.to_string(),
        meant,
        reason: "it is a CID of version 0".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        let sealed = sealed_cid(&[0x11; 32]).unwrap();
        let unsealed = unsealed_cid(&[0x22; 32]).unwrap();
        assert!(sealed.to_string().starts_with("bagboea4b5abcaeirc"), "{sealed}");
        assert!(
            unsealed.to_string().starts_with("baga6ea4seaqceirc"),
            "{unsealed}"
        );
        assert_eq!(comm_r(&sealed).unwrap(), [0x11; 32]);
        assert_eq!(comm_d(&unsealed).unwrap(), [0x22; 32]);
    }

    #[test]
    fn one_is_not_taken_for_the_other() {
        let sealed = sealed_cid(&[0x11; 32]).unwrap();
        let unsealed = unsealed_cid(&[0x22; 32]).unwrap();
        assert!(
            comm_d(&sealed)
                .unwrap_err()
                .to_string()
                .contains("is not an unsealed")
        );
        assert!(
            comm_r(&unsealed)
                .unwrap_err()
                .to_string()
                .contains("is not a sealed")
        );
    }
}
