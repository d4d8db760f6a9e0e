use std::collections::BTreeSet;

use crate::event::Service;
use crate::query::{Repeated, parameters};
use crate::time::UnixSeconds;

/// The events to compare. The default is all events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The services; empty for all.
    pub services: BTreeSet<Service>,
    /// Only events from this second on.
    pub from: Option<UnixSeconds>,
    /// Only events before this second.
    pub to: Option<UnixSeconds>,
}

/// The reason why the query of a scope is malformed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid scope: {0}")]
pub struct InvalidScope(String);

impl Scope {
    /// Returns the scope of all events.
    pub fn all() -> Self {
        Self::default()
    }

    /// Restricts the scope to these services.
    #[must_use]
    pub fn services(mut self, services: impl IntoIterator<Item = Service>) -> Self {
        self.services = services.into_iter().collect();
        self
    }

    /// Returns whether the scope contains events of this service; `None` stands for an unknown service.
    pub fn has_service(&self, service: Option<Service>) -> bool {
        self.services.is_empty() || service.is_some_and(|service| self.services.contains(&service))
    }

    /// Returns the query of `POST /events/reconcile`; `None` for all events.
    pub fn to_query(&self) -> Option<String> {
        let mut parts = Vec::new();
        if !self.services.is_empty() {
            let names: Vec<_> = self.services.iter().map(|service| service.as_str()).collect();
            parts.push(format!("services={}", names.join(",")));
        }
        parts.extend(self.from.map(|from| format!("from={from}")));
        parts.extend(self.to.map(|to| format!("to={to}")));
        (!parts.is_empty()).then(|| parts.join("&"))
    }

    /// Parses the form that [`Scope::to_query`] writes.
    ///
    /// # Errors
    /// [`InvalidScope`] for an unknown or repeated parameter, an unknown service, or a malformed time: ignoring one
    /// would compare other events than requested.
    pub fn from_query(query: &str) -> Result<Self, InvalidScope> {
        let invalid = |what: &str| InvalidScope(what.chars().take(64).collect());
        let read = parameters(query, ["services", "from", "to"])
            .map_err(|Repeated(name)| InvalidScope(format!("{name} is repeated")))?;
        if let Some(unknown) = read.unknown {
            return Err(invalid(unknown));
        }
        let [services, from, to] = read.values;
        let time = |text: Option<&str>| {
            text.map(|text| text.parse().map(UnixSeconds::new).map_err(|_| invalid(text)))
                .transpose()
        };
        let mut scope = Self {
            from: time(from)?,
            to: time(to)?,
            ..Self::default()
        };
        for name in services.into_iter().flat_map(|services| services.split(',')) {
            scope
                .services
                .insert(Service::from_wire(name).ok_or_else(|| invalid(name))?);
        }
        Ok(scope)
    }
}
