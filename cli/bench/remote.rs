//! Executors that connect over gRPC, as those on other machines do.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sealflow_engine::artifact::Stores;
use sealflow_engine::dispatcher::Handle;
use sealflow_engine::id::RunId;
use sealflow_executor::{Connection, End, Handler, Job, Profile, v1};
use sealflow_executors::remote::{Access, Caller, Service, connections};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::noop::Starts;

/// Whoever calls is let in: nothing but this process knows the port, and nothing is behind it.
struct Anybody;

impl Access for Anybody {
    fn admit(&self, _: Option<&str>, _: &[Vec<u8>]) -> Result<Caller, String> {
        Ok(Caller { worker: None })
    }
}

/// Does nothing.
struct Nothing(Starts);

impl Handler for Nothing {
    async fn run(&self, job: Job, _: sealflow_executor::Context) -> End {
        if let Ok(run) = RunId::from_str(&job.attempt.run) {
            self.0.add((run, job.attempt.step));
        }
        End::Done(b"{}".to_vec())
    }
}

/// Executors that are connected.
pub(super) struct Far {
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    executors: Vec<JoinHandle<Result<(), sealflow_executor::Error>>>,
    shutdown: CancellationToken,
    _logs: tempfile::TempDir,
}

impl Far {
    pub(super) async fn end(self) {
        self.shutdown.cancel();
        for executor in self.executors {
            // They were told to end.
            drop(executor.await);
        }
        self.server.abort();
        drop(self.server.await);
    }
}

/// Connects so many executors, each for so many attempts at a time, and waits until they are.
pub(super) async fn connect(
    handle: &Handle,
    count: usize,
    concurrency: usize,
    starts: &Starts,
) -> anyhow::Result<Far> {
    let logs = tempfile::tempdir()?;
    let folder = logs.path().to_owned();
    let service = Service::new(handle.clone(), Arc::new(Anybody), Stores::default(), folder);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = tonic::transport::Server::builder().add_service(service.server());
    let server = tokio::spawn(server.serve_with_incoming(connections(listener)));
    let shutdown = CancellationToken::new();
    let handler = Arc::new(Nothing(starts.clone()));
    let executors = (0..count).map(|number| {
        let connection = Connection {
            url: url.clone(),
            token: None,
            ca: None,
            identity: None,
        };
        let profile = profile(number, concurrency);
        tokio::spawn(sealflow_executor::run(
            connection,
            profile,
            handler.clone(),
            shutdown.clone(),
        ))
    });
    let executors = executors.collect();
    let connected = async {
        while handle.engine().await?.executors.len() < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    let connected = tokio::time::timeout(Duration::from_secs(60), connected).await;
    connected.context("the executors did not connect")??;
    Ok(Far {
        server,
        executors,
        shutdown,
        _logs: logs,
    })
}

fn profile(number: usize, concurrency: usize) -> Profile {
    let offer = v1::Offer {
        name: "noop".to_owned(),
        stages: vec![v1::StageVersion {
            stage: "noop".to_owned(),
            version: 1,
        }],
        concurrency: u32::try_from(concurrency.max(1)).unwrap_or(u32::MAX),
        killable: true,
        ..v1::Offer::default()
    };
    Profile {
        worker: format!("m{number}"),
        program: "bench".to_owned(),
        capacity: v1::Resources {
            cpu: 64,
            memory: 1 << 40,
            ..v1::Resources::default()
        },
        offers: vec![offer],
        ..Profile::default()
    }
}
