//! The query of a request, percent-encoded as on the request line.

/// The error for a repeated parameter: readers would disagree about which value counts.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Repeated(pub(crate) &'static str);

/// The parameters of a query, still percent-encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parameters<'q, const N: usize> {
    /// The values of the requested parameters, in order; a parameter without `=` is empty.
    pub(crate) values: [Option<&'q str>; N],
    /// The first other parameter.
    pub(crate) unknown: Option<&'q str>,
}

/// Parses the parameters with these names.
pub(crate) fn parameters<'q, const N: usize>(
    query: &'q str,
    names: [&'static str; N],
) -> Result<Parameters<'q, N>, Repeated> {
    let mut read = Parameters {
        values: [None; N],
        unknown: None,
    };
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let asked = names
            .into_iter()
            .zip(&mut read.values)
            .find(|(known, _)| *known == name);
        match asked {
            Some((known, Some(_))) => return Err(Repeated(known)),
            Some((_, first)) => *first = Some(value),
            None => read.unknown = read.unknown.or(Some(name)),
        }
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_parameter_counts_once() {
        let read = parameters("b=1&x=2&a&&y", ["a", "b", "c"]).unwrap();
        assert_eq!(
            (read.values, read.unknown),
            ([Some(""), Some("1"), None], Some("x"))
        );
        for query in ["a=1&a=2", "a=1&a=1", "a&b=1&a"] {
            assert_eq!(parameters(query, ["a", "b"]), Err(Repeated("a")), "{query}");
        }
    }
}
