//! An executor on another machine, in Rust: it draws the seeds of seal proofs from a beacon of your own instead of ours.
//! It imports nothing of sealflow but the crate for vendors.
//!
//! On the daemon's machine: `[workers] listen = "127.0.0.1:7443"` in config.toml, an executor list in machine.toml that does
//! not run `seed`, and `sealflow executor token create beacon > token`. Then
//!
//! ```sh
//! cargo run --release --example remote_executor -- http://127.0.0.1:7443 token beacon
//! ```

use std::sync::Arc;

use sealflow_executor::{Connection, Context, End, Failure, Handler, Job, Profile, v1};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

/// Gives a seed for a sector: a hash of a secret and of what the seed is for.
struct Beacon {
    secret: [u8; 32],
}

impl Handler for Beacon {
    async fn run(&self, job: Job, cx: Context) -> End {
        cx.progress(v1::Progress {
            phase: "asking the beacon".to_owned(),
            ..v1::Progress::default()
        });
        let input: Value = match serde_json::from_slice(&job.input) {
            Ok(input) => input,
            Err(error) => {
                return End::Failed(Failure {
                    class: "permanent",
                    code: "bad_input".to_owned(),
                    message: error.to_string(),
                });
            }
        };
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update(input["comm_r"].to_string());
        hash.update(&job.subject);
        let seed: [u8; 32] = hash.finalize().into();
        let output = json!({ "seed": hex::encode(seed), "seed_source": "my beacon" });
        End::Done(output.to_string().into_bytes())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(token), Some(worker)) = (args.next(), args.next(), args.next()) else {
        return Err("usage: remote_executor URL TOKEN_FILE WORKER".into());
    };
    let connection = Connection {
        url,
        token: Some(std::fs::read_to_string(token)?.trim().to_owned()),
        ca: None,
        identity: None,
    };
    let profile = Profile {
        worker,
        program: "my beacon 1.0".to_owned(),
        capacity: v1::Resources {
            cpu: 1,
            memory: 1 << 30,
            ..v1::Resources::default()
        },
        offers: vec![v1::Offer {
            name: "seeds".to_owned(),
            stages: vec![v1::StageVersion {
                stage: "seed".to_owned(),
                version: 1,
            }],
            concurrency: 16,
            killable: true,
            ..v1::Offer::default()
        }],
        ..Profile::default()
    };
    let beacon = Beacon {
        secret: rand::random(),
    };
    Ok(sealflow_executor::run(connection, profile, Arc::new(beacon), CancellationToken::new()).await?)
}
