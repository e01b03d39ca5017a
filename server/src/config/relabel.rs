//! Relabelling rules and their checks.
//!
//! Source: Prometheus v3.14, `model/relabel/relabel.go`, `Config.UnmarshalYAML` and `Config.Validate`.

use super::types::{NameValidation, RelabelAction, RelabelConfig};
use super::yaml::{Node, Result, Section};
use chronolith_model::re2::Re2;

const DEFAULT_REGEX: &str = "(.*)";
const DEFAULT_REPLACEMENT: &str = "$1";
const DEFAULT_SEPARATOR: &str = ";";

/// Reads the rules at `key`; `what` names them in errors ("target relabeling rule in scrape config").
pub(crate) fn read_list(
    parent: &Section<'_>,
    key: &'static str,
    what: &str,
    validation: NameValidation,
) -> Result<Vec<RelabelConfig>> {
    let at = parent.path_of(key);
    let Some(node) = parent.get(key) else { return Ok(Vec::new()) };
    node.as_list(&at)?
        .iter()
        .enumerate()
        .map(|(i, item)| {
            if item.is_null() {
                return Err(item.problem(format!("empty or null {what}")));
            }
            read(item, format!("{at}[{i}]"), validation)
        })
        .collect()
}

fn read(node: &Node, at: String, validation: NameValidation) -> Result<RelabelConfig> {
    let section = Section::new(node, at)?;
    let has_source_labels = section.get("source_labels").is_some();
    let source_labels = section.texts("source_labels")?;
    let separator = section.text("separator")?;
    let replacement = section.node("replacement").map(|_| section.text("replacement")).transpose()?;
    let target_label = section.text("target_label")?.unwrap_or_default();
    let modulus: u64 = section.number("modulus", "a whole number")?.unwrap_or(0);
    let regex_node = section.node("regex");
    let action_node = section.node("action");
    section.finish()?;

    // A regex that is there but null matches the empty text only, as upstream.
    let regex_text = match regex_node {
        Some(node) => node.as_text("regex")?.to_owned(),
        None => DEFAULT_REGEX.to_owned(),
    };
    let regex = Re2::anchored(&regex_text)
        .map_err(|error| section.problem_at("regex", format!("{}: {error}", section.path_of("regex"))))?;
    let action = match action_node {
        None => RelabelAction::Replace,
        Some(node) => read_action(&section, node)?,
    };
    let rule = RelabelConfig {
        source_labels,
        separator: separator.clone().unwrap_or_else(|| DEFAULT_SEPARATOR.to_owned()),
        regex,
        regex_text,
        modulus,
        target_label,
        replacement: match replacement {
            Some(text) => text.unwrap_or_default(),
            None => DEFAULT_REPLACEMENT.to_owned(),
        },
        action,
        name_validation: validation,
    };
    check(&rule, has_source_labels)
        .map_err(|reason| section.problem(format!("{}: {reason}", section.path)))?;
    Ok(rule)
}

fn read_action(section: &Section<'_>, node: &Node) -> Result<RelabelAction> {
    let text = node.as_text("action")?.to_ascii_lowercase();
    if text.is_empty() {
        return Err(section.problem(format!("{}: relabel action cannot be empty", section.path)));
    }
    RelabelAction::ALL.into_iter().find(|action| action.as_str() == text).ok_or_else(|| {
        let hint = crate::cli::nearest(&text, RelabelAction::ALL.iter().map(|action| action.as_str()))
            .map(|meant| format!("; did you mean {meant:?}?"))
            .unwrap_or_default();
        node.problem(format!("unknown relabel action {text:?}{hint}"))
    })
}

fn check(rule: &RelabelConfig, has_source_labels: bool) -> std::result::Result<(), String> {
    use RelabelAction as A;
    let action = rule.action.as_str();
    let valid = |name: &str| rule.name_validation.is_valid_label_name(name);
    let is_default_replacement = rule.replacement == DEFAULT_REPLACEMENT;
    let is_default_separator = rule.separator == DEFAULT_SEPARATOR;
    if rule.modulus == 0 && rule.action == A::HashMod {
        return Err("relabel configuration for hashmod requires non-zero modulus".to_owned());
    }
    let needs_target = matches!(
        rule.action,
        A::Replace | A::HashMod | A::Lowercase | A::Uppercase | A::KeepEqual | A::DropEqual
    );
    if needs_target && rule.target_label.is_empty() {
        return Err(format!("relabel configuration for {action} action requires 'target_label' value"));
    }
    let bad_target = match rule.action {
        A::Replace if rule.target_label.contains('$') => !may_be_label_name(rule, &rule.target_label),
        A::Replace | A::Lowercase | A::Uppercase | A::KeepEqual | A::DropEqual | A::HashMod => {
            !valid(&rule.target_label)
        }
        _ => false,
    };
    if bad_target {
        return Err(format!("{:?} is invalid 'target_label' for {action} action", rule.target_label));
    }
    if matches!(rule.action, A::Lowercase | A::Uppercase | A::KeepEqual | A::DropEqual)
        && !is_default_replacement
    {
        return Err(format!("'replacement' can not be set for {action} action"));
    }
    if rule.action == A::LabelMap && !may_be_label_name(rule, &rule.replacement) {
        return Err(format!("{:?} is invalid 'replacement' for {action} action", rule.replacement));
    }
    let equal_has_more = rule.regex_text != DEFAULT_REGEX || rule.modulus != 0 || !is_default_separator;
    if matches!(rule.action, A::KeepEqual | A::DropEqual) && equal_has_more {
        return Err(format!(
            "{action} action requires only 'source_labels' and `target_label`, and no other fields"
        ));
    }
    let keep_has_more = has_source_labels
        || !rule.target_label.is_empty()
        || rule.modulus != 0
        || !is_default_separator
        || !is_default_replacement;
    if matches!(rule.action, A::LabelDrop | A::LabelKeep) && keep_has_more {
        return Err(format!("{action} action requires only 'regex', and no other fields"));
    }
    Ok(())
}

/// Whether a text with `$1` or `${1}` in it may turn into a label name.
fn may_be_label_name(rule: &RelabelConfig, text: &str) -> bool {
    match rule.name_validation {
        NameValidation::Utf8 => !text.is_empty(),
        NameValidation::Legacy => is_legacy_template(text),
    }
}

/// Upstream's `^(?:(?:[a-zA-Z_]|\$(?:\{\w+\}|\w+))+\w*)+$`.
fn is_legacy_template(text: &str) -> bool {
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('$') {
            let (inner, tail) = match after.strip_prefix('{') {
                Some(braced) => match braced.split_once('}') {
                    Some(parts) => parts,
                    None => return false,
                },
                None => {
                    let n = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                    after.split_at(n)
                }
            };
            if inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return false;
            }
            rest = tail;
        } else {
            let byte = rest.as_bytes()[0];
            let fits = byte.is_ascii_alphabetic() || byte == b'_' || (!first && byte.is_ascii_digit());
            if !fits {
                return false;
            }
            rest = &rest[1..];
        }
        first = false;
    }
    !first
}
