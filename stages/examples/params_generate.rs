//! Generates parameter sets into a folder: `params_generate BASE SET...`.
use std::sync::atomic::AtomicBool;
use sealflow_stages::params::{ParamsDir, generate};

#[expect(clippy::print_stdout, reason = "an example talks to a terminal")]
fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = ParamsDir::generated(args.next().expect("a base folder"));
    for set in args {
        let last = std::sync::Mutex::new(None);
        let report = generate(set.parse()?, &dir, |p| {
            let mut last = last.lock().expect("not poisoned");
            if *last != Some((p.phase, p.elapsed.as_secs())) {
                println!("{:?}", p);
                *last = Some((p.phase, p.elapsed.as_secs()));
            }
        }, &AtomicBool::new(false))?;
        println!("{report:#?}");
    }
    Ok(())
}
