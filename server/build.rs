//! Notes for `--version` and the API what this is built from. Where git is missing, the fields are
//! empty; packagers set the variables themselves.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    // The log of HEAD grows with every commit and every change of branch.
    if let Some(log) = output("git", &["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo:rerun-if-changed={log}");
    }
    note("CHRONOLITH_REVISION", output("git", &["rev-parse", "HEAD"]));
    note("CHRONOLITH_BRANCH", output("git", &["rev-parse", "--abbrev-ref", "HEAD"]));
    note("CHRONOLITH_BUILD_USER", None);
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    note("CHRONOLITH_COMPILER", output(&rustc, &["--version"]));
    let now = std::time::UNIX_EPOCH.elapsed().map(|since| since.as_secs().to_string());
    note("CHRONOLITH_BUILD_TIME", std::env::var("SOURCE_DATE_EPOCH").ok().or(now.ok()));
}

/// Passes a value on to the compiler, unless the environment has one already.
fn note(name: &str, value: Option<String>) {
    println!("cargo:rerun-if-env-changed={name}");
    let value = std::env::var(name).ok().or(value).unwrap_or_default();
    println!("cargo:rustc-env={name}={value}");
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
