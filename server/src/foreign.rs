//! What of a data directory is not the store's own, so that the start can say that it is not read.

use crate::queries::active_file;
use chronolith_storage::db::directory::OWN_ENTRIES;
use std::path::Path;

/// How many foreign entries a message names.
const N_NAMED: usize = 5;

/// What a file system or a server leaves in a directory beside its store.
const HARMLESS: [&str; 3] = ["lost+found", "snapshots", active_file::FILE_NAME];

/// Folders and files that a Prometheus TSDB has beside its blocks.
const PROMETHEUS_ENTRIES: [&str; 4] = ["wal", "wbl", "chunks_head", "lock"];

/// What a data directory holds that no part of the store reads or changes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Foreign {
    /// Blocks of a Prometheus TSDB: folders named by a ULID.
    n_prometheus_blocks: usize,
    /// Names of its other folders and files, sorted.
    prometheus: Vec<String>,
    /// Names that nobody here knows, sorted.
    unknown: Vec<String>,
}

/// Logs what lies in the data directory and will not be read. `config_file` may lie there, too.
pub fn warn(data: &Path, config_file: &Path) {
    for message in messages(&find(data, config_file)) {
        tracing::warn!(path = %data.display(), "{message}");
    }
}

fn find(data: &Path, config_file: &Path) -> Foreign {
    let mut foreign = Foreign::default();
    // A directory that is not there yet holds nothing; one that cannot be read is refused when opened.
    let Ok(entries) = std::fs::read_dir(data) else { return foreign };
    let config_file = std::fs::canonicalize(config_file).ok();
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if OWN_ENTRIES.contains(&name.as_str()) || HARMLESS.contains(&name.as_str()) {
            continue;
        }
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && is_ulid(&name) {
            foreign.n_prometheus_blocks += 1;
        } else if PROMETHEUS_ENTRIES.contains(&name.as_str()) {
            foreign.prometheus.push(name);
        } else if config_file.is_none() || std::fs::canonicalize(entry.path()).ok() != config_file {
            foreign.unknown.push(name);
        }
    }
    foreign.prometheus.sort();
    foreign.unknown.sort();
    foreign
}

fn messages(foreign: &Foreign) -> Vec<String> {
    let mut messages = Vec::new();
    if foreign.n_prometheus_blocks > 0 || !foreign.prometheus.is_empty() {
        let mut parts = foreign.prometheus.clone();
        match foreign.n_prometheus_blocks {
            0 => {}
            1 => parts.push("1 block".to_owned()),
            n => parts.push(format!("{n} blocks")),
        }
        messages.push(format!(
            "the data directory holds a Prometheus TSDB ({}): it is not read and stays as it is. \
             To keep the two apart, give Chronolith a directory of its own with --storage.tsdb.path",
            parts.join(", ")
        ));
    }
    if !foreign.unknown.is_empty() {
        let named = &foreign.unknown[..foreign.unknown.len().min(N_NAMED)];
        let more = match foreign.unknown.len() - named.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        messages.push(format!(
            "the data directory holds files that are not Chronolith's ({}{more}): they are not read and stay as they are",
            named.join(", ")
        ));
    }
    messages
}

/// 26 digits of Crockford's base 32, the first of which is at most 7.
fn is_ulid(name: &str) -> bool {
    name.len() == 26
        && name.starts_with(|first: char| ('0'..='7').contains(&first))
        && name.bytes().all(|byte| {
            byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !matches!(byte, b'I' | b'L' | b'O' | b'U'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prometheus_tsdb_is_named_and_what_is_our_own_is_not() {
        let data = tempfile::tempdir().unwrap();
        for own in OWN_ENTRIES.into_iter().chain(["lost+found", "snapshots"]) {
            std::fs::create_dir(data.path().join(own)).unwrap();
        }
        let config = data.path().join("prometheus.yml");
        std::fs::write(&config, "").unwrap();
        assert!(messages(&find(data.path(), &config)).is_empty());

        for folder in ["wal", "chunks_head", "01JD2Q4V5W6X7Y8Z9A0B1C2D3E", "01JD2Q4V5W6X7Y8Z9A0B1C2D3F"] {
            std::fs::create_dir(data.path().join(folder)).unwrap();
        }
        let messages = messages(&find(data.path(), &config));
        assert_eq!(messages.len(), 1, "{messages:?}");
        let expected =
            "the data directory holds a Prometheus TSDB (chunks_head, wal, 2 blocks): it is not read";
        assert!(messages[0].starts_with(expected), "{messages:?}");
    }

    #[test]
    fn of_many_unknown_files_a_few_are_named() {
        let data = tempfile::tempdir().unwrap();
        for i in 0..8 {
            std::fs::write(data.path().join(format!("file{i}")), "").unwrap();
        }
        // A file with the name of a block is no block.
        std::fs::write(data.path().join("01JD2Q4V5W6X7Y8Z9A0B1C2D3E"), "").unwrap();
        let messages = messages(&find(data.path(), Path::new("prometheus.yml")));
        assert_eq!(messages.len(), 1);
        let expected = "(01JD2Q4V5W6X7Y8Z9A0B1C2D3E, file0, file1, file2, file3 and 4 more)";
        assert!(messages[0].contains(expected), "{messages:?}");
    }

    #[test]
    fn a_directory_that_is_not_there_holds_nothing() {
        assert_eq!(find(Path::new("/nonexistent/data"), Path::new("x")), Foreign::default());
    }
}
