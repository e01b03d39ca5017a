//! A progress bar on standard error: redrawn on a terminal, a line now and then elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

const WIDTH: usize = 30;
/// Between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// A bar.
#[derive(Debug)]
pub struct Bar {
    title: String,
    total: u64,
    begin: Instant,
    terminal: bool,
    last_line: Instant,
}

impl Bar {
    /// A bar over `total` pieces of work, which may be an estimate.
    pub fn new(title: impl Into<String>, total: u64) -> Self {
        let begin = Instant::now();
        Self {
            title: title.into(),
            total,
            begin,
            terminal: std::io::stderr().is_terminal(),
            last_line: begin,
        }
    }

    /// Shows how much is done.
    pub fn show(&mut self, done: u64) {
        if self.terminal {
            eprint!("\r\x1b[K{}", line(&self.title, done, self.total, self.begin.elapsed()));
            // A bar that does not show is no reason to stop.
            let _ = std::io::stderr().flush();
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}", line(&self.title, done, self.total, self.begin.elapsed()));
        }
    }

    /// Shows the end and leaves the line.
    pub fn finish(&mut self, done: u64) {
        let start = if self.terminal { "\r\x1b[K" } else { "" };
        eprintln!("{start}{}", line(&self.title, done, done, self.begin.elapsed()));
    }
}

fn line(title: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let share = if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) };
    let filled = (share * WIDTH as f64) as usize;
    let seconds = elapsed.as_secs_f64();
    let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
    let left = match share {
        1.0.. => format!("{seconds:.1} s"),
        0.001.. => format!("{:.0} s left", seconds * (1.0 - share) / share),
        _ => String::new(),
    };
    let bar: String = (0..WIDTH).map(|at| if at < filled { '#' } else { '.' }).collect();
    format!("{title} [{bar}] {:3.0} % {}, {}/s {left}", share * 100.0, short(done as f64), short(rate))
}

/// A number with three digits and a letter for its size.
pub fn short(number: f64) -> String {
    let (number, unit) = match number {
        1e9.. => (number / 1e9, " G"),
        1e6.. => (number / 1e6, " M"),
        1e3.. => (number / 1e3, " k"),
        _ => (number, ""),
    };
    match number {
        100.0.. => format!("{number:.0}{unit}"),
        10.0.. => format!("{number:.1}{unit}"),
        _ => format!("{number:.2}{unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_what_is_left() {
        let text = line("sending", 250, 1000, Duration::from_secs(5));
        assert_eq!(text, "sending [#######.......................]  25 % 250, 50.0/s 15 s left");
        assert!(line("sending", 2_000_000, 1000, Duration::from_secs(1)).contains("100 % 2.00 M"));
        assert!(line("sending", 0, 0, Duration::ZERO).ends_with("0.0 s"));
    }
}
