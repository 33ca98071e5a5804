//! How the daemon is reached: its address, the token or certificate that it knows us by, and the certificate that we know
//! it by.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

use crate::MAX_MESSAGE;
use crate::session::Error;
use crate::v1::executors_client::ExecutorsClient;

/// A client certificate with its key, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
}

/// How the daemon is reached.
#[derive(Clone)]
pub struct Connection {
    /// `http://HOST:PORT`, or `https://HOST:PORT`; of several daemons that share a journal all of them, with commas between.
    pub url: String,
    /// A token of the role `executor`.
    pub token: Option<String>,
    /// The certificate of who signs the daemon's, PEM; with `https` and none the system's are used.
    pub ca: Option<Vec<u8>>,
    /// Who we are, if the daemon knows us by a certificate.
    pub identity: Option<Identity>,
}

/// Adds the token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

pub(crate) type Client = ExecutorsClient<tonic::service::interceptor::InterceptedService<Channel, Bearer>>;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection without any answer for so long is dead.
const KEEP_ALIVE: Duration = Duration::from_secs(4);

impl Connection {
    /// Connects. Every caller gets a connection of its own. Of several daemons only one lets anybody connect; who begins
    /// with another one each time is not held up for ever by one that is frozen.
    pub(crate) async fn open(&self) -> Result<Client, Error> {
        static TURN: AtomicUsize = AtomicUsize::new(0);
        let urls: Vec<&str> = self.url.split(',').map(str::trim).collect();
        let first = TURN.fetch_add(usize::from(urls.len() > 1), Ordering::Relaxed);
        let mut failed = None;
        for at in 0..urls.len() {
            match self.open_one(urls[(first + at) % urls.len()]).await {
                Ok(client) => return Ok(client),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::Config("no daemon is named".to_owned())))
    }

    async fn open_one(&self, url: &str) -> Result<Client, Error> {
        let refused = |error: &dyn std::error::Error| Error::Config(format!("{url}: {error}"));
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| refused(&error))?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        if url.starts_with("https://") {
            let mut tls = ClientTlsConfig::new();
            tls = match &self.ca {
                Some(ca) => tls.ca_certificate(Certificate::from_pem(ca)),
                None => tls.with_native_roots(),
            };
            if let Some(Identity { certificate, key }) = &self.identity {
                tls = tls.identity(tonic::transport::Identity::from_pem(certificate, key));
            }
            endpoint = endpoint.tls_config(tls).map_err(|error| refused(&error))?;
        }
        let bearer = self
            .token
            .as_ref()
            .map(|token| format!("Bearer {}", token.trim()).parse());
        let mut bearer: Option<MetadataValue<Ascii>> = bearer
            .transpose()
            .map_err(|_| Error::Config("the token has characters that no token has".to_owned()))?;
        if let Some(token) = &mut bearer {
            token.set_sensitive(true);
        }
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Error::Unreachable(chain(&error)))?;
        let client = ExecutorsClient::with_interceptor(channel, Bearer(bearer));
        Ok(client
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
