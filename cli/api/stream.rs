//! Reading a daemon's stream of events (server-sent events).

use anyhow::Context as _;

use super::events::StreamedEntry;

/// The most bytes of one event.
const LONGEST: usize = 64 << 20;

/// What a stream says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// An entry, and the `id` to go on behind it.
    Entry(String, StreamedEntry),
    /// From here on; some events before may be missing.
    Gap(String),
    /// No more comes, and why.
    End(String),
}

/// A stream that is being read.
pub(crate) struct Events {
    response: reqwest::Response,
    lines: Lines,
}

impl Events {
    pub(super) fn new(response: reqwest::Response) -> Self {
        let lines = Lines::default();
        Self { response, lines }
    }

    /// What comes next; nothing if the connection was closed without an end.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Said>> {
        loop {
            if let Some(said) = self.lines.next()? {
                return Ok(Some(said));
            }
            match self
                .response
                .chunk()
                .await
                .context("the daemon's stream of events broke off")?
            {
                Some(piece) => self.lines.push(&piece)?,
                None => return Ok(None),
            }
        }
    }
}

/// The lines of a stream, as far as they came.
#[derive(Default)]
struct Lines {
    waiting: Vec<u8>,
    /// Bytes of it in which no line ends.
    looked: usize,
    event: String,
    id: String,
    data: String,
}

impl Lines {
    fn push(&mut self, piece: &[u8]) -> anyhow::Result<()> {
        self.waiting.extend_from_slice(piece);
        let long = self.waiting.len() + self.data.len() > LONGEST;
        anyhow::ensure!(
            !long,
            "the daemon sent an event of more than {} MiB",
            LONGEST >> 20
        );
        Ok(())
    }

    /// The next event that is complete.
    fn next(&mut self) -> anyhow::Result<Option<Said>> {
        while let Some(end) = self.waiting[self.looked..].iter().position(|byte| *byte == b'\n') {
            let rest = self.waiting.split_off(self.looked + end + 1);
            let line = std::mem::replace(&mut self.waiting, rest);
            self.looked = 0;
            let line = String::from_utf8(line).context("the daemon's stream of events is not text")?;
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if let Some(said) = self.event()? {
                    return Ok(Some(said));
                }
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => value.clone_into(&mut self.event),
                "id" => value.clone_into(&mut self.id),
                "data" => self.data.push_str(value),
                // Comments, which only show that the daemon is there.
                _ => {}
            }
        }
        self.looked = self.waiting.len();
        Ok(None)
    }

    fn event(&mut self) -> anyhow::Result<Option<Said>> {
        let (event, data) = (std::mem::take(&mut self.event), std::mem::take(&mut self.data));
        let id = self.id.clone();
        Ok(match event.as_str() {
            "entry" => Some(Said::Entry(id, serde_json::from_str(&data)?)),
            "gap" => Some(Said::Gap(id)),
            "end" => {
                let value: serde_json::Value = serde_json::from_str(&data)?;
                Some(Said::End(value["reason"].as_str().unwrap_or_default().to_owned()))
            }
            // `begin`, and what a newer daemon may say.
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = "event: begin\nid: 3-1\ndata: {}\n\n: still here\n\nevent: entry\nid: 3-2\n\
            data: {\"run\":\"r\",\"seq\":5,\"at\":\"now\",\"events\":[]}\n\nevent: gap\nid: 3-9\ndata: {}\n\n\
            event: new\ndata: x\n\nevent: end\ndata: {\"reason\":\"too_slow\"}\n\n";
        for size in [1, 7, 1000] {
            let mut lines = Lines::default();
            let mut said = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                lines.push(piece).unwrap();
                while let Some(one) = lines.next().unwrap() {
                    said.push(one);
                }
            }
            let entry = StreamedEntry {
                run: "r".to_owned(),
                seq: 5,
                at: "now".to_owned(),
                events: Vec::new(),
            };
            assert_eq!(
                said,
                [
                    Said::Entry("3-2".to_owned(), entry),
                    Said::Gap("3-9".to_owned()),
                    Said::End("too_slow".to_owned())
                ],
                "{size}"
            );
        }
        let mut lines = Lines::default();
        lines.push(b"event: entry\ndata: {\n\n").unwrap();
        assert!(lines.next().is_err());
    }
}
