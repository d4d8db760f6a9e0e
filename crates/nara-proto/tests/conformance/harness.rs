//! Reads vectors, runs one check per case, compares differences with the table of deviations, and reports them.
//!
//! `nara-mesh` includes this file and `deviations.rs` with `#[path]` for the files that need a server or a client, so
//! that both share one format and one table.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::deviations::RULES;

/// The crate of this runner.
const RUNNER: &str = env!("CARGO_PKG_NAME");

/// All files of the format. A runner need not check each.
const FILES: [&str; 25] = [
    "attestation.json",
    "client_wire.json",
    "event_chau.json",
    "event_checkpoint.json",
    "event_decode.json",
    "event_hey_there.json",
    "event_observation.json",
    "event_ping.json",
    "event_seen.json",
    "event_social.json",
    "http.json",
    FIXTURE,
    "identity.json",
    "identity_resolve.json",
    "import_request.json",
    "json_encoding.json",
    "request_auth.json",
    "response_auth.json",
    "runtime_message.json",
    "self_encryption.json",
    "sync_response.json",
    "sync_select.json",
    "world.json",
    "world_next_hop.json",
    "zine.json",
];

/// Checks one case, and records the differences in it.
pub(crate) type Check = fn(&Case<'_>) -> Result<(), Unreadable>;

/// The error for a missing or malformed field; already recorded in the case.
#[derive(Debug)]
pub(crate) struct Unreadable;

/// A field whose computed value differs from the expected one.
#[derive(Debug)]
pub(crate) struct Difference {
    field: String,
    expected: Value,
    got: Value,
}

/// The file that describes the server of `http.json`: it is not a case, so it is checked but not counted.
const FIXTURE: &str = "http_fixture.json";

/// One case, or one object inside a case, with a record of the fields that were checked.
pub(crate) struct Case<'a> {
    file: &'a str,
    fields: &'a Map<String, Value>,
    fixture: Option<&'a Map<String, Value>>,
    seen: RefCell<BTreeSet<String>>,
    differences: RefCell<Vec<Difference>>,
}

impl<'a> Case<'a> {
    fn new(file: &'a str, fields: &'a Map<String, Value>, fixture: Option<&'a Map<String, Value>>) -> Self {
        let case = Self {
            file,
            fields,
            fixture,
            seen: RefCell::default(),
            differences: RefCell::default(),
        };
        case.prose(&["case", "category", "note"]);
        case
    }

    /// Returns the name of the file.
    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    /// Returns the object of `http_fixture.json`.
    pub(crate) fn fixture(&self) -> Result<Self, Unreadable> {
        match self.fixture {
            Some(fields) => Ok(Self::new(FIXTURE, fields, None)),
            None => Err(self.fail(FIXTURE, "a file in the folder", Value::Null)),
        }
    }

    /// Returns an object inside this case. Its differences must be brought back with [`Case::absorb`].
    pub(crate) fn inner(&self, fields: &'a Map<String, Value>) -> Self {
        Self::new(self.file, fields, self.fixture)
    }

    /// Adds the differences and unknown fields of an inner object.
    pub(crate) fn absorb(&self, name: &str, inner: Self) {
        inner.report_unseen();
        for mut difference in inner.differences.into_inner() {
            difference.field = format!("{name}.{}", difference.field);
            self.differences.borrow_mut().push(difference);
        }
    }

    /// Returns a field without marking it as checked: for rules.
    pub(crate) fn peek(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field)
    }

    /// Returns whether the case has the field.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    fn get(&self, field: &str) -> &'a Value {
        self.seen.borrow_mut().insert(field.to_owned());
        self.fields.get(field).unwrap_or(&Value::Null)
    }

    /// Records a difference in a field that is not compared as a whole.
    pub(crate) fn fail(&self, field: &str, expected: impl Into<Value>, got: impl Into<Value>) -> Unreadable {
        self.seen.borrow_mut().insert(field.to_owned());
        self.differences.borrow_mut().push(Difference {
            field: field.to_owned(),
            expected: expected.into(),
            got: got.into(),
        });
        Unreadable
    }

    /// Returns a text.
    pub(crate) fn text(&self, field: &str) -> Result<&'a str, Unreadable> {
        let value = self.get(field);
        value
            .as_str()
            .ok_or_else(|| self.fail(field, "a text", value.clone()))
    }

    /// Returns a 64-bit integer, written as a number or as text.
    pub(crate) fn int(&self, field: &str) -> Result<i64, Unreadable> {
        let value = self.get(field);
        let int = value.as_i64().or_else(|| value.as_str()?.parse().ok());
        int.ok_or_else(|| self.fail(field, "an integer", value.clone()))
    }

    /// Returns a boolean.
    pub(crate) fn flag(&self, field: &str) -> Result<bool, Unreadable> {
        let value = self.get(field);
        value
            .as_bool()
            .ok_or_else(|| self.fail(field, "true or false", value.clone()))
    }

    /// Returns hexadecimal bytes.
    pub(crate) fn hex(&self, field: &str) -> Result<Vec<u8>, Unreadable> {
        let text = self.text(field)?;
        hex::decode(text).map_err(|_| self.fail(field, "hexadecimal bytes", text))
    }

    /// Returns exactly 32 hexadecimal bytes.
    pub(crate) fn hex32(&self, field: &str) -> Result<[u8; 32], Unreadable> {
        self.hex(field)?
            .try_into()
            .map_err(|bytes: Vec<u8>| self.fail(field, "32 bytes", bytes.len()))
    }

    /// Parses a text as one of our types.
    pub(crate) fn parsed<T: FromStr<Err: fmt::Display>>(&self, field: &str) -> Result<T, Unreadable> {
        let text = self.text(field)?;
        text.parse()
            .map_err(|error: T::Err| self.fail(field, text, error.to_string()))
    }

    /// Returns a list; empty if it is `null` or absent, since Go writes empty lists like this.
    pub(crate) fn list(&self, field: &str) -> Result<&'a [Value], Unreadable> {
        match self.get(field) {
            Value::Null => Ok(&[]),
            Value::Array(list) => Ok(list),
            other => Err(self.fail(field, "a list", other.clone())),
        }
    }

    /// Returns a list of texts.
    pub(crate) fn texts(&self, field: &str) -> Result<Vec<&'a str>, Unreadable> {
        let list = self.list(field)?;
        list.iter()
            .map(|item| {
                item.as_str()
                    .ok_or_else(|| self.fail(field, "texts", item.clone()))
            })
            .collect()
    }

    /// Returns a list of objects.
    pub(crate) fn objects(&self, field: &str) -> Result<Vec<&'a Map<String, Value>>, Unreadable> {
        let list = self.list(field)?;
        list.iter()
            .map(|item| {
                item.as_object()
                    .ok_or_else(|| self.fail(field, "objects", item.clone()))
            })
            .collect()
    }

    /// Returns an object.
    pub(crate) fn object(&self, field: &str) -> Result<&'a Map<String, Value>, Unreadable> {
        let value = self.get(field);
        value
            .as_object()
            .ok_or_else(|| self.fail(field, "an object", value.clone()))
    }

    /// Returns the entries of an object; empty if it is `null` or absent.
    pub(crate) fn entries(&self, field: &str) -> Result<Vec<(&'a str, &'a Value)>, Unreadable> {
        if self.get(field).is_null() {
            return Ok(Vec::new());
        }
        let object = self.object(field)?;
        Ok(object.iter().map(|(key, value)| (key.as_str(), value)).collect())
    }

    /// Compares the field with the computed value.
    pub(crate) fn check(&self, field: &str, got: impl Into<Value>) {
        self.compare(field, got.into(), self.has(field));
    }

    /// Compares the field with the computed value; `None` if the field must be absent.
    pub(crate) fn check_optional(&self, field: &str, got: Option<impl Into<Value>>) {
        let got = got.map(Into::into);
        if got.is_none() && !self.has(field) {
            self.get(field);
        } else {
            let present = got.is_some() && self.has(field);
            self.compare(field, got.unwrap_or_default(), present);
        }
    }

    /// Compares a list of texts; `null` is an empty list.
    pub(crate) fn check_texts(&self, field: &str, got: impl IntoIterator<Item = impl Into<String>>) {
        let got: Vec<Value> = got.into_iter().map(|text| Value::from(text.into())).collect();
        match self.list(field) {
            Ok(expected) if expected != got => drop(self.fail(field, expected.to_vec(), got)),
            _ => {}
        }
    }

    fn compare(&self, field: &str, got: Value, present: bool) {
        let expected = self.get(field);
        if !present || *expected != got {
            self.fail(field, expected.clone(), got);
        }
    }

    /// Records a violated property.
    pub(crate) fn claim(&self, field: &str, statement: &str, holds: bool) {
        self.seen.borrow_mut().insert(field.to_owned());
        if !holds {
            self.fail(field, statement, false);
        }
    }

    /// Marks fields for people, and texts of the Go program that are not part of the protocol: nothing is computed.
    pub(crate) fn prose(&self, fields: &[&str]) {
        for field in fields {
            self.get(field);
        }
    }

    /// Marks fields that only a running server or client can compute: the runner of `nara-mesh` checks them.
    pub(crate) fn left_to_mesh(&self, fields: &[&str]) {
        self.prose(fields);
    }

    fn report_unseen(&self) {
        let unseen: Vec<&String> = {
            let seen = self.seen.borrow();
            self.fields
                .keys()
                .filter(|field| !seen.contains(*field))
                .collect()
        };
        for field in unseen {
            self.fail(
                field,
                "a field that this runner knows",
                "a field that no check read",
            );
        }
    }
}

/// The counts of all cases.
#[derive(Default)]
struct Tally {
    cases: usize,
    failed: usize,
    deviations: usize,
    by_rule: BTreeMap<&'static str, usize>,
}

/// Runs the checks on a folder of vectors and reports like a test harness; with `only_list`, only prints the name of
/// the test.
#[expect(clippy::print_stdout, reason = "a test harness reports on standard output")]
pub(crate) fn run(folder: &Path, only_list: bool, checks: &[(&str, Check)]) -> ExitCode {
    if only_list {
        println!("conformance: test");
        return ExitCode::SUCCESS;
    }
    let mut tally = Tally::default();
    let files = match read_folder(folder) {
        Ok(files) => files,
        Err(error) => {
            println!("FAILED {error}");
            return ExitCode::FAILURE;
        }
    };
    let fixture = files
        .get(FIXTURE)
        .and_then(|cases| cases.first())
        .and_then(Value::as_object);

    let mut read = 0;
    for (name, cases) in &files {
        let Some(&(_, check)) = checks.iter().find(|(known, _)| known == name) else {
            if !FILES.contains(&name.as_str()) {
                println!("FAILED {name}: not a file of the format");
                tally.failed += 1;
            }
            continue;
        };
        read += 1;
        for (index, case) in cases.iter().enumerate() {
            let label = case.get("case").and_then(Value::as_str).unwrap_or(name);
            let failures = match case.as_object() {
                Some(fields) => judge(&Case::new(name, fields, fixture), check, &mut tally),
                None => vec![format!("element {index} is not an object")],
            };
            tally.cases += usize::from(name != FIXTURE);
            tally.failed += usize::from(!failures.is_empty());
            for failure in failures {
                println!("FAILED {name} {label}: {failure}");
            }
        }
    }
    if read == 0 {
        println!("FAILED {}: no vectors in this folder", folder.display());
        tally.failed += 1;
    }

    for rule in RULES {
        if let Some(count) = tally.by_rule.get(rule.id) {
            println!(
                "  stricter on purpose, {}: {count} cases ({})",
                rule.id, rule.reason
            );
        }
    }
    let Tally {
        cases,
        failed,
        deviations,
        ..
    } = tally;
    println!("conformance: {cases} cases, {read} files, {deviations} deviations");
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        cases.saturating_sub(failed),
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn read_folder(folder: &Path) -> Result<BTreeMap<String, Vec<Value>>, String> {
    let at = |path: &Path, error: &dyn fmt::Display| format!("{}: {error}", path.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(|error| at(folder, &error))? {
        let path = entry.map_err(|error| at(folder, &error))?.path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|error| at(&path, &error))?;
        let cases = serde_json::from_str(&text).map_err(|error| at(&path, &error))?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        files.insert(name, cases);
    }
    Ok(files)
}

/// Runs one check and returns the failures of its outcome as texts.
fn judge(case: &Case<'_>, check: Check, tally: &mut Tally) -> Vec<String> {
    match catch_unwind(AssertUnwindSafe(|| check(case))) {
        Err(_) => return vec!["the check panicked".to_owned()],
        Ok(Ok(())) => case.report_unseen(),
        Ok(Err(Unreadable)) => {}
    }
    let mut differences = case.differences.take();
    let mut failures = Vec::new();
    let mut deviates = false;
    for rule in RULES
        .iter()
        .filter(|rule| rule.seen_by.contains(&RUNNER) && (rule.applies)(case))
    {
        let before = differences.len();
        differences.retain(|difference| !rule.explains(&difference.field, &difference.got));
        if differences.len() == before {
            failures.push(format!("rule {} applies, but nothing differs", rule.id));
        } else {
            *tally.by_rule.entry(rule.id).or_default() += 1;
            deviates = true;
        }
    }
    tally.deviations += usize::from(deviates);
    failures.extend(differences.into_iter().map(|difference| {
        let Difference { field, expected, got } = difference;
        format!("{field}: expected {expected}, got {got}")
    }));
    failures
}
