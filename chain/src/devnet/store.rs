//! The objects of all states, by their CIDs: nothing is ever changed, so every tipset keeps its own state and
//! a reorg costs nothing.
//!
//! An execution writes into an [`Overlay`]. What a tipset made becomes part of the [`Store`] with the tipset;
//! what a dry run made is forgotten.

use std::cell::RefCell;
use std::collections::HashMap;

use fvm_ipld_encoding::{from_slice, to_vec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::cid_of;
use crate::types::Cid;
use crate::types::state::Blockstore;

/// All objects that the chain refers to.
#[derive(Debug, Default)]
pub(super) struct Store {
    objects: HashMap<Cid, Box<[u8]>>,
}

impl Store {
    pub(super) fn add(&mut self, cid: Cid, bytes: Vec<u8>) {
        self.objects.insert(cid, bytes.into());
    }

    pub(super) fn get(&self, cid: &Cid) -> Option<&[u8]> {
        self.objects.get(cid).map(|bytes| &**bytes)
    }

    /// A place for what one execution writes.
    pub(super) fn overlay(&self) -> Overlay<'_> {
        Overlay {
            base: self,
            fresh: RefCell::default(),
        }
    }
}

/// The store, with what one execution wrote.
#[derive(Debug)]
pub(super) struct Overlay<'a> {
    base: &'a Store,
    fresh: RefCell<HashMap<Cid, Vec<u8>>>,
}

impl Overlay<'_> {
    /// What was written.
    pub(super) fn into_fresh(self) -> Vec<(Cid, Vec<u8>)> {
        self.fresh.into_inner().into_iter().collect()
    }

    /// Reads an object.
    pub(super) fn load<T: DeserializeOwned>(&self, cid: &Cid) -> Result<T, String> {
        let bytes = self.get(cid).map_err(|e| e.to_string())?;
        let bytes = bytes.ok_or_else(|| format!("object {cid} not found"))?;
        from_slice(&bytes).map_err(|e| format!("object {cid}: {e}"))
    }

    /// Writes an object.
    pub(super) fn save<T: Serialize>(&self, value: &T) -> Result<Cid, String> {
        let bytes = to_vec(value).map_err(|e| e.to_string())?;
        let cid = cid_of(&bytes);
        self.put_keyed(&cid, &bytes).map_err(|e| e.to_string())?;
        Ok(cid)
    }
}

impl Blockstore for Overlay<'_> {
    fn get(&self, cid: &Cid) -> anyhow::Result<Option<Vec<u8>>> {
        if let Some(bytes) = self.base.get(cid) {
            return Ok(Some(bytes.to_vec()));
        }
        Ok(self.fresh.borrow().get(cid).cloned())
    }

    fn put_keyed(&self, cid: &Cid, bytes: &[u8]) -> anyhow::Result<()> {
        if self.base.get(cid).is_none() {
            self.fresh.borrow_mut().insert(*cid, bytes.to_vec());
        }
        Ok(())
    }
}
