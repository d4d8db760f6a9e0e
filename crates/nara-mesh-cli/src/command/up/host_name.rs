use std::fs;
use std::io::Write as _;
use std::path::Path;

use nara_mesh::identity::LocalNara;

use crate::failure::{Failure, Outcome};
use crate::keeping;

/// The longest label of a host name (RFC 1035), less the added characters.
const MAX_NAME: usize = 63 - 5;

/// The characters that v1 peers add.
const RANDOM: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Returns the host name of a nara, which is generated once and stored in its folder: `NAME-xxxx` with four
/// random characters. V1 peers cut off the last five (docs/protocol/v1.md, section 3.1).
pub(super) fn kept(folder: &Path, nara: &LocalNara) -> Outcome<String> {
    let path = folder.join("host-name");
    let name = label(nara.name().as_str());
    if let Ok(kept) = fs::read_to_string(&path) {
        let kept = kept.trim();
        let fits = kept
            .strip_prefix(name.as_str())
            .is_some_and(|suffix| suffix.len() == 5);
        if fits
            && kept
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Ok(kept.to_owned());
        }
    }
    let host_name = format!("{name}-{}", suffix()?);
    keeping::make_folder_of(&path)?;
    // Written to a temporary file first: a full disk must not leave half of it.
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut file| {
        writeln!(file, "{host_name}")?;
        file.persist(&path).map(drop).map_err(|error| error.error)
    });
    written.map_err(|error| {
        Failure::failed(format!("the host name cannot be stored in {}", path.display())).caused_by(error)
    })?;
    Ok(host_name)
}

/// Converts a name to a label of a host name: invalid characters become hyphens.
fn label(name: &str) -> String {
    let allowed = |character: char| match character.to_ascii_lowercase() {
        character @ ('a'..='z' | '0'..='9') => character,
        _ => '-',
    };
    let label: String = name.chars().map(allowed).take(MAX_NAME).collect();
    match label.trim_matches('-') {
        "" => "nara".to_owned(),
        label => label.to_owned(),
    }
}

fn suffix() -> Outcome<String> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| {
        Failure::failed("the operating system provides no random bytes").caused_by(error.to_string())
    })?;
    Ok(bytes
        .iter()
        .map(|byte| char::from(RANDOM[usize::from(*byte) % RANDOM.len()]))
        .collect())
}

#[cfg(test)]
mod tests {
    use nara_mesh::transport::Candidate;
    use nara_proto::identity::Soul;

    use super::*;

    #[test]
    fn a_host_name_is_made_once_and_has_the_form_of_older_naras() {
        let folder = tempfile::tempdir().unwrap();
        let nara = LocalNara::new(&Soul::bond([1; 32], "alice"), "alice".parse().unwrap()).unwrap();
        let first = kept(folder.path(), &nara).unwrap();
        assert_eq!(
            Candidate::new(&*first, Vec::new()).nara_name().as_ref(),
            Some(nara.name()),
            "{first}"
        );
        assert_ne!(first, "alice");
        assert_eq!(kept(folder.path(), &nara).unwrap(), first);
        // Foreign content is not used.
        fs::write(folder.path().join("host-name"), "bob-x7q2\n").unwrap();
        assert!(kept(folder.path(), &nara).unwrap().starts_with("alice-"));
    }

    #[test]
    fn every_name_has_a_label() {
        assert_eq!(label("Alice B."), "alice-b");
        assert_eq!(label("☃"), "nara");
        assert_eq!(label(&"x".repeat(100)).len(), MAX_NAME);
    }
}
