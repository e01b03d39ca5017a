//! A fleet: targets on many hosts, scraped at an interval, as requests in the order of time.
//!
//! Targets are recorded pages ([`recorded`]), whose values keep the likeness and the noise of real
//! exporters, or made up ([`synthetic`]), of any number and the same at every run. The copies of a target
//! differ in their labels only, which makes labels more regular than those of real fleets.

pub mod recorded;
pub mod synthetic;

use crate::random::mix;
use crate::recording::Recording;
use chronolith_model::LabelsBuilder;
use chronolith_model::append::{AppendBatch, BatchSeries, HistogramSample, Sample, SeriesKey};
use chronolith_model::histogram::Histogram;
use chronolith_wire::remote_write::v1;

/// What is sent.
#[derive(Debug)]
pub struct Fleet {
    targets: Vec<Target>,
    hosts: u32,
}

/// One target, which stands on every host.
#[derive(Debug, Default)]
pub struct Target {
    /// Its label `job`.
    pub job: String,
    /// Labels of each series as its page has them.
    pub series: Vec<LabelsBuilder>,
    /// What the series say.
    pub values: Values,
}

/// Where the values of a target come from.
#[derive(Debug)]
pub enum Values {
    /// Recorded pages.
    Recorded(recorded::Pages),
    /// A kind for each series.
    Synthetic(Vec<synthetic::Kind>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Recorded(recorded::Pages::default())
    }
}

/// What a series says at a scrape.
#[derive(Clone, Debug)]
pub enum Value {
    /// A float.
    Float(f64),
    /// A native histogram.
    Histogram(Box<Histogram>),
}

impl Values {
    fn get(&self, host: u32, series: usize, scrape: u32) -> Option<Value> {
        match self {
            Self::Recorded(pages) => pages.get(host, series, scrape).map(Value::Float),
            Self::Synthetic(kinds) => {
                let number = u64::from(host) << 32 | series as u64;
                Some(kinds[series].value(number, u64::from(scrape)))
            }
        }
    }
}

/// When and how a fleet is scraped.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Time of the first scrape, milliseconds.
    pub start: i64,
    /// Between the scrapes of a target, milliseconds.
    pub interval: i64,
    /// Each scrape is late by up to this, at random; less than the interval.
    pub jitter: i64,
    /// How many scrapes.
    pub scrapes: u32,
    /// Part of the targets that are replaced in an hour: all their series are new ones then.
    pub churn_per_hour: f64,
    /// Series (of one sample each) in a request.
    pub samples_per_request: usize,
}

impl Schedule {
    /// How often the target with this number was replaced before a scrape.
    fn generation(&self, target: u64, scrape: u32) -> u32 {
        // Targets are replaced one after the other, not all at once.
        let phase = (mix(target) >> 11) as f64 / (1u64 << 53) as f64;
        let hours = f64::from(scrape) * self.interval as f64 / 3_600_000.0;
        (hours * self.churn_per_hour + phase) as u32
    }
}

impl Fleet {
    /// Reads a recording and puts each of its targets on `hosts` hosts.
    ///
    /// # Errors
    /// If a page does not parse.
    pub fn recorded(recording: &Recording, hosts: u32) -> Result<Self, String> {
        Ok(Self { targets: recorded::targets(recording)?, hosts })
    }

    /// Makes up one target and puts it on `hosts` hosts.
    pub fn synthetic(mixture: &synthetic::Mixture, hosts: u32) -> Self {
        Self { targets: vec![mixture.target()], hosts }
    }

    /// Series of the whole fleet at any time.
    pub fn n_series(&self) -> usize {
        self.targets.iter().map(|target| target.series.len()).sum::<usize>() * self.hosts as usize
    }

    /// Pages of the target that has fewest; `None` if values are made up.
    pub fn n_pages(&self) -> Option<usize> {
        let pages = self.targets.iter().map(|target| match &target.values {
            Values::Recorded(pages) => Some(pages.len()),
            Values::Synthetic(_) => None,
        });
        pages.min().flatten()
    }

    /// The part of the fleet that connection `connection` of `connections` sends, as requests in the
    /// order of time: `send` gets each.
    ///
    /// # Errors
    /// The first error of `send`.
    pub fn requests(
        &self,
        schedule: &Schedule,
        (connection, connections): (u32, u32),
        send: &mut dyn FnMut(&AppendBatch<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut copies = Vec::new();
        for host in (0..self.hosts).filter(|host| host % connections == connection) {
            for (number, target) in self.targets.iter().enumerate() {
                copies.push(Copy::new(target, host, number, self.targets.len(), schedule));
            }
        }
        for scrape in 0..schedule.scrapes {
            for copy in &mut copies {
                copy.renew(schedule, scrape);
            }
            let mut batch = AppendBatch { decode: v1::decode_labels, ..AppendBatch::default() };
            for copy in &copies {
                copy.scrape(schedule, scrape, &mut batch, send)?;
            }
            if !batch.series.is_empty() {
                send(&batch)?;
            }
        }
        Ok(())
    }
}

/// A target on a host.
struct Copy<'f> {
    target: &'f Target,
    host: u32,
    /// Among all targets of all hosts.
    number: u64,
    /// Each target is scraped at an offset of its own.
    offset: i64,
    generation: u32,
    /// Labels are encoded once, as a sender that keeps its series would.
    keys: Vec<u8>,
    ends: Vec<u32>,
}

impl<'f> Copy<'f> {
    fn new(target: &'f Target, host: u32, number: usize, n_targets: usize, schedule: &Schedule) -> Self {
        let spread = i64::from(host) * 7919 + number as i64 * 104_729;
        let offset = spread.rem_euclid((schedule.interval - schedule.jitter).max(1));
        let number = u64::from(host) * n_targets as u64 + number as u64;
        let mut copy =
            Self { target, host, number, offset, generation: 0, keys: Vec::new(), ends: Vec::new() };
        copy.encode_labels();
        copy
    }

    fn renew(&mut self, schedule: &Schedule, scrape: u32) {
        let generation = schedule.generation(self.number, scrape);
        if generation != self.generation {
            self.generation = generation;
            self.encode_labels();
        }
    }

    fn encode_labels(&mut self) {
        let instance = match self.generation {
            0 => format!("host-{:05}.example.org:9100", self.host),
            generation => format!("host-{:05}-{generation}.example.org:9100", self.host),
        };
        self.keys.clear();
        self.ends.clear();
        for labels in &self.target.series {
            let mut labels = labels.clone();
            labels.set("job", &self.target.job).set("instance", &instance);
            v1::put_labels(&mut self.keys, labels.iter());
            self.ends.push(u32::try_from(self.keys.len()).expect("labels of a target are below 4 GiB"));
        }
    }

    /// Adds a scrape to the batch, which is sent whenever it is full.
    fn scrape<'s>(
        &'s self,
        schedule: &Schedule,
        scrape: u32,
        batch: &mut AppendBatch<'s>,
        send: &mut dyn FnMut(&AppendBatch<'_>) -> Result<(), String>,
    ) -> Result<(), String> {
        let late = (mix(self.number << 32 | u64::from(scrape)) % (schedule.jitter as u64 + 1)) as i64;
        let timestamp = schedule.start + i64::from(scrape) * schedule.interval + self.offset + late;
        let mut start = 0;
        for (series, &end) in self.ends.iter().enumerate() {
            let key = SeriesKey::Encoded(&self.keys[start as usize..end as usize]);
            start = end;
            let Some(value) = self.target.values.get(self.host, series, scrape) else { continue };
            push(batch, key, timestamp, value);
            if batch.series.len() == schedule.samples_per_request {
                send(batch)?;
                batch.series.clear();
                batch.samples.clear();
                batch.histograms.clear();
            }
        }
        Ok(())
    }
}

fn push<'s>(batch: &mut AppendBatch<'s>, key: SeriesKey<'s>, timestamp: i64, value: Value) {
    let (samples, histograms) = (batch.samples.len() as u32, batch.histograms.len() as u32);
    match value {
        Value::Float(value) => batch.samples.push(Sample { timestamp, value, start_timestamp: 0 }),
        Value::Histogram(histogram) => {
            batch.histograms.push(HistogramSample { timestamp, start_timestamp: 0, histogram: *histogram });
        }
    }
    batch.series.push(BatchSeries {
        key,
        samples: samples..batch.samples.len() as u32,
        histograms: histograms..batch.histograms.len() as u32,
        exemplars: 0..0,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    type Samples = HashMap<Vec<u8>, Vec<(i64, f64)>>;

    fn collect(fleet: &Fleet, schedule: &Schedule, connections: u32) -> Samples {
        let mut samples = Samples::new();
        for connection in 0..connections {
            fleet
                .requests(schedule, (connection, connections), &mut |batch| {
                    assert!(batch.series.len() <= schedule.samples_per_request);
                    for series in &batch.series {
                        let SeriesKey::Encoded(labels) = series.key else { panic!("series are encoded") };
                        let sample = batch.samples[series.samples.start as usize];
                        samples.entry(labels.to_vec()).or_default().push((sample.timestamp, sample.value));
                    }
                    Ok(())
                })
                .unwrap();
        }
        samples
    }

    const SCHEDULE: Schedule = Schedule {
        start: 1_000_000,
        interval: 15_000,
        jitter: 0,
        scrapes: 2,
        churn_per_hour: 0.0,
        samples_per_request: 2,
    };

    #[test]
    fn connections_share_the_fleet_and_each_series_is_in_order() {
        let target = recorded::target_of("node", &[b"a 1\nb{x=\"y\"} 2\n", b"a 3\nc 4\n"]);
        let fleet = Fleet { targets: vec![target], hosts: 3 };
        assert_eq!(fleet.n_series(), 9);
        let samples = collect(&fleet, &SCHEDULE, 2);
        assert_eq!(samples.len(), 9);
        assert_eq!(samples.values().map(Vec::len).sum::<usize>(), 3 * 4);
        assert!(samples.values().all(|s| s.windows(2).all(|pair| pair[0].0 < pair[1].0)));
    }

    #[test]
    fn jitter_keeps_the_order_and_all_samples() {
        let mixture = synthetic::Mixture { series: 10, ..synthetic::Mixture::default() };
        let fleet = Fleet::synthetic(&mixture, 4);
        let schedule = Schedule { jitter: 14_999, scrapes: 50, ..SCHEDULE };
        let samples = collect(&fleet, &schedule, 1);
        assert_eq!(samples.values().map(Vec::len).sum::<usize>(), 10 * 4 * 50);
        assert!(samples.values().all(|s| s.windows(2).all(|pair| pair[0].0 < pair[1].0)));
        let gaps: std::collections::HashSet<i64> =
            samples.values().next().unwrap().windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.len() > 10, "scrapes come at uneven times");
    }

    #[test]
    fn churn_replaces_its_part_of_the_targets() {
        let mixture = synthetic::Mixture { series: 1, ..synthetic::Mixture::default() };
        let fleet = Fleet::synthetic(&mixture, 1000);
        // Ten hours.
        let schedule = Schedule {
            scrapes: 601,
            interval: 60_000,
            churn_per_hour: 0.01,
            samples_per_request: 500,
            ..SCHEDULE
        };
        let samples = collect(&fleet, &schedule, 1);
        assert_eq!(samples.values().map(Vec::len).sum::<usize>(), 1000 * 601);
        assert!((1070..1130).contains(&samples.len()), "{} series", samples.len());
    }
}
