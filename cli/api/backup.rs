//! The backup of a running daemon: the lines of `store backup`, as they are written.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use sealflow_storage::journal::{Sink, export};
use tokio::sync::mpsc;

use super::server::Shared;

/// Bytes that are sent together.
const PIECE: usize = 256 << 10;
/// Pieces that wait for a slow client, which makes the export wait; commits go on meanwhile.
const PIECES: usize = 4;
/// A client that takes nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

type Piece = Result<Vec<u8>, io::Error>;

/// Sends pieces to the task that answers the client.
struct Pieces {
    to: mpsc::Sender<Piece>,
    piece: Vec<u8>,
}

impl Pieces {
    async fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone");
        self.to.send_timeout(Ok(piece), SILENCE).await.map_err(gone)
    }
}

impl Sink for Pieces {
    async fn put(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        self.piece.extend_from_slice(&bytes);
        if self.piece.len() < PIECE {
            return Ok(());
        }
        self.send().await
    }

    async fn finish(&mut self) -> io::Result<()> {
        self.send().await
    }
}

/// A backup of the whole history, as it is at one moment; runs go on meanwhile. Lines of JSON, the last of
/// which proves all others: an answer without it is cut off.
#[utoipa::path(get, path = "/api/v1/backup", responses((status = 200, content_type = "application/jsonl", body = String)))]
pub(super) async fn backup(State(api): Shared) -> Response {
    let (to, from) = mpsc::channel::<Piece>(PIECES);
    let journal = api.journal.clone();
    tokio::spawn(async move {
        let piece = Vec::new();
        let pieces = Pieces {
            to: to.clone(),
            piece,
        };
        if let Err(error) = export(&journal, pieces).await {
            tracing::error!(%error, "a backup that a client asked for was not written");
            // The client sees that the answer is cut off, whatever comes of this.
            drop(to.send(Err(io::Error::other(error.to_string()))).await);
        }
    });
    let pieces = futures::stream::unfold(from, |mut from| async { Some((from.recv().await?, from)) });
    let kind = [(header::CONTENT_TYPE, "application/jsonl")];
    (kind, Body::from_stream(pieces)).into_response()
}
