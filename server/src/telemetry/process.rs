//! The `process_*` metrics, from the kernel.

use super::metrics::{Exposition, FamilyType};

/// `USER_HZ`: what Linux counts CPU time in towards programs, on every architecture.
const CLOCK_TICKS_PER_SECOND: f64 = 100.0;

/// Writes what the kernel tells about this process; what it does not tell is left out.
pub fn collect(out: &mut Exposition) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The command's name may hold spaces and brackets; fields are counted after its last bracket.
    let fields: Vec<&str> =
        stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let number = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok());
    let ticks = CLOCK_TICKS_PER_SECOND;

    // Numbers of proc(5) less three: the fields counted from here start with the state.
    if let (Some(user), Some(system)) = (number(11), number(12)) {
        let seconds = (user + system) / ticks;
        let help = "Total user and system CPU time spent in seconds.";
        out.single("process_cpu_seconds_total", help, FamilyType::Counter, seconds);
    }
    if let (Some(started), Some(booted)) = (number(19), boot_time()) {
        let help = "Start time of the process since unix epoch in seconds.";
        out.single("process_start_time_seconds", help, FamilyType::Gauge, booted + started / ticks);
    }
    if let Some(bytes) = number(20) {
        let help = "Virtual memory size in bytes.";
        out.single("process_virtual_memory_bytes", help, FamilyType::Gauge, bytes);
    }
    let resident =
        std::fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status));
    if let Some(bytes) = resident {
        let help = "Resident memory size in bytes.";
        out.single("process_resident_memory_bytes", help, FamilyType::Gauge, bytes);
    }
    if let Some(threads) = number(17) {
        out.single("process_threads", "Number of OS threads in the process.", FamilyType::Gauge, threads);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let help = "Number of open file descriptors.";
        out.single("process_open_fds", help, FamilyType::Gauge, entries.count() as f64);
    }
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let help = "Maximum number of open file descriptors.";
        out.single("process_max_fds", help, FamilyType::Gauge, limit as f64);
    }
}

/// `VmRSS` of proc(5), which counts in kibibytes whatever the size of a page.
fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn boot_time() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::metrics::{Registry, TextFormat};

    #[test]
    fn the_process_has_memory_and_open_files() {
        let registry = Registry::new();
        registry.collect(super::collect);
        let text = registry.render(TextFormat::Prometheus);
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name} in {text}");
        }
    }
}
