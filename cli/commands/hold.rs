//! What `workflow`, `stage` and `executor` have in common: holding back, and letting go.

use super::run::{Reason, by};
use crate::api::Client;
use crate::environment::Context;
use crate::output;

/// What is held back, or let go
#[derive(Debug, clap::Args)]
pub(crate) struct Hold {
    /// Its name
    pub(crate) name: String,
    #[command(flatten)]
    reason: Reason,
}

impl Hold {
    /// Holds it back, or lets it go.
    pub(crate) async fn set(self, cx: &Context, kind: &str, hold: bool) -> anyhow::Result<()> {
        let client = Client::need(cx).await?;
        client.hold(kind, &self.name, hold, &by(self.reason)).await?;
        output::note(&match (kind, hold) {
            ("executor" | "worker", true) => format!("{kind} {} takes no new attempts", self.name),
            (_, true) => format!(
                "{kind} {} is paused: nothing of it starts; what runs goes on",
                self.name
            ),
            (_, false) => format!("{kind} {} goes on", self.name),
        });
        Ok(())
    }
}
