//! The expressions of steps: `when`, `foreach` and `valid_until`, checked against what comes before.

use super::*;
use crate::expression::{Expression, ExpressionError, Scope};
use crate::workflow::graph::Foreach;

/// What the expressions of a step come to.
#[derive(Default)]
pub(super) struct Expressions {
    pub(super) when: Option<Expression>,
    pub(super) foreach: Option<Foreach>,
    pub(super) valid_until: Option<Expression>,
    /// The type of the step's items, if it has any.
    pub(super) item: Option<String>,
}

impl Resolver<'_> {
    /// What a step gives, as others see it: each field of a step with items is a list.
    pub(super) fn gives(&self, place: usize, stages: &[Option<&StageInfo>]) -> Vec<Field> {
        let outputs = stages[place].map(|info| info.outputs.clone()).unwrap_or_default();
        if self.file.steps[place].foreach.is_none() {
            return outputs;
        }
        let listed = outputs.into_iter().map(|field| Field {
            ty: format!("list of {}", field.ty),
            ..field
        });
        listed.collect()
    }

    /// The names that expressions of a step can use.
    fn scope(&self, place: usize, stages: &[Option<&StageInfo>]) -> Scope {
        let mut scope = Scope::default();
        let params = &self.file.params;
        let params = params
            .iter()
            .map(|param| (param.name.value.clone(), param.ty.value.clone()));
        scope.add("params", params);
        for at in &self.ancestors[place] {
            let fields = self.gives(*at, stages);
            let fields = fields.into_iter().map(|field| (field.name, field.ty));
            scope.add(&self.file.steps[*at].name.value, fields);
        }
        scope
    }

    /// Checks the expressions of a step.
    pub(super) fn expressions(&mut self, place: usize, stages: &[Option<&StageInfo>]) -> Expressions {
        let step = &self.file.steps[place];
        // What is unknown before it may be what gives a name; one complaint is enough.
        let unsure = self.unsure.contains(&place) || !self.unsure.is_disjoint(&self.ancestors[place]);
        let scope = self.scope(place, stages);
        let mut found = Expressions::default();
        if let Some(text) = &step.when {
            found.when = self.expression("when", text, unsure, |parsed| parsed.check_condition(&scope));
        }
        if let Some(text) = &step.valid_until {
            found.valid_until =
                self.expression("valid_until", text, unsure, |parsed| parsed.check_time(&scope));
        }
        if let Some(text) = &step.foreach {
            let mut item = "any".to_owned();
            let list = self.expression("foreach", text, unsure, |parsed| {
                item = parsed.check_list(&scope)?;
                Ok(())
            });
            if stages[place].is_none() && !unsure {
                let message = format!("step `{}` has items, but no stage to do them", step.name.value);
                self.error("foreach_without_stage", &text.span, message, None);
            }
            found.item = Some(item);
            found.foreach = list.map(|list| Foreach {
                list,
                max_parallel: step
                    .max_parallel
                    .as_ref()
                    .map_or(Foreach::MAX_PARALLEL, |max| max.value),
            });
        } else if let Some(max) = &step.max_parallel {
            let hint = Some("add foreach = \"…\", or take it away".to_owned());
            self.error(
                "unused_key",
                &max.span,
                "`max_parallel` is for steps with `foreach`".to_owned(),
                hint,
            );
        }
        found
    }

    fn expression(
        &mut self,
        key: &str,
        text: &Sp<String>,
        unsure: bool,
        check: impl FnOnce(&Expression) -> Result<(), ExpressionError>,
    ) -> Option<Expression> {
        let parsed = Expression::parse(&text.value);
        let checked = parsed.and_then(|parsed| {
            if !unsure {
                check(&parsed)?;
            }
            Ok(parsed)
        });
        match checked {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                let message = format!("`{key}`: {}", error.what);
                self.error("bad_expression", &text.span, message, error.hint);
                None
            }
        }
    }
}
