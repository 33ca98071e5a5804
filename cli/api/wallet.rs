//! The wallet of a daemon that runs: locked and unlocked without a restart. What it may sign is the policy's to say, and
//! every request is in its audit log.

use axum::extract::State;
use axum::http::StatusCode;
use sealflow_chain::wallet::{Passphrase, WalletError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::Problem;
use super::extract::{Json, Path};
use super::server::{ApiError, Shared};

/// What opens the keys.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalletRequest {
    /// The passphrase, to unlock.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) passphrase: String,
}

/// How the wallet is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct WalletView {
    /// Keys in it.
    pub(crate) keys: usize,
    /// Keys that can sign now.
    pub(crate) unlocked: usize,
}

/// Locks the keys (`lock`), or unlocks them (`unlock`). Keys that were added since the start are taken up.
#[utoipa::path(
    post, path = "/api/v1/wallet/{verb}", request_body = WalletRequest,
    responses((status = 200, body = WalletView), (status = 403, body = Problem), (status = 404, body = Problem))
)]
pub(super) async fn operate_wallet(
    State(api): Shared,
    Path(verb): Path<String>,
    Json(request): Json<WalletRequest>,
) -> Result<Json<WalletView>, ApiError> {
    let refuse = |status, code, text: String| ApiError(status, code, text);
    let wallet = api.wallet.clone().ok_or_else(|| {
        let text =
            "no chain is configured: name a node under [chain] in config.toml, and start the daemon again";
        refuse(StatusCode::NOT_FOUND, "not_found", text.to_owned())
    })?;
    let secret = Zeroizing::new(request.passphrase);
    // The work of a passphrase takes long on purpose.
    let done = tokio::task::spawn_blocking(move || {
        match verb.as_str() {
            "lock" => wallet.lock()?,
            "unlock" => drop(wallet.unlock(&Passphrase::new(secret)?)?),
            _ => return Ok(None),
        }
        let keys = wallet.list();
        Ok(Some(WalletView {
            keys: keys.len(),
            unlocked: keys.iter().filter(|key| key.unlocked).count(),
        }))
    });
    let done = done
        .await
        .map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string()))?;
    match done {
        Ok(Some(view)) => Ok(Json(view)),
        Ok(None) => Err(refuse(
            StatusCode::NOT_FOUND,
            "not_found",
            "a wallet can be asked to `lock` and to `unlock`".to_owned(),
        )),
        Err(error @ WalletError::WrongPassphrase { .. }) => {
            Err(refuse(StatusCode::FORBIDDEN, "refused", error.to_string()))
        }
        Err(error) => Err(refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            error.to_string(),
        )),
    }
}
