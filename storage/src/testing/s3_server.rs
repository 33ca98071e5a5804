//! An S3 server in this process, on the package `s3s-fs`: it keeps objects in a folder, checks signatures, and can be told
//! to misbehave.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse};
use s3s_fs::FileSystem;

/// The access key that is let in.
pub const ACCESS_KEY: &str = "AKIATESTTESTTESTTEST";
/// Its secret.
pub const SECRET_KEY: &str = "never/print/this/secret/key";
/// The bucket that there is.
pub const BUCKET: &str = "sectors";

/// What the server does instead of answering.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// An answer with this status, and this code in its body.
    Answer(u16, &'static str),
    /// An answer with this status and this body.
    Body(u16, &'static str),
    /// The connection ends without an answer.
    Drop,
    /// The answer comes late.
    Late(Duration),
}

/// When a trouble comes: at requests whose method and path this says yes to.
type When = Box<dyn Fn(&str, &str) -> bool + Send>;

#[derive(Default)]
struct Told {
    once: VecDeque<(When, Trouble)>,
    always: Option<(When, Trouble)>,
}

/// The server. It ends with this.
pub struct S3Server {
    /// Its address.
    pub endpoint: String,
    folder: PathBuf,
    told: Arc<Mutex<Told>>,
    counts: Arc<Counts>,
    stop: tokio::sync::watch::Sender<bool>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
}

impl S3Server {
    /// Starts it on a folder, with an empty bucket.
    ///
    /// # Panics
    /// It cannot be started.
    pub async fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder.join(BUCKET)).expect("a folder");
        let mut service = S3ServiceBuilder::new(FileSystem::new(folder).expect("a folder"));
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let listener = listener.await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let (told, counts) = (Arc::<Mutex<Told>>::default(), Arc::<Counts>::default());
        let (stop, stopped) = tokio::sync::watch::channel(false);
        tokio::spawn(accept(
            listener,
            service,
            told.clone(),
            counts.clone(),
            folder.to_owned(),
            stopped,
        ));
        Self {
            endpoint,
            folder: folder.to_owned(),
            told,
            counts,
            stop,
        }
    }

    /// The file of an object.
    pub fn object(&self, key: &str) -> PathBuf {
        self.folder.join(BUCKET).join(key)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// The next request that `when` says yes to gets this trouble.
    pub fn once(&self, when: impl Fn(&str, &str) -> bool + Send + 'static, trouble: Trouble) {
        self.told
            .lock()
            .expect("nobody panics with it")
            .once
            .push_back((Box::new(when), trouble));
    }

    /// All requests that `when` says yes to get this trouble from now on.
    pub fn always(&self, when: impl Fn(&str, &str) -> bool + Send + 'static, trouble: Trouble) {
        self.told.lock().expect("nobody panics with it").always = Some((Box::new(when), trouble));
    }

    /// No trouble any more.
    pub fn heal(&self) {
        *self.told.lock().expect("nobody panics with it") = Told::default();
    }

    /// A file with the right credentials, as `aws configure` writes it.
    pub fn credentials(&self, secret: &str) -> String {
        format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

async fn accept(
    listener: tokio::net::TcpListener,
    service: S3Service,
    told: Arc<Mutex<Told>>,
    counts: Arc<Counts>,
    folder: PathBuf,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) {
    loop {
        let (socket, _) = tokio::select! {
            accepted = listener.accept() => accepted.expect("a connection"),
            _ = stopped.changed() => return,
        };
        let (service, told, counts, folder) = (service.clone(), told.clone(), counts.clone(), folder.clone());
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, &service, &told, &counts, &folder));
            let server = hyper::server::conn::http1::Builder::new();
            // A connection that ends badly is the client's to notice.
            drop(server.serve_connection(TokioIo::new(socket), answer).await);
        });
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    service: &S3Service,
    told: &Mutex<Told>,
    counts: &Counts,
    folder: &Path,
) -> Result<HttpResponse, Box<dyn std::error::Error + Send + Sync>> {
    counts.requests.fetch_add(1, Ordering::SeqCst);
    match trouble(told, request.method().as_str(), &request.uri().to_string()) {
        None => {}
        Some(Trouble::Late(delay)) => tokio::time::sleep(delay).await,
        Some(Trouble::Drop) => return Err("told to drop the connection".into()),
        Some(Trouble::Body(status, body)) => {
            let body = Body::from(body.to_owned());
            return Ok(hyper::Response::builder().status(status).body(body)?);
        }
        Some(Trouble::Answer(status, code)) => {
            let body = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
            return Ok(hyper::Response::builder().status(status).body(Body::from(body))?);
        }
    }
    // The package takes a folder for an object. In S3 there are no folders.
    if request.uri().query().is_none() && folder.join(request.uri().path().trim_start_matches('/')).is_dir() {
        let status = if request.method() == hyper::Method::DELETE {
            204
        } else {
            404
        };
        if request.uri().path().trim_matches('/').contains('/') {
            return Ok(hyper::Response::builder().status(status).body(Body::empty())?);
        }
    }
    let answered = service.call(request.map(Body::from)).await;
    answered.map_err(|error| format!("{error:?}").into())
}

fn trouble(told: &Mutex<Told>, method: &str, path: &str) -> Option<Trouble> {
    let mut told = told.lock().expect("nobody panics with it");
    if told.once.front().is_some_and(|(when, _)| when(method, path)) {
        return told.once.pop_front().map(|(_, trouble)| trouble);
    }
    let always = told.always.as_ref().filter(|(when, _)| when(method, path));
    always.map(|(_, trouble)| trouble.clone())
}
