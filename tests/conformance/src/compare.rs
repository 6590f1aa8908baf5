//! Compares two JSON documents field by field.

use serde_json::Value;

/// Returns the differences of `theirs` from `ours`, each with its path.
pub(crate) fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", ours, theirs, &mut found);
    found
}

/// Returns the number of fields that are neither an array nor an object.
pub(crate) fn fields(document: &Value) -> usize {
    match document {
        Value::Array(items) => items.iter().map(fields).sum(),
        Value::Object(record) => record.values().map(fields).sum(),
        _ => 1,
    }
}

fn walk(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in ours {
                match theirs.get(key) {
                    Some(other) => walk(&format!("{path}.{key}"), value, other, found),
                    None => found.push(format!("{path}.{key}: missing, want {value}")),
                }
            }
            let unexpected = theirs.keys().filter(|key| !ours.contains_key(*key));
            found.extend(unexpected.map(|key| format!("{path}.{key}: unexpected")));
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (value, other)) in ours.iter().zip(theirs).enumerate() {
                walk(&format!("{path}[{index}]"), value, other, found);
            }
        }
        (ours, theirs) if ours == theirs => {}
        (ours, theirs) => found.push(format!("{path}: got {theirs}, want {ours}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_reported_with_its_path() {
        let ours = json!({ "a": 1, "b": [1, { "c": null }], "d": "x", "e": [1, 2] });
        assert_eq!(differences(&ours, &ours), [] as [&str; 0]);
        assert_eq!(fields(&ours), 6);
        let theirs = json!({ "a": 2, "b": [1, { "c": 0 }], "e": [1], "f": 1 });
        assert_eq!(
            differences(&ours, &theirs),
            [
                ".a: got 2, want 1",
                ".b[1].c: got 0, want null",
                ".d: missing, want \"x\"",
                ".e: got [1], want [1,2]",
                ".f: unexpected",
            ]
        );
    }
}
