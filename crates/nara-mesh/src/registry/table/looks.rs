//! Names that look the same.

use nara_proto::identity::NaraName;

use super::Table;

impl Table {
    /// Notes how a name looks, so that others that look the same are told.
    pub(in crate::registry) fn reserve_looks(&mut self, name: &NaraName) {
        for look in name.looks() {
            self.looks.insert((look.into(), Some(name.clone())));
        }
    }

    /// Another name that looks the same.
    pub(super) fn look_alike(&self, name: &NaraName) -> Option<NaraName> {
        name.looks()
            .into_iter()
            .map(Box::from)
            .find_map(|look: Box<str>| {
                // No name comes before every name.
                let all = self.looks.range((look.clone(), None)..);
                let mut names = all
                    .take_while(|(other, _)| *other == look)
                    .filter_map(|(_, name)| name.as_ref());
                names.find(|other| *other != name).cloned()
            })
    }
}
