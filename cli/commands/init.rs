//! `sealflow init`: makes a data directory.

use sealflow_engine::durable;

use crate::builtin::BUILTIN;
use crate::config::DEFAULT_TEXT;
use crate::environment::Context;
use crate::{machine, output};

/// Make a data directory with a configuration file, a machine profile and workflow files to edit
///
/// What is there already is left as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(cx: &Context, _: &Args) -> anyhow::Result<()> {
    cx.home.prepare()?;
    let mut files = vec![
        (cx.home.config(), DEFAULT_TEXT),
        (cx.home.machine(), machine::DEFAULT_TEXT),
    ];
    for (name, text) in BUILTIN {
        files.push((cx.home.workflows().join(format!("{name}.toml")), text));
    }
    for (path, text) in files {
        if path.exists() {
            output::note(&format!("kept  {}", path.display()));
        } else {
            durable::write(&path, text.as_bytes())?;
            output::note(&format!("wrote {}", path.display()));
        }
    }
    let home = cx.home.root().display();
    output::note(&format!(
        "\nnext: sealflow --home {home} doctor\n      sealflow --home {home} daemon"
    ));
    Ok(())
}
