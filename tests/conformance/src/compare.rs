//! Two documents, field by field.

use serde_json::Value;

/// Says where `theirs` is not `ours`, by path; nothing where they are alike.
pub(crate) fn differences(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", ours, theirs, &mut found);
    found
}

/// How many fields a document has that are neither a list nor a record.
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
                    None => found.push(format!("{path}.{key}: missing, should be {value}")),
                }
            }
            let more = theirs.keys().filter(|key| !ours.contains_key(*key));
            found.extend(more.map(|key| format!("{path}.{key}: one too many")));
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (value, other)) in ours.iter().zip(theirs).enumerate() {
                walk(&format!("{path}[{index}]"), value, other, found);
            }
        }
        (ours, theirs) if ours == theirs => {}
        (ours, theirs) => found.push(format!("{path}: is {theirs}, should be {ours}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_difference_is_named() {
        let ours = json!({ "a": 1, "b": [1, { "c": null }], "d": "x", "e": [1, 2] });
        assert_eq!(differences(&ours, &ours), [] as [&str; 0]);
        assert_eq!(fields(&ours), 6);
        let theirs = json!({ "a": 2, "b": [1, { "c": 0 }], "e": [1], "f": 1 });
        assert_eq!(
            differences(&ours, &theirs),
            [
                ".a: is 2, should be 1",
                ".b[1].c: is 0, should be null",
                ".d: missing, should be \"x\"",
                ".e: is [1], should be [1,2]",
                ".f: one too many",
            ]
        );
    }
}
