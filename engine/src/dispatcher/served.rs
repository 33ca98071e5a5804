//! What must be read before a run starts for a step or a trigger, and before what a run gave is reported to
//! those that it worked for.

use super::*;

impl Dispatcher {
    /// Reads what the run of a step needs to start.
    pub(super) fn launch(&mut self, launch: Launch) {
        let (payloads, journal) = (self.payloads.clone(), self.journal.clone());
        let (registry, back) = (self.registry.clone(), self.internal_in.clone());
        let task = async move {
            let params = payloads.fill(launch.input.clone()).await.map(Value::Object);
            let subject = params
                .as_ref()
                .ok()
                .and_then(|params| Core::subject_of(&registry, &launch.graph, params).ok());
            let artifacts = match &subject {
                Some(subject) => owned(&*journal, subject).await.map_err(|error| error.to_string()),
                // What is wrong with the parameters is said when it is started.
                None => Ok(BTreeMap::new()),
            };
            let (params, artifacts) = match artifacts {
                Ok(artifacts) => (params, artifacts),
                Err(why) => (Err(why), BTreeMap::new()),
            };
            let internal = Internal::Launched {
                launch: Box::new(launch),
                params,
                artifacts,
            };
            discard(back.send(internal).await);
        };
        drop(tokio::spawn(task));
    }

    /// Reads what the subject of a run owns whose time has come.
    pub(super) fn fire(&mut self, fire: Fire) {
        let (journal, registry) = (self.journal.clone(), self.registry.clone());
        let back = self.internal_in.clone();
        let task = async move {
            let artifacts = match Core::subject_of(&registry, &fire.graph, &fire.params) {
                Ok(subject) => owned(&*journal, &subject)
                    .await
                    .map_err(|error| error.to_string()),
                Err(refused) => Err(refused.to_string()),
            };
            discard(back.send(Internal::Fired(Box::new(fire), artifacts)).await);
        };
        drop(tokio::spawn(task));
    }

    /// Reports what a run that has ended gives.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        self.core.end_told(&delivery.run);
        let (payloads, back) = (self.payloads.clone(), self.internal_in.clone());
        let task = async move {
            let reports = reports(&payloads, delivery).await;
            discard(back.send(Internal::Reports(reports)).await);
        };
        drop(tokio::spawn(task));
    }

    /// After a restart: a run that does an attempt's work is open, or has ended and its end was not told.
    pub(super) fn attach_run(&mut self, executor: &str, served: Served) {
        if self.core.serves(executor) {
            return;
        }
        let Some(run) = run_of(executor) else { return };
        let (journal, back) = (self.journal.clone(), self.internal_in.clone());
        let payloads = self.payloads.clone();
        let task = async move {
            let told = match read_run(&*journal, &run).await {
                Ok((state, _)) => Delivery::of(&state),
                Err(error) => {
                    tracing::warn!(%run, %error, "what it gave cannot be read");
                    None
                }
            };
            let reports = match told {
                Some(delivery) => {
                    let mut reports = reports(&payloads, delivery).await;
                    reports.retain(|report| report.key == served.key && report.token == served.token);
                    reports
                }
                None => {
                    let why = format!("{run}, which did its work, is not there any more");
                    let Served { key, token } = served;
                    let news = News::Lost(why);
                    vec![Report { key, token, news }]
                }
            };
            discard(back.send(Internal::Reports(reports)).await);
        };
        drop(tokio::spawn(task));
    }
}

/// The reports of those that a run worked for, with the values that it gave.
async fn reports(payloads: &Payloads, delivery: Delivery) -> Vec<Report> {
    let values = match &delivery.result {
        Ok(given) => payloads.fill(given.clone()).await.map(Value::Object),
        Err(_) => Ok(Value::Null),
    };
    delivery.reports(values)
}
