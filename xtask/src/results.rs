//! `docs/results.md`: programs that measure write their tables into it.

use std::fs;

use crate::process;

/// Writes `table` between the comments `<!-- NAME -->` and `<!-- /NAME -->` of the document.
pub(crate) fn record(name: &str, table: &str) -> Result<(), String> {
    let path = process::root().join("docs/results.md");
    let failed = |error| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(failed)?;
    fs::write(&path, replaced(&text, name, table)?).map_err(failed)
}

fn replaced(text: &str, name: &str, table: &str) -> Result<String, String> {
    let missing = || format!("docs/results.md has no place for {name}");
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&begin).ok_or_else(missing)?;
    let (_, after) = rest.split_once(&end).ok_or_else(missing)?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", table.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_its_predecessor() {
        let text = "a\n<!-- x -->\n\nold\n\n<!-- /x -->\nb\n";
        let expected = "a\n<!-- x -->\n\nnew\n\n<!-- /x -->\nb\n";
        assert_eq!(replaced(text, "x", "new\n").as_deref(), Ok(expected));
        assert_eq!(replaced(expected, "x", "new").as_deref(), Ok(expected));
        assert!(replaced(text, "y", "new").is_err());
    }

    #[test]
    fn every_table_has_its_place() {
        let path = process::root().join("docs/results.md");
        let text = fs::read_to_string(path).expect("the document exists");
        for name in [
            "figures",
            "peers",
            "local",
            "scenarios",
            "headscale",
            "speed",
            "links",
        ] {
            assert!(replaced(&text, name, "").is_ok(), "{name}");
        }
    }
}
