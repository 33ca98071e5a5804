//! `sealflow executor test`: whether a vendor's program or service is a good executor.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;

use crate::conformance::{Program, Subject, Verdict, test};
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::output;

/// Hold a program or a service against the protocol, and its results against the library's
///
/// Seals a small sector by the library, and again with what is tested for every stage that it claims. Needs no daemon,
/// and changes nothing in the home. A stage that makes a SNARK takes a minute.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this stage; may be given more than once [default: all that it claims]
    #[arg(long = "stage", value_name = "STAGE")]
    stages: Vec<String>,
    /// Test an executor that connects to this address, instead of a program
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["command", "env"])]
    grpc: Option<SocketAddr>,
    /// The sector's size
    #[arg(long, default_value = "2KiB", value_name = "SIZE")]
    sector_size: ByteSize,
    /// A variable that the program gets
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// How long the program may take to get ready
    #[arg(long, default_value = "1min", value_name = "TIME", value_parser = humantime::parse_duration)]
    ready_timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The program and its arguments; {stage} stands for the stage's name
    #[arg(last = true, value_name = "COMMAND", required_unless_present = "grpc")]
    command: Vec<String>,
}

pub(crate) async fn run(cx: &Context, args: Args) -> anyhow::Result<()> {
    let proof = crate::sizes::seal_proof(args.sector_size)?;
    let subject = match args.grpc {
        Some(address) => Subject::Remote(address),
        None => Subject::Program(Program {
            command: args.command,
            env: variables(&args.env)?,
            ready: args.ready_timeout,
        }),
    };
    let checks = Box::pin(test(cx, &subject, &args.stages, proof)).await?;
    if args.json {
        output::json(&checks)?;
    } else {
        let rows = checks.iter().map(|check| {
            let verdict = match check.verdict {
                Verdict::Ok => "ok",
                Verdict::Warning => "warning",
                Verdict::Failed => "FAILED",
                Verdict::NotTested => "not tested",
            };
            vec![
                check.stage.clone(),
                check.check.to_owned(),
                verdict.to_owned(),
                check.found.clone(),
            ]
        });
        output::table(&["stage", "check", "", "found"], rows.collect());
    }
    let failed = checks
        .iter()
        .filter(|check| check.verdict == Verdict::Failed)
        .count();
    if failed == 0 {
        return Ok(());
    }
    Err(CliError::new(
        Kind::CheckFailed,
        format!("{} failed", output::count(failed, "check")),
    )
    .into())
}

fn variables(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let pair = text
            .split_once('=')
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| CliError::new(Kind::Usage, format!("`{text}` is not NAME=VALUE")).into())
    };
    given.iter().map(pair).collect()
}
