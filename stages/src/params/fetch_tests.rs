//! Fetching from a small HTTP server that can cut, refuse, forget ranges and change its mind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use blake2b_simd::blake2b;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// How the server answers one request; when the script is used up it serves plainly.
#[derive(Clone, Debug)]
enum Answer {
    /// Serves what was asked for, but only so many bytes of it.
    Cut(usize),
    /// An empty answer with this status line.
    Status(&'static str),
    /// The whole file, whatever range was asked for.
    Whole,
    /// Nothing ever, on an open connection.
    Silence,
}

struct Server {
    base_url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// Serves `content` under every path.
async fn serve(content: Vec<u8>, etag: &'static str, script: Vec<Answer>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/ipfs", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    tokio::spawn(async move {
        let mut script = VecDeque::from(script);
        let mut idle = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(socket.read_u8().await.unwrap());
            }
            let request = String::from_utf8(request).unwrap().to_lowercase();
            seen.lock().unwrap().push(request.clone());
            let answer = script.pop_front().unwrap_or(Answer::Cut(usize::MAX));
            let header = |name: &str| {
                request
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .map(|value| value.trim().to_owned())
            };
            let current = header("if-range:").is_none_or(|tag| tag == etag.to_lowercase());
            let start = header("range:")
                .filter(|_| current && !matches!(answer, Answer::Whole))
                .map_or(0, |range| {
                    range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap()
                });
            let limit = match answer {
                Answer::Status(line) => {
                    let reply = format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    socket.write_all(reply.as_bytes()).await.unwrap();
                    continue;
                }
                Answer::Silence => {
                    idle.push(socket);
                    continue;
                }
                Answer::Cut(limit) => limit,
                Answer::Whole => usize::MAX,
            };
            let total = content.len();
            let body = &content[start.min(total)..];
            let status = match start {
                0 => "200 OK".to_owned(),
                start if start >= total => format!("416 Too Far\r\nContent-Range: bytes */{total}"),
                start => format!(
                    "206 Partial Content\r\nContent-Range: bytes {start}-{}/{total}",
                    total - 1
                ),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nETag: {etag}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            // The client may be gone already; that is its business.
            if socket.write_all(head.as_bytes()).await.is_ok() {
                socket.write_all(&body[..limit.min(body.len())]).await.ok();
                socket.shutdown().await.ok();
            }
        }
    });
    Server { base_url, requests }
}

/// A few hundred kilobytes that do not repeat.
fn content(seed: u8) -> Vec<u8> {
    let mut hash = [seed; 64];
    (0..5000)
        .flat_map(|_| {
            hash = *blake2b(&hash).as_array();
            hash
        })
        .collect()
}

/// What is fetched in these tests, and what became of it.
struct Case {
    base: tempfile::TempDir,
    digest: String,
    source: Source,
}

const NAME: &str = "v28-some.params";

impl Case {
    fn new(server: &Server, content: &[u8]) -> Self {
        let source = Source {
            base_url: server.base_url.clone(),
            attempts: 3,
            backoff: Duration::from_millis(1),
            silence: Duration::from_secs(20),
        };
        let digest = blake2b(content).to_hex()[..32].to_owned();
        Self {
            base: tempfile::tempdir().unwrap(),
            digest,
            source,
        }
    }

    async fn fetch(&self) -> Result<(FileRecord, u64), ParamsError> {
        self.fetch_until(&AtomicBool::new(false)).await
    }

    async fn fetch_until(&self, cancel: &AtomicBool) -> Result<(FileRecord, u64), ParamsError> {
        let dir = ParamsDir::published(&self.base);
        dir.prepare(Origin::Published).unwrap();
        let meter = Meter::new(Phase::Waiting);
        let client = client(&self.source).unwrap();
        let transfer = Transfer {
            source: &self.source,
            client,
            dir: &dir,
            progress: &|_| (),
            meter: &meter,
            cancel,
        };
        transfer
            .fetch(&Wanted {
                name: NAME,
                cid: "QmTest",
                digest: &self.digest,
            })
            .await
    }

    fn files(&self) -> Vec<String> {
        let folder = std::fs::read_dir(self.base.path().join("published")).unwrap();
        let mut names: Vec<_> = folder
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn read(&self) -> Vec<u8> {
        std::fs::read(self.base.path().join("published").join(NAME)).unwrap()
    }
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_stopped() {
    let content = content(1);
    let server = serve(
        content.clone(),
        "\"one\"",
        vec![Answer::Cut(100_000), Answer::Cut(50_000)],
    )
    .await;
    let case = Case::new(&server, &content);
    let (record, downloaded) = case.fetch().await.unwrap();
    assert_eq!(case.read(), content);
    assert_eq!((record.bytes, downloaded), (320_000, 320_000));
    assert_eq!(case.files(), [NAME]);
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[0].starts_with("get /ipfs/qmtest http"),
        "{}",
        requests[0]
    );
    assert!(!requests[0].contains("range:"));
    assert!(requests[1].contains("range: bytes=100000-") && requests[1].contains("if-range: \"one\""));
    assert!(requests[2].contains("range: bytes=150000-"));
}

#[tokio::test]
async fn the_next_process_goes_on_too_and_a_good_file_is_left_alone() {
    let content = content(2);
    let nothing = Answer::Status("503 Busy");
    let script = vec![Answer::Cut(100_000), nothing.clone(), nothing.clone(), nothing];
    let server = serve(content.clone(), "\"two\"", script).await;
    let case = Case::new(&server, &content);
    let error = case.fetch().await.unwrap_err().to_string();
    assert!(
        error.contains("503") && error.contains("/ipfs/QmTest") && error.contains("another gateway"),
        "{error}"
    );
    assert_eq!(
        case.files(),
        [format!("{NAME}.partial"), format!("{NAME}.partial.etag")]
    );
    let (_, downloaded) = case.fetch().await.unwrap();
    assert_eq!((downloaded, case.read() == content), (220_000, true));
    let (record, downloaded) = case.fetch().await.unwrap();
    assert_eq!((record.bytes, downloaded), (320_000, 0));
    assert_eq!(server.requests.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn another_file_under_the_same_url_starts_over() {
    let content = content(3);
    let server = serve(content.clone(), "\"new\"", Vec::new()).await;
    let case = Case::new(&server, &content);
    let folder = case.base.path().join("published");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{NAME}.partial")), [9; 1000]).unwrap();
    std::fs::write(folder.join(format!("{NAME}.partial.etag")), "\"old\"").unwrap();
    let (_, downloaded) = case.fetch().await.unwrap();
    assert_eq!((downloaded, case.read() == content), (320_000, true));
    assert!(server.requests.lock().unwrap()[0].contains("if-range: \"old\""));
}

#[tokio::test]
async fn a_server_without_ranges_starts_over() {
    let content = content(4);
    let server = serve(
        content.clone(),
        "W/\"weak\"",
        vec![Answer::Cut(100_000), Answer::Whole],
    )
    .await;
    let case = Case::new(&server, &content);
    let (_, downloaded) = case.fetch().await.unwrap();
    assert_eq!((downloaded, case.read() == content), (420_000, true));
    assert!(
        !server.requests.lock().unwrap()[1].contains("if-range"),
        "a weak validator must not be used"
    );
}

#[tokio::test]
async fn a_partial_file_that_was_complete_only_needs_its_name() {
    let content = content(5);
    let server = serve(content.clone(), "\"five\"", Vec::new()).await;
    let case = Case::new(&server, &content);
    let folder = case.base.path().join("published");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{NAME}.partial")), &content).unwrap();
    let (_, downloaded) = case.fetch().await.unwrap();
    assert_eq!((downloaded, case.read() == content), (0, true));
}

#[tokio::test]
async fn the_wrong_content_is_refused_and_thrown_away() {
    let server = serve(content(6), "\"six\"", Vec::new()).await;
    let case = Case::new(&server, &content(7));
    let error = case.fetch().await.unwrap_err();
    assert!(
        matches!(&error, ParamsError::WrongContent { bytes: 320_000, .. }),
        "{error}"
    );
    let text = error.to_string();
    assert!(
        text.contains(&case.digest) && text.contains("/ipfs/QmTest") && text.contains(NAME),
        "{text}"
    );
    assert!(case.files().is_empty());
}

#[tokio::test]
async fn a_damaged_file_is_replaced() {
    let content = content(8);
    let server = serve(content.clone(), "\"eight\"", Vec::new()).await;
    let case = Case::new(&server, &content);
    let folder = case.base.path().join("published");
    std::fs::create_dir_all(&folder).unwrap();
    let mut damaged = content.clone();
    damaged[1234] ^= 1;
    std::fs::write(folder.join(NAME), damaged).unwrap();
    case.fetch().await.unwrap();
    assert_eq!(case.read(), content);
}

#[tokio::test]
async fn a_refusal_is_final_and_says_what_to_do() {
    let server = serve(Vec::new(), "\"\"", vec![Answer::Status("404 Not Found")]).await;
    let error = Case::new(&server, b"").fetch().await.unwrap_err().to_string();
    assert!(
        error.contains("404 Not Found") && error.contains("/ipfs/QmTest"),
        "{error}"
    );
    assert!(error.contains("name another gateway"), "{error}");
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_dead_server_is_given_up_after_the_attempts() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let server = Server {
        base_url,
        requests: Arc::default(),
    };
    let error = Case::new(&server, b"").fetch().await.unwrap_err();
    assert!(
        matches!(
            &error,
            ParamsError::Transfer {
                attempts: 3,
                have: 0,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_server_can_be_cancelled() {
    let server = serve(Vec::new(), "\"\"", vec![Answer::Silence]).await;
    let case = Case::new(&server, b"");
    let cancel = AtomicBool::new(false);
    let stop = async {
        while server.requests.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        cancel.store(true, Ordering::Relaxed);
    };
    let (result, ()) = tokio::join!(case.fetch_until(&cancel), stop);
    assert!(matches!(result, Err(ParamsError::Cancelled { .. })));
}
