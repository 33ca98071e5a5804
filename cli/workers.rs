//! Where workers connect to: the gRPC server of the daemon, with health and reflection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use sealflow_executor::v1;
use sealflow_executors::remote::{Service, connections};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::config::Tls;
use crate::credentials::Door;
use crate::environment::Context;
use crate::exit::{CliError, Kind};
use crate::tls;
use crate::wire::Engine;

/// The server, as long as it runs.
pub(crate) struct Workers {
    pub(crate) url: String,
    pub(crate) service: Service,
    task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Starts it, if the configuration says where.
pub(crate) async fn start(
    cx: &Context,
    engine: &Engine,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Workers>> {
    let Some(address) = cx.config.workers.listen else {
        return Ok(None);
    };
    let tls = cx.config.workers.tls;
    if tls == Tls::Off && !address.ip().is_loopback() {
        let text = format!("[workers] listen = \"{address}\" is beyond this machine, and tls is off");
        let hint = "set tls = \"server\" or \"mutual\" after `sealflow executor cert init HOST`";
        return Err(CliError::new(Kind::Config, text).hint(hint).into());
    }
    let door = Door {
        credentials: cx.home.credentials(),
        api_token: cx.home.token()?,
    };
    let (handle, stores) = (engine.handle.clone(), engine.stores.clone());
    let service = Service::new(handle, Arc::new(door), stores, cx.home.logs());
    engine.elsewhere.connect(service.clone());
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen for workers on {address}"))?;
    let local = listener.local_addr()?;
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(std::time::Duration::from_secs(5)));
    if tls != Tls::Off {
        server = server.tls_config(settings(&cx.home.tls(), tls)?)?;
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<v1::executors_server::ExecutorsServer<Service>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let stopped = stop.clone();
    let served = server
        .add_service(service.server())
        .add_service(health_service)
        .add_service(reflection)
        .serve_with_incoming_shutdown(connections(listener), async move { stopped.cancelled().await });
    Ok(Some(Workers {
        url: url(local, tls),
        service,
        task: tokio::spawn(served),
    }))
}

fn url(address: SocketAddr, tls: Tls) -> String {
    let scheme = if tls == Tls::Off { "http" } else { "https" };
    format!("{scheme}://{address}")
}

fn settings(folder: &Path, tls: Tls) -> anyhow::Result<ServerTlsConfig> {
    let identity = Identity::from_pem(
        tls::read(folder, tls::DAEMON)?,
        tls::read(folder, tls::DAEMON_KEY)?,
    );
    let mut settings = ServerTlsConfig::new().identity(identity);
    if tls == Tls::Mutual {
        settings = settings.client_ca_root(Certificate::from_pem(tls::read(folder, tls::CA)?));
    }
    Ok(settings)
}

impl Workers {
    /// Waits for its end, which `stop` brings about. Workers that are connected are let go.
    pub(crate) async fn end(self) {
        // Streams of orders stay open as long as a worker wants them: they are cut.
        self.task.abort();
        if let Ok(Err(error)) = self.task.await {
            tracing::warn!(%error, "the server of workers");
        }
    }
}
