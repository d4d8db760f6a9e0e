//! All checks, one file per group.

mod capability;
mod dm;
mod import;
mod limits;
mod mesh_message;
mod open;
mod reconcile;
mod stream;
mod sync;
mod tls;
mod v1_answer;
mod v1_request;
mod v2_answer;
mod v2_request;
mod world;
mod zine;

use super::check::Group;

/// The groups in the order in which they run. The v1 nara never signs with v2, and the v2 nara has done so
/// before the first group runs, so no group depends on another.
pub(super) static GROUPS: &[Group] = &[
    open::GROUP,
    v1_request::GROUP,
    v1_answer::GROUP,
    sync::GROUP,
    zine::GROUP,
    dm::GROUP,
    world::GROUP,
    mesh_message::GROUP,
    import::GROUP,
    capability::GROUP,
    v2_request::GROUP,
    v2_answer::GROUP,
    tls::GROUP,
    stream::GROUP,
    reconcile::GROUP,
    limits::GROUP,
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn ids_are_unique_and_there_are_enough_of_them() {
        let ids: Vec<_> = GROUPS
            .iter()
            .flat_map(|group| group.checks)
            .map(|check| check.id)
            .collect();
        let unique: HashSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
        assert!(ids.len() >= 80, "{}", ids.len());
    }

    #[test]
    fn every_check_links_to_a_section_that_exists() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol");
        for check in GROUPS.iter().flat_map(|group| group.checks) {
            let (file, anchor) = check.section.split_once('#').unwrap();
            let text = fs::read_to_string(folder.join(file)).unwrap();
            let anchors: HashSet<String> = text
                .lines()
                .filter(|line| line.starts_with('#'))
                .map(|line| anchor_of(line.trim_start_matches('#').trim()))
                .collect();
            assert!(anchors.contains(anchor), "{}: {}", check.id, check.section);
        }
    }

    /// Returns the anchor that GitHub generates for a heading.
    fn anchor_of(heading: &str) -> String {
        let kept = heading.chars().filter_map(|character| match character {
            ' ' => Some('-'),
            '-' | '_' => Some(character),
            other => other.is_alphanumeric().then(|| other.to_ascii_lowercase()),
        });
        kept.collect()
    }
}
