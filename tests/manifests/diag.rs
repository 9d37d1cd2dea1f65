//! CBOR diagnostic notation (RFC 8949, section 8), written from what an independent decoder reads.

use std::fmt::Write;

use ciborium::Value;

/// The notation of one item, a line for each entry of a map or of a list of maps.
pub(crate) fn diag(bytes: &[u8]) -> String {
    let mut out = String::new();
    write_value(&mut out, &ciborium::from_reader(bytes).unwrap(), 0);
    out.push('\n');
    out
}

fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Integer(number) => write!(out, "{}", i128::from(*number)).unwrap(),
        Value::Float(number) => write!(out, "{number:?}").unwrap(),
        Value::Bool(flag) => write!(out, "{flag}").unwrap(),
        Value::Text(text) => out.push_str(&serde_json::to_string(text).unwrap()),
        Value::Bytes(bytes) => {
            out.push_str("h'");
            bytes.iter().for_each(|byte| write!(out, "{byte:02x}").unwrap());
            out.push('\'');
        }
        Value::Array(items) => {
            let lines = items.iter().any(|item| matches!(item, Value::Map(_)));
            write_list(out, ['[', ']'], items, lines.then_some(depth), |out, item| write_value(out, item, depth + 1));
        }
        Value::Map(entries) => write_list(out, ['{', '}'], entries, Some(depth), |out, (key, value)| {
            write_value(out, key, depth + 1);
            out.push_str(": ");
            write_value(out, value, depth + 1);
        }),
        other => panic!("the formats have no {other:?}"),
    }
}

/// Writes a list on one line, or with an indented line for each item.
fn write_list<T>(
    out: &mut String,
    braces: [char; 2],
    items: &[T],
    lines: Option<usize>,
    item: impl Fn(&mut String, &T),
) {
    let indent = |out: &mut String, depth: usize| {
        out.push('\n');
        out.push_str(&"  ".repeat(depth));
    };
    out.push(braces[0]);
    for (index, each) in items.iter().enumerate() {
        match lines {
            Some(depth) => indent(out, depth + 1),
            None if index > 0 => out.push(' '),
            None => {}
        }
        item(out, each);
        if index + 1 < items.len() {
            out.push(',');
        }
    }
    if let Some(depth) = lines {
        indent(out, depth);
    }
    out.push(braces[1]);
}
