use nara_proto::identity::NaraName;

use crate::transport::Candidate;

impl Candidate {
    /// Returns the nara name that its host name suggests: without the `-xxxx` that v1 peers add
    /// (docs/protocol/v1.md, section 3.1). This is only a hint: host names are neither unique nor proven, and may
    /// be unrelated to the nara.
    pub fn nara_name(&self) -> Option<NaraName> {
        let (name, _) = self
            .host_name
            .rsplit_once('-')
            .filter(|(_, suffix)| is_random_suffix(suffix))
            .unwrap_or((&self.host_name, ""));
        name.parse().ok()
    }
}

/// Returns whether a host name is the name of a nara, verbatim or with the `-xxxx` that v1 peers add.
pub(super) fn host_name_fits(host_name: &str, name: &NaraName) -> bool {
    let suffix = host_name.strip_prefix(name.as_str());
    suffix.is_some_and(|suffix| suffix.is_empty() || suffix.strip_prefix('-').is_some_and(is_random_suffix))
}

/// Returns whether it is the suffix that v1 peers add to their name.
fn is_random_suffix(suffix: &str) -> bool {
    let is_random = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    suffix.len() == 4 && suffix.bytes().all(is_random)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of_host(host_name: &str) -> Option<NaraName> {
        Candidate::new(host_name, Vec::new()).nara_name()
    }

    #[test]
    fn a_host_name_fits_with_and_without_the_random_suffix() {
        let alice = "alice".parse().unwrap();
        for fits in ["alice", "alice-x7q2"] {
            assert!(host_name_fits(fits, &alice), "{fits}");
            assert_eq!(name_of_host(fits).as_ref(), Some(&alice));
        }
        for other in ["alic", "alice-", "alice-X7Q2", "alice-x7q", "alice-x7q2z", "bob"] {
            assert!(!host_name_fits(other, &alice), "{other}");
            assert_ne!(name_of_host(other), Some(alice.clone()), "{other}");
        }
        assert_eq!(name_of_host(""), None);
        assert_eq!(name_of_host("-x7q2"), None);
    }
}
