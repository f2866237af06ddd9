//! What the server uses: CPU of its threads and memory of its processes, from `/proc` for processes of this machine
//! and from `/metrics` for others.

use std::collections::BTreeMap;
use std::fs;

use super::machine::number_after;
use super::rest;

/// CPU seconds by tier, and memory, at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// By tier: the name of a thread up to its first `-`.
    pub(super) cpu_s: BTreeMap<String, f64>,
    /// Anonymous memory of the processes: what is theirs alone.
    pub(super) memory_bytes: u64,
    /// What could not be read.
    pub(super) complaints: Vec<String>,
}

impl Sample {
    pub(super) fn take(pids: &[u32], metrics: &[String]) -> Sample {
        let mut sample = Sample::default();
        for pid in pids {
            if sample.process(*pid).is_none() {
                sample.complaints.push(format!("process {pid} cannot be read"));
            }
        }
        for url in metrics {
            match rest::text(url) {
                Ok(text) => sample.metrics(&text, pids.is_empty()),
                Err(error) => sample.complaints.push(format!("{url}: {error}")),
            }
        }
        sample
    }

    /// CPU of all tiers.
    pub(super) fn cpu_s(&self) -> f64 {
        self.cpu_s.values().sum()
    }

    fn process(&mut self, pid: u32) -> Option<()> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        self.memory_bytes += number_after(&status, "RssAnon:")? * 1024;
        for task in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            let read = |name| fs::read_to_string(task.path().join(name)).ok();
            // A thread may end while we look.
            let (Some(name), Some(stat)) = (read("comm"), read("schedstat")) else { continue };
            let nanoseconds: u64 = stat.split_whitespace().next()?.parse().ok()?;
            let tier = name.trim().split('-').next().unwrap_or_default().to_owned();
            *self.cpu_s.entry(tier).or_default() += nanoseconds as f64 / 1e9;
        }
        Some(())
    }

    /// Takes CPU by thread when the process tells it, else of the whole process. Memory only when `/proc` gave none.
    fn metrics(&mut self, text: &str, takes_memory: bool) {
        let mut process_s = 0.0;
        let mut threads: BTreeMap<String, f64> = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            match name {
                "process_cpu_seconds_total" => process_s = value,
                "process_resident_memory_bytes" if takes_memory => self.memory_bytes += value as u64,
                name if name.ends_with("thread_cpu_seconds_total") => {
                    let thread = labels.split('"').nth(1).unwrap_or_default();
                    let tier = thread.split('-').next().unwrap_or_default();
                    *threads.entry(tier.to_owned()).or_default() += value;
                }
                _ => {}
            }
        }
        if !takes_memory {
            return;
        }
        if threads.is_empty() {
            threads.insert("process".to_owned(), process_s);
        }
        for (tier, seconds) in threads {
            *self.cpu_s.entry(tier).or_default() += seconds;
        }
    }

    /// Microseconds of CPU per message, by tier, since an earlier sample.
    pub(super) fn us_per_message(&self, earlier: &Sample, messages: u64) -> BTreeMap<String, f64> {
        let spent = |tier: &String, now_s: f64| now_s - earlier.cpu_s.get(tier).copied().unwrap_or(0.0);
        let per = |(tier, now_s): (&String, &f64)| {
            let us = spent(tier, *now_s).max(0.0) * 1e6 / messages.max(1) as f64;
            (tier.clone(), (us * 100.0).round() / 100.0)
        };
        if messages == 0 { BTreeMap::new() } else { self.cpu_s.iter().map(per).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read_by_thread_or_whole() {
        let mut whole = Sample::default();
        whole.metrics(
            "# TYPE x counter\nprocess_cpu_seconds_total 1.5\nprocess_resident_memory_bytes 4096.0\n",
            true,
        );
        assert_eq!((whole.cpu_s["process"], whole.memory_bytes), (1.5, 4096));
        let mut by_thread = Sample::default();
        let text = "x_thread_cpu_seconds_total{thread=\"gateway-0\"} 1\nx_thread_cpu_seconds_total{thread=\"gateway-1\"} 2\n";
        by_thread.metrics(text, true);
        assert_eq!(by_thread.cpu_s["gateway"], 3.0);
        assert_eq!(by_thread.us_per_message(&Sample::default(), 1_000_000)["gateway"], 3.0);
        assert!(by_thread.us_per_message(&Sample::default(), 0).is_empty());
    }

    #[test]
    fn this_process_can_be_read() {
        let sample = Sample::take(&[std::process::id()], &[]);
        assert!(sample.memory_bytes > 0 && !sample.cpu_s.is_empty() && sample.complaints.is_empty());
        assert_eq!(Sample::take(&[u32::MAX], &["nonsense".to_owned()]).complaints.len(), 2);
    }
}
