//! Relabelling: rules that rewrite, keep or drop label sets, of targets and of samples.
//!
//! The rules themselves come validated out of [`crate::config`].
//!
//! Source: Prometheus v3.14, `model/relabel/relabel.go`, `relabel`.

use crate::config::{RelabelAction, RelabelConfig};
use chronolith_model::labels::LabelsBuilder;
use md5::{Digest, Md5};

#[cfg(test)]
mod tests;

/// Applies rules in their order. Returns false as soon as one of them drops the label set; the labels
/// are then of no use.
pub fn apply(rules: &[RelabelConfig], labels: &mut LabelsBuilder) -> bool {
    rules.iter().all(|rule| apply_rule(rule, labels))
}

fn apply_rule(rule: &RelabelConfig, labels: &mut LabelsBuilder) -> bool {
    let source = joined(rule, labels);
    match rule.action {
        RelabelAction::Drop => return !rule.regex.is_match(&source),
        RelabelAction::Keep => return rule.regex.is_match(&source),
        RelabelAction::DropEqual => return labels.get(&rule.target_label).unwrap_or("") != source,
        RelabelAction::KeepEqual => return labels.get(&rule.target_label).unwrap_or("") == source,
        RelabelAction::Replace => replace(rule, &source, labels),
        RelabelAction::Lowercase => {
            labels.set(&rule.target_label, &map_chars(&source, lower));
        }
        RelabelAction::Uppercase => {
            labels.set(&rule.target_label, &map_chars(&source, upper));
        }
        RelabelAction::HashMod => {
            let digest = Md5::digest(source.as_bytes());
            let last: [u8; 8] = digest[8..].try_into().expect("an MD5 digest has 16 bytes");
            labels.set(&rule.target_label, &(u64::from_be_bytes(last) % rule.modulus).to_string());
        }
        RelabelAction::LabelMap => {
            let renamed: Vec<(String, String)> = labels
                .iter()
                .filter_map(|(name, value)| {
                    Some((rule.regex.expand(name, &rule.replacement)?, value.to_owned()))
                })
                .collect();
            for (name, value) in renamed {
                labels.set(&name, &value);
            }
        }
        RelabelAction::LabelDrop => {
            labels.retain(|name, _| !rule.regex.is_match(name));
        }
        RelabelAction::LabelKeep => {
            labels.retain(|name, _| rule.regex.is_match(name));
        }
    }
    true
}

/// The values of the source labels, absent ones empty, with the separator between them.
fn joined(rule: &RelabelConfig, labels: &LabelsBuilder) -> String {
    let mut source = String::new();
    for (i, name) in rule.source_labels.iter().enumerate() {
        if i > 0 {
            source.push_str(&rule.separator);
        }
        source.push_str(labels.get(name).unwrap_or(""));
    }
    source
}

fn replace(rule: &RelabelConfig, source: &str, labels: &mut LabelsBuilder) {
    let Some(value) = rule.regex.expand(source, &rule.replacement) else { return };
    if !rule.target_label.contains('$') {
        labels.set(&rule.target_label, &value);
        return;
    }
    let target = rule.regex.expand(source, &rule.target_label).unwrap_or_default();
    if rule.name_validation.is_valid_label_name(&target) {
        labels.set(&target, &value);
    }
}

/// Go maps characters one to one; Rust's mappings that yield several characters are left out.
fn map_chars(text: &str, map: impl Fn(char) -> char) -> String {
    text.chars().map(map).collect()
}

fn lower(c: char) -> char {
    // The one character whose lower case takes two and that has a simple mapping all the same.
    if c == '\u{130}' {
        return 'i';
    }
    let mut mapped = c.to_lowercase();
    match (mapped.next(), mapped.next()) {
        (Some(lower), None) => lower,
        _ => c,
    }
}

fn upper(c: char) -> char {
    let mut mapped = c.to_uppercase();
    match (mapped.next(), mapped.next()) {
        (Some(upper), None) => upper,
        // Greek letters with iota subscript have a simple title case next to their full upper case.
        _ => match u32::from(c) {
            code @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => {
                char::from_u32(code + 8).unwrap_or(c)
            }
            code @ (0x1fb3 | 0x1fc3 | 0x1ff3) => char::from_u32(code + 9).unwrap_or(c),
            _ => c,
        },
    }
}
