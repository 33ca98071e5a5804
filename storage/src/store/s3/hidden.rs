//! What a bucket keeps out of sight: marks in `.marks`, and the trash in `.trash/ID/content`, with `.trash/ID/key` that
//! says what it was. S3 cannot rename: what goes to the trash is copied by the server, and then removed.

use std::collections::BTreeMap;

use sealflow_engine::artifact::{FileStat, StoreError, Trashed, check_key, check_mark, key_in_use};
use sealflow_engine::crash;

use super::fault::Fault;
use super::upload::Source;
use super::{COPY_LIMIT, MANIFEST, S3Store, upload};

const MARKS: &str = ".marks";
const TRASH: &str = ".trash";
/// The largest mark that is read.
const LARGEST: usize = 1 << 20;

impl S3Store {
    /// All objects whose names begin with this, and their bytes.
    async fn all_below(&self, prefix: &str) -> Result<Vec<(String, u64)>, Fault> {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = self.page(prefix, None, after).await?;
            all.extend(page.objects);
            after = all.last().map(|(object, _)| object.clone());
            if !page.more || after.is_none() {
                return Ok(all);
            }
        }
    }

    async fn write_small(&self, object: &str, content: &[u8]) -> Result<(), Fault> {
        let sent = self.client.call(content.len() as u64, |bucket| async move {
            let kind = "application/octet-stream";
            bucket
                .put_object_with_content_type(object, content, kind)
                .await
                .map(drop)
        });
        sent.await
    }

    fn mark_object(&self, name: &str) -> String {
        format!("{}{MARKS}/{name}", self.prefix)
    }

    fn trash_object(&self, id: &str) -> Result<String, StoreError> {
        Trashed::check(id)?;
        Ok(format!("{}{TRASH}/{id}", self.prefix))
    }

    pub(super) async fn marks_now(&self) -> Result<Vec<String>, StoreError> {
        let prefix = format!("{}{MARKS}/", self.prefix);
        let all = self.all_below(&prefix).await.map_err(self.failed(MARKS))?;
        let names = all.iter().filter_map(|(object, _)| object.strip_prefix(&prefix));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.retain(|name| check_mark(name).is_ok());
        names.sort();
        Ok(names)
    }

    pub(super) async fn mark_now(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        check_mark(name)?;
        match self.client.read_small(&self.mark_object(name), LARGEST).await {
            Ok(content) => Ok(Some(content)),
            Err(Fault::Missing) => Ok(None),
            Err(fault) => Err(self.failed(name)(fault)),
        }
    }

    pub(super) async fn set_mark_now(&self, name: &str, content: Option<&[u8]>) -> Result<(), StoreError> {
        check_mark(name)?;
        self.writable()?;
        let object = self.mark_object(name);
        let done = match content {
            Some(content) => self.write_small(&object, content).await,
            None => self.client.remove(&object).await,
        };
        done.map_err(self.failed(name))
    }

    pub(super) async fn trash_now(&self, key: &str, at_ms: u64) -> Result<(), StoreError> {
        check_key(key)?;
        self.writable()?;
        let failed = self.failed(key);
        let turn = self.turn(key).await;
        if let Some(stat) = self.stat_now(key).await? {
            let own = self.trash_object(&Trashed::id(key, at_ms))?;
            self.write_small(&format!("{own}/key"), key.as_bytes())
                .await
                .map_err(&failed)?;
            crash::point("store.trash.begun");
            self.copy_objects(
                key,
                &self.object(key),
                &format!("{own}/content"),
                &stat.files,
                stat.is_folder,
            )
            .await?;
            crash::point("store.trash.moved");
        }
        drop(turn);
        // Also what of it was left when an earlier removal was broken off.
        self.delete_now(key).await
    }

    /// Copies a file or folder within the bucket; the list of a folder's files last.
    async fn copy_objects(
        &self,
        key: &str,
        from: &str,
        to: &str,
        files: &[FileStat],
        is_folder: bool,
    ) -> Result<(), StoreError> {
        for file in files {
            let name = |base: &str| match is_folder {
                true => format!("{base}/{}", file.path),
                false => base.to_owned(),
            };
            self.copy_object(key, &name(from), &name(to), file).await?;
            crash::point("store.s3.trash_file");
        }
        if is_folder {
            let (from, to) = (format!("{from}/{MANIFEST}"), format!("{to}/{MANIFEST}"));
            let (from, to) = (&from, &to);
            let copied = self.client.call(0, |bucket| async move {
                bucket.copy_object_internal(from, to).await.map(drop)
            });
            copied.await.map_err(self.failed(key))?;
        }
        Ok(())
    }

    async fn copy_object(&self, key: &str, from: &str, to: &str, file: &FileStat) -> Result<(), StoreError> {
        let failed = self.failed(key);
        if file.bytes > COPY_LIMIT {
            let content = self.known(key, file).await?;
            self.send(key, to, &content, Source::Object(from.to_owned()), &|_| {})
                .await?;
        } else {
            let copied = self.client.call(file.bytes, |bucket| async move {
                bucket.copy_object_internal(from, to).await.map(drop)
            });
            copied.await.map_err(&failed)?;
        }
        let found = upload::head(&self.client, to).await.map_err(&failed)?;
        if found.as_ref().is_some_and(|(bytes, _)| *bytes == file.bytes) {
            return Ok(());
        }
        let has = found.map_or("is not there".to_owned(), |(bytes, _)| {
            format!("has {bytes} bytes")
        });
        let what = format!("its copy `{to}` {has} instead of {} bytes; try again", file.bytes);
        Err(failed(Fault::Passing(what)))
    }

    pub(super) async fn trashed_now(&self) -> Result<Vec<Trashed>, StoreError> {
        let failed = self.failed(TRASH);
        let prefix = format!("{}{TRASH}/", self.prefix);
        let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
        for (object, bytes) in self.all_below(&prefix).await.map_err(&failed)? {
            let rest = object.strip_prefix(&prefix).unwrap_or_default();
            let Some((id, path)) = rest.split_once('/').filter(|(id, _)| Trashed::time(id).is_some()) else {
                continue;
            };
            let content = path.starts_with("content") && !path.ends_with(MANIFEST);
            *sizes.entry(id.to_owned()).or_default() += if content { bytes } else { 0 };
        }
        let mut all = Vec::new();
        for (id, bytes) in sizes {
            let key = match self.key_of(&id).await {
                Ok(key) => key,
                Err(StoreError::Missing { .. }) => String::new(),
                Err(error) => return Err(error),
            };
            let at_ms = Trashed::time(&id).unwrap_or(0);
            all.push(Trashed {
                id,
                key,
                at_ms,
                bytes,
            });
        }
        Ok(all)
    }

    async fn key_of(&self, id: &str) -> Result<String, StoreError> {
        let object = format!("{}/key", self.trash_object(id)?);
        let text = self
            .client
            .read_small(&object, 1024)
            .await
            .map_err(self.failed(id))?;
        let key = String::from_utf8(text).unwrap_or_default();
        check_key(&key)?;
        Ok(key)
    }

    pub(super) async fn untrash_now(&self, id: &str) -> Result<(), StoreError> {
        let own = self.trash_object(id)?;
        self.writable()?;
        let key = self.key_of(id).await?;
        if self.stat_now(&key).await?.is_some() {
            return Err(key_in_use(&self.name, &key));
        }
        let content = format!("{own}/content");
        let stat = self
            .stat_object(&key, &content)
            .await?
            .ok_or_else(|| self.missing(id))?;
        let turn = self.turn(&key).await;
        self.copy_objects(&key, &content, &self.object(&key), &stat.files, stat.is_folder)
            .await?;
        drop(turn);
        self.discard_now(id).await
    }

    pub(super) async fn discard_now(&self, id: &str) -> Result<(), StoreError> {
        let own = self.trash_object(id)?;
        self.writable()?;
        let failed = self.failed(id);
        // The list of a folder goes first, and the key last: half of something must not be taken for all of it, and
        // must be found again.
        let list = format!("{own}/content/{MANIFEST}");
        self.client.remove(&list).await.map_err(&failed)?;
        crash::point("store.trash.discarding");
        for (object, _) in self.all_below(&format!("{own}/content")).await.map_err(&failed)? {
            self.client.remove(&object).await.map_err(&failed)?;
        }
        self.client.remove(&format!("{own}/key")).await.map_err(&failed)?;
        *self.used.lock().await = None;
        Ok(())
    }
}
