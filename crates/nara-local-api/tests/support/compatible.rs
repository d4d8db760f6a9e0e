//! Checks that programs which read JSON of an old schema can read JSON of the new one.

use serde_json::Value;

/// Returns what a program may rely on in the old schema and the new one lacks.
pub(crate) fn broken(old: &Value, new: &Value, place: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let required = |schema: &Value, name: &str| {
        let required = schema["required"].as_array();
        required.is_some_and(|required| required.iter().any(|field| field == name))
    };
    for (name, was) in old["properties"].as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match new["properties"].get(name) {
            None => broken.push(format!("{place} is gone")),
            Some(_) if required(old, name) && !required(new, name) => {
                broken.push(format!("{place} may be missing"));
            }
            Some(is) => broken.extend(self::broken(was, is, &place)),
        }
    }
    for (name, was) in old["$defs"].as_object().into_iter().flatten() {
        broken.extend(self::broken(was, &new["$defs"][name], name));
    }
    for keyword in ["type", "$ref", "const"] {
        if old.get(keyword).is_some() && old[keyword] != new[keyword] {
            broken.push(format!("{place} is {}, not {}", new[keyword], old[keyword]));
        }
    }
    if let Some(values) = old["enum"].as_array() {
        let now = new["enum"].as_array();
        if now.is_none_or(|now| values.iter().any(|value| !now.contains(value))) {
            broken.push(format!("{place} has other values"));
        }
    }
    for keyword in ["allOf", "oneOf", "anyOf"] {
        for (index, was) in old[keyword].as_array().into_iter().flatten().enumerate() {
            broken.extend(self::broken(was, &new[keyword][index], place));
        }
    }
    if let Some(was) = old.get("items") {
        broken.extend(self::broken(was, &new["items"], &format!("{place}[]")));
    }
    broken
}
