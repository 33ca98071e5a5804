//! Reads what `strace -f -y -xx` recorded: the calls that change files below a folder, in the order in which they ended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Fallible, inside};

/// The calls that are recorded.
pub(crate) const CALLS: &str = "trace=openat,open,creat,write,pwrite64,writev,fsync,fdatasync,ftruncate,truncate,rename,renameat,renameat2,\
    unlink,unlinkat,mkdir,mkdirat,rmdir,lseek,fallocate,copy_file_range,sendfile,link,linkat,msync";

/// What happened, by paths below the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// A file is there, perhaps since this call.
    Create(PathBuf),
    Folder(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    Truncate(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    /// A file or a folder.
    Remove(PathBuf),
    /// A file or a folder.
    Sync(PathBuf),
    /// The process said that this commit is durable.
    Ack(u16),
}

/// Where an open file is written to next.
#[derive(Default)]
struct Open {
    at: u64,
    append: bool,
}

/// Reads the record.
pub(crate) fn read(record: &Path, folder: &Path) -> Fallible<Vec<Call>> {
    let text = std::fs::read_to_string(record)?;
    let mut reader = Reader {
        folder,
        calls: Vec::new(),
        open: HashMap::new(),
        sizes: HashMap::new(),
    };
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    for line in text.lines() {
        let Some((thread, line)) = line.split_once(' ') else {
            continue;
        };
        let line = line.trim_start();
        if let Some(begun) = line.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, begun);
        } else if let Some(resumed) = line.strip_prefix("<... ") {
            let Some((_, rest)) = resumed.split_once(" resumed>") else {
                continue;
            };
            if let Some(begun) = unfinished.remove(thread) {
                reader.line(&format!("{begun}{rest}"))?;
            }
        } else {
            reader.line(line)?;
        }
    }
    Ok(reader.calls)
}

struct Reader<'f> {
    folder: &'f Path,
    calls: Vec<Call>,
    /// Open files by descriptor.
    open: HashMap<String, Open>,
    /// How long files are.
    sizes: HashMap<PathBuf, u64>,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) -> Fallible<()> {
        let Some((name, rest)) = line.split_once('(') else {
            return Ok(());
        };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else {
            return Ok(());
        };
        let arguments = arguments.trim_end().trim_end_matches(')');
        if result.starts_with('-') || result.starts_with('?') {
            return Ok(());
        }
        let parts: Vec<&str> = split(arguments);
        match name {
            "openat" | "open" | "creat" => self.opened(&parts, result),
            "write" | "pwrite64" => self.written(&parts, result)?,
            "lseek" => {
                if let Some((descriptor, _)) = described(parts[0]) {
                    self.open.entry(descriptor.to_owned()).or_default().at = number(result)?;
                }
            }
            "ftruncate" | "truncate" => {
                let path = described(parts[0]).map_or_else(|| path_of(parts[0]), |(_, path)| Some(path));
                if let Some(path) = path.and_then(|path| inside(self.folder, &path)) {
                    let length = number(parts[1])?;
                    self.sizes.insert(path.clone(), length);
                    self.calls.push(Call::Truncate(path, length));
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = described(parts[0]).and_then(|(_, path)| inside(self.folder, &path)) {
                    self.calls.push(Call::Sync(path));
                }
            }
            "rename" | "renameat" | "renameat2" => {
                let paths: Vec<PathBuf> = parts.iter().filter_map(|part| path_of(part)).collect();
                if let [from, to] = &paths[..]
                    && let (Some(from), Some(to)) = (inside(self.folder, from), inside(self.folder, to))
                {
                    if let Some(size) = self.sizes.remove(&from) {
                        self.sizes.insert(to.clone(), size);
                    }
                    self.calls.push(Call::Rename(from, to));
                }
            }
            "unlink" | "unlinkat" | "rmdir" => {
                for path in self.named(&parts) {
                    self.sizes.remove(&path);
                    self.calls.push(Call::Remove(path));
                }
            }
            "mkdir" | "mkdirat" => {
                for path in self.named(&parts) {
                    self.calls.push(Call::Folder(path));
                }
            }
            other => {
                // What would make the record incomplete must not go unseen.
                let about = parts.iter().any(|part| {
                    let path = described(part).map(|(_, path)| path).or_else(|| path_of(part));
                    path.is_some_and(|path| path.starts_with(self.folder))
                });
                if about {
                    return Err(format!("{other} is not understood: {line:.200}").into());
                }
            }
        }
        Ok(())
    }

    fn named(&self, parts: &[&str]) -> Vec<PathBuf> {
        let paths = parts.iter().filter_map(|part| path_of(part));
        paths.filter_map(|path| inside(self.folder, &path)).collect()
    }

    fn opened(&mut self, parts: &[&str], result: &str) {
        let Some((descriptor, path)) = described(result) else {
            return;
        };
        let flags = parts
            .iter()
            .find(|part| part.contains("O_"))
            .copied()
            .unwrap_or_default();
        let append = flags.contains("O_APPEND");
        self.open.insert(descriptor.to_owned(), Open { at: 0, append });
        let Some(path) = inside(self.folder, &path) else {
            return;
        };
        if flags.contains("O_CREAT") {
            self.calls.push(Call::Create(path.clone()));
            self.sizes.entry(path.clone()).or_default();
        }
        if flags.contains("O_TRUNC") {
            self.sizes.insert(path.clone(), 0);
            self.calls.push(Call::Truncate(path, 0));
        }
    }

    fn written(&mut self, parts: &[&str], result: &str) -> Fallible<()> {
        let Some((descriptor, path)) = described(parts[0]) else {
            return Ok(());
        };
        let length = usize::try_from(number(result)?)?;
        let bytes = text_of(parts[1]).ok_or("a write without its bytes")?;
        let bytes = bytes.get(..length).ok_or("a write whose bytes were cut short")?;
        if descriptor == "1" {
            let said = String::from_utf8_lossy(bytes);
            if let Some(n) = said.trim().strip_prefix("ack ") {
                self.calls.push(Call::Ack(n.parse()?));
            }
            return Ok(());
        }
        let Some(path) = inside(self.folder, &path) else {
            return Ok(());
        };
        let size = self.sizes.entry(path.clone()).or_default();
        let offset = match parts.get(3) {
            Some(offset) => number(offset)?,
            None => {
                let open = self.open.entry(descriptor.to_owned()).or_default();
                let offset = if open.append { *size } else { open.at };
                open.at = offset + length as u64;
                offset
            }
        };
        *size = (*size).max(offset + length as u64);
        self.calls.push(Call::Write(path, offset, bytes.to_vec()));
        Ok(())
    }
}

/// Arguments, at the commas that are in no text.
fn split(arguments: &str) -> Vec<&str> {
    let (mut parts, mut quoted, mut from) = (Vec::new(), false, 0);
    for (at, byte) in arguments.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                parts.push(arguments[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(arguments[from..].trim());
    parts
}

/// `3</a/path>`: the descriptor and what it leads to.
fn described(part: &str) -> Option<(&str, PathBuf)> {
    let (descriptor, path) = part.trim().split_once('<')?;
    descriptor
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    let path = path.strip_suffix('>')?;
    let path = path.trim_matches('"');
    Some((
        descriptor,
        PathBuf::from(String::from_utf8(unescape(path)?).ok()?),
    ))
}

/// `"\x2f\x61"`: a text.
fn text_of(part: &str) -> Option<Vec<u8>> {
    let inner = part.trim().strip_prefix('"')?;
    unescape(inner.strip_suffix('"')?)
}

fn path_of(part: &str) -> Option<PathBuf> {
    String::from_utf8(text_of(part)?).ok().map(PathBuf::from)
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    if !text.contains("\\x") {
        return Some(text.as_bytes().to_vec());
    }
    let digits = text.replace("\\x", "");
    hex::decode(digits).ok()
}

fn number(text: &str) -> Fallible<u64> {
    let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse().map_err(|error| format!("{text:.40}: {error}"))?)
}
