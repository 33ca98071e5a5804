//! `sealflow completions`: completions for shells.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;

/// Print completions for a shell
///
/// For bash: sealflow completions bash > ~/.local/share/bash-completion/completions/sealflow
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &Args) {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sealflow", &mut text);
    crate::output::data(&String::from_utf8_lossy(&text));
}
