//! `sealflow executor token|cert`: who may be a worker, and what the daemon shows to workers.

use std::path::PathBuf;
use std::time::Duration;

use clap::Subcommand;

use crate::credentials::{Credentials, Shows, check_name};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::view::time;
use crate::{output, tls};

#[derive(Debug, Subcommand)]
pub(super) enum Token {
    /// Make a token for a worker, and tell it once
    Create {
        /// The name of the worker
        worker: String,
        /// How long it is valid, as in 30d [default: for ever]
        #[arg(long, value_parser = humantime::parse_duration)]
        valid: Option<Duration>,
    },
    /// List tokens and certificates of workers
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take back every token and certificate of a worker
    Revoke {
        /// The name of the worker
        worker: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Cert {
    /// Make the daemon's certificate, and an authority of one's own if there is none
    Init {
        /// Names and addresses that workers reach this machine under
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Make a client certificate for a worker
    Issue {
        /// The name of the worker
        worker: String,
        /// The folder to write WORKER.pem, WORKER.key and ca.pem into
        #[arg(long, default_value = ".")]
        out: PathBuf,
    },
}

pub(super) fn token(cx: &Context, command: Token) -> anyhow::Result<()> {
    cx.home.prepare()?;
    let path = cx.home.credentials();
    let mut known = Credentials::read(&path)?;
    match command {
        Token::Create { worker, valid } => {
            check_name(&worker)?;
            let token = known.token(&worker, valid);
            known.write(&path)?;
            output::data(&token);
            output::note(&format!("for worker {worker}; it is not told again"));
            Ok(())
        }
        Token::List { json } => {
            if json {
                return output::json(&known.workers);
            }
            let rows = known.workers.iter().map(|one| {
                let shows = match one.shows {
                    Shows::Token => "token",
                    Shows::Certificate => "certificate",
                };
                vec![
                    one.worker.clone(),
                    shows.to_owned(),
                    time(one.made),
                    one.expires.map_or_else(|| "never".to_owned(), time),
                ]
            });
            output::table(&["worker", "shows", "made", "ends"], rows.collect());
            Ok(())
        }
        Token::Revoke { worker } => {
            let revoked = known.revoke(&worker);
            if revoked == 0 {
                let text =
                    format!("worker `{worker}` has no credentials; `sealflow executor token list` shows all");
                return Err(CliError::new(Kind::NotFound, text).into());
            }
            known.write(&path)?;
            output::note(&format!(
                "{} of worker {worker} revoked",
                output::count(revoked, "credential")
            ));
            Ok(())
        }
    }
}

pub(super) fn cert(cx: &Context, command: Cert) -> anyhow::Result<()> {
    cx.home.prepare()?;
    let folder = cx.home.tls();
    match command {
        Cert::Init { hosts } => {
            tls::init(&folder, hosts)?;
            output::note(&format!(
                "the daemon's certificate is in {}; workers need its ca.pem; restart the daemon to show it",
                folder.display()
            ));
            Ok(())
        }
        Cert::Issue { worker, out } => {
            check_name(&worker)?;
            let issued = tls::issue(&folder, &worker)?;
            let path = cx.home.credentials();
            let mut known = Credentials::read(&path)?;
            known.certificate(&worker, &issued.der, tls::VALID);
            known.write(&path)?;
            std::fs::create_dir_all(&out)?;
            let ca = tls::read(&folder, tls::CA)?;
            for (name, bytes) in [
                (format!("{worker}.key"), issued.key.as_bytes()),
                (format!("{worker}.pem"), issued.certificate.as_bytes()),
                ("ca.pem".to_owned(), &ca),
            ] {
                sealflow_engine::durable::write_secret(&out.join(name), bytes)?;
            }
            output::note(&format!(
                "{}/{worker}.pem and .key, for worker {worker}",
                out.display()
            ));
            Ok(())
        }
    }
}
