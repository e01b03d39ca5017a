//! `prometheus.yml`: its whole schema, read strictly. Every error says file, line and reason, and a
//! misspelt key which key was probably meant. What this version does not act on is checked all the
//! same and listed in [`Config::without_effect`], so that the start can say so.

mod discovery;
mod glob;
mod http;
mod others;
mod read;
mod relabel;
mod show;
mod types;
pub(crate) mod units;
pub(crate) mod yaml;

pub use types::*;

use http::Base;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use yaml::Problem;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file says something wrong.
    #[error("{}:{line}: {reason}", file.display())]
    Invalid {
        /// Which.
        file: PathBuf,
        /// 1-based line.
        line: usize,
        /// What is wrong, and often what was meant.
        reason: String,
    },
}

/// Environment variables, for `external_labels`.
pub struct Environment<'e>(pub &'e dyn Fn(&str) -> Option<String>);

impl Environment<'_> {
    /// Replaces `$name` and `${name}`; `$$` is a dollar.
    ///
    /// Source: Go, `os.Expand`.
    fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            out.push_str(before);
            let (name, tail) = match after.as_bytes().first() {
                Some(b'{') => match after[1..].split_once('}') {
                    Some((name, tail)) => (name, tail),
                    // An open brace swallows "${", as in Go.
                    None => ("", &after[1..]),
                },
                Some(b'$') => {
                    out.push('$');
                    rest = &after[1..];
                    continue;
                }
                Some(byte) if b"*#@!?-0123456789".contains(byte) => after.split_at(1),
                _ => {
                    let n = after.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
                    if n == 0 {
                        out.push('$');
                    }
                    after.split_at(n)
                }
            };
            if !name.is_empty() {
                match (self.0)(name).filter(|value| !value.is_empty()) {
                    Some(value) => out.push_str(&value),
                    None => tracing::warn!(name, "Empty environment variable"),
                }
            }
            rest = tail;
        }
        out.push_str(rest);
        out
    }
}

impl Config {
    /// Reads `file` and the scrape config files it names. Certificates that they name have to be there.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and reason; nothing is half read.
    pub fn load(file: &Path, env: &Environment<'_>) -> Result<Self, ConfigError> {
        Self::read(&read_file(file)?, file, env, true)
    }

    /// Reads the text of a file; `file` stands in errors, and relative paths start from its folder.
    /// Certificates are not looked at.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text(text: &str, file: &Path, env: &Environment<'_>) -> Result<Self, ConfigError> {
        Self::read(text, file, env, false)
    }

    fn read(text: &str, file: &Path, env: &Environment<'_>, checks_files: bool) -> Result<Self, ConfigError> {
        let invalid = |problem| blame(file, problem);
        let root = yaml::parse(text).map_err(invalid)?;
        let main = read::main_file(&root, base(file, checks_files), env).map_err(invalid)?;
        let mut config = main.config;
        let mut places: Vec<PathBuf> = vec![file.to_owned(); config.scrape_configs.len()];
        for pattern in &main.scrape_config_files {
            for other in glob::expand(pattern) {
                let root = yaml::parse(&read_file(&other)?).map_err(|problem| blame(&other, problem))?;
                let scrapes = read::scrape_file(&root, &config.global, base(&other, checks_files))
                    .map_err(|problem| blame(&other, problem))?;
                for (line, scrape) in scrapes {
                    let same = config.scrape_configs.iter().position(|one| one.job_name == scrape.job_name);
                    if let Some(at) = same {
                        let reason = format!(
                            "found multiple scrape configs with job name {:?}, first found in {}",
                            scrape.job_name,
                            places[at].display()
                        );
                        return Err(blame(&other, Problem { line, reason }));
                    }
                    config.scrape_configs.push(Arc::new(scrape));
                    places.push(other.clone());
                }
            }
        }
        for scrape in &config.scrape_configs {
            for kind in &scrape.other_discovery {
                config.without_effect.push(format!(
                    "{kind} in job {:?}: this version discovers static_configs only",
                    scrape.job_name
                ));
            }
        }
        Ok(config)
    }
}

/// The main file and the scrape config files it names, as far as they can be told: what a reload
/// depends on.
pub fn files_of(file: &Path) -> Vec<PathBuf> {
    let mut files = vec![file.to_owned()];
    let patterns = read_file(file).ok().and_then(|text| yaml::parse(&text).ok()).and_then(|root| {
        yaml::Section::new(&root, "").ok().and_then(|section| section.texts("scrape_config_files").ok())
    });
    for pattern in patterns.unwrap_or_default() {
        files.extend(glob::expand(&http::join(base(file, false), &pattern)));
    }
    files
}

fn blame(file: &Path, problem: Problem) -> ConfigError {
    ConfigError::Invalid { file: file.to_owned(), line: problem.line.max(1), reason: problem.reason }
}

/// No configuration is larger; a device or a wrong file may be.
const MAX_FILE_BYTES: u64 = 64 << 20;

fn read_file(file: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let reason = format!("the file is larger than {MAX_FILE_BYTES} bytes");
        return Err(blame(file, Problem { line: 1, reason }));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        blame(file, Problem { line, reason: "not UTF-8".to_owned() })
    })
}

fn base(file: &Path, checks_files: bool) -> Base<'_> {
    Base { dir: file.parent().unwrap_or(Path::new("")), checks_files }
}

#[cfg(test)]
mod tests;
