//! Requests that concern the whole installation: holding back workflows, stages and executors.

use super::*;

impl Core {
    /// Takes up the history of the installation, before any run.
    ///
    /// # Errors
    /// It contradicts itself.
    pub fn restore_site(&mut self, entries: &[SiteEntry]) -> Result<(), String> {
        self.site = SiteState::fold(entries)?;
        self.arm()
    }

    /// The state of the installation.
    pub fn site(&self) -> &SiteState {
        &self.site
    }

    /// Holds something back: nothing that it covers starts until it is released. What runs goes on.
    ///
    /// # Errors
    /// There is no such thing, or it is held already.
    pub fn hold(&mut self, kind: HoldKind, name: String, by: By, now: Now) -> Result<(), Refused> {
        if let Some(hold) = self.site.hold(kind, &name) {
            let what = kind.as_str();
            let message = format!("{what} `{name}` is held already, by {}", hold.by.text());
            return Err(Refused::State(message));
        }
        let unknown = |known: Vec<&str>| {
            let message = format!(
                "there is no {} `{name}`; there are: {}",
                kind.as_str(),
                known.join(", ")
            );
            Err(Refused::State(message))
        };
        match kind {
            HoldKind::Stage if self.registry.info(&name).is_none() => {
                return unknown(self.registry.iter().map(|info| info.name.as_str()).collect());
            }
            HoldKind::Executor if self.places.iter().all(|place| place.spec.name != name) => {
                return unknown(self.places.iter().map(|place| place.spec.name.as_str()).collect());
            }
            HoldKind::Worker if self.hosts.iter().all(|host| host.spec.name != name) => {
                return unknown(self.hosts.iter().map(|host| host.spec.name.as_str()).collect());
            }
            // Runs of a workflow may come later.
            HoldKind::Workflow if WorkflowName::new(&name).is_err() => {
                return Err(Refused::State(format!("`{name}` is not the name of a workflow")));
            }
            _ => {}
        }
        self.record_site(SiteEvent::Held { kind, name, by }, now)
    }

    /// Ends a hold.
    ///
    /// # Errors
    /// There is none.
    pub fn release(&mut self, kind: HoldKind, name: String, by: By, now: Now) -> Result<(), Refused> {
        if self.site.hold(kind, &name).is_none() {
            return Err(Refused::State(format!("{} `{name}` is not held", kind.as_str())));
        }
        self.record_site(SiteEvent::Released { kind, name, by }, now)?;
        // What was held back was taken out of the queues.
        self.dirty.extend(self.runs.keys().cloned());
        Ok(())
    }

    pub(super) fn record_site(&mut self, event: SiteEvent, now: Now) -> Result<(), Refused> {
        let at = *self.at.get_or_insert(now.wall_ms);
        self.site.apply(&event, at).map_err(Refused::State)?;
        self.site_events.push(event);
        Ok(())
    }

    /// Ends the entry that the installation's changes make.
    pub(super) fn seal_site(&mut self, at: u64) {
        if self.site_events.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.site_events);
        self.site.seq += 1;
        let seq = self.site.seq;
        self.site_entries.push(SiteEntry { seq, at, events });
        if seq >= self.site.snapshot + SiteState::SNAPSHOT_EVERY {
            let state = self.site.clone();
            self.site.seq += 1;
            self.site.snapshot = self.site.seq;
            self.site_entries.push(SiteEntry {
                seq: self.site.seq,
                at,
                events: vec![SiteEvent::Snapshot { state }],
            });
        }
    }

    /// Entries of the installation that are to be committed with the transitions of the last settling.
    pub fn take_site(&mut self) -> Vec<SiteEntry> {
        std::mem::take(&mut self.site_entries)
    }
}
