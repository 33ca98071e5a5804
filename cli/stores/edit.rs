//! Changing the tables of stores in `config.toml`. Comments and what else is there stay as they are; what would come of
//! it is read and checked before it is written.

use anyhow::Context as _;
use sealflow_engine::durable;
use toml_edit::{Array, DocumentMut, Item, Table};

use crate::config::Config;
use crate::exit::{CliError, Kind};
use crate::home::Home;

/// A change that was made to the text, and what it would mean.
pub(crate) struct Edit {
    text: String,
    /// The configuration as it would be.
    pub(crate) config: Config,
}

impl Edit {
    /// Adds the table of a store.
    pub(crate) fn add(home: &Home, name: &str, table: Table) -> anyhow::Result<Self> {
        let mut document = read(home)?;
        let stores = document.entry("stores").or_insert_with(|| {
            let mut stores = Table::new();
            stores.set_implicit(true);
            Item::Table(stores)
        });
        let wrong = || {
            CliError::new(
                Kind::Config,
                format!("`stores` in {} is no table", home.config().display()),
            )
        };
        let stores = stores.as_table_mut().ok_or_else(wrong)?;
        if stores.contains_key(name) {
            let text = format!("there is a [stores.{name}] in {}", home.config().display());
            let hint =
                format!("choose another name, or edit that table; `sealflow store show {name}` tells of it");
            return Err(CliError::new(Kind::Config, text).hint(hint).into());
        }
        stores.insert(name, Item::Table(table));
        retire(&mut document, name, false);
        Self::of(document)
    }

    /// Takes the table of a store away. With `retire` its name stays known, because records of old runs say it.
    pub(crate) fn remove(home: &Home, name: &str, keep_name: bool) -> anyhow::Result<Self> {
        let mut document = read(home)?;
        let stores = document.get_mut("stores").and_then(Item::as_table_mut);
        if stores.and_then(|stores| stores.remove(name)).is_none() {
            let text = format!("there is no [stores.{name}] in {}", home.config().display());
            return Err(CliError::new(Kind::NotFound, text).into());
        }
        if keep_name {
            retire(&mut document, name, true);
        }
        Self::of(document)
    }

    fn of(document: DocumentMut) -> anyhow::Result<Self> {
        let text = document.to_string();
        let config = Config::checked(&text)?;
        Ok(Self { text, config })
    }

    /// Writes it, whole or not at all.
    pub(crate) fn write(self, home: &Home) -> anyhow::Result<()> {
        let path = home.config();
        durable::write(&path, self.text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn read(home: &Home) -> anyhow::Result<DocumentMut> {
    let path = home.config();
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", path.display()))?,
    };
    text.parse()
        .with_context(|| format!("cannot read {}", path.display()))
}

/// Puts a name on the list of stores that were removed, or takes it off.
fn retire(document: &mut DocumentMut, name: &str, retired: bool) {
    const KEY: &str = "retired_stores";
    let mut names: Vec<String> = document
        .get(KEY)
        .and_then(Item::as_array)
        .map(|names| {
            names
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect()
        })
        .unwrap_or_default();
    let before = names.clone();
    names.retain(|one| one != name);
    if retired {
        names.push(name.to_owned());
    }
    if names != before {
        document.insert(KEY, toml_edit::value(Array::from_iter(names)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_stay() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::find(Some(folder.path())).unwrap();
        let text = "# mine\nnetwork = \"devnet\" # really\n\n[stores.store]\n# the disk\npath = \"/mnt/a\"\n\n[backup]\nkeep = 3\n";
        std::fs::write(home.config(), text).unwrap();
        let mut table = Table::new();
        table.insert("path", toml_edit::value("/mnt/b"));
        let edit = Edit::add(&home, "cold", table.clone()).unwrap();
        assert_eq!(edit.config.stores.len(), 2);
        edit.write(&home).unwrap();
        let written = std::fs::read_to_string(home.config()).unwrap();
        for part in [
            "# mine\n",
            "# really",
            "# the disk\n",
            "[stores.cold]\npath = \"/mnt/b\"\n",
            "keep = 3",
        ] {
            assert!(written.contains(part), "{part} in {written}");
        }
        assert!(Edit::add(&home, "cold", table).is_err(), "it is there");
        let edit = Edit::remove(&home, "cold", true).unwrap();
        assert_eq!(edit.config.retired_stores, ["cold"]);
        edit.write(&home).unwrap();
        let written = std::fs::read_to_string(home.config()).unwrap();
        assert!(
            written.contains("# the disk\n") && !written.contains("/mnt/b"),
            "{written}"
        );
        assert!(Edit::remove(&home, "cold", true).is_err(), "it is gone");
        // What comes of it must be a configuration.
        let mut wrong = Table::new();
        wrong.insert("bucket", toml_edit::value("x"));
        assert!(Edit::add(&home, "bad", wrong).is_err());
        assert!(Edit::add(&home, "any", Table::new()).is_err());
    }
}
