//! The process itself as metrics, under the names that every Prometheus client uses.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// Reads `/proc/self` at each scrape. What can't be read is left out.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        let Ok(stat) = process.stat() else { return Ok(()) };
        let seconds = |ticks: u64| ticks as f64 / procfs::ticks_per_second() as f64;
        let cpu = ConstCounter::new(seconds(stat.utime + stat.stime));
        let help = "User and system CPU time spent";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        let resident = stat.rss.saturating_mul(procfs::page_size());
        let mut gauges = vec![
            ("process_resident_memory_bytes", "Resident memory", resident as f64),
            ("process_virtual_memory_bytes", "Virtual memory", stat.vsize as f64),
            ("process_threads", "Threads", stat.num_threads as f64),
        ];
        if let Ok(open) = process.fd_count() {
            gauges.push(("process_open_fds", "Open file descriptors", open as f64));
        }
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = boot as f64 + seconds(stat.starttime);
            gauges.push(("process_start_time_seconds", "Start time since the epoch", start));
        }
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
